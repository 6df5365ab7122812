"""Options of optimisers, whose values are checked where they are set; :mod:`backprop_xp.keywords` checks names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


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
