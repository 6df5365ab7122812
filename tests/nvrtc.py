"""NVRTC without a device: compile for an architecture, and read what the assembler says of it.

By CuPy's own NVRTC, or any other whose library lies in the folder nvrtc of the environment, where `make .venv/.nvrtc`
puts the oldest one that this package takes and those that need options of their own.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

if not os.environ.get("CI"):  # there, what can't be compiled is a failure
    pytest.importorskip("cupy", reason="CuPy is not installed")
from cupy.cuda import nvrtc

from backprop_xp.toolchain import cuda

#: Turing to Blackwell.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of the device: registers a thread, and bytes of spills and of local memory."""

    registers: int
    spills: int
    stack: int

    @property
    def fits(self) -> bool:
        """Whether all is in registers."""
        return self.spills == self.stack == 0


@dataclass(frozen=True)
class Library:
    """One NVRTC, by its C interface."""

    path: Path

    @cached_property
    def _functions(self) -> ctypes.CDLL:
        for builtins in self.path.parent.glob("libnvrtc-builtins.so*"):  # which it doesn't always find by itself
            ctypes.CDLL(str(builtins))
        return ctypes.CDLL(str(self.path))

    @property
    def version(self) -> str:
        numbers = ctypes.c_int(), ctypes.c_int()
        self._functions.nvrtcVersion(*map(ctypes.byref, numbers))
        return ".".join(str(number.value) for number in numbers)

    @property
    def architectures(self) -> tuple[int, ...]:
        """Those of ARCHITECTURES that it knows."""
        count = ctypes.c_int()
        self._functions.nvrtcGetNumSupportedArchs(ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._functions.nvrtcGetSupportedArchs(known)
        return tuple(architecture for architecture in ARCHITECTURES if architecture in known)

    def compile(self, source: str, *options: str, what: str = "CUBIN") -> tuple[bytes, str]:
        """The CUBIN or PTX, and the log. Fails with the log."""
        program = ctypes.c_void_p()
        self._functions.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
        encoded = (ctypes.c_char_p * len(options))(*map(str.encode, options))
        try:
            failed = self._functions.nvrtcCompileProgram(program, len(options), encoded)
            log = self._text(program, "ProgramLog").decode().rstrip("\0")
            if failed:
                pytest.fail(f"NVRTC {self.version}, {options[0]}: {log[:3000]}")
            return self._text(program, what), log
        finally:
            self._functions.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(self._functions, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self._functions, f"nvrtcGet{what}")(program, text)
        return text.raw


@cache
def installed() -> Library:
    """The one that CuPy has loaded."""
    nvrtc.getVersion()
    with open("/proc/self/maps", encoding="utf-8") as lines:
        paths = (line.split()[-1] for line in lines if "/" in line)
        return Library(next(Path(path) for path in paths if Path(path).name.startswith("libnvrtc.so")))


def libraries() -> list[Library]:
    """All of them, the installed one last."""
    found = sorted(Path(sys.prefix, "nvrtc").glob("*/nvidia/*/lib/libnvrtc.so.*"))
    return [*map(Library, found), installed()]


def spread(entries: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Every architecture, with what is to be compiled for it, for kernels of one kind.

    All of them for the oldest and the newest, and the rest of the architectures share them out: each kernel is compiled
    for three, and each architecture has some of the kind.
    """
    first, *between, last = ARCHITECTURES
    yield first, entries
    yield from ((architecture, entries[k :: len(between)]) for k, architecture in enumerate(between))
    yield last, entries


def ptx(source: str, *options: str) -> str:
    """The PTX for sm_90, by the installed NVRTC."""
    return installed().compile(source, "-arch=compute_90", *cuda.ADDED, *options, what="PTX")[0].decode()


def compile_for(
    source: str, architecture: int, options: tuple[str, ...] = ("-std=c++17",), library: Library | None = None
) -> tuple[bytes, dict[str, Resources]]:
    """The device code for sm_``architecture``, and each kernel's resources, with the options that CuPy adds."""
    always = (f"-arch=sm_{architecture}", *cuda.ADDED, "--ptxas-options=-v")
    binary, log = (library or installed()).compile(source, *options, *always)
    resources, name = {}, ""
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack, stores, loads = map(int, match.groups())
        elif match := re.search(r"Used (\d+) registers", line):
            resources[name] = Resources(int(match[1]), stores + loads, stack)
    return binary, resources
