"""Whether code of a user's may be given some of a batch's samples at a time.

An operation, an activation or a loss has ``scope``: "sample" if what it computes for a sample depends on that sample
alone (a loss: if it is the sum of such numbers), "batch" if it looks at others too. Built-in ones and formulas work
sample by sample; Python code needs the whole batch unless it says that it doesn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .messages import unknown

SCOPES = ("sample", "batch")
#: What code of a user's is written in: of activations, of losses and of operations.
METHODS = frozenset({"__call__", "grad", "backprop", "weighted", "forward", "backward"})


def needs_whole_batch(thing: Any) -> bool:
    """Whether the thing's scope is "batch".

    Of the object, its class and the classes above, the first that has a scope or one of the methods decides: a
    subclass that overrides a method doesn't inherit the scope of what it overrides.

    Raises:
        ValueError: its scope is neither of the two.
    """
    if getattr(thing, "is_formula", False):
        return False
    for attributes in (getattr(thing, "__dict__", {}), *map(vars, type(thing).__mro__)):
        if "scope" in attributes:
            if thing.scope not in SCOPES:
                raise ValueError(unknown(f"scope of {_called(thing)}", str(thing.scope), SCOPES))
            return thing.scope == "batch"
        if METHODS & attributes.keys():
            break
    return True


def first_that_does(named: Iterable[tuple[str, Any]]) -> str:
    """A clause about the first that needs the whole batch, "" if none does."""
    for what, thing in named:
        if needs_whole_batch(thing):
            return f'{what} needs the whole batch (scope = "sample" would say that it does not)'
    return ""


def of_plan(plan: Any, loss: Any) -> str:
    """A clause about the first part of a net that needs the whole batch, "" if none does; ``loss`` may be None."""
    if plan.layered:
        named = [(f"the activation {_called(f)} of layer {i}", f) for i, f in enumerate(plan.activations)]
    else:
        named = [(f"node {node.name!r}", node.operation) for node in plan.nodes]
    return first_that_does(named) or of_loss(loss)


def of_loss(loss: Any) -> str:
    """A clause about a loss that needs the whole batch, "" if it doesn't or is None."""
    return "" if loss is None else first_that_does([(f"the loss {_called(loss)}", loss)])


def _called(thing: Any) -> str:
    name = getattr(thing, "name", "")
    return name if isinstance(name, str) and name else type(thing).__name__
