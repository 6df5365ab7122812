"""Whether code of a user's may be given some of a batch's samples at a time.

An operation, an activation or a loss has ``scope``: "sample" if what it computes for a sample depends on that sample
alone (a loss: if it is the sum of such numbers), "batch" if it looks at others too, "batch in training" if it does so
in training alone. Formulas and built-in ones work sample by sample, but for batch normalisation in training; Python
code needs the whole batch unless it says that it doesn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .formulas import is_formula
from .messages import unknown

SCOPES = ("sample", "batch", "batch in training")
#: The end of a clause about what needs the whole batch, by its scope.
WHY = {
    "sample": " in training, to change its buffers",
    "batch": ' (scope = "sample" would say that it does not)',
    "batch in training": " in training",
}
#: What code of a user's is written in: of activations, of losses and of operations.
METHODS = frozenset({"__call__", "grad", "backprop", "weighted", "forward", "backward", "from_context", "new_buffers"})


def scope_of(thing: Any) -> str:
    """What the thing says about itself, "batch" where it says nothing.

    Of the object, its class and the classes above, the first that has a scope or one of the methods decides: a
    subclass that overrides a method doesn't inherit the scope of what it overrides.

    Raises:
        ValueError: its scope is none of the three.
    """
    if is_formula(thing):
        return "sample"
    for attributes in (getattr(thing, "__dict__", {}), *map(vars, type(thing).__mro__)):
        if "scope" in attributes:
            if thing.scope not in SCOPES:
                raise ValueError(unknown(f"scope of {_called(thing)}", str(thing.scope), SCOPES))
            return thing.scope
        if METHODS & attributes.keys():
            break
    return "batch"


def needs_whole_batch(thing: Any, training: bool = True) -> bool:
    """Whether it must not be given some of the samples, in a call that trains or in one that doesn't.

    What changes its buffers does so once a call, of all samples.
    """
    scope = scope_of(thing)
    changes = training and getattr(thing, "changes_buffers", False)
    return scope == "batch" or bool(changes) or (training and scope == "batch in training")


def first_that_does(named: Iterable[tuple[str, Any]], training: bool = True) -> str:
    """A clause about the first that needs the whole batch, "" if none does."""
    for what, thing in named:
        if needs_whole_batch(thing, training):
            return f"{what} needs the whole batch{WHY[scope_of(thing)]}"
    return ""


def of_plan(plan: Any, loss: Any, training: bool) -> str:
    """A clause about the first part of a net that needs the whole batch, "" if none does; ``loss`` may be None."""
    if plan.layered and plan.chain:
        named = [(f"the activation {_called(f)} of layer {i}", f) for i, f in enumerate(plan.activations)]
    else:
        named = [(f"node {node.name!r}", node.operation) for node in plan.nodes]
    return first_that_does(named, training) or of_loss(loss)


def of_loss(loss: Any) -> str:
    """A clause about a loss that needs the whole batch, "" if it doesn't or is None."""
    return "" if loss is None else first_that_does([(f"the loss {_called(loss)}", loss)])


def _called(thing: Any) -> str:
    name = getattr(thing, "name", "")
    return name if isinstance(name, str) and name else type(thing).__name__
