"""One run for many nets that differ in their numbers alone: what is checked and prepared for all of them at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from ..numbers import as_seed
from ..programs.structs import address
from ..ready.chain import why_not_functions
from ..ready.gradients import a_signal, drop_signals
from . import compiled
from .early import EarlyStopping
from .fit import Run, planned
from .history import History
from .optimisers import OPTIMISERS
from .schedules import get_schedule

#: Arguments of :func:`fit` in which nets of one kind may differ.
DIFFERING = ("net", "x", "y", "optimiser", "schedule", "seed")
#: Types of arguments that are alike if they are written alike.
PLAIN = (bool, int, float, str, type(None))
#: The module of the only class of nets that has kinds; it imports this one.
NET = f"{__name__.split('.')[0]}.net"
#: Methods of a net that it might have been given of its own.
OVERRIDDEN = {"loss_and_grad", "forward"}


def kind(given: Mapping[str, Any]) -> str | None:
    """Equal for nets, on the CPU and with the same x and y, that one run can be made for; None if none can.

    Args:
        given: the arguments of :func:`fit` by name, the optimiser as an object.
    """
    net, optimiser, stopping = given["net"], given["optimiser"], given["early_stopping"]
    if type(net).__module__ != NET or net.buffers or OVERRIDDEN & vars(net).keys() or why_not_functions(net._now()[2]):
        return None
    if not given["epochs"] or given["callbacks"] or given["checkpoint"] is not None:
        return None
    if type(stopping) not in (type(None), int, EarlyStopping):
        return None
    if type(optimiser) not in OPTIMISERS.values() or compiled.OVERRIDDEN & vars(optimiser).keys():
        return None
    if optimiser.evaluates or optimiser.count or optimiser.state or not _plain(net):
        return None
    functions = [(id(type(f)), vars(f)) for f in net._now()[2]]
    settings = net.sizes, net.bias, net.dtype.str, net.engine, net.threads, net.precision, net.reduction
    others = [value for name, value in given.items() if name not in (*DIFFERING, "early_stopping")]
    rest = [value if type(value) in PLAIN else id(value) for value in others]
    return repr((settings, functions, type(optimiser), stopping, rest))


def _plain(net: Any) -> bool:
    """Whether no two parameters share memory, and all are of the net's dtype and the shape of their layer."""
    layers = [*zip(net.sizes, net.sizes[1:], net.bias)]
    shapes = [(b, a) for a, b, _ in layers] + [(b,) for _, b, has in layers if has]
    arrays = [tensor.data for tensor in net.parameters]
    if not all(type(a) is np.ndarray and a.flags.c_contiguous and a.dtype == net.dtype for a in arrays):
        return False
    spans = sorted((start := address(a), start + a.nbytes) for a in arrays)
    return [a.shape for a in arrays] == shapes and all(end <= start for (_, end), (start, _) in pairwise(spans))


def check(given: Mapping[str, Any]) -> None:
    """Raise what a run would raise of the arguments in which nets of one kind may differ."""
    get_schedule(given["schedule"], 1)
    as_seed(given["seed"])


class Runs:
    """The runs of one kind of nets, one for each thread that is at work."""

    def __init__(self) -> None:
        self._idle: list[Again] = []  # append and pop are atomic

    def train(self, given: Mapping[str, Any]) -> History:
        """Do what :func:`fit` does."""
        try:
            again = self._idle.pop()
        except IndexError:
            again = Again(given)
        try:
            return again.train(given)
        finally:
            self._idle.append(again)


class Again:
    """A run of a net that is nobody else's, made again with the numbers of other nets."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        own = {name: copy.deepcopy(given[name]) for name in ("net", "optimiser", "early_stopping")}
        self._run: Run = planned({**given, **own})()
        self._repeats = not compiled.why_not(self._run.loop)

    def train(self, given: Mapping[str, Any]) -> History:
        """Train the net with its own optimiser, schedule and seed."""
        if not self._repeats:
            return planned(given)().go(None, False)
        run, net, flat = self._run, given["net"], self._run.flat
        tensors = sorted(net.parameters, key=lambda tensor: tensor.data.ndim < 2)
        run.restart(given["optimiser"], given["schedule"], given["seed"])
        np.concatenate([tensor.data for tensor in tensors], axis=None, out=flat.data)
        try:
            return run.go(None, False)
        finally:
            for tensor, trained in zip(tensors, flat.tensors):
                tensor.data = trained.data.copy()
                tensor.grad, tensor._later = trained._grad, trained._later
                trained.grad = None
            drop_signals(net, a_signal(net))
