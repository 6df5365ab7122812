"""What a forked child must not inherit from threads that it doesn't have: the locks they held, and they themselves."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_forgets: list[Callable[[], None]] = []


def lock(kind: Callable[[], Any] = threading.Lock) -> Any:
    """A lock, or an RLock, that is open in a forked child, whoever held it in the parent.

    Every lock of the package that outlives a call is made here.
    """
    made = kind()
    _locks.add(made)
    return made


def never_open(lock: Any) -> bool:
    """Whether this thread can't have this RLock for itself, however long it waits.

    It has it already where a signal's handler or a finaliser interrupted its call; and when the interpreter ends, a
    daemon thread that runs no more may have it.
    """
    if lock._is_owned():
        return True
    if not sys.is_finalizing():
        return False
    is_open = lock.acquire(blocking=False)
    if is_open:
        lock.release()
    return not is_open


def in_child(forget: Callable[[], None]) -> None:
    """Have this called in every forked child before anything else runs there."""
    _forgets.append(forget)


def _renew() -> None:
    for held in list(_locks):
        held._at_fork_reinit()  # what the standard library's modules call
    for forget in _forgets:
        forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
