"""Arguments that are given by name: one that a function doesn't have is refused with the nearest that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

from .messages import unknown

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
    makes = function.__name__ == "__init__"

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        what = type(args[0]).__name__ if makes else function.__qualname__
        return function(*args, **known(what, names, options))

    return cast(F, checked)


def known_fields(cls: C) -> C:
    """The class, a dataclass, made by :func:`known_options`."""
    cls.__init__ = known_options(cls.__init__)  # type: ignore[misc]
    return cls


def known(what: str, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """The options of ``what`` by the names that it has for them. Raises TypeError."""
    for other, name in OTHER_SPELLINGS.items():
        if other in options and name in names:
            if name in options:
                raise TypeError(f"{name} and {other} are one option of {what}: give one of them")
            options[name] = options.pop(other)
    of_optimiser = OF_OPTIMISERS if "optimiser" in names and "lr" not in names else ()
    for name in options:
        if name in of_optimiser and not any(each.startswith(name) for each in names):
            raise TypeError(f"{name} is no option of {what} but of its optimiser, as in optimiser=SGD(lr=0.1)")
        if name not in names:
            raise TypeError(unknown(f"option of {what}", name, names))
    return options
