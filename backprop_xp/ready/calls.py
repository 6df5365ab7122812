"""Calls of one net with everything at hand: for one sample, and for a batch.

Checks that cost a microsecond each are made once; what a user may change between calls (arrays, activations,
parameters of activations) is compared with what it was when they were made, by identity where that suffices.
Parameters that may change without becoming another object make every call one with all checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..losses import SoftmaxCrossEntropy, compiles
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from ..watched import Watched
from . import batch, sample

if TYPE_CHECKING:
    from ..net import Net

#: Types of attributes that change only by becoming another object; a formula's text is one too.
FIXED = (float, int, bool, str, tuple, type(None), np.float64, np.float32, np.int64, np.int32)


class Prepared:
    """The compiled calls of a net as it is now."""

    def __init__(self, net: Net) -> None:
        self._tensors = [(tensor, tensor.data) for tensor in (*net.weights, *net.biases)]
        self._places = [tensor for tensor, _ in self._tensors]
        watched = [(tensor, Watched(data)) for tensor, data in self._tensors]
        self._arrays = [(tensor, w.array, w.shape, w.head, w.raw) for tensor, w in watched]
        self._functions = [(f, dict(vars(f))) for f in (*net.activations, net.loss)]
        self._lists = (net.weights, net.biases, net.activations, net.reduction)
        self._linear, self._nonlinear = [*net.linear_outputs], [*net.nonlinear_outputs]
        of_loss = refuses_loss(net)
        #: One sample, the loss of batches, outputs of batches.
        self._refused = [of_loss or sample.refuses(net), of_loss, ""]
        self._single: sample.Single | None = None
        self._batch: dict[str, batch.Batch] = {}
        self._forward: batch.Outputs | None = None

    def current(self, net: Net) -> bool:
        """Whether the net is still what it was."""
        weights, biases, activations, reduction = self._lists
        if net.weights is not weights or net.biases is not biases or net.reduction != reduction:
            return False
        if len(activations) + 1 != len(self._functions) or [*weights, *biases] != self._places:
            return False
        if net.linear_outputs != self._linear or net.nonlinear_outputs != self._nonlinear:
            return False
        for tensor, data, shape, head, known_head in self._arrays:
            if tensor._data is not data or data.shape != shape or head.raw != known_head:
                return False
        for f, (known, state) in zip((*net.activations, net.loss), self._functions):
            if f is not known or f.__dict__ != state:
                return False
        return True

    def give_up(self, error: Exception, kind: int) -> None:
        """Don't try again what failed for a kind of call: the engine that runs instead says so once."""
        self._refused[kind] = str(error)

    @property
    def refuses_batches(self) -> str:
        """Why no batch has a prepared call, "" if batches have one."""
        return self._refused[1]

    def for_sample(self, net: Net, x: np.ndarray, y: Any, keep_signals: bool | None) -> sample.Single | None:
        """The call for one sample, None where there is none for it."""
        if self._refused[0]:
            return None
        if self._single is None:
            self._single = sample.Single(net, self._tensors)
        return self._single if self._single.takes(x, y, keep_signals) else None

    def for_batch(self, net: Net, x: np.ndarray, y: Any, keep_signals: bool | None) -> batch.Batch | None:
        """The call for a batch, None where there is none for it."""
        if self.refuses_batches or keep_signals:
            return None
        target = batch.target(net, y)
        call = self._batch.get(target)
        if call is None:
            call = self._batch[target] = batch.Batch(net, self._tensors, target)
        return call if call.takes(x, y) else None

    def for_outputs(self, net: Net, x: np.ndarray) -> batch.Outputs | None:
        """The call for the outputs of a small batch, None where there is none for it."""
        if self._refused[2]:
            return None
        if self._forward is None:
            self._forward = batch.Outputs(net, self._tensors)
        return self._forward if self._forward.takes(x) else None


def find(net: Net, x: Any, y: Any, keep_signals: bool | None) -> sample.Single | batch.Batch | None:
    """The prepared call for these arguments, None where they need more checks or an engine of another kind."""
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


def find_forward(net: Net, x: Any, keep_signals: bool | None) -> batch.Outputs | None:
    """The compiled call that gives the outputs alone, None if there is none for ``x``."""
    prepared = of(net, x)
    if prepared is None or x.ndim != 2 or keep_signals:
        return None
    try:
        return prepared.for_outputs(net, x)
    except (CompileError, MemoryError) as error:
        prepared.give_up(error, 2)
        return None


def of(net: Net, x: Any) -> Prepared | None:
    """The prepared calls of the net as it is, None where there are none for an ``x`` of this type."""
    if type(x) is not np.ndarray or net.engine not in ("auto", "fused"):
        return None
    prepared = net._prepared
    if prepared is None or not prepared.current(net):
        if refuses(net):
            return None
        prepared = net._prepared = Prepared(net)
    return prepared


def refuses_loss(net: Net) -> str:
    """Why the loss needs more than its outputs and targets, or a check; "" if it doesn't."""
    if getattr(net.loss, "outputs", None) not in (None, net.sizes[-1]):
        return "the loss has parameters for another number of outputs"
    return "the loss changes its targets" if isinstance(net.loss, SoftmaxCrossEntropy) and net.loss.settings else ""


def refuses(net: Net) -> str:
    """Why nothing can be prepared for this net, "" if it can."""
    if net.backend.on_gpu:
        return "it runs on the CPU"
    functions = (*net.activations, net.loss)
    formulas = [getattr(f, "is_formula", False) for f in net.activations]
    if not all(formulas) or not compiles(net.loss):
        return "an activation or the loss is no formula"
    if any(type(value) not in FIXED for f in functions for name, value in vars(f).items() if name != "text"):
        return "a parameter of an activation or of the loss is no plain number, and may change in place"
    if net.reduction not in ("sum", "mean"):
        return "the reduction is unknown"
    if len(net.weights) != len(net.sizes) - 1 or len(net.biases) not in (0, len(net.weights)):
        return "a layer lacks its parameters, or has too many"
    if len(net.parameters) != len(net.weights) + len(net.biases):
        return "layers share a Tensor"
    shapes = [*zip(net.sizes[1:], net.sizes), *((n,) for n in net.sizes[1:])]
    for tensor, shape in zip((*net.weights, *net.biases), shapes):
        data = tensor.data
        if type(data) is not np.ndarray or data.dtype != net.dtype or data.shape != shape:
            return "a parameter is no array of its layer's shape and the net's dtype"
        if not (data.flags.c_contiguous and data.flags.aligned):
            return "a parameter is not contiguous, or lies at an odd address"
    return compiler.missing()
