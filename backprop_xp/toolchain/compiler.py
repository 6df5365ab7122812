"""The machine's C++ compiler: which one, its flags, and one call of it."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from .. import environment
from .group import Group

#: No -ffast-math and nothing that implies -ffinite-math-only: NaN and infinity must propagate.
FLAGS: tuple[str, ...] = (
    "-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-fPIC", "-shared", "-fvisibility=hidden", "-w",
)  # fmt: skip
WIDE_VECTORS = "-mprefer-vector-width=512"
OPTIONAL = ("-march=native", WIDE_VECTORS)  # kernels are right without them, and slower
CANDIDATES = ("g++", "clang++", "c++")
ANNOUNCE_AFTER = 0.5  # seconds of compiling, after which a line says what is going on


class CompileError(RuntimeError):
    """Kernels can't be compiled here; the message says why."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that answered. ``command`` is the program with whatever arguments $CXX holds."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...]

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
        announce = None if what is None else partial(_announce, what)
        return _run((*self.command, *arguments), environment.COMPILE_TIMEOUT.read(), folder, announce)


def find() -> Compiler:
    """The compiler named by $CXX, else the first of g++, clang++ and c++ on the PATH. Raises CompileError."""
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
    try:
        wanted = [tuple(shlex.split(cxx))] if cxx.strip() else [(name,) for name in CANDIDATES]
    except ValueError as error:
        raise CompileError(f"$CXX is {cxx!r}, which is no command: {error}") from None
    for command in wanted:
        program = shutil.which(command[0], path=path)
        if program is None:
            continue
        code, output = _run((program, *command[1:], "--version"), 10.0)
        if code != 0:
            raise CompileError(f"{program} --version failed: {_first_error(output)}")
        flags = FLAGS
        if "avx512f" in cpu_features():
            flags += (WIDE_VECTORS,)
        return Compiler((program, *command[1:]), output.splitlines()[0] if output else "unknown", flags)
    names = f"$CXX is {cxx!r}" if cxx.strip() else f"none of {', '.join(CANDIDATES)} is on the PATH"
    raise CompileError(f"no C++ compiler was found ({names})")


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
        variables["TMPDIR"] = str(folder)
    group = Group(folder)
    try:
        process = group.start(command, variables)
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
        group.end()
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


def _announce(what: str) -> None:
    print(f"backprop_xp: compiling {what} (once, then it is cached)", file=sys.stderr, flush=True)
