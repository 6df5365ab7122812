"""A batch on a CUDA device through one kernel, with everything at hand but the batch itself.

What a plain call finds out (which engine, which kernel, which arguments) is found out once for each kind of batch: its
number of samples and its targets'. Then a call is a few comparisons, two allocations and two launches, three of the
cooperative engine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from .. import engines, forks
from ..backend import Array
from ..engines import cooperative, fused_gpu
from ..plan.call import Call
from ..plan.net import AnyNet
from ..programs.arguments import Written
from ..sums.chunk_sums import ReadySums
from ..toolchain.compiler import CompileError
from .chain import why_not_loss
from .gradients import a_signal, drop_signals
from .known import Known, as_it_is

ENGINES = {"fused": fused_gpu, "cooperative": cooperative}
#: Kinds of batches that are kept ready; those beyond run as any call.
MOST_KINDS = 64
ALIGNED = 16  # bytes, of the loss behind the gradients


class Batches:
    """The calls of a net as it is now, by kind of batch; None for a kind that another engine runs."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._kinds: dict[Any, Batch | None] = {}

    def of(self, net: AnyNet, x: Any, y: Array | None, training: bool) -> Batch | None:
        """The call for these arrays."""
        kind = (_lengths(x), None if y is None else (y.shape, y.dtype.char), training)
        if kind not in self._kinds:
            if len(self._kinds) == MOST_KINDS:
                return None
            self._kinds[kind] = _batch(net, x, y, training)
        return self._kinds[kind]

    def give_up(self, batch: Batch) -> None:
        """Let calls of this kind run as any call."""
        self._kinds = {kind: None if kept is batch else kept for kind, kept in self._kinds.items()}


class Ready:
    """The launches of an engine for calls that differ in their inputs, targets and keys alone, with one for an example.

    Attributes:
        bytes: of the memory that a call is given for sums, packed parameters and what launches keep.
        numbers, places, changed: see :class:`backprop_xp.programs.pieces.Kernel`.
        packed: node and name of every array that a graph's call packs.
    """

    def __init__(self, engine: Any, call: Call) -> None:
        kernel = engine.Pass(call)
        chunks = -(-call.samples // kernel.chunk)
        if chunks > kernel.wave:
            raise MemoryError("the sums of all chunks are too many to be held at once")
        self._stages = [
            (kernel.launch(k, call, Written()), ReadySums(chunks, stage.numbers, call.dtype, call.scale), stage)
            for k, stage in enumerate(kernel.stages)
        ]
        self._pack, self._itemsize = kernel.pack, call.dtype.itemsize
        self._packed_at = max(sums.bytes for _, sums, _ in self._stages)
        packed, kept = (0, 0) if self._pack is None else (kernel.packed.nbytes, kernel.kept.nbytes)
        self._kept_at = self._packed_at + -(-packed // ALIGNED) * ALIGNED
        self.bytes = self._kept_at + kept
        self.numbers, self.places = kernel.numbers, kernel.places
        self.changed, self.packed = kernel.changed, [] if self._pack is None else kernel.names

    def __call__(
        self, x: Sequence[int], y: int, keys: Iterable[int], memory: int, gradients: int, loss: int, stream: int
    ) -> None:
        """The gradients of all parameters, and the loss. All but the keys are addresses."""
        packed, keys = memory + self._packed_at, [*keys]
        if self._pack is not None:
            self._pack.arguments[-1].value = packed
            self._pack(stream)
        for launch, sums, added in self._stages:
            run, batch, between = launch.launch, launch.batch, launch.between
            if self._pack is not None:
                run.arguments[1].value = packed
            for place, address in zip(launch.inputs, x):
                place.x = address
            for argument, key in zip(run.arguments[launch.keys], keys):
                argument.value = key
            if between is not None:
                between.kept, between.totals = memory + self._kept_at, gradients
            batch.y, batch.sums, batch.losses = y, memory + sums.rows, memory + sums.losses
            run(stream)
            sums(memory, gradients + added.first * self._itemsize, loss if added.loss else 0, stream)

    def pack_from(self, which: int, address: int) -> None:
        """Pack another array, at this address, where an array of the example was packed: number ``which`` of them."""
        self._pack.arguments[which].value = address


class Batch:
    """The loss and all gradients of batches of one kind. Raises CompileError."""

    def __init__(self, net: AnyNet, engine: Any, call: Call) -> None:
        self._lock = forks.lock(threading.Lock)  # the arguments are shared by all threads
        self._ready, self._xp, self._dtype = Ready(engine, call), call.backend.xp, call.dtype
        self._signal, self._draws = a_signal(net), bool(call.keys)
        self._slices = [(t, at, t.data.shape) for t, (at,) in zip(net._places(), self._ready.places, strict=True)]
        self._loss_at = -(-self._ready.numbers * call.dtype.itemsize // ALIGNED) * ALIGNED
        #: buffers that a call changes, where what they become lies among its numbers, and which array is packed
        self._changed = [
            (net.tensors_of(node)[name], at, self._ready.packed.index((node, name)))
            for node, own in self._ready.changed.items()
            for name, at in own.items()
        ]

    def loss_and_grad(self, net: AnyNet, x: Any, y: Array | None) -> Any:
        """Fill every gradient of the net, and return the loss, a 0-d array."""
        xp = self._xp
        try:
            results, memory = xp.cuda.alloc(self._loss_at + ALIGNED), xp.cuda.alloc(self._ready.bytes)
        except MemoryError:  # smaller pieces may fit
            net._prepared.give_up(self)
            return net.loss_and_grad(x, y)
        gradients = xp.ndarray(self._ready.numbers, self._dtype, results)
        loss = xp.ndarray((), self._dtype, results + self._loss_at)
        target = 0 if y is None else y.data.ptr
        inputs = [array.data.ptr for array in (x.values() if type(x) is dict else (x,))]
        keys = net._keys().values() if self._draws else ()
        stream = xp.cuda.get_current_stream().ptr
        with self._lock:
            for tensor, _, which in self._changed:
                self._ready.pack_from(which, tensor.data.data.ptr)
            self._ready(inputs, target, keys, memory.ptr, results.ptr, loss.data.ptr, stream)
            for tensor, at, _ in self._changed:  # new arrays, as gradients are
                tensor.data = gradients[at]
        if self._changed:
            net._prepared.known.look_again()
        for tensor, at, shape in self._slices:
            tensor._later = (gradients, None, at, shape)
        drop_signals(net, self._signal)
        return loss


def find(net: AnyNet, x: Any, y: Any, keep_signals: bool | None, training: bool = True) -> Batch | None:
    """The prepared call for these arguments, None where they need more checks or another engine."""
    backend = net.backend
    if keep_signals or net.engine not in ("auto", *ENGINES):
        return None
    if not (_fits_inputs(net, x) if type(x) is dict else _fits(net, x, 2)):
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
    return batches.of(net, x, y, training)


def _fits_inputs(net: AnyNet, x: dict[str, Any]) -> bool:
    """Whether these are the net's inputs in their order, and a kernel can read all of them in place."""
    return [*x] == [*net._plan().inputs] and all(_fits(net, array, 2) for array in x.values())


def _lengths(x: Any) -> Any:
    """The shape of the input, or of all inputs."""
    return tuple(array.shape for array in x.values()) if type(x) is dict else x.shape


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
    return not all(_fits(net, t.data, None) and t.data.dtype == net.dtype for t in (*tensors, *net.buffers.values()))


def _batch(net: AnyNet, x: Any, y: Array | None, training: bool) -> Batch | None:
    """The call for this kind of batch, None where the plain one must run: it also says what is wrong."""
    try:
        call = net._call(x, None, training, net.loss)
        net._aim(call, y, None)
        given = x.values() if type(x) is dict else (x,)
        if any(a is not b for a, b in zip(call.inputs.values(), given, strict=True)):
            return None
        if call.y is not y or call.weight is not None:
            return None
        call.keys = dict.fromkeys(net._plan().drawing, 0) if training else {}
        engine = ENGINES.get(engines.choice(net.engine, call).engine)
        return None if engine is None else Batch(net, engine, call)
    except (ValueError, TypeError, CompileError, MemoryError):
        return None
