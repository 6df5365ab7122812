"""Several operations written as one."""

from __future__ import annotations

from typing import Any

from .add import Add
from .base import Described, Operation
from .registry import as_operation


class Chain(Operation):
    """Operations one after another, written as one: node "a" becomes nodes "a.0", "a.1", ..., and "a" the last."""

    name = "chain"

    def __init__(self, *steps: Any) -> None:
        if not steps:
            raise ValueError(f"{type(self).__name__} needs at least one operation")
        self._steps = tuple(as_operation(step) for step in steps)

    @property
    def steps(self) -> tuple[Operation, ...]:
        """The operations, which stay the same ones: nodes are made of them once."""
        return self._steps

    def in_layer(self) -> Any:
        super().in_layer()
        steps = [step.in_layer() for step in self.steps]
        if not any(hasattr(step, "steps") for step in steps):
            return self
        return Chain(*[part for step in steps for part in getattr(step, "steps", (step,))])

    def expanded(self, name: str, inputs: tuple[str, ...]) -> list[Described]:
        return self._nodes(name, [*(f"{name}.{i}" for i in range(len(self.steps) - 1)), name], inputs)

    def _nodes(self, name: str, names: list[str], inputs: tuple[str, ...]) -> list[Described]:
        """The steps as nodes of these names; ``name`` is that of all of them."""
        if len(inputs) != 1:
            raise ValueError(f"node {name!r} ({self.name}) takes 1 input, got {len(inputs)}")
        made: list[Described] = []
        for step_name, step, before in zip(names, self.steps, [*inputs, *names]):
            made += step.expanded(step_name, (before,))
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.steps))})"


class Residual(Chain):
    """The input, plus a chain of operations on it (He et al., 2016)."""

    name = "residual"
    in_layers = False

    def expanded(self, name: str, inputs: tuple[str, ...]) -> list[Described]:
        names = [f"{name}.{i}" for i in range(len(self.steps))]
        return [*self._nodes(name, names, inputs), (name, Add(), (*inputs, names[-1]))]
