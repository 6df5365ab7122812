"""One sample through a compiled graph, with everything that a call needs at hand; every signal and gradient is kept."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import forks, workspace
from ..dtypes import name_of
from ..losses import SoftmaxCrossEntropy
from ..plan.net import AnyNet
from ..plan.plan import Plan
from ..programs import fused, graph_source, sample
from ..programs import graph as programs
from ..programs.structs import SampleArgs, address
from ..tensor import Tensor
from .batch import kernel, parts

#: Numbers that the parameters hold: beyond it, the layered engine's BLAS may use several threads. Measured on a busy
#: 2-core machine: with 8,192 a call takes 4 % of the layered engine's time, with 131,072 less than half of it.
MOST_PARAMETERS = 1 << 17
#: What a call changes of the one that a backward pass starts from.
NOTHING: Mapping[str, Any] = {}


def why_not(net: AnyNet) -> str:
    """Why this net, which has a compiled form, has none for one sample; "" if it has one."""
    plan = net._plan()
    if plan.chain and (deep := fused.too_deep(len(plan.chain))):
        return deep
    if len(plan.nodes) > programs.MOST_NODES:
        return f"it has more than {programs.MOST_NODES} nodes"
    if sum(plan.widths.values()) > programs.MOST_WIDTH:
        return f"its nodes are together wider than {programs.MOST_WIDTH}"
    if sum(tensor.data.size for tensor in net.parameters) > MOST_PARAMETERS:
        return f"its parameters hold more than {MOST_PARAMETERS} numbers"
    return ""


class _Ready:
    """The pass, its arguments, and the buffers that it reads and writes. Raises CompileError."""

    def __init__(self, net: AnyNet, key: Any, drops: bool) -> None:
        self._lock = forks.lock(threading.RLock)  # the buffers are shared by all threads
        self._plan, self._dtype = net._plan(), net.dtype
        nodes, outputs = self._plan.nodes, self._plan.output.width
        count = parts(net, outputs) if key is not None else 0
        shape = graph_source.shape_of(nodes, name_of(net.dtype), key, bool(count), False, drops, one_sample=True)
        self._program = program = sample.program(shape, nodes, _named(self._plan))
        #: what the pass writes: values and gradients of nodes, gradients of parameters, and the loss
        self._out = np.zeros(program.memory + program.packing.grads + 1, net.dtype)
        self._params = np.zeros(program.packing.params, net.dtype)
        self._room = workspace.Room(self._out.nbytes + self._params.nbytes)

        self._values = {node.name: slice(at, at + node.width) for node, at in zip(nodes, program.values)}
        self._x = {name: self._out[self._values[name]] for name in self._plan.inputs}
        self._only_x = next(iter(self._x.values()))
        self._keys = np.zeros(1 + sum(node.operation.needs_key for node in nodes), np.uint64)
        self._drops = drops
        self._constants: list[tuple[str, str, np.ndarray]] = []  # a buffer's node, its name, and its place
        #: Tensors that a call fills, and what it leaves to each but its own buffer
        self._filled: list[tuple[Tensor, tuple[slice | None, slice | None, tuple[int, ...]]]] = []
        copies, additions = self._arrays(net, key is not None)
        self._fill_signals(net)

        functions = [function for node in nodes for function in node.form.functions]
        loss = () if key is None else getattr(net.loss, "parameters", ())
        scalars = [*(number for f in functions for number in f.parameters), *loss, 0.0]
        self._held = np.array(scalars, net.dtype), np.array(copies, np.int64), np.array(additions, np.int64)
        self._args = args = SampleArgs(parameters=len(copies), sums=len(additions))
        args.copies, args.additions = map(address, self._held[1:])
        args.memory = address(self._out)
        args.grads, args.loss = address(self._out[program.memory :]), address(self._out[-1:])
        args.graph.keys, args.graph.wide.params = address(self._keys), address(self._params)
        args.graph.wide.scalars = address(self._held[0])
        args.graph.wide.scale = 1.0 / count if count else 1.0
        self._pointer = ctypes.addressof(args)
        x: Any = self._x if len(self._x) > 1 else self._only_x
        self._kept = net._call(x, True, False)  # what a backward pass starts from, but for the values

    def _arrays(self, net: AnyNet, backward: bool) -> tuple[list[Any], list[Any]]:
        """What is copied to the pass's parameters, and which gradients are added to others; see kernels/sample.h."""
        tensors, packing = net._tensors(), self._program.packing
        copies, additions, first = [], [], dict[Tensor, int]()
        for place in packing.places.values():
            node = self._plan.nodes[place.node]
            for name, at, grad in packing.places_of(place):
                if grad is None:
                    self._constants.append((node.name, name, self._params[at : at + node.width]))
                    continue
                tensor = tensors[node.owner][name]
                data = tensor.data
                copies.append((address(data), at, data.size))
                if tensor in first:
                    additions.append((first[tensor], grad, data.size))
                elif backward:
                    first[tensor], begin = grad, self._program.memory + grad
                    self._filled.append((tensor, (None, slice(begin, begin + data.size), data.shape)))
        return copies, additions

    def _fill_signals(self, net: AnyNet) -> None:
        signals = net._signals()
        for node, value, grad in zip(self._plan.nodes, self._program.values, self._program.gradients):
            if node.name in signals:
                gradient = None if grad is None else slice(grad, grad + node.width)
                later = slice(value, value + node.width), gradient, (node.width,)
                self._filled.append((signals[node.name], later))

    def _fits(self, x: Any, keep_signals: bool | None) -> bool:
        if keep_signals is False or forks.never_open(self._lock):
            return False
        if type(x) is dict:
            return all(x[name].shape == to.shape and x[name].dtype.kind == "f" for name, to in self._x.items())
        return x.shape == self._only_x.shape and x.dtype.kind == "f"

    def _run(self, net: AnyNet, x: Any) -> tuple[np.ndarray, Mapping[str, Any]]:
        """The pass over ``x``: a copy of what it wrote, and what this call has that others don't."""
        if type(x) is dict:
            for name, to in self._x.items():
                to[:] = x[name]
        else:
            self._only_x[:] = x
        changes = self._changes(net) if self._drops or self._constants else NOTHING
        self._program.run(self._pointer)
        return self._out.copy(), changes  # what was handed out is never overwritten

    def _changes(self, net: AnyNet) -> Mapping[str, Any]:
        buffers = net._buffers()
        for node, name, to in self._constants:
            to[:] = buffers[node][name]
        if not self._drops:
            return {"buffers": buffers}
        keys = net._keys()
        self._keys[:-1] = [*keys.values()]
        return {"buffers": buffers, "keys": keys, "training": True}

    def _hand_out(self, net: AnyNet, buffer: np.ndarray, changes: Mapping[str, Any]) -> None:
        for tensor, later in self._filled:
            tensor._later = (buffer, *later)
        net._kept = (self._kept, (buffer, self._values, changes))


class Target:
    """The target of one sample, where a pass reads it.

    Args:
        kind: "none", "values" or "classes".
        outputs: of the net.
    """

    def __init__(self, kind: str, outputs: int, dtype: np.dtype) -> None:
        self._outputs, self._classes = outputs, kind == "classes"
        self._y = np.zeros(1, np.int64) if self._classes else np.zeros(outputs, dtype)
        self.address = address(self._y)

    def takes(self, y: Any) -> bool:
        """Whether it needs no more checks; None is for a loss that takes none."""
        if y is None:
            return True
        if self._classes:
            return (type(y) is not np.ndarray or y.dtype.kind == "i") and 0 <= y < self._outputs
        return type(y) is np.ndarray and y.shape == self._y.shape and y.dtype.kind == "f"

    def put(self, y: Any) -> None:
        """Copy it to where the pass reads it."""
        if y is not None:
            self._y[:] = y


class Single(_Ready):
    """The loss and all gradients of one sample, with one kind of target: "none", "values" or "classes"."""

    def __init__(self, net: AnyNet, target: str, drops: bool) -> None:
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        super().__init__(net, kernel(net.loss, target), drops)
        self._target = Target(target, self._plan.output.width, net.dtype)
        wide = self._args.graph.wide
        wide.y, wide.y_column = self._target.address, 1

    def takes(self, x: Any, y: Any, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return self._wanted and self._fits(x, keep_signals) and self._target.takes(y)

    def loss_and_grad(self, net: AnyNet, x: Any, y: Any) -> Any:
        """Fill every gradient and signal of the net, and return the loss."""
        with self._lock:
            self._target.put(y)
            buffer, changes = self._run(net, x)
        self._hand_out(net, buffer, changes)
        return buffer[-1]


class SingleOutputs(_Ready):
    """The outputs of one sample."""

    def __init__(self, net: AnyNet) -> None:
        super().__init__(net, None, drops=False)
        self._output = self._values[self._plan.output.name]

    def takes(self, x: Any, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return self._fits(x, keep_signals)

    def forward(self, net: AnyNet, x: Any) -> np.ndarray:
        """The outputs (out,); every signal is filled, without a gradient."""
        with self._lock:
            buffer, changes = self._run(net, x)
        self._hand_out(net, buffer, changes)
        return buffer[self._output].copy()


def _named(plan: Plan) -> str:
    return f"the net {'-'.join(map(str, plan.sizes))}" if plan.chain else f"a graph of {len(plan.nodes)} nodes"


def target(net: AnyNet, y: Any) -> str:
    """What kind of target of one sample this is, "none", "values" or "classes"; "" if it needs more checks."""
    if y is None:
        return "none"
    if type(y) is np.ndarray:
        return "classes" if y.ndim == 0 and type(net.loss) is SoftmaxCrossEntropy else "values"
    return "classes" if type(y) in (int, np.int64) and type(net.loss) is SoftmaxCrossEntropy else ""
