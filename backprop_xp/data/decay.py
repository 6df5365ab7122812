"""Which weight decay: what a small table needs keeps the net of a large one from learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..training import DivergedError, evaluate
from .preparing import Prepared
from .settings import ADAMW, CHOICE, Recipe

SMALL = 1.0  # AdamW's, for few rows: it keeps weights within 1 or so
CHOICES = (1.0, 0.1, 0.01)
FEW_ROWS = 2000  # up to which a fifth of them says too little about which one is best
SHARE = 0.2  # of the training rows, which decide
MOST_EPOCHS = 20  # of each trial

Fit = Callable[[Prepared, Recipe], Any]  # a net, trained on the rows ``first``


def settled(data: Prepared, recipe: Recipe, fit: Fit) -> tuple[Recipe, str]:
    """The recipe with a weight decay, and a sentence about it if there was a choice.

    Of few rows :data:`SMALL`; else the one of :data:`CHOICES` with the lowest loss on a share of the training rows,
    after a training on the others. Rows that are held out have no say.
    """
    if recipe.weight_decay is not None or recipe.optimiser != ADAMW:
        return recipe, ""
    if len(data.first) <= FEW_ROWS:
        return replace(recipe, weight_decay=SMALL), ""
    first, judges = data.parted(SHARE, recipe.random(CHOICE))
    part = replace(data, first=first, held=first[:0])
    losses = {}
    for decay in CHOICES:
        trial = replace(recipe, weight_decay=decay, epochs=min(recipe.epochs, MOST_EPOCHS), early_stopping=None)
        try:
            losses[decay] = evaluate(fit(part, trial), data.x[judges], data.y[judges])
        except DivergedError:
            losses[decay] = float("inf")
    best = min(CHOICES, key=lambda decay: (not losses[decay] < float("inf"), losses[decay]))
    found = ", ".join(f"{decay:g}: {loss:.4g}" for decay, loss in losses.items())
    said = f"weight decay {best:g} has the lowest loss on {len(judges)} of the training rows ({found})"
    return replace(recipe, weight_decay=best), f"{said}; --weight-decay {best:g} takes it at once"
