"""Whether the machine was ours alone while something was measured.

Two signs. Where the system counts it (/proc/stat): the processor time that neither this process nor its workers used,
time stolen by other virtual machines included. Everywhere: whether threads that do nothing but compute get the whole
time that passes.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

SPIN = 0.1  # seconds
LEAST_SHARE = 0.9  # of the time that passes, for threads that only compute
#: Others may take this share of all processors, but no more than this part of one that we need ourselves.
SPARE_SHARE, NEEDED_SHARE = 0.05, 0.1

_BLOCK = bytes(1 << 20)  # hashing it takes a millisecond or so, without Python's lock


@dataclass(frozen=True)
class Look:
    """Counters at one moment, in seconds.

    Attributes:
        wall: of a steady clock.
        own: processor time of this process, of its workers, and of children that have ended.
        used: processor time of everybody on the processors that this process may use; None where it isn't counted.
        stolen: the part of ``used`` that other virtual machines took.
        share: of the time that passed, what spinning threads got of their processors (1: all of it).
    """

    wall: float
    own: float
    used: float | None
    stolen: float | None
    share: float


@dataclass(frozen=True)
class Spell:
    """What happened between two looks.

    Attributes:
        others: processors taken by others, on average; None where it isn't counted.
        stolen: the part of it that other virtual machines took.
        share: the smaller one of the two looks.
        busy: why figures measured meanwhile are not to be quoted; "" if they may be.
    """

    others: float | None
    stolen: float | None
    share: float
    busy: str


@dataclass(frozen=True)
class Machine:
    """The one we run on.

    Attributes:
        threads: how many compute at a time in what is measured.
        workers: process ids of the benchmark's own processes.
    """

    threads: int
    workers: Sequence[int] = ()

    def look(self) -> Look:
        """The counters now; takes SPIN seconds. Threads of what was measured must be asleep."""
        share = spin(self.threads)
        used, stolen = _system_seconds() or (None, None)
        return Look(time.perf_counter(), _own_seconds(self.workers), used, stolen, share)

    def between(self, before: Look, after: Look) -> Spell:
        """What others did from one look to the other."""
        passed, share = max(after.wall - before.wall, 1e-9), min(before.share, after.share)
        others = stolen = None
        if None not in (before.used, after.used, before.stolen, after.stolen):
            used = after.used - before.used  # type: ignore[operator]
            others = max(0.0, used - (after.own - before.own)) / passed
            stolen = (after.stolen - before.stolen) / passed  # type: ignore[operator]
        return Spell(others, stolen, share, self._why_busy(others, share))

    def _why_busy(self, others: float | None, share: float) -> str:
        count = processors()
        allowed = min(SPARE_SHARE * count, max(0, count - self.threads) + NEEDED_SHARE)
        if others is not None and others > allowed:
            return f"others took {others:.2f} of {count} processors"
        if share < LEAST_SHARE:
            return f"threads that only compute got {share:.0%} of their processors"
        return ""


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spin(threads: int, seconds: float = SPIN) -> float:
    """The share of the time that so many computing threads got, at most as many as there are processors."""
    shares: list[float] = []

    def compute() -> None:
        start, used = time.perf_counter(), time.thread_time()
        while time.perf_counter() - start < seconds:
            hashlib.sha256(_BLOCK)
        shares.append((time.thread_time() - used) / (time.perf_counter() - start))

    running = [threading.Thread(target=compute) for _ in range(min(threads, processors()))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(shares) / len(shares)


def _system_seconds() -> tuple[float, float] | None:
    """Processor time used by everybody, and the stolen part; None where the system doesn't count it."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            counts = {
                int(name[3:]): [int(field) for field in fields]
                for name, *fields in map(str.split, lines)
                if name.startswith("cpu") and name != "cpu"
            }
        mine = [counts[number] for number in os.sched_getaffinity(0)]
        # user, nice, system, idle, iowait, irq, softirq, steal
        used, stolen = (sum(sum(row[k] for k in columns) for row in mine) for columns in ((0, 1, 2, 5, 6, 7), (7,)))
    except (OSError, ValueError, KeyError, IndexError, AttributeError):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return (used / tick, stolen / tick) if any(map(any, mine)) else None  # a sandbox may show zeros


def _own_seconds(workers: Sequence[int]) -> float:
    times = os.times()
    own = time.process_time() + times.children_user + times.children_system
    for worker in workers:
        try:
            with open(f"/proc/{worker}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            own += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own and its ended children's
        except (OSError, ValueError):
            pass
    return own
