"""A batch on a CUDA device through the fused kernel, with everything at hand but the batch itself.

What a plain call finds out (which engine, which kernel, which arguments) is found out once for each kind of batch: its
number of samples and its targets'. Then a call is a few comparisons, one allocation and two launches.
"""

from __future__ import annotations

import threading
from typing import Any

from .. import engines, forks
from ..backend import Array
from ..engines import fused_gpu
from ..losses import get_loss
from ..plan.call import Call
from ..plan.net import AnyNet
from ..toolchain.compiler import CompileError
from .chain import why_not_loss
from .known import Known, as_it_is

ENGINE = "fused"
#: Kinds of batches that are kept ready; those beyond run as any call.
MOST_KINDS = 64
ALIGNED = 16  # bytes, of the loss behind the gradients


class Batches:
    """The calls of a net as it is now, by kind of batch; None for a kind that another engine runs."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._kinds: dict[Any, Batch | None] = {}

    def of(self, net: AnyNet, x: Array, y: Array | None) -> Batch | None:
        """The call for these arrays."""
        kind = (x.shape, None if y is None else (y.shape, y.dtype.char))
        if kind not in self._kinds:
            if len(self._kinds) == MOST_KINDS:
                return None
            self._kinds[kind] = _batch(net, x, y)
        return self._kinds[kind]

    def give_up(self, batch: Batch) -> None:
        """Let calls of this kind run as any call."""
        self._kinds = {kind: None if kept is batch else kept for kind, kept in self._kinds.items()}


class Batch:
    """The loss and all gradients of batches of one kind. Raises CompileError."""

    def __init__(self, net: AnyNet, call: Call) -> None:
        self._lock = forks.lock(threading.Lock)  # the arguments are shared by all threads
        self._ready, self._xp, self._dtype = fused_gpu.Ready(call), call.backend.xp, call.dtype
        self._signal = next(iter(net._signals().values()))
        self._slices: list[tuple[Any, slice, tuple[int, ...]]] = []
        at = 0
        for tensor in net._places():
            self._slices.append((tensor, slice(at, at + tensor.data.size), tensor.data.shape))
            at += tensor.data.size
        self._parameters, itemsize = at, call.dtype.itemsize
        self._loss_at = -(-at * itemsize // ALIGNED) * ALIGNED

    def loss_and_grad(self, net: AnyNet, x: Array, y: Array | None) -> Any:
        """Fill every gradient of the net, and return the loss, a 0-d array."""
        xp = self._xp
        try:
            results, memory = xp.cuda.alloc(self._loss_at + ALIGNED), xp.cuda.alloc(self._ready.bytes)
        except MemoryError:  # smaller pieces may fit
            net._prepared.give_up(self)
            return net.loss_and_grad(x, y)
        gradients = xp.ndarray(self._parameters, self._dtype, results)
        loss = xp.ndarray((), self._dtype, results + self._loss_at)
        target = 0 if y is None else y.data.ptr
        stream = xp.cuda.get_current_stream().ptr
        with self._lock:
            self._ready(x.data.ptr, target, memory.ptr, results.ptr, loss.data.ptr, stream)
        for tensor, at, shape in self._slices:
            tensor._later = (gradients, None, at, shape)
        if net._kept is not None or self._signal.data is not None:  # signals of an earlier call
            net._keep(None, None)
        return loss


def find(net: AnyNet, x: Any, y: Any, keep_signals: bool | None) -> Batch | None:
    """The prepared call for these arguments, None where they need more checks or another engine."""
    backend = net.backend
    if keep_signals or net.engine not in ("auto", ENGINE) or not _fits(net, x, 2):
        return None
    if y is not None and not _fits(net, y, None):
        return None
    if backend.xp.cuda.runtime.getDevice() != backend.device:
        return None
    batches = net._prepared
    if not isinstance(batches, Batches) or not batches.known.holds(net):
        known = None if _needs_more(net) else as_it_is(net)
        if known is None:
            return None
        batches = net._prepared = Batches(known)
    return batches.of(net, x, y)


def _fits(net: AnyNet, array: Any, axes: int | None) -> bool:
    """Whether a kernel can read this array in place: it is contiguous on the net's device, x also of its dtype."""
    if type(array) is not net.backend.xp.ndarray or not array.size or not array.flags.c_contiguous:
        return False
    if axes is not None and (array.ndim != axes or array.dtype != net.dtype):
        return False
    return array.data.device_id == net.backend.device and not array.data.ptr % array.itemsize


def _needs_more(net: AnyNet) -> bool:
    """Whether parameters, the loss or the net itself need more checks."""
    tensors = net._places()
    if why_not_loss(net) or len(set(tensors)) != len(tensors):
        return True
    return not all(_fits(net, t.data, None) and t.data.dtype == net.dtype for t in tensors)


def _batch(net: AnyNet, x: Array, y: Array | None) -> Batch | None:
    """The call for this kind of batch, None where the plain one must run: it also says what is wrong."""
    try:
        call = net._call(x, None, True, get_loss(net.loss))
        net._aim(call, y, None)
        if call.x is not x or call.y is not y or call.weight is not None:
            return None
        return Batch(net, call) if engines.choice(net.engine, call).engine == ENGINE else None
    except (ValueError, TypeError, CompileError, MemoryError):
        return None
