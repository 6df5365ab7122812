"""Optimisers with the formulas, names and defaults of PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..keywords import known_options
from ..messages import unknown
from ..numbers import flag, real
from .lbfgs import LBFGS
from .optimiser import Optimiser, Rule, not_negative
from .options import Option, arguments


def two_rates(what: str, value: Any) -> tuple[float, float]:
    """Two numbers from 0 to below 1."""
    try:
        first, second = (real(what, rate, 0, below=1) for rate in value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be two numbers from 0 to below 1, got {value!r}") from None
    return first, second


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum and Nesterov's (Sutskever et al., 2013)."""

    name = "sgd"
    momentum = Option(not_negative)
    dampening = Option(real)
    weight_decay = Option(not_negative)
    nesterov = Option(flag)

    @known_options
    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(**arguments(locals()))
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs a momentum, and a dampening of 0")

    def rule(self) -> Rule:
        return _sgd(self.maximize, bool(self.weight_decay), bool(self.momentum), self.nesterov)

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        # the first gradient enters the buffer undampened
        fresh = 1.0 if count == 1 else 1.0 - self.dampening
        return lr, self.weight_decay, self.momentum, fresh


class Adam(Optimiser):
    """Adam (Kingma and Ba, 2015), with AMSGrad (Reddi et al., 2018)."""

    name = "adam"
    decoupled = False
    betas = Option(two_rates)
    eps = Option(not_negative)
    weight_decay = Option(not_negative)
    amsgrad = Option(flag)

    @known_options
    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(**arguments(locals()))

    def rule(self) -> Rule:
        return _adam(self.maximize, bool(self.weight_decay), self.decoupled, self.amsgrad)

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        beta1, beta2 = self.betas
        size, root = lr / (1 - beta1**count), math.sqrt(1 - beta2**count)
        decay = 1 - lr * self.weight_decay if self.decoupled else self.weight_decay
        return size, decay, 1 - beta1, beta2, 1 - beta2, root, self.eps


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    name = "adamw"
    decoupled = True

    @known_options
    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(**arguments(locals()))


class RMSprop(Optimiser):
    """RMSprop (Hinton, 2012), centered as in Graves (2013)."""

    name = "rmsprop"
    alpha = Option(not_negative)
    eps = Option(not_negative)
    weight_decay = Option(not_negative)
    momentum = Option(not_negative)
    centered = Option(flag)

    @known_options
    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(**arguments(locals()))

    def rule(self) -> Rule:
        return _rmsprop(self.maximize, bool(self.weight_decay), bool(self.momentum), self.centered)

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        return lr, self.weight_decay, self.alpha, 1 - self.alpha, self.eps, self.momentum


class Adagrad(Optimiser):
    """Adagrad (Duchi et al., 2011)."""

    name = "adagrad"
    lr_decay = Option(not_negative)
    weight_decay = Option(not_negative)
    initial_accumulator_value = Option(not_negative)
    eps = Option(not_negative)

    @known_options
    def __init__(
        self,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
    ) -> None:
        super().__init__(**arguments(locals()))

    def rule(self) -> Rule:
        return _adagrad(self.maximize, bool(self.weight_decay))

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        return lr / (1 + (count - 1) * self.lr_decay), self.weight_decay, self.eps

    def initial(self, name: str) -> float:
        return self.initial_accumulator_value


#: Every optimiser by name.
OPTIMISERS: dict[str, type[Optimiser]] = {cls.name: cls for cls in (SGD, Adam, AdamW, RMSprop, Adagrad, LBFGS)}


def get_optimiser(optimiser: str | Optimiser) -> Optimiser:
    """A new optimiser of this name with its defaults, or the object itself."""
    if isinstance(optimiser, str):
        if optimiser not in OPTIMISERS:
            raise ValueError(unknown("optimiser", optimiser, OPTIMISERS))
        return OPTIMISERS[optimiser]()
    if not isinstance(optimiser, Optimiser):
        shown = optimiser.__name__ if isinstance(optimiser, type) else type(optimiser).__name__
        raise TypeError(f"an optimiser is a name or an object such as Adam(lr=0.001), got {shown}")
    return optimiser


@lru_cache
def _sgd(maximize: bool, decay: bool, momentum: bool, nesterov: bool) -> Rule:
    let = {"g": _direction(maximize, "weight_decay" if decay else "")}
    outputs = {"w": "w - lr * g"}
    if momentum:
        let["b"] = "momentum * buffer + fresh * g"
        outputs = {"w": "w - lr * (g + momentum * b)" if nesterov else "w - lr * b", "buffer": "b"}
    return _made(("lr", "weight_decay", "momentum", "fresh"), let, outputs)


@lru_cache
def _adam(maximize: bool, decay: bool, decoupled: bool, amsgrad: bool) -> Rule:
    let = {
        "g": _direction(maximize, "decay" if decay and not decoupled else ""),
        "before": "decay * w" if decay and decoupled else "w",
        "first": "mean + rate1 * (g - mean)",
        "second": "beta2 * square + rate2 * g * g",
        "largest": "maximum(most, second)" if amsgrad else "second",
    }
    outputs = {"w": "before - size * first / (sqrt(largest) / root + eps)", "mean": "first", "square": "second"}
    if amsgrad:
        outputs["most"] = "largest"
    return _made(("size", "decay", "rate1", "beta2", "rate2", "root", "eps"), let, outputs)


@lru_cache
def _rmsprop(maximize: bool, decay: bool, momentum: bool, centered: bool) -> Rule:
    let = {
        "g": _direction(maximize, "weight_decay" if decay else ""),
        "second": "alpha * square + rest * g * g",
        "first": "mean + rest * (g - mean)" if centered else "g",
        # a variance of 0 may come out below 0, of which PyTorch takes the root
        "size": "sqrt(maximum(second - first * first, 0)) + eps" if centered else "sqrt(second) + eps",
    }
    outputs = {"w": "w - lr * g / size", "square": "second"}
    if momentum:
        let["b"] = "momentum * buffer + g / size"
        outputs |= {"w": "w - lr * b", "buffer": "b"}
    if centered:
        outputs["mean"] = "first"
    return _made(("lr", "weight_decay", "alpha", "rest", "eps", "momentum"), let, outputs)


@lru_cache
def _adagrad(maximize: bool, decay: bool) -> Rule:
    let = {"g": _direction(maximize, "weight_decay" if decay else ""), "total": "sum + g * g"}
    outputs = {"w": "w - lr * g / (sqrt(total) + eps)", "sum": "total"}
    return _made(("lr", "weight_decay", "eps"), let, outputs)


def _direction(maximize: bool, decay: str) -> str:
    """What a step goes against: the gradient, turned round to maximize, and the decay of the weights, which isn't."""
    gradient = "-grad" if maximize else "grad"
    return f"{gradient} + {decay} * w" if decay else gradient


def _made(scalars: tuple[str, ...], let: Mapping[str, str], outputs: Mapping[str, str]) -> Rule:
    return Rule(tuple(name for name in outputs if name != "w"), scalars, tuple(let.items()), tuple(outputs.items()))
