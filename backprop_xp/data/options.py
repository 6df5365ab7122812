"""The arguments of `backprop-xp train` and `backprop-xp predict`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ..dtypes import DTYPES
from ..net_options import add_backend
from ..training import OPTIMISERS
from .dates import EITHER
from .nets import NORMALISATIONS
from .numerals import DECIMALS
from .reader import SEPARATORS
from .sets import SETS, SUFFIXES
from .settings import ADAMW_LR, CLASS_WEIGHTS, PATIENCE, SCHEDULES, Recipe
from .wording import parts

Command = Callable[[argparse.Namespace], int]
DATA = f"{', '.join(SETS)}, or a file or folder: {', '.join(SUFFIXES)}"
FORCE = "write over files that are there already"
#: Arguments that are lists of names, as the recipe's attributes.
LISTS = ("categories", "ignore", "keep", "missing")
#: Arguments of :func:`add_reading`.
READING = ("separator", "decimal", "encoding", "missing")


def add_train(commands: argparse._SubParsersAction, run: Command) -> None:
    """The arguments of train."""
    default = Recipe()
    fit = commands.add_parser("train", help="train a net on real data, and say how good it is")
    fit.set_defaults(run=run)
    table = fit.add_argument_group("the table")
    table.add_argument("--data", required=True, metavar="DATA", help=DATA)
    table.add_argument("--target", metavar="A,B", help="what to predict, one column or several (needed for files)")
    table.add_argument(
        "--task", default=default.task, help="classification, regression, or auto: by the target's looks"
    )
    table.add_argument("--categories", default="", metavar="A,B", help="columns whose numbers are names")
    table.add_argument("--ignore", default="", metavar="A,B", help="columns to leave out")
    keep = "columns to use though they seem to number rows or to be the target"
    table.add_argument("--keep", default="", metavar="A,B", help=keep)
    table.add_argument("--dates", choices=EITHER, help="which comes first in dates, day or month (default: found out)")
    add_reading(table)
    net = fit.add_argument_group("the net")
    usual = "-".join(map(str, default.widths))
    net.add_argument(
        "--hidden", metavar="64-32", help=f"widths of the hidden layers (default: {usual}, or by the rows if many)"
    )
    _add(net, "--activation", default.activation, "NAME", "of the hidden layers")
    net.add_argument(
        "--residual", action="store_true", help="add hidden layers that are as wide as the one before to what they take"
    )
    _add(net, "--dropout", default.dropout, "P", "share of the hidden layers' numbers that training leaves out", float)
    net.add_argument(
        "--normalisation",
        default=default.normalisation,
        choices=NORMALISATIONS,
        help="of the hidden layers (default: %(default)s)",
    )
    net.add_argument("--dtype", default=default.dtype, choices=DTYPES)
    add_backend(net)
    training = fit.add_argument_group("the training")
    _add(training, "--epochs", default.epochs, "N", "passes over the rows", int)
    _add(training, "--batch-size", default.batch_size, "N", "rows a step", int)
    training.add_argument(
        "--optimiser",
        "--optimizer",
        default=default.optimiser,
        choices=tuple(OPTIMISERS),
        help="(default: %(default)s)",
    )
    training.add_argument(
        "--lr", type=float, metavar="X", help=f"learning rate (default: {ADAMW_LR} for adamw, their own for others)"
    )
    training.add_argument(
        "--weight-decay", type=float, metavar="X", help="(default: for adamw by the rows, 0 for others)"
    )
    training.add_argument(
        "--schedule", default=default.schedule, choices=SCHEDULES, help="of the learning rate (default: %(default)s)"
    )
    training.add_argument(
        "--early-stopping",
        type=int,
        nargs="?",
        const=PATIENCE,
        metavar="N",
        help=f"end after N epochs without a lower loss on a share of the training rows ({PATIENCE} if N is left out)",
    )
    training.add_argument(
        "--class-weight", default=default.class_weight, choices=CLASS_WEIGHTS, help="balanced: every class counts alike"
    )
    _add(training, "--seed", default.seed, "N", "of the split, the weights and the order of rows", int)
    proof = fit.add_argument_group("the proof").add_mutually_exclusive_group()
    share = f"share of the rows held out (default: {default.validation})"
    proof.add_argument("--validation", type=float, metavar="X", help=share)
    proof.add_argument("--folds", type=int, metavar="K", help="hold every row out once, in K parts")
    proof.add_argument("--test", metavar="DATA", help="a table to test with, instead of rows held out")
    written = fit.add_argument_group("what is written")
    written.add_argument("--model", metavar="FILE", help="where to save it (default: DATA.safetensors)")
    written.add_argument("--plot", metavar="FILE", help="where to draw it (default: DATA.png)")
    written.add_argument("--force", action="store_true", help=FORCE)


def add_predict(commands: argparse._SubParsersAction, run: Command) -> None:
    """The arguments of predict."""
    use = commands.add_parser("predict", help="apply a saved model to a table")
    use.set_defaults(run=run)
    use.add_argument("model", metavar="MODEL", help="what train saved")
    use.add_argument("data", metavar="DATA", help=DATA)
    add_reading(use)
    use.add_argument("--output", metavar="FILE.csv", help="write the answers there, not to standard output")
    use.add_argument("--force", action="store_true", help=FORCE)
    use.add_argument("--id", metavar="COLUMN", help="a column of the data that is written before the answers")
    use.add_argument("--proba", action="store_true", help="the probability of every class, not of the answer alone")
    use.add_argument(
        "--unknown",
        default="refuse",
        choices=("refuse", "ignore"),
        help="categories that were not seen in training: no answer (refuse), or none of those seen (ignore)",
    )
    use.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")


def recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the arguments of train say."""
    if arguments.epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {arguments.epochs}")
    hidden = None if arguments.hidden is None else arguments.hidden.split("-") if arguments.hidden else []
    if not all(part.isdecimal() and int(part) for part in hidden or ()):
        raise ValueError(f"--hidden takes widths such as 64-32, got {arguments.hidden!r}")
    options = {each.name: getattr(arguments, each.name) for each in fields(Recipe)}
    options |= {name: parts(f"--{name}", options[name]) for name in LISTS}
    options["hidden"] = None if hidden is None else tuple(map(int, hidden))
    if arguments.validation is None:
        del options["validation"]  # for argparse to know that --folds or --test may be given
    return Recipe(**options)


def _add(group: Any, name: str, default: Any, metavar: str, text: str, kind: Any = str) -> None:
    group.add_argument(name, type=kind, default=default, metavar=metavar, help=f"{text} (default: %(default)s)")


def refuse_without_data(arguments: argparse.Namespace) -> None:
    """Raise a ValueError where it is said how DATA is written, and there is none."""
    for name in READING:
        if arguments.data is None and getattr(arguments, name):
            raise ValueError(f"--{name} is of DATA, which isn't given")


def add_reading(group: Any) -> None:
    """How a file is written, for every command that reads one."""
    group.add_argument(
        "--separator", metavar="MARK", help=f"of a text file's columns: a mark, or {', '.join(SEPARATORS)}"
    )
    group.add_argument("--decimal", choices=DECIMALS, metavar="MARK", help="before decimals: . or , (or found out)")
    group.add_argument("--encoding", metavar="NAME", help="of a text file (default: UTF-8, UTF-16 or Latin-1)")
    group.add_argument(
        "--missing", default="", metavar="TEXT,...", help="texts that mean a missing value, besides an empty cell"
    )
