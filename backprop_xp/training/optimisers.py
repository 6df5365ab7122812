"""Optimisers with the formulas, names and defaults of PyTorch's.

An optimiser is one class with its rule: formulas of a parameter ``w``, its gradient ``grad`` and state arrays, which
give their new values. The rule of all parameters together runs as one compiled pass, or one kernel on CuPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..backend import Array, module_of, owner_of
from ..dtypes import name_of
from ..formulas import Formula
from ..messages import unknown
from ..numbers import flag, real
from ..programs import norm
from ..tensor import Tensor
from ..toolchain.compiler import CompileError
from .flat import Flat
from .options import Option, known_options
from .update import Update


def not_negative(what: str, value: Any) -> float:
    """A finite number from 0 on."""
    return real(what, value, 0)


def two_rates(what: str, value: Any) -> tuple[float, float]:
    """Two numbers from 0 to below 1."""
    try:
        first, second = (real(what, rate, 0, below=1) for rate in value)
    except (TypeError, ValueError):
        raise ValueError(f"{what} must be two numbers from 0 to below 1, got {value!r}") from None
    return first, second


def as_clip_norm(value: Any) -> float:
    """A number above 0; an infinite one clips nothing."""
    return real("clip_norm", value, above=0, infinite=True)


class Rule(NamedTuple):
    """One step: ``outputs`` are the new values of ``w`` and of the state, from the old ones and the scalars."""

    state: tuple[str, ...]
    scalars: tuple[str, ...]
    let: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


class Optimiser:
    """What all have in common. Options such as ``lr`` are attributes, which may be changed between steps.

    A subclass has ``rule``, and ``numbers``, the values of the rule's scalars at step ``count`` (from 1).

    Attributes:
        lr: the learning rate, which schedules multiply.
        maximize: go up the gradient instead of down.
        count: how many steps were made.
        state: arrays of all parameters together, by name. A copy of an optimiser has them too, and goes on with the
            parameters that its next step is given.
    """

    name = ""
    lr = Option(not_negative)
    maximize = Option(flag, False)

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            setattr(self, name, value)
        self.options = tuple(options)
        self.count = 0
        self.state: dict[str, Array] = {}
        self.flat: Flat | None = None
        self._rule: Rule | None = None

    def rule(self) -> Rule:
        raise NotImplementedError(f"{type(self).__name__} must define rule")

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        raise NotImplementedError(f"{type(self).__name__} must define numbers")

    def step(
        self,
        parameters: Sequence[Tensor],
        *,
        factor: float = 1.0,
        clip_norm: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        unless: Array | None = None,
    ) -> None:
        """Change all parameters, in place, by their gradients.

        Args:
            parameters: a net's; the same tensors at every step. Their arrays may be others.
            factor: of the learning rate, from a schedule.
            clip_norm: scale all gradients down together to this Euclidean norm, as ``clip_grad_norm_`` of PyTorch does.
            l1, l2: add the gradients of l1 sum |w| and l2 / 2 sum w^2 of the matrices' elements, before clipping; with
                ``maximize`` subtract them, so that they keep weights small there too.
            unless: on CuPy, a 0-d array of int64 on the device: parameters and state stay as they are if it isn't 0
                when the device comes to this step.
        """
        flat, lr = self.bind(parameters), self.rate(factor)
        with flat.device:
            flat.gather()
            if l1 or l2:
                self._penalty(self.penalties(l1, l2))
            if clip_norm is not None:
                clip(flat.grad, as_clip_norm(clip_norm))
            self.count += 1
            self._update(self.numbers(lr, self.count), unless)

    def rate(self, factor: Any) -> float:
        """The learning rate with this factor of a schedule's."""
        return self.lr * real("the factor of the learning rate", factor)

    def penalties(self, l1: float, l2: float) -> tuple[float, float]:
        """The scalars of PENALTY."""
        sign = -1.0 if self.maximize else 1.0
        return sign * not_negative("l1", l1), sign * not_negative("l2", l2)

    def bind(self, parameters: Sequence[Tensor]) -> Flat:
        """The parameters in one array, with the state that the rule needs; made at the first call."""
        if self.flat is None:
            self.flat = Flat(parameters)
        elif not self.flat.holds(parameters):
            raise ValueError(f"this {type(self).__name__} has trained other parameters: make a new optimiser")
        rule = self.rule()
        if rule is not self._rule:
            with self.flat.device:
                self._prepare(self.flat, rule)
        return self.flat

    def _prepare(self, flat: Flat, rule: Rule) -> None:
        for name in rule.state:
            kept = self.state.get(name)
            if kept is not None and (kept.shape != flat.data.shape or kept.dtype != flat.dtype):
                raise ValueError(f"this {type(self).__name__} has trained other parameters: make a new optimiser")
            if kept is None:
                self.state[name] = module_of(flat.data).full_like(flat.data, self.initial(name))
        arrays = {"w": flat.data, "grad": flat.grad} | {name: self.state[name] for name in rule.state}
        self._update = Update(formula(rule), arrays, f"a step of {self.name}")
        first = slice(0, flat.matrices)
        self._penalty = Update(PENALTY, {"w": flat.data[first], "grad": flat.grad[first]}, "penalties")
        self._rule = rule

    def restore(self, options: Mapping[str, Any], count: int, state: Mapping[str, Array]) -> None:
        """Go on where another one with these options ended, after so many steps and with these state arrays."""
        for name, value in options.items():
            setattr(self, name, value)
        self.count, self.state, self._rule = count, dict(state), None

    def initial(self, name: str) -> float:
        """What this state array is filled with before the first step."""
        return 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Without what holds addresses, or the very tensors."""
        state = self.__dict__ | {"flat": None, "_rule": None}
        return {name: value for name, value in state.items() if name not in ("_update", "_penalty")}

    def settings(self) -> dict[str, Any]:
        """Its name and options, as they are now."""
        return {"name": self.name} | {name: getattr(self, name) for name in self.options}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.options)})"


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
        super().__init__(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )
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
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize)

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
        super().__init__(lr, betas, eps, weight_decay, amsgrad, maximize)


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
        super().__init__(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

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
        super().__init__(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )

    def rule(self) -> Rule:
        return _adagrad(self.maximize, bool(self.weight_decay))

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        return lr / (1 + (count - 1) * self.lr_decay), self.weight_decay, self.eps

    def initial(self, name: str) -> float:
        return self.initial_accumulator_value


#: Every optimiser by name.
OPTIMISERS: dict[str, type[Optimiser]] = {cls.name: cls for cls in (SGD, Adam, AdamW, RMSprop, Adagrad)}


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


def clip(grad: Array, most: float) -> None:
    """Scale this gradient down, in place, to the Euclidean norm ``most`` if it is longer, as PyTorch does."""
    if owner_of(grad) == "cupy":
        cupy = module_of(grad)  # nothing here waits for the device
        norm = cupy.sqrt(cupy.square(grad, dtype=np.float64).sum())
        grad *= cupy.minimum(most / (norm + 1e-6), 1.0).astype(grad.dtype)
        return
    length = math.sqrt(_square_sum(grad))
    if not (factor := most / (length + 1e-6)) >= 1:
        with np.errstate(invalid="ignore"):  # an infinite gradient times 0
            grad *= grad.dtype.type(factor)


def _square_sum(grad: np.ndarray) -> float:
    """Of a contiguous array, in float64, where no square of a float32 overflows."""
    try:
        function = norm.square_sum(name_of(grad.dtype))
    except CompileError:
        return float(np.einsum("i,i", grad, grad, dtype=np.float64))
    return float(function(grad.size, grad.__array_interface__["data"][0]))


@lru_cache(maxsize=256)
def formula(rule: Rule) -> Formula:
    """The formula of a rule, made once."""
    return Formula(("w", "grad", *rule.state), rule.scalars, dict(rule.let), dict(rule.outputs))


PENALTY = Formula(("w", "grad"), ("l1", "l2"), {}, {"grad": "grad + l2 * w + l1 * sign(w)"})


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
