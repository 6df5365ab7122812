"""What `backprop-xp check` proves: gradients of small nets of every activation, loss, and kind of graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from . import threads
from .activations import ACTIVATIONS, ALIASES, get_activation
from .backend import get_backend
from .check import Report, check_against_torch, check_gradients
from .exchange.pytorch import MODULES
from .graph import BatchNorm, Dropout, Graph, LayerNorm, Linear, Residual
from .losses import LOSSES, get_loss
from .model import Model
from .net import Net

SAMPLES = 5


@dataclass(frozen=True)
class Proof:
    """One net to prove, and what it is called.

    Attributes:
        make: the net, with parameters as they are drawn.
        number: the seed of its batch.
        torch: whether PyTorch has a counterpart of it.
    """

    name: str
    make: Callable[[], Model]
    number: int
    torch: bool


@dataclass(frozen=True)
class Settings:
    """Which nets are proven, and how they are run.

    Attributes:
        activations, losses: names; all where there are none.
        torch: whether to compare with PyTorch as well.
    """

    engine: str = "auto"
    dtype: str = "float64"
    backend: str | None = None
    torch: bool = True
    activations: Sequence[str] = ()
    losses: Sequence[str] = ()

    def proofs(self) -> list[list[Proof]]:
        """All of them; those of one list need the same compiled code."""
        for get, names in ((get_activation, self.activations), (get_loss, self.losses)):
            for name in names:
                get(name)  # which says what it doesn't know
        options: dict[str, Any] = {"dtype": self.dtype, "backend": self.backend, "engine": self.engine}
        options |= {"rng": 7, "init": "glorot_normal"}
        made: list[list[Proof]] = []

        def proof(name: str, activation: str, make: Callable[..., Model], *arguments: Any) -> Proof:
            torch = self.torch and ALIASES.get(activation, activation) in MODULES
            return Proof(name, partial(make, *arguments, **options), len(made), torch)

        for activation, loss in product(self.activations or ACTIVATIONS, self.losses or LOSSES):
            name, chain = f"{activation} x {loss}", ((3, 4, 2), (activation, activation), loss)
            plain, biased = (proof(name + each, activation, Net, *chain, bool(each)) for each in ("", " x bias"))
            made.append([plain, biased])
        for activation, kind, loss in product(self.activations or [ACTIVATION], GRAPHS, self.losses or OF_GRAPHS):
            made.append([proof(f"{kind}, {activation} x {loss}", activation, GRAPHS[kind], activation, loss)])
        return made


def run(settings: Settings, proofs: Iterable[list[Proof]]) -> Iterator[list[tuple[str, Report | str]]]:
    """For each proof its reports by name: against central differences, and PyTorch; or why the engine can't run it.

    Several are at work at a time, as compilers take most of it.
    """
    pool = ThreadPoolExecutor(1 if get_backend(settings.backend).on_gpu else threads.count())
    try:
        for reports in pool.map(lambda group: [_prove(proof) for proof in group], proofs):
            yield from reports
    finally:
        pool.shutdown(cancel_futures=True)


def _prove(proof: Proof) -> list[tuple[str, Report | str]]:
    random, net = np.random.default_rng(proof.number), proof.make()
    for tensor in net.parameters:
        if tensor.data.ndim == 1:  # from zero biases, relu units start at their kink
            tensor.data = tensor.data + net.backend.asarray(random.normal(size=tensor.data.shape), net.dtype, "bias")
    widths = net._plan().inputs
    arrays = {name: random.normal(size=(SAMPLES, width)) for name, width in widths.items()}
    x = arrays if len(arrays) > 1 else next(iter(arrays.values()))
    y = _target(net.loss, net._plan().output.width, random)
    try:
        net.plan(x)
    except ValueError as error:
        if net._plan().chain:
            raise
        return [(proof.name, str(error))]
    reports: list[tuple[str, Report | str]] = [(f"{proof.name}: central differences", check_gradients(net, x, y))]
    if proof.torch:
        reports.append((f"{proof.name}: PyTorch", check_against_torch(net, x, y)))
    return reports


def _target(loss: Any, outputs: int, random: np.random.Generator) -> np.ndarray | None:
    """A target that the loss takes."""
    if not loss.needs_target:
        return None
    if getattr(loss, "takes_indices", False):
        return random.integers(0, outputs, SAMPLES)
    return random.uniform(0, 1, (SAMPLES, outputs))


def _layers(activation: str, loss: str, before: Sequence[Any] = (), after: Sequence[Any] = (), **options: Any) -> Model:
    """A net whose hidden layer does more than its activation."""
    return Net((3, 4, 2), [[*before, activation, *after], None], loss, bias=True, **options)


def _residual(activation: str, loss: str, **options: Any) -> Model:
    g = Graph()
    h = g.apply(Residual(Linear(4), activation), g.linear(g.input(3), 4))
    return g.net(g.linear(h, 2), loss=loss, **options)


def _dense(activation: str, loss: str, **options: Any) -> Model:
    """Every layer takes the outputs of all before it."""
    g = Graph()
    x = g.input(3)
    h = g.apply(activation, g.linear(x, 4))
    k = g.apply(activation, g.linear(g.concatenate(x, h), 3))
    return g.net(g.linear(g.concatenate(x, h, k), 2), loss=loss, **options)


def _several_inputs(activation: str, loss: str, **options: Any) -> Model:
    """The product and the sum of what a layer makes of either."""
    g = Graph()
    h = g.linear(g.input(3), 4)
    k = g.linear(g.input(3), 4, share=h)
    return g.net(g.linear(g.apply(activation, h) * g.apply(activation, k) + h, 2), loss=loss, **options)


#: Every kind of graph: a function of an activation's name, a loss's, and other options of nets.
GRAPHS: dict[str, Callable[..., Model]] = {
    "residual": _residual,
    "dense": _dense,
    "several inputs and shared weights": _several_inputs,
    "dropout": partial(_layers, after=[Dropout(0.3)]),
    "layer normalisation": partial(_layers, before=[LayerNorm()]),
    "batch normalisation": partial(_layers, before=[BatchNorm()]),
}
#: The activation of graphs, and their losses (a formula, and one that isn't), unless others are asked for.
ACTIVATION, OF_GRAPHS = "tanh", ("mse", "softmax_cross_entropy")
