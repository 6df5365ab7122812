"""Methods that stand in modules which take long to import, and which a first pass through a net needs none of."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Later:
    """A method that is a function of another module of this package, imported when it is first asked for.

    Asked for in the class it is that function, with its signature and its docstring.

    Args:
        module, name: where the function stands, and what it is called there.
        static: whether it is called without the object.
    """

    def __init__(self, module: str, name: str, static: bool = False) -> None:
        self.module, self.name, self.static = module, name, static

    def __get__(self, instance: Any, owner: type) -> Any:
        function = getattr(import_module(f".{self.module}", __package__), self.name)
        return function if instance is None or self.static else function.__get__(instance, owner)
