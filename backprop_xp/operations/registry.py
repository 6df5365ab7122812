"""The operations that are built in, and what a name, an activation or an object stands for."""

from __future__ import annotations

from typing import Any

from ..activations import ACTIVATIONS, ALIASES
from ..messages import unknown
from .activate import Activate
from .add import Add
from .base import ARITHMETIC, Operation
from .batch_norm import BatchNorm
from .built_in import BuiltInOperation
from .concatenate import Concatenate
from .dropout import Dropout
from .input import Input
from .layer_norm import LayerNorm
from .linear import Linear
from .multiply import Multiply
from .softmax import Softmax

#: Built-in operations that a name alone stands for, with their default arguments.
BUILT_IN: dict[str, type[BuiltInOperation]] = {
    cls.name: cls for cls in (Add, Multiply, Concatenate, Dropout, LayerNorm, BatchNorm, Softmax)
}


#: The others by name.
OTHERS: dict[str, type[BuiltInOperation]] = {"input": Input, "linear": Linear, "activation": Activate}


def kinds() -> dict[str, type[BuiltInOperation]]:
    """All built-in operations, by the names that they have in files."""
    return OTHERS | BUILT_IN


def is_built_in(operation: Operation) -> bool:
    """Whether its class says all there is: false where a subclass or an object overrides a method."""
    cls = type(operation)
    known = cls in OTHERS.values() or BUILT_IN.get(cls.name) is cls
    return known and ARITHMETIC.isdisjoint(vars(operation))


def as_operation(operation: Any, where: str = "") -> Operation:
    """The operation itself, or the one of this name with its default arguments; activations are operations.

    Raises:
        ValueError: unknown name. TypeError: neither a name nor an operation nor an activation.
    """
    if isinstance(operation, Operation):
        return operation
    if isinstance(operation, str):
        if operation in BUILT_IN:
            return BUILT_IN[operation]()
        if operation in ACTIVATIONS or operation in ALIASES:
            return Activate(operation)
        raise ValueError(where + unknown("operation", operation, [*BUILT_IN, *ACTIVATIONS, *ALIASES]))
    try:
        return Activate(operation)
    except TypeError:
        shown = operation.__name__ if isinstance(operation, type) else type(operation).__name__
        raise TypeError(f"{where}an operation is a name, an Operation or an activation, got {shown}") from None
