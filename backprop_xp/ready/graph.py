"""A batch through the compiled pass of a graph that is no chain, with everything at hand but the batch itself.

Parameters and gradients lie in the pass in panels (programs/packing.py): here one gather brings all of them there, and
another brings all gradients back.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np

from .. import forks, threads, workspace
from ..dtypes import name_of
from ..engines.fused import graph as engine
from ..plan.net import AnyNet
from ..programs import graph as programs
from ..programs import graph_source
from ..programs.structs import GraphArgs
from ..sums.chunks import chunk_samples
from ..tensor import Tensor
from ..workspace import recycled
from .batch import is_target, kernel, parts
from .gradients import a_signal, drop_signals


def why_not(net: AnyNet, training: bool) -> str:
    """Why there are no ready calls of this graph, in training or not, "" if there are."""
    call = net._call(_blank(net), False, False)
    call.loss, call.training = net.loss, training
    return engine.why_not(call)


def _blank(net: AnyNet) -> Any:
    """A batch of one sample of zeros."""
    return {name: np.zeros((1, features), net.dtype) for name, features in net._plan().inputs.items()}


class _Ready:
    """The pass, its arguments, and the buffers that it reads and writes. Raises CompileError."""

    def __init__(self, net: AnyNet, loss: Any, key: Any, factors: bool, drops: bool) -> None:
        plan = net._plan()
        self._lock = forks.lock(threading.RLock)  # the arguments and the buffers are shared by all threads
        self._dtype, self._outputs, self._inputs = net.dtype, plan.output.width, [*plan.inputs.items()]
        shape = graph_source.shape_of(plan.nodes, name_of(self._dtype), key, factors, False, drops)
        self._program = program = programs.program(shape, plan.nodes)
        self._multiply_adds = net._call(_blank(net), False, False).multiply_adds
        self._signal, self._drops = a_signal(net), drops

        # where each number comes from: 0 is the one that fills panels up
        self._size = 1
        tensors, buffers = net._tensors(), net._buffers()
        numbered = {node: {name: self._number(t.data) for name, t in own.items()} for node, own in tensors.items()}
        self._parameters = [
            (_place(numbered[node][name]), tensor.data) for node, own in tensors.items() for name, tensor in own.items()
        ]
        self._buffers: list[tuple[str, str, slice]] = []
        for node, arrays in buffers.items():
            added = {name: self._number(array) for name, array in arrays.items()}
            self._buffers += [(node, name, _place(numbers)) for name, numbers in added.items()]
            numbered[node] = numbered.get(node, {}) | added
        self._flat = np.zeros(self._size, self._dtype)
        self._from = program.packing.pack(plan.nodes, numbered, np.dtype(np.int64), program.panel)
        self._packed = np.empty(len(self._from), self._dtype)

        functions = [function for node in plan.nodes for function in node.form.functions]
        scalars = [number for f in (*functions, loss) for number in getattr(f, "parameters", ())]
        self._stop, self._args = threads.Stop(), GraphArgs()
        self._x = np.zeros(len(self._inputs), np.int64)
        self._strides = np.array([stride for _, features in self._inputs for stride in (features, 1)], np.int64)
        self._keys = np.zeros(1 + sum(node.operation.needs_key for node in plan.nodes), np.uint64)
        self._scalars, self._none = np.array([*scalars, 0.0], self._dtype), np.zeros(len(self._inputs), np.int64)
        args = self._args
        args.x, args.strides, args.x_grad, args.keys = map(_address, (self._x, self._strides, self._none, self._keys))
        args.wide.params, args.wide.scalars = _address(self._packed), _address(self._scalars)
        args.wide.scale, args.wide.stop = 1.0, ctypes.addressof(self._stop)
        self._pointer = ctypes.addressof(args)

    def _number(self, array: np.ndarray) -> np.ndarray:
        """The next numbers for all that an array holds."""
        self._size += array.size
        return np.arange(self._size - array.size, self._size).reshape(array.shape)

    def _fits(self, x: Any) -> bool:
        if forks.never_open(self._lock):
            return False
        arrays = self._given(x)
        n = len(arrays[0])
        if n == 0 or chunk_samples(self._multiply_adds, n, self._program.rows) < n:
            return False
        for array, (_, features) in zip(arrays, self._inputs):
            if array.dtype != self._dtype or array.shape != (n, features):
                return False
            if not (array.flags.c_contiguous and array.flags.aligned):
                return False
        return True

    def _given(self, x: Any) -> list[np.ndarray]:
        """The array of every input."""
        return [x[name] for name, _ in self._inputs] if type(x) is dict else [x]

    def _run(self, net: AnyNet, x: Any, grads: int | None) -> float:
        for place, array in self._parameters:
            self._flat[place] = array.ravel()
        if self._buffers:
            buffers = net._buffers()
            for node, name, place in self._buffers:
                self._flat[place] = buffers[node][name].ravel()
        np.take(self._flat, self._from, out=self._packed, mode="clip")
        arrays = self._given(x)
        self._x[:] = [_address(array) for array in arrays]
        with recycled():
            memory = workspace.empty((self._program.memory,), self._dtype)
            return self._program.run(self._pointer, 0, len(arrays[0]), _address(memory), grads)


class GraphBatch(_Ready):
    """The loss and all gradients of batches with one kind of target: "none", "values" or "classes"."""

    def __init__(self, net: AnyNet, target: str, drops: bool) -> None:
        self._target = target
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        self._parts = parts(net, net._plan().output.width)
        super().__init__(net, net.loss, kernel(net.loss, target), bool(self._parts), drops)
        wide = self._args.wide
        wide.y_row, wide.y_column = (1, 0) if target == "classes" else (self._outputs, 1)
        self._grads = np.empty(self._program.packing.grads, self._dtype)
        self._find_gradients(net)

    def _find_gradients(self, net: AnyNet) -> None:
        """Where the pass leaves each number of the gradients, and where those lie that are handed out."""
        plan, program, tensors = net._plan(), self._program, net._tensors()
        numbers = np.arange(program.packing.grads)
        found: dict[Tensor, list[np.ndarray]] = {}
        for (owner, name), places in program.packing.unpack_each(
            plan.nodes, numbers, program.panel, program.weight_rows
        ):
            found.setdefault(tensors[owner][name], []).append(places)
        self._to = np.concatenate([places.ravel() for places, *_ in found.values()])
        self._slices: list[tuple[Tensor, slice, tuple[int, ...]]] = []
        #: further gradients in a parameter that stands in several places
        self._added: list[tuple[slice, np.ndarray]] = []
        at = 0
        for tensor, (places, *others) in found.items():
            self._slices.append((tensor, slice(at, at + places.size), places.shape))
            self._added += [(slice(at, at + places.size), other.ravel()) for other in others]
            at += places.size

    def takes(self, x: Any, y: Any) -> bool:
        """Whether this is a call that needs no more checks."""
        if not self._wanted or not self._fits(x):
            return False
        return is_target(self._target, y, (len(self._given(x)[0]), self._outputs), self._dtype)

    def loss_and_grad(self, net: AnyNet, x: Any, y: np.ndarray | None) -> Any:
        """Fill every gradient of the net, and return the loss."""
        with self._lock:
            wide = self._args.wide
            if self._drops:
                self._keys[:-1] = [*net._keys().values()]
            wide.scale = scale = 1.0 / self._parts / len(self._given(x)[0]) if self._parts else 1.0
            if y is not None:
                if self._target == "classes" and ((low := y.min()) < 0 or y.max() >= self._outputs):
                    wrong = low if low < 0 else y.max()
                    raise ValueError(f"class indices must be from 0 to {self._outputs - 1}, got {wrong}")
                wide.y = _address(y)
            total = self._run(net, x, _address(self._grads))
            gradients = self._grads[self._to]  # a new array: what was handed out is never overwritten
            for place, further in self._added:
                gradients[place] += self._grads[further]
        for tensor, place, shape in self._slices:
            tensor._later = (gradients, None, place, shape)
        drop_signals(net, self._signal)
        return self._dtype.type(total * scale)


class GraphOutputs(_Ready):
    """The outputs of batches."""

    def __init__(self, net: AnyNet) -> None:
        super().__init__(net, None, None, factors=False, drops=False)

    def takes(self, x: Any, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return not keep_signals and self._fits(x)

    def forward(self, net: AnyNet, x: Any) -> np.ndarray:
        """The outputs (n, out)."""
        output = np.empty((len(self._given(x)[0]), self._outputs), self._dtype)
        with self._lock:
            self._args.wide.output = _address(output)
            self._run(net, x, None)
        drop_signals(net, self._signal)
        return output


def _place(numbers: np.ndarray) -> slice:
    """Where consecutive numbers lie."""
    first = int(numbers.flat[0])
    return slice(first, first + numbers.size)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
