"""A batch through the compiled pass of a graph that is no chain, with everything at hand but the batch itself.

Parameters and gradients lie in the pass in panels (programs/packing.py): here one gather brings all of them there, and
another brings all gradients back.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from .. import forks, threads, workspace
from ..dtypes import name_of
from ..engines.fused import graph as engine
from ..plan.net import AnyNet
from ..programs import graph as programs
from ..programs import graph_source
from ..programs.structs import ChunkArgs, address
from ..sums.chunks import chunk_samples
from ..tensor import Tensor
from ..workspace import recycled
from .batch import KEPT_BYTES, is_target, kernel, parts
from .gradients import Gradients, a_signal, drop_signals


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
        self._program = programs.program(shape, plan.nodes)
        multiply_adds = net._call(_blank(net), False, False).multiply_adds
        self._most = chunk_samples(multiply_adds, 0, self._program.rows)  # samples of a batch that is one chunk
        self._signal, self._drops, self._args = a_signal(net), drops, ChunkArgs()
        self._read_parameters(net)

        functions = [function for node in plan.nodes for function in node.form.functions]
        scalars = [number for f in (*functions, loss) for number in getattr(f, "parameters", ())]
        self._stop = threads.Stop()
        self._x = np.zeros(len(self._inputs), np.int64)
        self._strides = np.array([stride for _, features in self._inputs for stride in (features, 1)], np.int64)
        self._keys = np.zeros(1 + sum(node.operation.needs_key for node in plan.nodes), np.uint64)
        self._scalars, self._none = np.array([*scalars, 0.0], self._dtype), np.zeros(len(self._inputs), np.int64)
        graph = self._args.graph
        graph.x, graph.strides, graph.keys = map(address, (self._x, self._strides, self._keys))
        graph.x_grad, graph.wide.scalars = address(self._none), address(self._scalars)
        graph.wide.scale, graph.wide.stop = 1.0, ctypes.addressof(self._stop)
        self._pointer = ctypes.addressof(self._args)
        self._memory, self._room = np.empty(0, self._dtype), workspace.Room(0)
        self._keep_memory()

    def _read_parameters(self, net: AnyNet) -> None:
        """Let the pass gather all parameters from where they are, and buffers from ``flat``."""
        self._size = 1  # 0 is the number that fills panels up
        tensors, packing = net._tensors(), self._program.packing
        numbered = {node: {name: self._number(t.data) for name, t in own.items()} for node, own in tensors.items()}
        copies = [
            (address(tensor.data), int(numbered[node][name].flat[0]), tensor.data.size)
            for node, own in tensors.items()
            for name, tensor in own.items()
        ]
        buffers: list[tuple[str, str, np.ndarray]] = []
        for node, arrays in net._buffers().items():
            added = {name: self._number(array) for name, array in arrays.items()}
            buffers += [(node, name, numbers) for name, numbers in added.items()]
            numbered[node] = numbered.get(node, {}) | added
        self._flat = np.zeros(self._size, self._dtype)
        self._buffers = [(node, name, self._flat[numbers.flat[0] :][: numbers.size]) for node, name, numbers in buffers]
        self._copies = np.array(copies, np.int64)
        self._origins = packing.pack(net._plan().nodes, numbered, np.dtype(np.int64), self._program.panel)
        self._packed = np.empty(len(self._origins), self._dtype)
        args = self._args
        args.parameters, args.packed = len(copies), len(self._packed)
        args.copies, args.flat, args.origins = map(address, (self._copies, self._flat, self._origins))
        args.graph.wide.params = address(self._packed)

    def _number(self, array: np.ndarray) -> np.ndarray:
        """The next numbers for all that an array holds."""
        self._size += array.size
        return np.arange(self._size - array.size, self._size).reshape(array.shape)

    def _keep_memory(self) -> None:
        """Keep the pass's memory from call to call, if it is little enough and there is room for it."""
        size = self._program.memory * self._dtype.itemsize
        if size <= KEPT_BYTES:
            with suppress(MemoryError):
                self._room = workspace.Room(size)
                self._memory = np.empty(self._program.memory, self._dtype)

    def _fits(self, x: Any) -> bool:
        if forks.never_open(self._lock):
            return False
        arrays = self._given(x)
        n = len(arrays[0])
        if not 0 < n <= self._most:
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

    def _run(self, net: AnyNet, x: Any, samples: int, grads: int | None) -> float:
        if self._buffers:
            buffers = net._buffers()
            for node, name, place in self._buffers:
                place[:] = buffers[node][name]
        for k, array in enumerate(self._given(x)):
            self._x[k] = address(array)
        if self._memory.size:
            return self._program.run_chunk(self._pointer, samples, address(self._memory), grads)
        with recycled():
            memory = workspace.empty((self._program.memory,), self._dtype)
            return self._program.run_chunk(self._pointer, samples, address(memory), grads)


class GraphBatch(_Ready):
    """The loss and all gradients of batches with one kind of target: "none", "values" or "classes"."""

    def __init__(self, net: AnyNet, target: str, drops: bool) -> None:
        self._target = target
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        self._parts = parts(net, net._plan().output.width)
        super().__init__(net, net.loss, kernel(net.loss, target), bool(self._parts), drops)
        wide = self._args.graph.wide
        wide.y_row, wide.y_column = (1, 0) if target == "classes" else (self._outputs, 1)
        self._hand_over_gradients(net)

    def _hand_over_gradients(self, net: AnyNet) -> None:
        """Where the pass leaves each number of the gradients, and where those lie that are handed out."""
        program, tensors = self._program, net._tensors()
        numbers = np.arange(program.packing.grads)
        found: dict[Tensor, list[np.ndarray]] = {}
        each = program.packing.unpack_each(net._plan().nodes, numbers, program.panel, program.weight_rows)
        for (owner, name), places in each:
            found.setdefault(tensors[owner][name], []).append(places)
        self._to = np.concatenate([numbers[:0], *(places.ravel() for places, *_ in found.values())])
        self._slices: list[tuple[Tensor, slice, tuple[int, ...]]] = []
        additions = [np.empty((0, 2), np.int64)]
        at = 0
        for tensor, (places, *further) in found.items():
            self._slices.append((tensor, slice(at, at + places.size), places.shape))
            own = np.arange(at, at + places.size)
            additions += [np.stack([own, other.ravel()], axis=1) for other in further]
            at += places.size
        self._additions = np.concatenate(additions)
        self._packed_grads = np.empty(program.packing.grads, self._dtype)
        self._gradients = Gradients(at, self._dtype)
        args = self._args
        args.grads, args.sums = at, len(self._additions)
        args.packed_grads, args.to = address(self._packed_grads), address(self._to)
        args.additions = address(self._additions)

    def takes(self, x: Any, y: Any) -> bool:
        """Whether this is a call that needs no more checks."""
        if not self._wanted or not self._fits(x):
            return False
        return y is None or is_target(self._target, y, (len(self._given(x)[0]), self._outputs), self._dtype)

    def loss_and_grad(self, net: AnyNet, x: Any, y: np.ndarray | None) -> Any:
        """Fill every gradient of the net, and return the loss."""
        n = len(self._given(x)[0])
        with self._lock:
            wide = self._args.graph.wide
            wide.scale = scale = 1.0 / self._parts / n if self._parts else 1.0
            if y is not None:
                if self._target == "classes" and ((low := y.min()) < 0 or y.max() >= self._outputs):
                    wrong = low if low < 0 else y.max()
                    raise ValueError(f"class indices must be from 0 to {self._outputs - 1}, got {wrong}")
                wide.y = address(y)
            if self._drops:
                self._keys[:-1] = [*net._keys().values()]
            gradients = self._gradients.unused()
            total = self._run(net, x, n, address(gradients))
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
        n = len(self._given(x)[0])
        output = np.empty((n, self._outputs), self._dtype)
        with self._lock:
            self._args.graph.wide.output = address(output)
            self._run(net, x, n, None)
        drop_signals(net, self._signal)
        return output
