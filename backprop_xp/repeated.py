"""One call again and again: on a CUDA device one launch of a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .backend import Array, owner_of
from .formulas import is_formula
from .losses import resolved
from .operations import is_built_in
from .operations.built_in import BuiltInOperation
from .plan.net import AnyNet
from .ready.known import Known, as_it_is
from .tensor import Tensor

#: Engines on the GPU that launch nothing but kernels of ours; cuBLAS, which layered needs, can't be captured.
CAPTURED = ("fused", "cooperative")


def repeated(self: Any, x: Any, y: Any = None, *, sample_weight: Any = None) -> Repeated:
    """A function that computes :meth:`loss_and_grad` of these very arrays, which may be overwritten between calls.

    On a CUDA device a call is one launch where it can be, see :class:`Repeated`.
    """
    return Repeated(self, x, y, sample_weight)


class Repeated:
    """``net.loss_and_grad(x, y)`` for arrays that stay where they are and are written anew between calls.

    ::

        step = net.repeated(x, y)
        for batch, labels in batches:
            x[:], y[:] = batch, labels
            loss = step()

    Where x, y and sample_weight lie on the net's CUDA device, its engine launches kernels alone and no node draws, as
    dropout does, these are captured once, and a call is one launch: no argument is checked, packed or converted again.
    The loss and the gradients are then the same arrays every time, overwritten by the next call, and so are the buffers
    that it changes. Everywhere else a call is a plain one.

    Parameters may be edited in place. A net of which something else was changed (a weight bound to another array, an
    activation, the loss) is captured anew. Not for several threads or streams at once.

    Attributes:
        graph: the CUDA graph, None where there is none.
    """

    def __init__(self, net: AnyNet, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        self._net, self._backend = net, net.backend
        self._arrays = {"x": x, "y": y, "sample_weight": sample_weight}
        self._on_device = net.backend.on_gpu and all(self._wrap(name) for name in self._arrays)
        self._state: Any = None
        self._known: Known | None = None
        self._pool: Any = None
        self._loss: Array = None
        self._gradients: list[tuple[Tensor, Array]] = []
        self.graph: Any = None

    def __call__(self) -> Any:
        """The loss; fills ``.grad`` of every parameter."""
        net = self._net
        if not self._on_device or net.backend is not self._backend:
            return net.loss_and_grad(**self._arrays)
        with net.backend.activate():
            if self._known is None or not self._known.holds(net):
                self._look(net)
            if self.graph is None:
                return net.loss_and_grad(**self._arrays)
            for tensor, gradient in self._gradients:
                tensor.grad = gradient
            self.graph.launch()
        return self._loss

    def _look(self, net: AnyNet) -> None:
        """Capture the call anew if the net is another one than it was."""
        self._known, state = None, _state(net)
        if state != self._state:
            self.graph = self._state = None
            draws = net._plan().drawing  # anew in every call
            if not draws and not _settles_on_host(net) and net.plan(self._arrays["x"]).engine in CAPTURED:
                self._capture()
            self._state = state
        self._known = as_it_is(net)

    def _wrap(self, name: str) -> bool:
        """Whether an array is on the device, or none; another library's is wrapped once and for all."""
        given = self._arrays[name]
        several = isinstance(given, Mapping)
        wrapped = {
            key: array if array is None else self._net.backend.asarray(array, None, name, most_bytes=0)
            for key, array in (given.items() if several else [(name, given)])
        }
        if any(owner_of(array) == "numpy" for array in wrapped.values() if array is not None):
            return False
        self._arrays[name] = wrapped if several else wrapped[name]
        return True

    def _capture(self) -> None:
        net, cuda = self._net, self._net.backend.xp.cuda
        pool = cuda.MemoryPool()  # what kernels of the graph read and write stays theirs
        stream = cuda.Stream(non_blocking=True)  # the default stream can't be captured
        stream.wait_event(cuda.get_current_stream().record())
        buffers = [(tensor, tensor.data) for tensor in net.buffers.values()]
        with stream, cuda.using_allocator(pool.malloc):
            net.loss_and_grad(**self._arrays)  # compiles, loads, and fills the pool: none of that can be captured
            for tensor, data in buffers:
                tensor.data = data
            for tensor in net.parameters:
                tensor.grad = None
            stream.begin_capture()
            try:
                loss = net.loss_and_grad(**self._arrays)
                for tensor, data in buffers:  # where the next launch reads them
                    if tensor.data is not data:
                        data[...] = tensor.data
            except BaseException:
                with suppress(Exception):  # that the capture can't be ended now is not the reason
                    stream.end_capture()
                raise
            graph = stream.end_capture()
            for tensor, data in buffers:
                tensor.data = data
        cuda.get_current_stream().wait_event(stream.record())
        self.graph, self._pool = graph, pool
        self._loss, self._gradients = loss, [(tensor, tensor.grad) for tensor in net.parameters]


def _settles_on_host(net: AnyNet) -> bool:
    """Whether the loss makes arrays from host data in every call, such as the weights of classes."""
    loss = net.loss
    return resolved(loss, None, (), net.dtype).loss is not loss


def _state(net: AnyNet) -> Any:
    """What a captured call depends on, beside the numbers in its arrays.

    Parameters of another dtype are converted within the call, so that it is they themselves that count.
    """
    tensors = [*net._places(), *net.buffers.values()]
    return (
        net.engine,
        net.precision,
        net.reduction,
        net.dtype,
        type(net.loss),
        getattr(net.loss, "text", None),
        getattr(net.loss, "settings", None),
        is_formula(net.loss),
        getattr(net.loss, "parameters", ()),
        tensors,
        [_place(tensor.data) for tensor in tensors],
        [_settings(f) for f in net._plan().functions()],
    )


def _settings(function: Any) -> Any:
    """Of an activation or another operation: what a kernel is compiled for, and its numbers."""
    if isinstance(function, BuiltInOperation) and is_built_in(function):
        return function.facts()
    return (function.text, function.parameters) if is_formula(function) else function


def _place(array: Any) -> Any:
    """Where an array lies and how; of one that isn't CuPy's, which no call takes, its identity."""
    if owner_of(array) == "numpy":
        return id(array)
    return array.data.ptr, array.shape, array.strides, array.dtype
