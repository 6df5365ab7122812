"""What was compiled and how long that took, told to whoever listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .compiler import CompileError

_listeners: list[Callable[[Built], object]] = []


@dataclass(frozen=True)
class Built:
    """A program that this process asked a compiler or its cache for.

    Attributes:
        what: its name, for people.
        seconds: until it was there.
        known: whether it was in the cache, so that nothing was compiled.
        error: why it can't be compiled, "" if it is there.
    """

    what: str
    seconds: float
    known: bool = False
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"{self.what}: {self.error}"
        return f"{self.what}: {'compiled before' if self.known else f'{self.seconds:.2f} s'}"


@contextmanager
def heard(listener: Callable[[Built], object]) -> Iterator[None]:
    """Tell the listener of every program that any thread of this process gets within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def telling(what: str) -> Iterator[Callable[[], None]]:
    """Time the block that gets a program, and tell the listeners; the block calls what it is given if it compiles."""
    start, compiled = time.perf_counter(), list[bool]()

    def tell(error: str) -> None:
        made = Built(what, time.perf_counter() - start, not compiled, error)
        for listener in (*_listeners,):
            listener(made)

    try:
        yield lambda: compiled.append(True)
    except CompileError as error:
        tell(str(error))
        raise
    tell("")
