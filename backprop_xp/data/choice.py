"""What is chosen by trying it on a split of the training rows: weight decay and depth, unless the user names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .preparing import Prepared
from .settings import ADAMW, ADAMW_DECAY, CHOICE, HIDDEN, Recipe

#: AdamW's, from what few rows need to what lets a net learn all that many rows show.
DECAYS = (ADAMW_DECAY, 0.1, 0.01)
DEPTHS = (HIDDEN, (128, 128))
FEW_ROWS = 2000  # up to which a fifth of them says too little about which is best
SHARE = 0.2  # of the training rows, which decide

#: The loss on some rows, whose positions come last, after a training on the rows ``first``; infinite where it diverged.
Trial = Callable[[Prepared, Recipe, np.ndarray], float]


def settled(data: Prepared, recipe: Recipe, trial: Trial) -> tuple[Recipe, list[str]]:
    """The recipe with nothing left open, and sentences about what was chosen.

    With few rows that is what suits them; else what has the lowest loss on a share of the training rows, after a
    training on the others: first the weight decay, then, with that, the hidden layers. Rows that are held out have no
    say.
    """
    open_decay = recipe.weight_decay is None and recipe.optimiser == ADAMW
    usual = replace(recipe, hidden=recipe.widths, weight_decay=ADAMW_DECAY if open_decay else recipe.weight_decay)
    if len(data.first) <= FEW_ROWS or not (open_decay or recipe.hidden is None):
        return usual, []
    first, judges = data.parted(SHARE, recipe.random(CHOICE))
    part = replace(data, first=first, held=first[:0])

    def loss(other: Recipe) -> float:
        return trial(part, replace(other, early_stopping=None), judges)

    left_open: dict[str, tuple[Any, ...]] = {"weight_decay": DECAYS if open_decay else ()}
    left_open["hidden"] = DEPTHS if recipe.hidden is None else ()
    best, lowest, notes = usual, loss(usual), []
    for name, tried in left_open.items():
        if not tried:
            continue
        others = [replace(best, **{name: value}) for value in tried if value != getattr(best, name)]
        losses = [(lowest, best), *((loss(other), other) for other in others)]
        lowest, best = min(losses, key=lambda pair: (not pair[0] < float("inf"), pair[0]))
        found = ", ".join(f"{shown(getattr(other, name))}: {value:.4g}" for value, other in losses)
        option = f"--{name.replace('_', '-')} {shown(getattr(best, name))}"
        notes.append(f"{option} is taken, for the lowest loss on {len(judges)} of the training rows ({found})")
    return best, notes


def shown(value: Any) -> str:
    """A setting as the command line takes it."""
    return "-".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}"
