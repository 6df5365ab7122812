"""One run at a time in a folder: a lock that the system lets go when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None  # type: ignore[assignment]

NAME = "lock"
FAR = 1 << 30  # the byte that is locked on Windows, where nobody may read a locked one

_held: set[Lock] = set()


class LockedError(OSError):
    """Another run holds the lock; ``strerror`` says which."""


class Lock:
    """The lock of a folder, held from its making to :meth:`release`.

    It is a file in the folder, which names the process that made it, and which the system locks: what a dead process
    left behind keeps nobody out. Children of this process don't hold it.

    Attributes:
        certain: false on a file system that knows no locks, where nobody is kept out.

    Raises:
        LockedError: another run, of this process or another, holds it. OSError: there can be no such file.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._process = folder / NAME, os.getpid()
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            try:
                if not stat.S_ISREG(os.fstat(self._file).st_mode):
                    raise OSError(errno.EINVAL, f"{NAME} is no regular file")
                self.certain = _lock(self._file)
                if self._is_there():
                    break
            except BaseException:
                os.close(self._file)
                raise
            os.close(self._file)  # whoever held it has just removed it
        os.ftruncate(self._file, 0)
        os.write(self._file, f"process {self._process} on {socket.gethostname()}".encode())
        _held.add(self)

    def release(self) -> None:
        """Let others have the folder; nothing is left of the lock."""
        if os.getpid() != self._process:
            return
        _held.discard(self)
        if os.name == "nt":  # where a file that is open can't be removed
            os.close(self._file)
        with suppress(OSError):
            self.path.unlink()
        if os.name != "nt":
            os.close(self._file)

    def _is_there(self) -> bool:
        """Whether what was locked is still the folder's file."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        return False


def _lock(file: int) -> bool:
    """Lock an open file; false where that can't be done at all."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(file, FAR, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            return False
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        os.lseek(file, 0, os.SEEK_SET)
        holder = os.read(file, 200).decode(errors="replace") or "a process that doesn't say its name"
        raise LockedError(errno.EAGAIN, f"another run is using it ({holder})") from None
    return True


def _leave_to_the_parent() -> None:
    """A forked child has copies of its parent's files, which would hold the locks after the parent's end."""
    for lock in _held:
        os.close(lock._file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
