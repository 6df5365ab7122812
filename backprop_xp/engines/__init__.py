"""How a whole batch is run. An engine is a module with ``loss_and_grad(call)`` and ``forward(call)``."""

from __future__ import annotations

import importlib
from typing import Any

from .call import Call, Gradients, Layer, Signals

__all__ = ["ENGINES", "Call", "Gradients", "Layer", "Signals", "choose"]

#: Every engine by name, each a module of this package.
ENGINES = ("layered", "tiled")


def choose(name: str, call: Call) -> Any:
    """The engine that runs this call: the one named, or for "auto" the fastest that can."""
    return importlib.import_module(f".{'layered' if name == 'auto' else name}", __package__)
