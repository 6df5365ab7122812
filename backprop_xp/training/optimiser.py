"""What every optimiser is: options, a rule, and all parameters in one array.

An optimiser is one class with its rule: formulas of a parameter ``w``, its gradient ``grad`` and state arrays, which
give their new values. The rule of all parameters together runs as one compiled pass, or one kernel on CuPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..backend import Array, module_of, owner_of
from ..dtypes import name_of
from ..formulas import Formula
from ..numbers import flag, real
from ..programs import norm
from ..tensor import Tensor
from ..toolchain.compiler import CompileError
from .flat import Flat
from .options import Option
from .sharded import Sharding
from .update import Update


def not_negative(what: str, value: Any) -> float:
    """A finite number from 0 on."""
    return real(what, value, 0)


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

    A subclass has ``rule``, and ``numbers``, the values of the rule's scalars at step ``count`` (from 1); or it says
    that it ``evaluates``, and has ``descend``.

    Attributes:
        lr: the learning rate, which schedules multiply.
        maximize: go up the gradient instead of down.
        count: how many steps were made.
        state: arrays of all parameters together, by name. A copy of an optimiser has them too, and goes on with the
            parameters that its next step is given.
        sharding: where ranks have the state of a part of the parameters each, of which; see training/sharded.py.
    """

    name = ""
    #: Whether a step evaluates the loss itself, several times.
    evaluates: ClassVar[bool] = False
    lr = Option(not_negative)
    maximize = Option(flag, False)

    def __init__(self, **options: Any) -> None:
        for name, value in options.items():
            setattr(self, name, value)
        self.options = tuple(options)
        self.count = 0
        self.state: dict[str, Array] = {}
        self.flat: Flat | None = None
        self.sharding: Sharding | None = None
        self._rule: Rule | None = None

    def rule(self) -> Rule:
        raise NotImplementedError(f"{type(self).__name__} must define rule")

    def numbers(self, lr: float, count: int) -> Sequence[float]:
        raise NotImplementedError(f"{type(self).__name__} must define numbers")

    def descend(self, flat: Flat, lr: float, loss: float, again: Callable[[], float]) -> None:
        """Change ``flat.data`` so that the loss falls: see :meth:`step`, whose gradients are in ``flat.grad``."""
        raise NotImplementedError(f"{type(self).__name__} must define descend")

    def step(
        self,
        parameters: Sequence[Tensor],
        *,
        factor: float = 1.0,
        clip_norm: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        unless: Array | None = None,
        loss: float | None = None,
        again: Callable[[], float] | None = None,
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
            loss, again: for an optimiser that evaluates: the loss that the gradients are of, and a function that
                computes it anew, with its gradients, for the parameters as they are then.

        Raises:
            ValueError: an optimiser that evaluates has nothing to do it with, or is to change the loss's gradients.
        """
        if self.evaluates:
            name = type(self).__name__
            if loss is None or again is None:
                raise ValueError(
                    f"{name} evaluates the loss itself: train by fit, or step(parameters, loss=..., again=...)"
                )
            if clip_norm is not None or l1 or l2:
                raise ValueError(f"{name} takes no clip_norm, l1 or l2: its line search needs the loss's own gradient")
        flat, lr = self.bind(parameters), self.rate(factor)
        with flat.device:
            flat.gather()
            if l1 or l2:
                self._penalty(self.penalties(l1, l2))
            if clip_norm is not None:
                if self.sharding is not None:
                    self.sharding.collect(flat.grad)
                clip(flat.grad, as_clip_norm(clip_norm))
            self.count += 1
            if self.evaluates and loss is not None and again is not None:
                self.descend(flat, lr, float(loss), again)
            else:
                self._update(self.numbers(lr, self.count), unless)
            if self.sharding is not None:
                self.sharding.collect(flat.data)

    def rate(self, factor: Any) -> float:
        """The learning rate with this factor of a schedule's."""
        return self.lr * real("the factor of the learning rate", factor)

    def penalties(self, l1: float, l2: float) -> tuple[float, float]:
        """The scalars of PENALTY."""
        sign = -1.0 if self.maximize else 1.0
        return sign * not_negative("l1", l1), sign * not_negative("l2", l2)

    def bind(self, parameters: Sequence[Tensor]) -> Flat:
        """The parameters in one array, with the state that the rule needs; made at the first call."""
        flat, rule = self._gathered(parameters), self.rule()
        if rule is not self._rule:
            with flat.device:
                self._prepare(flat, rule)
        return flat

    def _gathered(self, parameters: Sequence[Tensor]) -> Flat:
        if self.flat is None:
            self.flat = Flat(parameters)
        elif not self.flat.holds(parameters):
            raise _of_others(self)
        return self.flat

    def _prepare(self, flat: Flat, rule: Rule) -> None:
        part = slice(0, flat.data.size) if self.sharding is None else self.sharding.part
        data, grad = flat.data[part], flat.grad[part]
        for name in rule.state:
            kept = self.state.get(name)
            if kept is not None and (kept.shape != data.shape or kept.dtype != flat.dtype):
                raise _of_others(self)
            if kept is None:
                self.state[name] = module_of(data).full_like(data, self.initial(name))
        arrays = {"w": data, "grad": grad} | {name: self.state[name] for name in rule.state}
        self._update = Update(formula(rule), arrays, f"a step of {self.name}")
        first = slice(part.start, max(part.start, min(part.stop, flat.matrices)))
        self._penalty = Update(PENALTY, {"w": flat.data[first], "grad": flat.grad[first]}, "penalties")
        self._rule = rule

    def state_shapes(self, saved: Mapping[str, Any], numbers: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all state arrays for ``numbers`` parameters; ``saved`` holds those of a checkpoint, by name."""
        return dict.fromkeys(self.rule().state, (numbers,))

    def restore(self, options: Mapping[str, Any], count: int, state: Mapping[str, Array]) -> None:
        """Go on where another one with these options ended, after ``count`` steps and with these state arrays."""
        for name, value in options.items():
            setattr(self, name, value)
        if self.sharding is not None:
            state = {name: array[self.sharding.part].copy() for name, array in state.items()}
        self.count, self.state, self._rule = count, dict(state), None

    def restart(self, other: Optimiser) -> None:
        """Be as before the first step, with the options of another one of the same class."""
        for name in self.options:
            setattr(self, name, getattr(other, name))
        self.count = 0
        for name, array in self.state.items():
            array.fill(self.initial(name))

    def move(self, parameters: Sequence[Tensor], arrays: Mapping[str, Array]) -> None:
        """Have the parameters, named "w", and the state in these arrays, of as many elements, from now on."""
        self.bind(parameters).move(arrays["w"])
        for name in self.rule().state:
            arrays[name][...] = self.state[name]
            self.state[name] = arrays[name]
        self._rule = None

    def shard(self, sharding: Sharding) -> None:
        """Have the state of this rank's part of the parameters alone, from now on.

        Raises:
            ValueError: it has that of another part.
        """
        if self.sharding is None:
            self.sharding = sharding
            self.restore({}, self.count, self.state)
        elif self.sharding.bounds != sharding.bounds:
            raise ValueError(f"this {type(self).__name__} has the state of another part: make a new optimiser")

    def whole_state(self) -> dict[str, Array]:
        """The state arrays of all parameters, which ranks that have parts of them put together."""
        if self.sharding is None:
            return self.state
        return {name: self.sharding.whole(array) for name, array in self.state.items()}

    def initial(self, name: str) -> float:
        """What this state array is filled with before the first step."""
        return 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Without what holds addresses, or the very tensors."""
        state = self.__dict__ | {"flat": None, "sharding": None, "_rule": None}
        return {name: value for name, value in state.items() if name not in ("_update", "_penalty")}

    def settings(self) -> dict[str, Any]:
        """Its name and options, as they are now."""
        return {"name": self.name} | {name: getattr(self, name) for name in self.options}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.options)})"


def _of_others(optimiser: Optimiser) -> ValueError:
    return ValueError(f"this {type(optimiser).__name__} has trained other parameters: make a new optimiser")


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
def formula(rule: Rule, columns: bool = False) -> Formula:
    """The formula of a rule, made once; with ``columns``, one of variables alone, for scalars that are arrays."""
    variables, scalars = ("w", "grad", *rule.state), rule.scalars
    given = (variables + scalars, ()) if columns else (variables, scalars)
    return Formula(*given, dict(rule.let), dict(rule.outputs))


PENALTY = Formula(("w", "grad"), ("l1", "l2"), {}, {"grad": "grad + l2 * w + l1 * sign(w)"})
