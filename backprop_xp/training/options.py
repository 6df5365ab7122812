"""Options of runs and of optimisers: their names are checked where they are given, their values where they are set."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Generic, TypeVar, cast, overload

from ..messages import unknown

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Accepted, but documented nowhere else.
OTHER_SPELLINGS = {"optimizer": "optimiser"}
#: What a run is often given though its optimiser takes it.
OF_OPTIMISERS = ("lr", "learning_rate", "momentum", "weight_decay", "betas")


def known_options(function: F) -> F:
    """The function, with a TypeError for an unknown option that names the nearest known one."""
    what = function.__qualname__.removesuffix(".__init__")
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        return function(*args, **known(what, names, options))

    return cast(F, checked)


def known(what: str, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """The options of ``what`` by the names that it has for them. Raises TypeError."""
    for other, name in OTHER_SPELLINGS.items():
        if other in options and name in names:
            if name in options:
                raise TypeError(f"{name} and {other} are one option of {what}: give one of them")
            options[name] = options.pop(other)
    of_optimiser = OF_OPTIMISERS if "optimiser" in names else ()
    for name in options:
        if name in of_optimiser:
            raise TypeError(f"{name} is no option of {what} but of its optimiser, as in optimiser=SGD(lr=0.1)")
        if name not in names:
            raise TypeError(unknown(f"option of {what}", name, names))
    return options


def arguments(names: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a method by name, of its ``locals()`` as it begins."""
    return {name: value for name, value in names.items() if name not in ("self", "__class__")}


class Option(Generic[T]):
    """An attribute that is checked, and brought to one type, whenever it is set.

    Args:
        check: a function of (what it is called in messages, the value) to the value that is kept.
        default: the value of an object for which none was set, if there is one.
    """

    def __init__(self, check: Callable[[str, Any], T], default: T | None = None) -> None:
        self._check, self._default = check, default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, cls: type) -> Option[T]: ...
    @overload
    def __get__(self, owner: object, cls: type) -> T: ...
    def __get__(self, owner: Any, cls: type) -> Any:
        if owner is None:
            return self
        value = owner.__dict__.get(self._name, self._default)
        if value is None:
            raise AttributeError(f"{cls.__name__} object has no attribute {self._name!r}")
        return value

    def __set__(self, owner: Any, value: Any) -> None:
        owner.__dict__[self._name] = self._check(f"{self._name} of {type(owner).__name__}", value)
