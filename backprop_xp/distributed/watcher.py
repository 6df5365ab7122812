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

EXITING = 0x4  # of a process's flags in /proc: it is about to end


def main(size: str, *pairs: str) -> None:
    """Wait for the first end of a process, and say on standard error which rank it was.

    mpiexec may have ended others by the time that it is seen. It is the one that another signal than SIGKILL ended; if
    there is none, the sentence names the others too.
    """
    ranks = dict(zip(pairs[::2], map(int, pairs[1::2])))
    first = _first(ranks)
    ends = {rank: found for rank, process in ranks.items() if (found := _end(process)) is not None}
    first = next((rank for rank, name in ends.items() if name not in ("SIGKILL", "")), first)
    name = ends.get(first, "")
    how = f" by {name}" if name else ""
    how += ", by hand or for want of memory" if name == "SIGKILL" else ""
    others = [rank for rank in ends if rank != first] if name in ("SIGKILL", "") else []
    unless = f", unless it was rank {' or '.join(others)}, which has ended too" if others else ""
    where = f"process {ranks[first]} on {socket.gethostname()}"
    os.write(2, f"backprop_xp: rank {first} of {size} ends all ranks: it was killed{how} ({where}){unless}\n".encode())


def _first(ranks: dict[str, int]) -> str:
    """The rank whose process is the first to be seen to end."""
    poll, found = select.epoll(), {}  # which gives what happens in its order
    for rank, process in ranks.items():
        try:
            file = os.pidfd_open(process)
        except ProcessLookupError:
            return rank
        found[file] = rank
        poll.register(file, select.EPOLLIN)
    ((file, _),) = poll.poll(maxevents=1)
    return found[file]


def _end(process: int) -> str | None:
    """The name of the signal that ends or has ended it, "" if the system no longer says so; None while it lives."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(") ")[2].split()
        if fields[0] not in "ZX" and not int(fields[6]) & EXITING:
            return None
        return signal.Signals(os.WTERMSIG(int(fields[-1]))).name
    except (OSError, ValueError):
        return ""


if __name__ == "__main__":
    main(*sys.argv[1:])
