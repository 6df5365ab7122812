"""A process beside the ranks of one machine, which says which of them was killed: mpiexec ends the others at once.

It is run as a program of its own: ``python watcher.py SIZE RANK PROCESS RANK PROCESS ...``, without any import of this
package, and waits until a process of these is gone, or until it is ended itself.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys


def main(size: str, *pairs: str) -> None:
    """Wait for the first end of a process, and say on standard error which rank it was."""
    poll, found = select.epoll(), {}  # which gives what happens in its order: mpiexec ends the others in no time
    for rank, process in zip(pairs[::2], map(int, pairs[1::2])):
        try:
            file = os.pidfd_open(process)
        except ProcessLookupError:
            _tell(rank, size, process)
            return
        found[file] = rank, process
        poll.register(file, select.EPOLLIN)
    ((file, _),) = poll.poll(maxevents=1)
    rank, process = found[file]
    _tell(rank, size, process)


def _tell(rank: str, size: str, process: int) -> None:
    where = f"process {process} on {socket.gethostname()}"
    os.write(2, f"backprop_xp: rank {rank} of {size} ends all ranks: {_how(process)} ({where})\n".encode())


def _how(process: int) -> str:
    """By which signal it was killed, while the system still says so."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            status = int(file.read().rsplit(maxsplit=1)[-1])
        name = signal.Signals(os.WTERMSIG(status)).name
    except (OSError, ValueError):
        return "it was killed"
    return f"it was killed by {name}" + (", by hand or for want of memory" if name == "SIGKILL" else "")


if __name__ == "__main__":
    main(*sys.argv[1:])
