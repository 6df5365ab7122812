"""The ranks of a run, and what they tell each other: bytes, all to all, through mpi4py.

Whatever goes wrong on a rank within the ``with`` block of its world ends all of them.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np

from .. import backend, threads
from ..backend import Array, module_of, on_host
from ..environment import OMPI_RANK, OMPI_SIZE, PMI_RANK, PMI_SIZE
from ..messages import sentence
from ..numbers import flag, whole
from . import watcher
from .alike import versions
from .nccl import Nccl

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
    "exchange rows",
    "end",
    "tell of the nets that they trained",
    "tell of a table",
)
COMPARE, ADD_UP, HEAR, EXCHANGE, END, TRAINED, TABLE = range(len(TASKS))
#: How many bytes each rank has, and where they begin in one array of all.
Places = tuple[list[int], list[int]]


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
        exact: whether sums are added up in the tree, with the same bits for any number of ranks.
        shard_state: whether each rank keeps the optimiser's state of some of the parameters alone.
        nccl: whether arrays on GPUs go by NCCL, instead of through the host's memory by MPI.
        order, bounds: where it does, in which order all gradients stand in one array, as places among those of an
            engine, and where the numbers of each rank begin in it, (ranks + 1,).
    """

    def __init__(
        self,
        comm: Any,
        parts: int,
        brief: bool = False,
        exact: bool = True,
        shard_state: bool = False,
        nccl: bool = False,
    ) -> None:
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self.parts = whole("parts", parts, 1, MOST_PARTS)
        if self.parts & (self.parts - 1):
            raise ValueError(f"parts must be a power of two, got {parts}")
        if self.parts < self.size:
            raise ValueError(f"parts must not be fewer than the ranks, {self.size}, got {parts}")
        self.checks, self.brief = True, brief
        self.exact, self.shard_state = flag("exact", exact), flag("shard_state", shard_state)
        self.nccl = flag("nccl", nccl)
        self.order: Sequence[int] | None = None
        self.bounds: Sequence[int] | None = None
        self._all, self._entered = comm, False
        self._comm = None if self.size == 1 else comm
        self._gpus: list[Nccl] = []  # NCCL's communicator from its first use on, for all copies of this world
        self._watcher = 0  # the process that watches the ranks of this machine
        self._started: subprocess.Popen[bytes] | None = None  # the same, on the rank that started it

    def __enter__(self) -> World:
        self._entered = True
        if self._comm is not None:
            try:
                self._meet()
                self.agree(
                    versions()
                    | {"parts, exact and shard_state": f"{self.parts} {self.exact} {self.shard_state}"}
                    | {"nccl": str(self.nccl)}
                )
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
                self._part()
        self._entered = False

    @property
    def unchecked(self) -> World:
        """This world for calls whose data were compared before."""
        other = copy.copy(self)
        other.checks = False
        return other

    def ready(self, array: Array) -> Array:
        """An array where exchanges take it: on the host, unless NCCL takes it from a device."""
        return array if self.nccl else on_host(array)

    def gather(self, task: int, data: Array) -> list[Array]:
        """The arrays of all ranks, each of this dtype and one-dimensional, in the order of ranks.

        Raises:
            RankError: others are about to do something else.
        """
        comm = self._communicator()
        if comm is None:
            return [data]
        heads = np.empty((self.size, 2), np.int64)
        comm.Allgather(np.array([task, data.nbytes], np.int64), heads)
        _compare_tasks(heads[:, 0])
        if module_of(data) is not np:
            return [each.view(data.dtype) for each in self._by_nccl([data.view(np.uint8)] * self.size, heads)]
        received, places = _places(heads[:, 1])
        comm.Allgatherv([_bytes(data), _byte()], [received, places, _byte()])
        return [each.view(data.dtype) for each in _cut(received, places)]

    def deal(self, task: int, data: Sequence[Array]) -> list[Array]:
        """The array that each rank has for this one, in the order of ranks, from one for each rank; all of bytes.

        Raises:
            RankError: others are about to do something else.
        """
        comm = self._communicator()
        if comm is None:
            return list(data)
        sent = np.array([[task, each.nbytes] for each in data], np.int64)
        heads = np.empty_like(sent)
        comm.Alltoall(sent, heads)
        _compare_tasks(heads[:, 0])
        if module_of(data[0]) is not np:
            return self._by_nccl(data, heads)
        received, places = _places(heads[:, 1])
        _, from_here = _places(sent[:, 1])
        comm.Alltoallv([np.concatenate(data), from_here, _byte()], [received, places, _byte()])
        return _cut(received, places)

    def reduce(self, task: int, data: Array, bounds: Sequence[int] | None = None) -> Array:
        """The sum of all ranks' arrays, of one length and dtype, in an order that MPI chooses.

        With ``bounds`` this rank gets the numbers from ``bounds[rank]`` up to ``bounds[rank + 1]`` alone.

        Raises:
            RankError: others are about to do something else.
        """
        comm = self._communicator()
        if comm is None:
            return data
        tasks = np.empty(self.size, np.int64)
        comm.Allgather(np.array([task], np.int64), tasks)
        _compare_tasks(tasks)
        if module_of(data) is not np:
            everything = self._nccl().reduce(data)
            return everything if bounds is None else everything[slice(*bounds[self.rank : self.rank + 2])]
        if bounds is None:
            total = np.empty_like(data)
            comm.Allreduce(np.ascontiguousarray(data), total)
            return total
        counts = np.diff(bounds).tolist()
        total = np.empty(counts[self.rank], data.dtype)
        comm.Reduce_scatter(np.ascontiguousarray(data), total, counts)
        return total

    def _by_nccl(self, data: Sequence[Array], heads: np.ndarray) -> list[Array]:
        return self._nccl().deal(data, heads[:, 1].tolist())

    def _nccl(self) -> Nccl:
        if not self._gpus:
            self._gpus.append(Nccl(self.rank, self.size, lambda what: self.told(COMPARE, what)))
        return self._gpus[0]

    def _communicator(self) -> Any:
        """MPI's, None in a world of one."""
        if not self._entered:
            raise RuntimeError("a world is used in its block: with world() as w: net.fit(x, y, world=w)")
        return self._comm

    def agree(self, facts: Mapping[str, str]) -> None:
        """That every rank says the same of each of these. Raises RankError, which names the first that differs."""
        first, *others = self.told(COMPARE, dict(facts))
        for rank, other in enumerate(others, 1):
            for name in first | other:
                if first.get(name) != other.get(name):
                    a, b = first.get(name, "nothing"), other.get(name, "nothing")
                    raise RankError(f"ranks differ in {name}: {a} on rank 0, {b} on rank {rank}")

    def hear(self, text: str) -> str:
        """What the first rank that doesn't say "" says."""
        return next(filter(None, self._texts(HEAR, text)), "")

    def told(self, task: int, what: Any) -> list[Any]:
        """What each rank tells, in JSON's terms, in the order of ranks."""
        return [json.loads(text) for text in self._texts(task, json.dumps(what))]

    def _texts(self, task: int, text: str) -> list[str]:
        return [
            data.tobytes().decode(errors="surrogateescape")
            for data in self.gather(task, np.frombuffer(text.encode(errors="surrogateescape"), np.uint8))
        ]

    def _meet(self) -> None:
        """Find the ranks of this machine, which share its processors; the first of them has all watched."""
        from mpi4py import MPI

        here = self._all.Split_type(MPI.COMM_TYPE_SHARED)
        try:
            threads.share(here.Get_size())
            ranks = np.empty((here.Get_size(), 2), np.int64)
            here.Allgather(np.array([self.rank, os.getpid()], np.int64), ranks)
            if here.Get_rank() == 0 and hasattr(os, "pidfd_open"):
                command = [sys.executable, "-I", "-S", watcher.__file__, str(self.size), *map(str, ranks.ravel())]
                self._started = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            process = np.array([0 if self._started is None else self._started.pid], np.int64)
            here.Bcast(process)
            self._watcher = int(process[0])
        finally:
            here.Free()

    def _part(self) -> None:
        """The ranks are through: nobody need be watched, and the processors are this one's again."""
        threads.share(1)
        if self._started is not None:
            self._started.kill()
            self._started.wait()
        self._watcher, self._started = 0, None

    def _end_all(self, error: BaseException) -> None:
        tell(error, self.rank, self.size, self.brief)
        if self._watcher:
            with suppress(ProcessLookupError):  # else it would tell of every rank that is ended now
                os.kill(self._watcher, signal.SIGKILL)
        self._all.Abort(1)
        os._exit(1)  # Abort may return before the launcher has ended this process


def _compare_tasks(tasks: np.ndarray) -> None:
    others = np.flatnonzero(tasks != tasks[0])
    if len(others):
        first, other = TASKS[tasks[0]], TASKS[tasks[others[0]]]
        raise RankError(f"rank 0 is about to {first}, and rank {others[0]} to {other}")


def _places(counts: np.ndarray) -> tuple[np.ndarray, Places]:
    """Room for each rank's bytes, whose number is given."""
    ends = np.cumsum(counts)
    return np.empty(int(ends[-1]), np.uint8), (counts.tolist(), (ends - counts).tolist())


def _cut(data: np.ndarray, places: Places) -> list[np.ndarray]:
    return [data[start : start + count] for count, start in zip(*places)]


def _bytes(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view(np.uint8)


def _byte() -> Any:
    from mpi4py import MPI

    return MPI.BYTE


def tell(error: BaseException, rank: int, size: int, brief: bool) -> None:
    """Say why all ranks are about to end, below the traceback, and wait until the launcher has read it."""
    if rank:
        time.sleep(PATIENCE)
    if not (brief or isinstance(error, (RankError, KeyboardInterrupt))):
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {sentence(error)}" if str(error) else type(error).__name__
    print(f"backprop_xp: rank {rank} of {size} ends all ranks: {what}", file=sys.stderr, flush=True)
    if sys.stdout is not None:
        sys.stdout.flush()
    time.sleep(READING)


def end_outside(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What an exception comes to that ends a rank outside the block of its world, in which others may wait for it.

    A launcher doesn't notice that a process ended which has not come to MPI yet, unless a signal ended it.
    """
    tell(error, PMI_RANK.read() or OMPI_RANK.read() or 0, launched(), brief=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)


def world(
    comm: Any = None,
    *,
    parts: int = PARTS,
    exact: bool = True,
    shard_state: bool = False,
    nccl: bool = False,
    brief: bool = False,
) -> World:
    """The ranks that ``mpiexec`` started, for a ``with`` block; a world of one where nothing did.

    Args:
        comm: a communicator of mpi4py, ``MPI.COMM_WORLD`` by default.
        parts: how many a batch is cut into, a power of two and not fewer than ranks; a small batch is cut into fewer.
        exact: the same bits for any number of ranks. False has MPI add up gradients, whose last bits then depend on how
            many ranks there are: of large nets less travels.
        shard_state: in :meth:`backprop_xp.Net.fit` each rank gets the gradients of an equal part of all parameters,
            keeps the optimiser's state of these alone, updates them, and sends them to all (ZeRO-1). The same bits.
            Gradients of the others are NaN on that rank.
        nccl: gradients on GPUs go from one to the other by NCCL, through CuPy; each rank has a GPU of its own. The same
            bits. Not measured. False has them go through the host's memory.
        brief: tell of errors without a traceback.

    Raises:
        ImportError: ``mpiexec`` started this process, and mpi4py can't be imported; or there is no NCCL for ``nccl``.
            RuntimeError: its MPI is another than that of ``mpiexec``.
    """
    if flag("nccl", nccl):
        backend.nccl()
    if comm is None:
        comm = _of_mpi()
    return World(comm, parts, brief, exact, shard_state, nccl)


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


with suppress(ValueError):  # of a variable that no launcher set
    if launched() > 1:
        sys.excepthook = end_outside
