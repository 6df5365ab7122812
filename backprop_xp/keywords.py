"""Arguments that are given by name: one that a function doesn't have is refused with the nearest that it has."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, cast

from .messages import nearest, synonym, unknown

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

#: Accepted, but documented nowhere else.
OTHER_SPELLINGS = {"optimizer": "optimiser"}
#: What a run is often given though its optimiser takes it.
OF_OPTIMISERS = ("lr", "learning_rate", "momentum", "weight_decay", "betas")


def known_options(function: F) -> F:
    """The function, with a TypeError for an unknown option that names the nearest known one."""
    parameters = inspect.signature(function).parameters.items()
    names = [name for name, parameter in parameters if name != "self" and parameter.kind != parameter.VAR_POSITIONAL]
    parts = {name: parameter.default for name, parameter in parameters if is_dataclass(parameter.default)}
    makes = function.__name__ == "__init__"

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        what = type(args[0]).__name__ if makes and args else function.__qualname__
        return function(*args, **known(what, names, options, parts))

    return cast(F, checked)


def known_fields(cls: C) -> C:
    """The class, a dataclass, made by :func:`known_options`."""
    cls.__init__ = known_options(cls.__init__)  # type: ignore[misc]
    return cls


def known(
    what: str, names: Sequence[str], options: dict[str, Any], parts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options of ``what`` by the names that it has for them. Raises TypeError.

    Args:
        parts: dataclasses by the options that take one.
    """
    for other, name in OTHER_SPELLINGS.items():
        if other in options and name in names:
            if name in options:
                raise TypeError(f"{name} and {other} are one option of {what}: give one of them")
            options[name] = options.pop(other)
    for name, value in options.items():
        if name not in names:
            raise TypeError(_unknown(what, name, value, names, parts or {}))
    return options


def _unknown(what: str, name: str, value: Any, names: Sequence[str], parts: Mapping[str, Any]) -> str:
    """A sentence on an option that ``what`` doesn't have, and where it belongs."""
    if name in OF_OPTIMISERS and "optimiser" in names and synonym(name, names) is None:
        if own := [each for each in OF_OPTIMISERS if each in names]:
            return f"{name} is no option of {what}: of its optimiser's it has {' and '.join(own)} alone"
        return f"{name} is no option of {what} but of its optimiser, as in optimiser=SGD(lr=0.1)"
    meant = nearest(name, names)
    for part, default in parts.items():
        own = [field.name for field in fields(default)]
        if field := name if name in own else nearest(name, own) if meant is None else None:
            kind = type(default).__name__
            return f"{field} is a field of {kind}: {part}={kind}({field}={reprlib.repr(value)})"
    return unknown(f"option of {what}", name, names)
