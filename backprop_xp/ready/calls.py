"""Calls of one net with everything at hand: for one sample, and for a batch.

Checks that cost a microsecond each are made once; what a user may change between calls (arrays, activations,
parameters of activations) is compared with what it was when they were made, by identity where that suffices.
Parameters that may change without becoming another object make every call one with all checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..formulas import is_formula
from ..losses import compiles
from ..operations import Operation
from ..plan.net import AnyNet
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from ..watched import Watched
from . import batch, device, graph, sample
from .chain import FIXED, Chain, why_not_loss

Batch = batch.Batch | graph.GraphBatch
Outputs = batch.Outputs | graph.GraphOutputs


class Prepared:
    """The compiled calls of a net as it is now."""

    def __init__(self, net: AnyNet) -> None:
        self.chain = Chain.of(net) if net._plan().chain else None
        watched = [(tensor, Watched(tensor.data)) for tensor in net._places()]
        self._arrays = [(tensor, w.array, w.shape, w.head, w.raw) for tensor, w in watched]
        self._parameters, self._signals, functions, self._reduction = net._now()
        self._functions = [(f, dict(vars(f))) for f in functions]
        of_loss = why_not_loss(net)
        #: One sample, the loss of batches, outputs of batches.
        self._refused = [of_loss or sample.why_not(net), of_loss, ""]
        self._single: sample.Single | None = None
        self._batch: dict[str, Batch] = {}
        self._forward: Outputs | None = None

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

    def give_up(self, error: Exception, kind: int) -> None:
        """Don't try again what failed for a kind of call: the engine that runs instead says so once."""
        self._refused[kind] = str(error)

    @property
    def refuses_batches(self) -> str:
        """Why no batch has a prepared call, "" if batches have one."""
        return self._refused[1]

    def for_sample(self, net: AnyNet, x: np.ndarray, y: Any, keep_signals: bool | None) -> sample.Single | None:
        """The call for one sample, None where there is none for it."""
        if self._refused[0]:
            return None
        if self._single is None:
            assert self.chain is not None
            self._single = sample.Single(net, self.chain)
        return self._single if self._single.takes(x, y, keep_signals) else None

    def for_batch(self, net: AnyNet, x: np.ndarray, y: Any, keep_signals: bool | None) -> Batch | None:
        """The call for a batch, None where there is none for it."""
        if self.refuses_batches or keep_signals:
            return None
        target = batch.target(net, y)
        call = self._batch.get(target)
        if call is None:
            call = graph.GraphBatch(net, target) if self.chain is None else batch.Batch(net, self.chain, target)
            self._batch[target] = call
        return call if call.takes(x, y) else None

    def for_outputs(self, net: AnyNet, x: np.ndarray) -> Outputs | None:
        """The call for the outputs of a small batch, None where there is none for it."""
        if self._refused[2]:
            return None
        if self._forward is None:
            self._forward = graph.GraphOutputs(net) if self.chain is None else batch.Outputs(net, self.chain)
        return self._forward if self._forward.takes(x) else None


def find(net: AnyNet, x: Any, y: Any, keep_signals: bool | None) -> Any:
    """The prepared call for these arguments, None where they need more checks or an engine of another kind."""
    if net.backend.on_gpu:
        return device.find(net, x, y, keep_signals)
    prepared = of(net, x)
    if prepared is None:
        return None
    try:
        if x.ndim == 1:
            return prepared.for_sample(net, x, y, keep_signals)
        return prepared.for_batch(net, x, y, keep_signals) if x.ndim == 2 else None
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, x.ndim - 1)
        return None


def find_forward(net: AnyNet, x: Any, keep_signals: bool | None) -> Outputs | None:
    """The compiled call that gives the outputs alone, None if there is none for ``x``."""
    prepared = of(net, x)
    if prepared is None or x.ndim != 2 or keep_signals:
        return None
    try:
        return prepared.for_outputs(net, x)
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, 2)
        return None


def of(net: AnyNet, x: Any) -> Prepared | None:
    """The prepared calls of the net as it is, None where there are none for an ``x`` of this type."""
    if type(x) is not np.ndarray or net.engine not in ("auto", "fused"):
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
    plan, functions = net._plan(), net._now()[2]
    activations = [f for f in functions[:-1] if not isinstance(f, Operation)]
    if not all(is_formula(f) for f in activations) or not compiles(net.loss):
        return "an activation or the loss is no formula"
    if any(type(value) not in FIXED for f in functions for name, value in vars(f).items() if name != "text"):
        return "a parameter of a function is no plain number, and may change in place"
    if net.reduction not in ("sum", "mean"):
        return "the reduction is unknown"
    if not plan.chain and (reason := graph.why_not(net)):
        return reason
    tensors = net._places()
    if len(set(tensors)) != len(tensors):
        return "layers share a Tensor"
    for tensor, array in zip(tensors, [array for own in net._arrays().values() for array in own.values()]):
        if tensor.data is not array:
            return "a parameter is no array of the net's dtype"
        if not (array.flags.c_contiguous and array.flags.aligned):
            return "a parameter is not contiguous, or lies at an odd address"
    return compiler.missing()
