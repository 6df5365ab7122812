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
from ..plan.call import Parameters
from ..plan.net import AnyNet
from ..programs import graph as programs
from ..programs import graph_source
from ..programs.structs import GraphArgs
from ..sums.chunks import chunk_samples
from ..workspace import recycled
from .batch import is_target, kernel, parts


def why_not(net: AnyNet) -> str:
    """Why there are no ready calls of this graph, "" if there are."""
    plan = net._plan()
    if len(plan.inputs) != 1:
        return "it has several inputs"
    for node in plan.nodes:
        if node.operation.needs_key or node.form.constants:
            return f"node {node.name!r} doesn't do the same in every call"
        if node.owner != node.name:
            return f"node {node.name!r} shares weights"
    (features,) = plan.inputs.values()
    call = net._call(np.zeros((1, features), net.dtype), False, False)
    call.loss = net.loss
    return engine.why_not(call)


class _Ready:
    """The pass, its arguments, and the buffers that it reads and writes. Raises CompileError."""

    def __init__(self, net: AnyNet, loss: Any, key: Any, factors: bool) -> None:
        plan = net._plan()
        self._lock = forks.lock(threading.RLock)  # the arguments and the buffers are shared by all threads
        self._dtype, self._outputs = net.dtype, plan.output.width
        (self._features,) = plan.inputs.values()
        shape = graph_source.shape_of(plan.nodes, name_of(self._dtype), key, factors, False, False)
        self._program = program = programs.program(shape, plan.nodes)
        self._multiply_adds = net._call(np.zeros((1, self._features), self._dtype), False, False).multiply_adds
        self._tensors = [tensor for own in net._tensors().values() for tensor in own.values()]
        self._parameters = [tensor.data for tensor in self._tensors]
        self._signal = next(iter(net._signals().values()))

        # where each number comes from: 0 is the one that fills panels up
        size, self._places = 1, list[slice]()
        numbered: dict[str, dict[str, np.ndarray]] = {}
        for node, own in net._tensors().items():
            numbered[node] = {}
            for name, tensor in own.items():
                self._places.append(slice(size, size + tensor.data.size))
                numbered[node][name] = np.arange(size, size + tensor.data.size).reshape(tensor.data.shape)
                size += tensor.data.size
        self._flat = np.zeros(size, self._dtype)
        packing = program.packing
        self._from = packing.pack(plan.nodes, numbered, np.dtype(np.int64), program.panel)
        self._packed = np.empty(len(self._from), self._dtype)
        if key is not None:
            self._to = self._gradient_places(plan.nodes, numbered)

        functions = [function for node in plan.nodes for function in node.form.functions]
        scalars = [number for f in (*functions, loss) for number in getattr(f, "parameters", ())]
        self._stop, self._args = threads.Stop(), GraphArgs()
        self._x, self._strides = np.zeros(1, np.int64), np.array([self._features, 1], np.int64)
        self._scalars, self._none = np.array([*scalars, 0.0], self._dtype), np.zeros(1, np.int64)
        args = self._args
        args.x, args.strides, args.x_grad, args.keys = map(_address, (self._x, self._strides, self._none, self._none))
        args.wide.params, args.wide.scalars = _address(self._packed), _address(self._scalars)
        args.wide.scale, args.wide.stop = 1.0, ctypes.addressof(self._stop)
        self._pointer = ctypes.addressof(args)

    def _gradient_places(self, nodes: Any, numbered: Parameters) -> np.ndarray:
        """For every number of the parameters, one after another, where the pass leaves its gradient."""
        program = self._program
        numbers = np.arange(program.packing.grads)
        found = program.packing.unpack(nodes, numbered, numbers, program.panel, program.weight_rows)
        return np.concatenate([array.ravel() for array in found])

    def _fits(self, x: np.ndarray) -> bool:
        if forks.never_open(self._lock) or x.dtype != self._dtype or x.shape[1] != self._features:
            return False
        n = len(x)
        one_chunk = n > 0 and chunk_samples(self._multiply_adds, n, self._program.rows) >= n
        return one_chunk and x.flags.c_contiguous and x.flags.aligned

    def _run(self, x: np.ndarray, grads: int | None) -> float:
        for place, array in zip(self._places, self._parameters):
            self._flat[place] = array.ravel()
        np.take(self._flat, self._from, out=self._packed, mode="clip")
        self._x[0] = _address(x)
        with recycled():
            memory = workspace.empty((self._program.memory,), self._dtype)
            return self._program.run(self._pointer, 0, len(x), _address(memory), grads)

    def _drop_signals(self, net: AnyNet) -> None:
        """Forget the signals that an earlier call kept."""
        if net._kept is not None or self._signal.data is not None:
            net._keep(None, None)


class GraphBatch(_Ready):
    """The loss and all gradients of batches with one kind of target: "none", "values" or "classes"."""

    def __init__(self, net: AnyNet, target: str) -> None:
        self._target = target
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        self._parts = parts(net, net._plan().output.width)
        super().__init__(net, net.loss, kernel(net.loss, target), factors=bool(self._parts))
        wide = self._args.wide
        wide.y_row, wide.y_column = (1, 0) if target == "classes" else (self._outputs, 1)
        self._grads = np.empty(self._program.packing.grads, self._dtype)
        shapes = [array.shape for array in self._parameters]
        self._slices = [(slice(p.start - 1, p.stop - 1), shape) for p, shape in zip(self._places, shapes)]

    def takes(self, x: np.ndarray, y: Any) -> bool:
        """Whether this is a call that needs no more checks."""
        if not self._wanted or not self._fits(x):
            return False
        return is_target(self._target, y, (len(x), self._outputs), self._dtype)

    def loss_and_grad(self, net: AnyNet, x: np.ndarray, y: np.ndarray | None) -> Any:
        """Fill every gradient of the net, and return the loss."""
        with self._lock:
            wide = self._args.wide
            wide.scale = scale = 1.0 / self._parts / len(x) if self._parts else 1.0
            if y is not None:
                if self._target == "classes" and ((low := y.min()) < 0 or y.max() >= self._outputs):
                    wrong = low if low < 0 else y.max()
                    raise ValueError(f"class indices must be from 0 to {self._outputs - 1}, got {wrong}")
                wide.y = _address(y)
            total = self._run(x, _address(self._grads))
            gradients = self._grads[self._to]  # a new array: what was handed out is never overwritten
        for tensor, (at, shape) in zip(self._tensors, self._slices):
            tensor._later = (gradients, None, at, shape)
        self._drop_signals(net)
        return self._dtype.type(total * scale)


class GraphOutputs(_Ready):
    """The outputs of batches."""

    def __init__(self, net: AnyNet) -> None:
        super().__init__(net, None, None, factors=False)

    def takes(self, x: np.ndarray) -> bool:
        """Whether this is a call that needs no more checks."""
        return self._fits(x)

    def forward(self, net: AnyNet, x: np.ndarray) -> np.ndarray:
        """The outputs (n, out)."""
        output = np.empty((len(x), self._outputs), self._dtype)
        with self._lock:
            self._args.wide.output = _address(output)
            self._run(x, None)
        self._drop_signals(net)
        return output


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
