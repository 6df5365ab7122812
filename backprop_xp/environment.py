"""Every environment variable that the package reads: its name, default, range and meaning, in one table.

The environment is a preference and never ends a call: a value that can't be used is said once, in a warning, and the
default counts. What is asked for in a call is another matter.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_THREADS = 1024
LONGEST_TIMEOUT = 86_400.0  # seconds


@dataclass(frozen=True, eq=False)
class Variable(Generic[T]):
    """One environment variable.

    Attributes:
        name: of the variable.
        default: what counts where it is not set, empty, or not in its range.
        default_text, range, meaning: for people.
        parse: from its text to its value. ValueError: it is not in the range.
    """

    name: str
    default: T
    default_text: str
    range: str
    meaning: str
    parse: Callable[[str], T]

    def read(self) -> T:
        """The variable's value now."""
        return _parsed(self, os.environ.get(self.name, ""))


@cache
def _parsed(variable: Variable[T], text: str) -> T:
    if not text.strip():
        return variable.default
    try:
        return variable.parse(text)
    except ValueError:
        pass
    warnings.warn(
        f"{variable.name} must be {variable.range}, got {text[:100]!r}; its default counts: {variable.default_text}",
        RuntimeWarning,
        stacklevel=3,
    )
    return variable.default


def passed_on(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment for another program, with these changes."""
    return {**os.environ, **changes}


def unless_set(name: str, value: str) -> None:
    """Give another library's variable, which it reads when it is imported, this value if the user gave it none."""
    os.environ.setdefault(name, value)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.strip().isdecimal() or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= LONGEST_TIMEOUT:  # which nan isn't either
        raise ValueError
    return seconds


def _backend(text: str) -> str:
    name = text.strip().lower()
    if not re.fullmatch(r"auto|numpy|cupy(:\d{1,4})?", name):
        raise ValueError
    return name


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


BACKEND = Variable(
    "BACKPROP_XP_BACKEND",
    "auto",
    "auto",
    "auto, numpy, cupy or cupy:N",
    "where nets compute that are made without backend=; NumPy where the CUDA device named can't be had",
    _backend,
)
NUM_THREADS: Variable[int | None] = Variable(
    "BACKPROP_XP_NUM_THREADS",
    None,
    "every processor of the process",
    f"a number from 1 to {MOST_THREADS}",
    "threads of one call on the CPU, where threads= says nothing",
    _whole(1, MOST_THREADS),
)
CACHE = Variable(
    "BACKPROP_XP_CACHE",
    "",
    "backprop_xp in $XDG_CACHE_HOME",
    "a folder that is the user's own",
    "where compiled kernels are kept",
    str,
)
XDG_CACHE_HOME = Variable(
    "XDG_CACHE_HOME", "", "~/.cache", "an absolute path; any other is ignored", "where all programs keep caches", str
)
CXX = Variable(
    "CXX",
    "",
    "the first of g++, clang++ and c++, else that of the package ziglang",
    "a program and its arguments, quoted as in a shell",
    "the C++ compiler; if it can't be used, there is none",
    str,
)
PATH = Variable("PATH", "", "none", "folders", "where the compiler is looked for", str)
COMPILE_TIMEOUT = Variable(
    "BACKPROP_XP_COMPILE_TIMEOUT",
    120.0,
    "120",
    f"seconds, above 0 and at most {LONGEST_TIMEOUT:g}",
    "how long one compilation may take",
    _seconds,
)
WORKSPACE = Variable(
    "BACKPROP_XP_WORKSPACE",
    256,
    "256",
    "a whole number of MiB below 2^30",
    "memory that the process keeps between calls, at most",
    _whole(0, (1 << 30) - 1),
)
SHOW_SOURCE = Variable(
    "BACKPROP_XP_SHOW_SOURCE",
    False,
    "0",
    "0 or 1",
    "1 prints the code of every kernel to stderr when the process first uses it",
    _flag,
)
BENCH_SAMPLES: Variable[int | None] = Variable(
    "BACKPROP_XP_BENCH_SAMPLES",
    None,
    "each case's own",
    "a number from 1",
    "samples in every case of `pytest bench/`",
    _whole(1, 1 << 40),
)
PMI_SIZE: Variable[int | None] = Variable(
    "PMI_SIZE",
    None,
    "no mpiexec started the process",
    "a number from 1",
    "how many ranks MPICH's mpiexec started, which sets it",
    _whole(1, 1 << 31),
)
OMPI_SIZE: Variable[int | None] = Variable(
    "OMPI_COMM_WORLD_SIZE",
    None,
    "no mpiexec started the process",
    "a number from 1",
    "how many ranks Open MPI's mpiexec started, which sets it",
    _whole(1, 1 << 31),
)
PMI_RANK: Variable[int | None] = Variable(
    "PMI_RANK",
    None,
    "no mpiexec started the process",
    "a number from 0",
    "which rank this is, set by MPICH's mpiexec",
    _whole(0, 1 << 31),
)
OMPI_RANK: Variable[int | None] = Variable(
    "OMPI_COMM_WORLD_RANK",
    None,
    "no mpiexec started the process",
    "a number from 0",
    "which rank this is, set by Open MPI's mpiexec",
    _whole(0, 1 << 31),
)

VARIABLES: tuple[Variable, ...] = (
    BACKEND, NUM_THREADS, CACHE, XDG_CACHE_HOME, CXX, PATH, COMPILE_TIMEOUT, WORKSPACE, SHOW_SOURCE, BENCH_SAMPLES,
    PMI_SIZE, OMPI_SIZE, PMI_RANK, OMPI_RANK,
)  # fmt: skip
