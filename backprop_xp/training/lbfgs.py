"""L-BFGS (Liu and Nocedal, 1989): Newton's method with what the last steps say about the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import Array, module_of, on_host
from ..keywords import known_options
from ..numbers import whole
from ..tensor import Tensor
from .flat import Flat
from .line_search import Point, strong_wolfe
from .optimiser import Optimiser, not_negative
from .options import Option, arguments


def _at_least_one(what: str, value: Any) -> int:
    return whole(what, value, 1)


class LBFGS(Optimiser):
    """L-BFGS with a line search for the strong Wolfe conditions: PyTorch's, with line_search_fn="strong_wolfe".

    A step makes up to ``max_iter`` iterations on one batch and evaluates its loss some 1.25 times for each. Give it all
    samples at once, ``batch_size=None``: what it learns of the Hessian from one batch is wrong for the next.

    Args:
        lr: the first length that a line search tries.
        max_iter, max_eval: iterations, and evaluations of the loss, that a step makes at most; by default max_eval is
            max_iter * 5 // 4.
        tolerance_grad: a step ends where no number of the gradient is larger.
        tolerance_change: it ends where the loss, or every parameter, changes by less.
        history_size: how many of the last iterations are remembered, two arrays of all parameters each.
    """

    name = "lbfgs"
    evaluates = True
    max_iter = Option(_at_least_one)
    max_eval = Option(_at_least_one)
    tolerance_grad = Option(not_negative)
    tolerance_change = Option(not_negative)
    history_size = Option(_at_least_one)

    @known_options
    def __init__(
        self,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
    ) -> None:
        if max_eval is None:
            max_eval = whole("max_iter of LBFGS", max_iter, 1) * 5 // 4
        super().__init__(**arguments(locals()))

    def bind(self, parameters: Sequence[Tensor]) -> Flat:
        """The parameters in one array; made at the first call."""
        flat = self._gathered(parameters)
        if self.state and self.state["grad"].shape != flat.data.shape:
            raise ValueError("this LBFGS has trained other parameters: make a new optimiser")
        return flat

    def state_shapes(self, saved: Mapping[str, Any], numbers: int) -> dict[str, tuple[int, ...]]:
        if not saved:
            return {}
        pairs = min(len(saved["steps"]), self.history_size)
        return {"steps": (pairs, numbers), "changes": (pairs, numbers), "grad": (numbers,), "moved": (numbers,)}

    def descend(self, flat: Flat, lr: float, loss: float, again: Callable[[], float]) -> None:
        sign = -1.0 if self.maximize else 1.0
        here = Point(0.0, sign * loss, math.nan, sign * flat.grad)
        evaluations = 1
        for _ in range(self.max_iter):
            if _largest(here.grad) <= self.tolerance_grad or evaluations >= self.max_eval:
                return
            direction, first = self._direction(here.grad), "grad" not in self.state
            start = here._replace(t=0.0, slope=_dot(here.grad, direction))
            if not start.slope <= -self.tolerance_change:
                return
            origin = flat.data.copy()

            def evaluate(t: float, origin: Array = origin, direction: Array = direction) -> Point:
                flat.data[...] = origin + origin.dtype.type(t) * direction
                value = sign * again()
                grad = sign * flat.grad
                return Point(t, value if math.isfinite(value) else math.inf, _dot(grad, direction), grad)

            length = min(1.0, 1 / float(abs(here.grad).sum(dtype=np.float64))) * lr if first else lr
            here, tried = strong_wolfe(evaluate, start, length, _largest(direction), self.tolerance_change)
            evaluations += tried
            moved = origin.dtype.type(here.t) * direction
            flat.data[...] = origin + moved
            self.state |= {"grad": start.grad, "moved": moved}
            if _largest(moved) <= self.tolerance_change or abs(here.value - start.value) < self.tolerance_change:
                return

    def _direction(self, grad: Array) -> Array:
        """Minus the estimated inverse of the Hessian times the gradient, by the two loops of L-BFGS."""
        if "grad" not in self.state:
            return -grad
        xp = module_of(grad)
        self._remember(grad - self.state["grad"], self.state["moved"])
        steps, changes = self.state["steps"], self.state["changes"]
        if not len(steps):
            return -grad
        products = (steps.astype(np.float64) * changes).sum(axis=1)
        products = on_host(products)
        direction, along = -grad, [0.0] * len(steps)
        for k in reversed(range(len(steps))):
            along[k] = _dot(steps[k], direction) / products[k]
            direction = direction - grad.dtype.type(along[k]) * changes[k]
        direction = direction * grad.dtype.type(products[-1] / _dot(changes[-1], changes[-1]))
        for k, a in enumerate(along):
            direction = direction + grad.dtype.type(a - _dot(changes[k], direction) / products[k]) * steps[k]
        return xp.ascontiguousarray(direction)

    def _remember(self, change: Array, moved: Array) -> None:
        """Keep a pair of a step and of the gradient's change over it, where the function curves upwards."""
        xp = module_of(change)
        none = xp.empty((0, change.size), change.dtype)
        steps, changes = (self.state.get(name, none)[-self.history_size :] for name in ("steps", "changes"))
        if _dot(change, moved) > 1e-10:
            most = self.history_size - 1
            keep = slice(max(0, len(steps) - most), None)
            steps = xp.concatenate([steps[keep], moved[None]])
            changes = xp.concatenate([changes[keep], change[None]])
        self.state |= {"steps": steps, "changes": changes}


def _dot(a: Array, b: Array) -> float:
    return float((a.astype(np.float64) * b).sum())


def _largest(a: Array) -> float:
    return float(abs(a).max())
