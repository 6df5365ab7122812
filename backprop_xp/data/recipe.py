"""From a table to a trained model, and how good it is on rows that it never saw."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import inputs
from ..graph import GraphNet
from ..net import Net
from ..numbers import as_seed, flag, real, whole
from ..training import AdamW, History
from . import frames, leaks, nets, targets
from .cells import Cells
from .dates import EITHER
from .errors import DataError
from .frames import Frame
from .kinds import Conventions, Kind
from .model import Model
from .numerals import DECIMALS
from .reader import NOTES
from .table import Table, columns_of, kinds_of
from .targets import TASKS, Classes, Target
from .wording import listed, quoted


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults suit tables of some hundred to some hundred thousand rows.

    AdamW's decay of 1.0 keeps weights within 1 or so, which small tables need; the cosine schedule ends the run
    gently, so that no rows have to be given away for deciding when to stop.

    Attributes:
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        residual: whether a hidden layer of the width of the one before is added to what it takes.
        dropout: the probability with which numbers of hidden layers are dropped in training.
        normalisation: of the hidden layers before their activations, "none" or "layer".
        epochs, batch_size, lr, weight_decay: of AdamW under a cosine schedule.
        validation: the share of the rows that are held out.
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

    hidden: Sequence[int] = (128,)
    activation: str = "gelu_tanh"
    residual: bool = False
    dropout: float = 0.0
    normalisation: str = "none"
    epochs: int = 50
    batch_size: int = 64
    lr: float = 0.01
    weight_decay: float = 1.0
    validation: float = 0.2
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
            "hidden": tuple(whole("every width in hidden", width, 1) for width in self.hidden),
            "residual": flag("residual", self.residual),
            "dropout": real("dropout", self.dropout, 0, below=1),
            "normalisation": inputs.one_of("normalisation", self.normalisation, nets.NORMALISATIONS),
            "epochs": whole("epochs", self.epochs),
            "batch_size": whole("batch_size", self.batch_size, 1),
            "lr": real("lr", self.lr, 0),
            "weight_decay": real("weight_decay", self.weight_decay, 0),
            "validation": real("the validation share", self.validation, above=0, below=1),
            "seed": as_seed(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        nets.check(self.hidden, self.residual, self.dropout, self.normalisation)


@dataclass
class Trained:
    """What came of it.

    Attributes:
        model: the net and all that belongs to it.
        history: its losses by epoch, in training and on the held-out rows.
        held_out: the rows that were held out, and their ``outputs``.
        notes: sentences about what was odd in the table.
    """

    model: Model
    history: History
    held_out: Frame
    outputs: np.ndarray
    notes: list[str]

    @property
    def score(self) -> float:
        """On the held-out rows: the share of right answers, or R^2."""
        return self.model.target.score(self.outputs, self.held_out[self.model.target.column])

    def describe_score(self) -> str:
        return self.model.target.describe_score(self.outputs, self.held_out[self.model.target.column])


@dataclass
class Prepared:
    """A table as arrays, and which of its rows are for what.

    Attributes:
        frame: the rows that have a target.
        x, y: inputs and targets of all of them.
        first, held: positions of the rows to train on, and of those held out.
        table, target: what was learnt from the former.
        notes: sentences about what is odd.
    """

    frame: Frame
    x: np.ndarray
    y: np.ndarray
    first: np.ndarray
    held: np.ndarray
    table: Table
    target: Target
    notes: list[str]


def train(frame: Frame, column: str, recipe: Recipe = Recipe(), progress: bool | None = None) -> Trained:
    """Train a net to tell this column from the others.

    Args:
        frame: a table as :func:`read` gives it, or one of your own: a pandas.DataFrame, whose texts are read as those
            of a file, an array or a sparse matrix.
        column: the target's name.

    Raises:
        DataError: the table can't be used; the message says where.
    """
    data = prepare(frame, column, recipe)
    net = new_net(data, recipe)
    history = net.fit(
        data.x[data.first],
        data.y[data.first],
        validation=(data.x[data.held], data.y[data.held]),
        progress=progress,
        **fit_options(recipe),
    )
    model = Model(net, data.table, data.target, frames.names(recipe.missing))
    held_out = data.frame.iloc[data.held]
    return Trained(model, history, held_out, model.outputs(held_out), data.notes)


def prepare(frame: Frame, column: str, recipe: Recipe) -> Prepared:
    """Everything before the training."""
    inputs.one_of("task", recipe.task, TASKS)
    for name, value, known in (("decimal", recipe.decimal, DECIMALS), ("dates", recipe.dates, EITHER)):
        if value is not None and value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    notes = list(getattr(frame, "attrs", {}).get(NOTES, ()))
    frame, column = frames.alike(frame, recipe.missing), frames.name(column)
    categories, ignore, keep = map(frames.names, (recipe.categories, recipe.ignore, recipe.keep))
    _refuse_unknown(frame, [column, *categories, *ignore, *keep])
    frame = frame.drop(columns=[name for name in ignore if name != column])
    if column in categories and recipe.task == "auto":
        recipe = replace(recipe, task="classification")
    every = columns_of(frame)
    shown = [cells for name, cells in every.items() if name not in categories]
    conventions = Conventions.of(shown, recipe.decimal, recipe.dates)
    kind = targets.kind_of_target(every[column], recipe.task, conventions)
    frame, absent = _with_target(frame, every[column], kind)
    every = columns_of(frame) if absent else every
    truth = every.pop(column)
    features = kinds_of(every, categories, conventions, keep)
    left_out, leaks_found = leaks.find(features, (truth, kind), keep)
    first, held = split(frame, column, recipe, kind)
    target = targets.learn(frame, column, first, recipe.task, kind)
    table, odd = Table.of({name: found for name, found in features.items() if name not in left_out}, first, leaks_found)
    notes += [*absent, *targets.notes(truth, kind), *leaks_found, *odd]
    x, y = table.arrays(frame).astype(recipe.dtype), target.encode(frame[column])
    return Prepared(frame, x, y, first, held, table, target, notes)


def new_net(data: Prepared, recipe: Recipe) -> Net | GraphNet:
    """The net, untrained."""
    return nets.net_of(
        data.table.width,
        recipe.hidden,
        data.target.outputs,
        recipe.activation,
        residual=recipe.residual,
        dropout=recipe.dropout,
        normalisation=recipe.normalisation,
        loss=data.target.loss,
        dtype=recipe.dtype,
        rng=recipe.seed,
        backend=recipe.backend,
        init="glorot_uniform",
        reduction="mean",
    )


def fit_options(recipe: Recipe) -> dict[str, Any]:
    """What ``net.fit`` is told."""
    return {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "optimiser": AdamW(lr=recipe.lr, weight_decay=recipe.weight_decay),
        "schedule": "cosine",
        "seed": recipe.seed,
    }


def split(frame: Frame, column: str, recipe: Recipe, kind: Kind | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows to train on and of those held out, in which every class has its share."""
    inputs.one_of("task", recipe.task, TASKS)
    everything = np.arange(len(frame))
    target = targets.learn(frame, column, everything, recipe.task, kind)
    groups = target.encode(frame[column]) if isinstance(target, Classes) else np.zeros(len(frame), np.int64)
    assert recipe.seed is not None  # a Recipe draws one
    random = np.random.default_rng((recipe.seed, 1))  # not the numbers that weights are drawn from
    held = []
    for group in np.unique(groups):
        members = random.permutation(everything[groups == group])
        held.append(members[: min(round(recipe.validation * len(members)), len(members) - 1)])
    held_out = np.sort(np.concatenate(held))
    if not len(held_out):
        reason = f" if each of {len(target.labels)} classes has its share" if isinstance(target, Classes) else ""
        raise DataError(f"{len(frame)} rows are too few to hold {recipe.validation:.0%} out{reason}")
    return np.setdiff1d(everything, held_out), held_out


def _with_target(frame: Frame, truth: Cells, kind: Kind) -> tuple[Frame, list[str]]:
    """The rows that have a target."""
    column = truth.name
    absent = kind.missing(truth)
    if not absent.any():
        return frame, []
    if absent.all():
        raise DataError(f"the target {quoted(column)} is missing in every row")
    row, written = frame.index[absent.argmax()], absent & ~truth.missing
    said = f", written {quoted(truth.series[written].iloc[0])}" if written.any() else ""
    rows = "1 row" if absent.sum() == 1 else f"{absent.sum()} rows"
    left = "is" if absent.sum() == 1 else "are"
    return frame[~absent], [f"{rows} without {quoted(column)} {left} left out (the first is row {row}{said})"]


def _refuse_unknown(frame: Frame, names: Sequence[str]) -> None:
    for name in names:
        if name not in frame.columns:
            hint = "; what separates columns can be said with --separator" if len(frame.columns) == 1 else ""
            raise DataError(f"the table has no column {quoted(name)}; it has {listed(frame.columns)}{hint}")
