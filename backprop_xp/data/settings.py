"""How to train on a table: every choice there is, checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import inputs
from ..keywords import known_fields
from ..literals import ActivationName, NormalisationName, OptimiserName, ScheduleName
from ..numbers import as_seed, flag, real, whole
from ..training import OPTIMISERS, Optimiser
from ..training.schedules import NAMES as SCHEDULES
from . import nets

HIDDEN = (128,)
WIDTH = "every width in hidden"
ADAMW: OptimiserName = "adamw"
ADAMW_LR = 0.01
ADAMW_DECAY = 1.0  # for few rows: it keeps weights within 1 or so
CLASS_WEIGHTS = ("none", "balanced")
PATIENCE = 10  # epochs
SPLIT, STOPPING, CHOICE, IMPORTANCE = 1, 2, 3, 4  # what is drawn for; with 0, or without, weights and orders of rows


@known_fields
@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit tables of some hundred to some hundred thousand rows.

    The cosine schedule ends the run gently, so that no rows have to be given away for deciding when to stop.

    Attributes:
        hidden: widths of the hidden layers. None leaves them to :mod:`backprop_xp.data.choice`.
        activation: of the hidden layers.
        residual: whether a hidden layer of the width of the one before is added to what it takes.
        dropout: the probability with which numbers of hidden layers are dropped in training.
        normalisation: of the hidden layers before their activations, "none" or "layer".
        epochs, batch_size: of the training.
        optimiser: a name of :data:`backprop_xp.training.OPTIMISERS`.
        lr: its learning rate; None is 0.01 for AdamW, and their own for others.
        weight_decay: the optimiser's. None leaves it to :mod:`backprop_xp.data.choice` for AdamW, and is 0 for others.
        schedule: of the learning rate, "cosine" or "constant".
        early_stopping: after how many epochs without a lower loss training ends, with the parameters of the best one;
            a share of the training rows, as large as ``validation``, is then not trained on but decides. None: never.
        class_weight: "balanced" lets every class count alike, however many rows it has; "none" every row.
        validation: the share of the rows that are held out.
        folds: how many times the rows are held out in turn, each once; the net is then trained on all of them. None:
            ``validation`` says which are held out.
        seed: of the split, the weights and the order of the rows; None draws one.
        task: "classification", "regression", or "auto": what the target looks like.
        categories: numeric columns whose numbers are names.
        ignore: columns that are left out.
        keep: columns that are used although they seem to number the rows or to repeat the target.
        missing: texts that mean a missing value, besides an empty cell.
        decimal: the mark before decimals, "." or ",", where the table leaves it open.
        dates: "dmy" or "mdy": whether day or month comes first, where the table leaves it open.
        backend, dtype: of the net.
    """

    hidden: Sequence[int] | None = None
    activation: ActivationName = "gelu_tanh"
    residual: bool = False
    dropout: float = 0.0
    normalisation: NormalisationName = "none"
    epochs: int = 50
    batch_size: int = 64
    optimiser: OptimiserName = ADAMW
    lr: float | None = None
    weight_decay: float | None = None
    schedule: ScheduleName = "cosine"
    early_stopping: int | None = None
    class_weight: str = "none"
    validation: float = 0.2
    folds: int | None = None
    seed: int | None = 0
    task: str = "auto"
    categories: Collection[str] = ()
    ignore: Collection[str] = ()
    keep: Collection[str] = ()
    missing: Collection[str] = ()
    decimal: str | None = None
    dates: str | None = None
    backend: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        checked = {
            "hidden": None if self.hidden is None else _widths(self.hidden),
            "residual": flag("residual", self.residual),
            "dropout": real("dropout", self.dropout, 0, below=1),
            "normalisation": inputs.one_of("normalisation", self.normalisation, nets.NORMALISATIONS),
            "epochs": whole("epochs", self.epochs),
            "batch_size": whole("batch_size", self.batch_size, 1),
            "optimiser": inputs.one_of("optimiser", self.optimiser, tuple(OPTIMISERS)),
            "lr": None if self.lr is None else real("lr", self.lr, 0),
            "weight_decay": None if self.weight_decay is None else real("weight_decay", self.weight_decay, 0),
            "schedule": inputs.one_of("schedule", self.schedule, SCHEDULES),
            "early_stopping": _number_or_none("early_stopping", self.early_stopping, 1),
            "class_weight": inputs.one_of("class_weight", self.class_weight, CLASS_WEIGHTS),
            "validation": real("the validation share", self.validation, above=0, below=1),
            "folds": _number_or_none("folds", self.folds, 2),
            "seed": as_seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        nets.check(self.widths, self.residual, self.dropout, self.normalisation)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the hidden layers: those of few rows where they are open."""
        return HIDDEN if self.hidden is None else tuple(self.hidden)

    @property
    def balanced(self) -> bool:
        """Whether every class counts alike."""
        return self.class_weight == "balanced"

    def random(self, *purpose: int) -> np.random.Generator:
        """What is drawn from for a purpose: the seed and these numbers decide."""
        assert self.seed is not None  # __post_init__ draws one
        return np.random.default_rng((self.seed, *purpose))

    def new_optimiser(self) -> Optimiser:
        """The optimiser; where the weight decay is open, AdamW's is :data:`ADAMW_DECAY`."""
        usual: dict[str, Any] = {"lr": ADAMW_LR, "weight_decay": ADAMW_DECAY} if self.optimiser == ADAMW else {}
        given = {"lr": self.lr, "weight_decay": self.weight_decay}
        options = usual | {name: value for name, value in given.items() if value is not None}
        return OPTIMISERS[self.optimiser](**options)


def _widths(given: Any) -> tuple[int, ...]:
    if isinstance(given, str) or np.ndim(given) != 1:
        raise ValueError(f"hidden must be the widths of the hidden layers, such as (64, 32), got {given!r}")
    return tuple(whole(WIDTH, width, 1) for width in given)


def _number_or_none(name: str, value: Any, least: int) -> int | None:
    return None if value is None else whole(name, value, least)
