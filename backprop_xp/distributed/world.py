"""The ranks of a run, and what they tell each other: bytes, all to all, through mpi4py.

Whatever goes wrong on a rank within the ``with`` block of its world ends all of them.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from .. import threads
from ..environment import OMPI_SIZE, PMI_SIZE
from ..messages import sentence
from ..numbers import whole
from .alike import versions

PARTS, MOST_PARTS = 64, 1 << 20
#: Seconds that ranks but the first wait before they tell of an error: one that all have is told once.
PATIENCE = 1.5
#: Seconds that the launcher has for reading what a rank wrote before it ended all: what it hasn't read then is lost.
READING = 0.3
#: What ranks do together. All must be about to do the same.
TASKS = (
    "compare what they were given",
    "add up gradients",
    "hear what another says",
    "end",
    "tell of the nets that they trained",
)
COMPARE, ADD_UP, HEAR, END, TRAINED = range(len(TASKS))


class RankError(RuntimeError):
    """Ranks differ in what they were given or in what they do; every rank gets this error."""


class World:
    """All ranks of a run; a context manager, within which calls with ``world=`` share out their batches.

    An exception that leaves the block ends all ranks, after one sentence that names the rank and the cause.

    Attributes:
        rank, size: the number of this rank, from 0, and how many there are.
        parts: into how many parts a batch is cut, at most: the bits of sums depend on it, but not on ``size``.
        checks: whether every call compares what the ranks were given.
        brief: whether errors are told without a traceback.
    """

    def __init__(self, comm: Any, parts: int, brief: bool = False) -> None:
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self.parts = whole("parts", parts, 1, MOST_PARTS)
        if self.parts & (self.parts - 1):
            raise ValueError(f"parts must be a power of two, got {parts}")
        if self.parts < self.size:
            raise ValueError(f"parts must not be fewer than the ranks, {self.size}, got {parts}")
        self.checks, self.brief = True, brief
        self._all, self._entered = comm, False
        self._comm = None if self.size == 1 else comm

    def __enter__(self) -> World:
        self._entered = True
        if self._comm is not None:
            try:
                threads.share(self._neighbours())
                self.agree(versions() | {"parts": str(self.parts)})
            except BaseException as error:
                self._end_all(error)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._comm is not None:
            try:
                if error is None:
                    self.gather(END, np.empty(0, np.uint8))
            except BaseException as met:
                error = met
                raise
            finally:
                if error is not None:
                    self._end_all(error)
                threads.share(1)
        self._entered = False

    @property
    def unchecked(self) -> World:
        """This world for calls whose data were compared before."""
        other = copy.copy(self)
        other.checks = False
        return other

    def gather(self, task: int, data: np.ndarray) -> list[np.ndarray]:
        """The arrays of all ranks, each of this dtype and one-dimensional, in the order of ranks.

        Raises:
            RankError: others are about to do something else.
        """
        if not self._entered:
            raise RuntimeError("a world is used in its block: with world() as w: net.fit(x, y, world=w)")
        if self._comm is None:
            return [data]
        heads = np.empty((self.size, 2), np.int64)
        self._comm.Allgather(np.array([task, data.nbytes], np.int64), heads)
        others = np.flatnonzero(heads[:, 0] != heads[0, 0])
        if len(others):
            first, other = TASKS[heads[0, 0]], TASKS[heads[others[0], 0]]
            raise RankError(f"rank 0 is about to {first}, and rank {others[0]} to {other}")
        counts = heads[:, 1]
        ends = np.cumsum(counts)
        received = np.empty(int(ends[-1]), np.uint8)
        from mpi4py import MPI

        self._comm.Allgatherv(
            [np.ascontiguousarray(data).view(np.uint8), MPI.BYTE],
            [received, (counts.tolist(), (ends - counts).tolist()), MPI.BYTE],
        )
        return [received[end - count : end].view(data.dtype) for count, end in zip(counts, ends)]

    def agree(self, facts: Mapping[str, str]) -> None:
        """That every rank says the same of each of these. Raises RankError, which names the first that differs."""
        said = self._texts(COMPARE, json.dumps(dict(facts)))
        first = json.loads(said[0])
        for rank, text in enumerate(said):
            other = json.loads(text)
            for name in first | other:
                if first.get(name) != other.get(name):
                    a, b = first.get(name, "nothing"), other.get(name, "nothing")
                    raise RankError(f"ranks differ in {name}: {a} on rank 0, {b} on rank {rank}")

    def hear(self, text: str) -> str:
        """What the first rank that doesn't say "" says."""
        return next(filter(None, self._texts(HEAR, text)), "")

    def _texts(self, task: int, text: str) -> list[str]:
        return [
            data.tobytes().decode(errors="surrogateescape")
            for data in self.gather(task, np.frombuffer(text.encode(errors="surrogateescape"), np.uint8))
        ]

    def _neighbours(self) -> int:
        """How many ranks share this machine."""
        from mpi4py import MPI

        here = self._all.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            return here.Get_size()
        finally:
            here.Free()

    def _end_all(self, error: BaseException) -> None:
        if self.rank:
            time.sleep(PATIENCE)
        if not (self.brief or isinstance(error, (RankError, KeyboardInterrupt))):
            traceback.print_exception(error)
        what = f"{type(error).__name__}: {sentence(error)}" if str(error) else type(error).__name__
        print(f"backprop_xp: rank {self.rank} of {self.size} ends all ranks: {what}", file=sys.stderr, flush=True)
        if sys.stdout is not None:
            sys.stdout.flush()
        time.sleep(READING)
        self._all.Abort(1)
        os._exit(1)  # Abort may return before the launcher has ended this process


def world(comm: Any = None, *, parts: int = PARTS, brief: bool = False) -> World:
    """The ranks that ``mpiexec`` started, for a ``with`` block; a world of one where nothing did.

    Args:
        comm: a communicator of mpi4py, ``MPI.COMM_WORLD`` by default.
        parts: a batch is cut into so many parts, a power of two and not fewer than ranks; of small batches into fewer.
        brief: tell of errors without a traceback.

    Raises:
        ImportError: ``mpiexec`` started this process, and mpi4py can't be imported. RuntimeError: its MPI is another
            than that of ``mpiexec``.
    """
    if comm is None:
        comm = _of_mpi()
    return World(comm, parts, brief)


def launched() -> int:
    """How many ranks an ``mpiexec`` started, of which this is one; 0 where none did."""
    return PMI_SIZE.read() or OMPI_SIZE.read() or 0


def _of_mpi() -> Any:
    expected = launched()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if expected > 1:
            said = str(error).partition(os.linesep)[0]
            raise ImportError(
                f"mpiexec started {expected} ranks, which need mpi4py: pip install 'backprop-xp[ranks]' ({said})"
            ) from None
        return None
    comm = MPI.COMM_WORLD
    if expected > 1 and comm.Get_size() == 1:
        raise RuntimeError(
            f"mpiexec started {expected} ranks, and mpi4py knows one: it uses another MPI, "
            f"{MPI.Get_library_version().splitlines()[0]}"
        )
    return comm
