"""Operations in files: built-in ones by name and settings, a user's own by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..activations import ACTIVATIONS, Activation, get_activation
from ..messages import unknown
from ..operations import BUILT_IN, Operation, kinds
from ..operations.base import METHODS
from ..plan.plan import Node
from .container import ModelFileError, field, number, short_text
from .objects import Custom, build_object, describe_object, supplied

#: How a setting of an operation is read from a file, by its type: from the description, its name, and what is custom.
READ: dict[Any, Callable[[dict[str, Any], str, Custom], Any]] = {
    int: lambda saved, name, custom: field(saved, name, int),
    bool: lambda saved, name, custom: field(saved, name, bool),
    float: lambda saved, name, custom: number(saved, name),
    str | None: lambda saved, name, custom: short_text(saved, name) if name in saved else None,
    Activation: lambda saved, name, custom: build_object(name, saved.get(name), ACTIVATIONS, get_activation, custom),
}


def describe_operation(operation: Operation) -> dict[str, Any]:
    """The name and settings of a built-in operation, the name of a user's own."""
    overridden = METHODS & vars(operation).keys()
    kind = next((name for name, cls in kinds().items() if cls is type(operation)), None)
    if kind is None or overridden:
        name = operation.name if operation.name and operation.name not in BUILT_IN else type(operation).__name__
        return {"custom": name}
    settings = {name: getattr(operation, name) for name in kinds()[kind].settings}
    return {"name": kind} | {name: _plain(value) for name, value in settings.items() if value is not None}


def _plain(value: Any) -> Any:
    """For JSON: a number, a text, or the description of an activation."""
    return value if isinstance(value, (bool, int, float, str)) else describe_object(value, ACTIVATIONS)


def build_operation(saved: dict[str, Any], custom: Custom) -> Operation:
    """What :func:`describe_operation` described; from a file, which may hold anything."""
    if "custom" in saved:
        name = short_text(saved, "custom")
        operation = supplied("operation", name, custom)
        if not isinstance(operation, Operation):
            raise ModelFileError(f"custom[{name!r}] must be an Operation, got {type(operation).__name__}")
        return operation
    name = short_text(saved, "name")
    if name not in kinds():
        raise ModelFileError(unknown("operation", name, kinds()))
    made = kinds()[name]
    return made(**{key: READ[kind](saved, key, custom) for key, kind in made.settings.items()})


def shapes(nodes: Sequence[Node]) -> dict[str, tuple[int, ...]]:
    """Of the parameters and buffers of built-in operations, by name."""
    widths = {node.name: node.width for node in nodes}
    return {
        f"{node.name}.{name}": shape
        for node in nodes
        if node.owner == node.name and type(node.operation) in kinds().values()
        for name, shape in node.form.shapes(tuple(widths[other] for other in node.inputs)).items()
    }
