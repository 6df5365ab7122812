"""The machine's C++ compiler: which one, its flags, and one call of it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import environment, later

if TYPE_CHECKING:
    from . import group
else:
    group = later.Module("backprop_xp.toolchain.group")
metadata = later.Module("importlib.metadata")  # which brings what reads e-mail
shlex = later.Module("shlex")
shutil = later.Module("shutil")
subprocess = later.Module("subprocess")

#: No -ffast-math and nothing that implies -ffinite-math-only: NaN and infinity must propagate.
FLAGS: tuple[str, ...] = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
WIDE_VECTORS = "-mprefer-vector-width=512"
OPTIONAL = ("-march=native", WIDE_VECTORS)  # kernels are right without them, and slower
CANDIDATES = ("g++", "clang++", "c++")
#: The package whose program is clang with all headers and libraries that it needs, for machines without a compiler, and
#: the extra that brings it. Its C++ library, which kernels don't use, would take it minutes to make.
WHEEL, EXTRA = "ziglang", "compiler"
WHEEL_FLAGS = ("-nostdlib++", "-fno-exceptions", "-fno-rtti", "-fno-sanitize=undefined")
#: Where beside our kernels it keeps the parts of the C library that it makes when it is first used, some seconds.
WHEEL_FOLDER = "zig"
ANNOUNCE_AFTER = 0.5  # seconds of compiling, after which a line says what is going on


class CompileError(RuntimeError):
    """Kernels can't be compiled here; the message says why."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that answered.

    Attributes:
        command: the program with whatever arguments $CXX holds.
        version: the first line of what it says of itself.
        package: the Python package that brought it, "" if it is the machine's own.
    """

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]
    package: str = ""

    def build(self, source: Path, target: Path, what: str) -> None:
        """Compile one source file, in a folder for work, to a shared library. Raises CompileError."""
        code, output = self._call(what, target.parent, *self.flags, "-o", str(target), str(source))
        if code != 0 and (refused := self._refused(source.parent)):
            flags = [flag for flag in self.flags if flag not in refused]
            code, output = self._call(what, target.parent, *flags, "-o", str(target), str(source))
            if code == 0:
                _say_refused(self.command[0], refused)
        if code != 0 or not target.exists():
            raise CompileError(f"{self.command[0]} failed: {_first_error(output)}")

    def _refused(self, folder: Path) -> tuple[str, ...]:
        """Which of the optional flags it doesn't take, tried on an empty file in this folder."""
        empty = folder / "empty.cpp"
        empty.touch()
        tried = [flag for flag in OPTIONAL if flag in self.flags]
        rest = ("-c", "-o", str(folder / "empty.o"), str(empty))
        return tuple(flag for flag in tried if self._call(None, folder, flag, *rest)[0] != 0)

    def _call(self, what: str | None, folder: Path, *arguments: str) -> tuple[int, str]:
        said = f"backprop_xp: compiling {what} (once, then it is cached)"
        announce = None if what is None else partial(print, said, file=sys.stderr, flush=True)
        return _run((*self.command, *arguments), environment.COMPILE_TIMEOUT.read(), folder, announce)


def find() -> Compiler:
    """The compiler named by $CXX, else the first of g++, clang++ and c++ on the PATH, else that of the package ziglang.

    Raises:
        CompileError: there is none.
    """
    found = _find(environment.CXX.read(), environment.PATH.read())
    if isinstance(found, CompileError):
        raise found
    return found


def missing() -> str:
    """Why there is no compiler, "" if there is one."""
    found = _find(environment.CXX.read(), environment.PATH.read())
    return str(found) if isinstance(found, CompileError) else ""


@cache
def _find(cxx: str, path: str) -> Compiler | CompileError:
    try:
        return _search(cxx, path)
    except CompileError as error:
        return error


def _search(cxx: str, path: str) -> Compiler:
    if platform.system() == "Windows":  # which has no process groups, owners of folders, or -fPIC
        raise CompileError("kernels are compiled on Linux and macOS, not on Windows")
    if cxx.strip():
        try:
            wanted = [tuple(shlex.split(cxx))]
        except ValueError as error:
            raise CompileError(f"$CXX is {cxx!r}, which is no command: {error}") from None
    else:
        wanted = [(name,) for name in CANDIDATES]
    for command in wanted:
        program = shutil.which(command[0], path=path)
        if program is not None:
            return _answered((program, *command[1:]))
    if cxx.strip():
        raise CompileError(f"no C++ compiler was found ($CXX is {cxx!r})")
    if (program := _in_wheel()) is not None:
        version = f"{WHEEL} {metadata.version(WHEEL)}"  # itself, it would make a folder before it says so
        return Compiler((program, "c++"), version, (*_flags(), *WHEEL_FLAGS), WHEEL)
    raise CompileError(
        f"no C++ compiler was found (none of {', '.join(CANDIDATES)} is on the PATH; "
        f"pip install 'backprop-xp[{EXTRA}]' brings one)"
    )


def _answered(command: tuple[str, ...]) -> Compiler:
    """The compiler of this command, if it says its version. Raises CompileError."""
    code, output = _run((*command, "--version"), 10.0)
    if code != 0:
        raise CompileError(f"{command[0]} --version failed: {_first_error(output)}")
    return Compiler(command, output.splitlines()[0] if output else "unknown", _flags())


def _flags() -> tuple[str, ...]:
    return (*FLAGS, WIDE_VECTORS) if "avx512f" in cpu_features() else FLAGS


def _in_wheel() -> str | None:
    """The program of the package ziglang, None where it isn't installed; the package isn't imported."""
    try:
        found = importlib.util.find_spec(WHEEL)
    except (ImportError, ValueError):
        return None
    for folder in (found and found.submodule_search_locations) or ():
        if os.access(program := Path(folder, "zig"), os.X_OK):
            return str(program)
    return None


@cache
def cpu_features() -> tuple[str, ...]:
    """What the processor calls its features, sorted; code compiled for one set must not run on another."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return tuple(sorted(value.split()))
    except OSError:
        pass
    return (platform.machine(), platform.processor())


def _run(
    command: tuple[str, ...], timeout: float, folder: Path | None = None, announce: Callable[[], None] | None = None
) -> tuple[int, str]:
    """Exit code and output of a command; when this returns or raises, no process that it started is left.

    Args:
        timeout: seconds, after which it is ended.
        folder: where it may put temporary files; deleted if this process dies meanwhile.
        announce: called once the command takes longer than ANNOUNCE_AFTER.

    Raises:
        CompileError: it can't be started, or took too long.
    """
    variables = environment.passed_on({"LC_ALL": "C"})
    if folder is not None:
        own, shared = str(folder), str(folder.parent / WHEEL_FOLDER)
        variables |= {"TMPDIR": own, "ZIG_LOCAL_CACHE_DIR": own, "ZIG_GLOBAL_CACHE_DIR": shared}
    started = group.Group(folder)
    try:
        process = started.start(command, variables)
        try:
            first = min(ANNOUNCE_AFTER, timeout) if announce else timeout
            output = process.communicate(timeout=first)[0]
        except subprocess.TimeoutExpired:
            if announce is None or timeout <= ANNOUNCE_AFTER:
                raise
            announce()
            output = process.communicate(timeout=timeout - ANNOUNCE_AFTER)[0]
    except subprocess.TimeoutExpired:
        raise CompileError(f"{command[0]} did not finish within {timeout:g} seconds") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: the interpreter is about to end
        raise CompileError(f"{command[0]} can't be started: {getattr(error, 'strerror', None) or error}") from None
    finally:
        started.end()
    return process.returncode, output.decode("utf-8", "replace")


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if "error" in line.lower():
            return line[:300]
    return lines[0][:300] if lines else "it printed nothing"


@cache
def _say_refused(program: str, flags: tuple[str, ...]) -> None:
    message = f"{program} takes no {' and no '.join(flags)}: kernels are compiled without, and slower"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
