"""Calls of one net with everything at hand: for one sample, and for a batch.

Checks that cost a microsecond each are made once; what a user may change between calls (arrays, activations,
parameters of activations) is compared with what it was when they were made, by identity where that suffices.
Parameters that may change without becoming another object make every call one with all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import later
from ..plan.net import AnyNet
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from ..watched import Watched
from . import batch, graph, sample, wide
from .chain import Chain, why_not_functions, why_not_loss

if TYPE_CHECKING:
    from . import device
else:  # and with it the engines of devices
    device = later.Module("backprop_xp.ready.device")

Batch = batch.Batch | graph.GraphBatch
Sample = sample.Single | wide.WideSample
Outputs = batch.Outputs | graph.GraphOutputs | sample.SingleOutputs | wide.WideOutputs


class Prepared:
    """The compiled calls of a net as it is now."""

    def __init__(self, net: AnyNet) -> None:
        plan = net._plan()
        self.chain = Chain.of(net) if plan.chain else None
        tensors = net._places()
        watched = [(tensor, Watched(tensor.data)) for tensor in tensors]
        self._arrays = [(tensor, w.array, w.shape, w.head, w.raw) for tensor, w in watched]
        self._parameters, self._signals, functions, self._reduction = net._now()
        self._functions = [(f, dict(vars(f))) for f in functions]
        self._inputs, self._one_input = plan.inputs.keys(), len(plan.inputs) == 1
        self._drops = any(node.operation.needs_key for node in plan.nodes)
        #: Why calls in training, and those of each kind, are none of these.
        self._refuses_training = graph.why_not(net, training=True) if net.buffers else ""
        of_loss, of_sample = why_not_loss(net), sample.why_not(net)
        shared = "layers share a Tensor" if self.chain and len(set(tensors)) != len(tensors) else ""
        #: where one sample goes through the pass for any widths
        self._wide = self.chain if of_sample else None
        self._refused = {
            "sample": of_loss or (shared if self._wide else of_sample), "batch": of_loss or shared,
            "outputs": "", "outputs of a sample": "" if self._wide else of_sample,
            "gradients": shared if self.chain else "it is no chain",
        }  # fmt: skip
        self._single: dict[tuple[str, bool], Sample] = {}
        self._batch: dict[tuple[str, bool], Batch] = {}
        self._forward: dict[str, Outputs] = {}
        self._backward: batch.Backward | None = None

    def current(self, net: AnyNet) -> bool:
        """Whether the net is still what it was."""
        parameters, signals, functions, reduction = net._now()
        if parameters != self._parameters or signals != self._signals or reduction != self._reduction:
            return False
        if len(functions) != len(self._functions):
            return False
        for f, (known, state) in zip(functions, self._functions):
            if f is not known or f.__dict__ != state:
                return False
        for tensor, data, shape, head, known_head in self._arrays:
            if tensor._data is not data or data.shape != shape or head.raw != known_head:
                return False
        return True

    def give_up(self, error: Exception, kind: str) -> None:
        """Don't try again what failed for a kind of call: the engine that runs instead says so once."""
        self._refused[kind] = str(error)

    @property
    def refuses_batches(self) -> str:
        """Why no batch has a prepared call, "" if batches have one."""
        return self._refused["batch"]

    def dimensions(self, x: Any) -> int:
        """Of the array, or of the arrays of all inputs by name; 0 where it needs more checks."""
        if type(x) is np.ndarray:
            return x.ndim if self._one_input else 0
        if self.chain is not None or x.keys() != self._inputs:
            return 0
        found = {array.ndim if type(array) is np.ndarray else 0 for array in x.values()}
        return found.pop() if len(found) == 1 else 0

    def for_sample(self, net: AnyNet, x: Any, y: Any, keep_signals: bool | None, training: bool) -> Sample | None:
        """The call for the loss and gradients of one sample, None where there is none for it."""
        if self._refused["sample"] or (training and self._refuses_training):
            return None
        target, drops = "none" if y is None else sample.target(net, y), training and self._drops
        call = self._single.get((target, drops))
        if call is None:
            if not target:
                return None
            chain = self._wide
            call = sample.Single(net, target, drops) if chain is None else wide.WideSample(net, chain, target)
            self._single[target, drops] = call
        return call if call.takes(x, y, keep_signals) else None

    def for_batch(self, net: AnyNet, x: Any, y: Any, keep_signals: bool | None, training: bool) -> Batch | None:
        """The call for the loss and gradients of a batch, None where there is none for it."""
        if self._refused["batch"] or keep_signals or (training and self._refuses_training):
            return None
        target, drops = batch.target(net, y), training and self._drops
        call = self._batch.get((target, drops))
        if call is None:
            chain = self.chain
            call = graph.GraphBatch(net, target, drops) if chain is None else batch.Batch(net, chain, target)
            self._batch[target, drops] = call
        return call if call.takes(x, y) else None

    def for_outputs(
        self, net: AnyNet, x: Any, keep_signals: bool | None, dimensions: int, training: bool
    ) -> Outputs | None:
        """The call for the outputs of a small batch, or of a sample; None where there is none for it."""
        kind = "outputs of a sample" if dimensions == 1 else "outputs"
        if self._refused[kind] or (training and (self._drops or self._refuses_training)):
            return None
        call = self._forward.get(kind)
        if call is None:
            if dimensions == 1:
                call = sample.SingleOutputs(net) if self._wide is None else wide.WideOutputs(net, self._wide)
            else:
                call = graph.GraphOutputs(net) if self.chain is None else batch.Outputs(net, self.chain)
            self._forward[kind] = call
        return call if call.takes(x, keep_signals) else None

    def for_backward(self, net: AnyNet, samples: int) -> batch.Backward | None:
        """The call for gradients from those in the outputs, None where there is none for ``samples``."""
        if self._refused["gradients"]:
            return None
        if self._backward is None:
            assert self.chain is not None
            self._backward = batch.Backward(net, self.chain)
        return self._backward if self._backward.takes(samples) else None


def find(net: AnyNet, x: Any, y: Any, keep_signals: bool | None, training: bool = True) -> Any:
    """The prepared call for these arguments, None where they need more checks or an engine of another kind."""
    if net.backend.on_gpu:
        return device.find(net, x, y, keep_signals, training)
    prepared = of(net, x)
    if prepared is None:
        return None
    dimensions = prepared.dimensions(x)
    try:
        if dimensions == 1:
            return prepared.for_sample(net, x, y, keep_signals, training)
        return prepared.for_batch(net, x, y, keep_signals, training) if dimensions == 2 else None
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, "sample" if dimensions == 1 else "batch")
        return None


def find_forward(net: AnyNet, x: Any, keep_signals: bool | None, training: bool = False) -> Outputs | None:
    """The compiled call that gives the outputs alone, None if there is none for ``x``."""
    prepared = of(net, x)
    dimensions = 0 if prepared is None else prepared.dimensions(x)
    if prepared is None or dimensions not in (1, 2):
        return None
    try:
        return prepared.for_outputs(net, x, keep_signals, dimensions, training)
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, "outputs of a sample" if dimensions == 1 else "outputs")
        return None


def find_backward(net: AnyNet, samples: int) -> batch.Backward | None:
    """The compiled call that gives gradients from those in the outputs, None if there is none for ``samples``."""
    prepared = now(net)
    if prepared is None:
        return None
    try:
        return prepared.for_backward(net, samples)
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, "gradients")
        return None


def of(net: AnyNet, x: Any) -> Prepared | None:
    """The prepared calls of the net as it is, None where there are none for an ``x`` of this type."""
    return now(net) if type(x) in (np.ndarray, dict) else None


def now(net: AnyNet) -> Prepared | None:
    """The prepared calls of the net as it is, None where there are none."""
    if net.engine not in ("auto", "fused"):
        return None
    prepared = net._prepared
    if not isinstance(prepared, Prepared) or not prepared.current(net):
        if why_not(net):
            return None
        prepared = net._prepared = Prepared(net)
    return prepared


def why_not(net: AnyNet) -> str:
    """Why nothing can be prepared for this net, "" if it can."""
    if net.backend.on_gpu:
        return "it runs on the CPU"
    if reason := why_not_functions(net._now()[2]):
        return reason
    if net.reduction not in ("sum", "mean"):
        return "the reduction is unknown"
    if not net._plan().chain and (reason := graph.why_not(net, training=False)):
        return reason
    tensors = net._places()
    for tensor, array in zip(tensors, [array for own in net._arrays().values() for array in own.values()]):
        if tensor.data is not array:
            return "a parameter is no array of the net's dtype"
        if not (array.flags.c_contiguous and array.flags.aligned):
            return "a parameter is not contiguous, or lies at an odd address"
    return compiler.missing()
