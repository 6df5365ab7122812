"""What takes long to import, and what a first pass through a net needs nothing of: modules, and methods in them.

No import stands in a function, but for packages that may be missing: a file says at its top what it imports later. ::

    if TYPE_CHECKING:
        from .passes import streamed
    else:
        streamed = later.Module("backprop_xp.passes.streamed")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Module:
    """A module, imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


class Method:
    """A method that is a function of a module, imported when it is first asked for.

    Asked for in the class it is that function, with its signature and its docstring.

    Args:
        module, name: where the function stands, and what it is called there.
        static: whether it is called without the object.
    """

    def __init__(self, module: str, name: str, static: bool = False) -> None:
        self.module, self.name, self.static = Module(module), name, static

    def __get__(self, instance: Any, owner: type) -> Any:
        function = getattr(self.module, self.name)
        return function if instance is None or self.static else function.__get__(instance, owner)
