"""Exchanges between GPUs by NCCL, through CuPy, on a stream of their own; MPI starts them, and says the sizes.

Not measured: what this does on several GPUs is tested with a communicator that copies memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import backend
from ..backend import Array, cupy

#: NCCL's names of dtypes, by NumPy's.
TYPES = {"uint8": "NCCL_UINT8", "float32": "NCCL_FLOAT32", "float64": "NCCL_FLOAT64"}


class Nccl:
    """A communicator of the devices that are current on all ranks; made, as everything here, by all of them together.

    Args:
        tell: what all ranks tell, in their order, from what this one does.
    """

    def __init__(self, rank: int, size: int, tell: Callable[[Any], list[Any]]) -> None:
        self._nccl = backend.nccl()
        name = tell(None if rank else list(self._nccl.get_unique_id()))[0]
        self._rank = rank
        self._comm = self._nccl.NcclCommunicator(size, tuple(name), rank)
        self._stream = cupy().cuda.Stream(non_blocking=True)

    def deal(self, sent: Sequence[Array], sizes: Sequence[int]) -> list[Array]:
        """The bytes (size,) that each rank has for this one, in the order of ranks, from those for each rank."""
        received = [cupy().empty(size, cupy().uint8) for size in sizes]
        with self._own_stream() as stream:
            self._nccl.groupStart()
            for peer, (there, here) in enumerate(zip(sent, received)):
                if peer == self._rank:
                    here[...] = there
                    continue
                if there.size:
                    self._comm.send(there.data.ptr, there.size, self._nccl.NCCL_UINT8, peer, stream)
                if here.size:
                    self._comm.recv(here.data.ptr, here.size, self._nccl.NCCL_UINT8, peer, stream)
            self._nccl.groupEnd()
        return received

    def reduce(self, data: Array) -> Array:
        """The sum of all ranks' arrays, of one length and dtype, in an order that NCCL chooses."""
        total = cupy().empty_like(data)
        kind = getattr(self._nccl, TYPES[data.dtype.name])
        with self._own_stream() as stream:
            self._comm.allReduce(data.data.ptr, total.data.ptr, data.size, kind, self._nccl.NCCL_SUM, stream)
        return total

    @contextmanager
    def _own_stream(self) -> Iterator[int]:
        """The address of a stream that begins when the current one has come here, which then waits for it."""
        outside = cupy().cuda.get_current_stream()
        self._stream.wait_event(outside.record())
        with self._stream:
            yield self._stream.ptr
        outside.wait_event(self._stream.record())
