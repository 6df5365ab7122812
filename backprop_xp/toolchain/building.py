"""Folders in which kernels are built, each locked by the process that builds there: an open lock means a leftover."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .. import later

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    flock = None  # type: ignore[assignment]

shutil = later.Module("shutil")
tempfile = later.Module("tempfile")

PREFIX = "building-"


@contextlib.contextmanager
def folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent``, deleted afterwards; leftovers of dead processes are deleted first. Raises OSError."""
    sweep(parent)
    made, lock = _made(parent)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def sweep(parent: Path) -> None:
    """Delete the folders of processes that are no more."""
    if flock is None:
        return
    for left in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody's lock, or no folder, or it is gone
            lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                flock(lock, LOCK_EX | LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(lock)


def _made(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and its lock where there are locks."""
    while True:
        made = Path(tempfile.mkdtemp(dir=parent, prefix=PREFIX))
        if flock is None:
            return made, None
        try:
            lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # taken for a leftover already
            continue
        with contextlib.suppress(OSError):  # no locks on this file system: nor has sweep() any
            flock(lock, LOCK_EX)
        if made.exists():  # nor before it was locked
            return made, lock
        os.close(lock)
