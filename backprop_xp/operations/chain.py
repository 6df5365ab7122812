"""Several operations written as one."""

from __future__ import annotations

from typing import Any

from .add import Add
from .base import Operation
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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.steps))})"


class Residual(Chain):
    """The input, plus a chain of operations on it (He et al., 2016)."""

    name = "residual"


def called(operation: Any) -> str:
    """What to call an operation, or an activation, in messages."""
    return getattr(operation, "name", "") or type(operation).__name__


def expanded(name: str, operation: Operation, inputs: tuple[str, ...]) -> list[tuple[str, Operation, tuple[str, ...]]]:
    """A chain as nodes: name, operation and inputs of each; anything else as it is."""
    if not isinstance(operation, Chain):
        return [(name, operation, inputs)]
    if len(inputs) != 1:
        raise ValueError(f"node {name!r} ({operation.name}) takes 1 input, got {len(inputs)}")
    residual, (before,) = isinstance(operation, Residual), inputs
    made: list[tuple[str, Operation, tuple[str, ...]]] = []
    for i, step in enumerate(operation.steps):
        last = i == len(operation.steps) - 1 and not residual
        step_name = name if last else f"{name}.{i}"
        made += expanded(step_name, step, (before,))
        before = step_name
    return [*made, (name, Add(), (*inputs, before))] if residual else made
