"""`backprop-xp train` and `backprop-xp predict`: from their arguments to what they print and write."""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path
from typing import Any

from ..files import replacing
from ..training import DivergedError
from .dates import EITHER
from .errors import DataError
from .model import Model
from .numerals import DECIMALS
from .picture import draw
from .reader import NOTES, SEPARATORS
from .recipe import Recipe, train
from .sets import SET_TARGET, SETS, read
from .wording import listed, parts


def add_to(commands: argparse._SubParsersAction) -> None:
    """The two commands' arguments."""
    default, data = Recipe(), f"{', '.join(SETS)}, or a file .csv, .tsv, .npz or .parquet"
    fit = commands.add_parser("train", help="train a net on real data, and say how good it is")
    fit.add_argument("--data", required=True, metavar="DATA", help=data)
    fit.add_argument("--target", metavar="COLUMN", help="what to predict (needed for files)")
    fit.add_argument("--task", default=default.task, help="classification, regression, or auto: by the target's looks")
    fit.add_argument("--categories", default="", metavar="A,B", help="columns whose numbers are names")
    fit.add_argument("--ignore", default="", metavar="A,B", help="columns to leave out")
    fit.add_argument(
        "--keep", default="", metavar="A,B", help="columns to use though they seem to number rows or to be the target"
    )
    fit.add_argument("--dates", choices=EITHER, help="which comes first in dates, day or month (default: found out)")
    _add_reading(fit)
    fit.add_argument(
        "--hidden",
        default="-".join(map(str, default.hidden)),
        metavar="64-32",
        help="hidden layers (default: %(default)s)",
    )
    fit.add_argument(
        "--activation", default=default.activation, metavar="NAME", help="of the hidden layers (default: %(default)s)"
    )
    fit.add_argument("--epochs", type=int, default=default.epochs, metavar="N", help="(default: %(default)s)")
    fit.add_argument("--batch-size", type=int, default=default.batch_size, metavar="N", help="(default: %(default)s)")
    fit.add_argument(
        "--lr", type=float, default=default.lr, metavar="X", help="AdamW's learning rate (default: %(default)s)"
    )
    fit.add_argument(
        "--weight-decay", type=float, default=default.weight_decay, metavar="X", help="AdamW's (default: %(default)s)"
    )
    fit.add_argument(
        "--validation",
        type=float,
        default=default.validation,
        metavar="X",
        help="share held out (default: %(default)s)",
    )
    fit.add_argument("--seed", type=int, default=default.seed, metavar="N", help="(default: %(default)s)")
    fit.add_argument("--dtype", default=default.dtype, choices=("float32", "float64"))
    fit.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")
    fit.add_argument("--model", type=Path, metavar="FILE", help="where to save it (default: DATA.safetensors)")
    fit.add_argument("--plot", type=Path, metavar="FILE", help="where to draw it (default: DATA.png)")
    fit.set_defaults(run=run_train)
    use = commands.add_parser("predict", help="apply a saved model to a table")
    use.add_argument("model", type=Path, metavar="MODEL", help="what train saved")
    use.add_argument("data", metavar="DATA", help=data)
    _add_reading(use)
    use.add_argument("--output", type=Path, metavar="FILE.csv", help="write the answers there, not to standard output")
    use.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")
    use.set_defaults(run=run_predict)


def _add_reading(command: argparse.ArgumentParser) -> None:
    """How a file is written, for both commands."""
    command.add_argument(
        "--separator", metavar="MARK", help=f"of a text file's columns: a mark, or {', '.join(SEPARATORS)}"
    )
    command.add_argument("--decimal", choices=DECIMALS, help="the mark before decimals (default: found out)")
    command.add_argument("--encoding", metavar="NAME", help="of a text file (default: UTF-8, UTF-16 or Latin-1)")
    command.add_argument(
        "--missing", default="", metavar="TEXT,...", help="texts that mean a missing value, besides an empty cell"
    )


def run_train(arguments: argparse.Namespace) -> int:
    """Train, print the score, draw the picture, save the model."""
    name = Path(arguments.data).stem
    model, plot = arguments.model or Path(f"{name}.safetensors"), arguments.plot or Path(f"{name}.png")
    for path in (model, plot):
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}")
    recipe = _recipe(arguments)
    frame = read(arguments.data, separator=arguments.separator, encoding=arguments.encoding)
    column = arguments.target or (SET_TARGET if arguments.data in SETS else None)
    if column is None:
        raise ValueError(f"--target must name the column to predict: {listed(frame.columns)}")
    started = time.perf_counter()
    try:
        trained = train(frame, column, recipe)
    except DivergedError as error:
        raise ValueError(f"{error}; try a smaller --lr") from None
    seconds = time.perf_counter() - started
    for note in trained.notes[:20]:
        print(f"note: {note}")
    if len(trained.notes) > 20:
        print(f"note: ... and {len(trained.notes) - 20} more")
    last = trained.history.epochs[-1]
    print(f"{trained.model.net}: {last.number} epochs in {seconds:.2f} s, training loss {last.loss:.4g}")
    print(f"held out: {trained.describe_score()}")
    trained.model.save(model)
    draw(trained, plot)
    print(f"model in {model}, picture in {plot}")
    return 0


def run_predict(arguments: argparse.Namespace) -> int:
    """Print or write the answers as CSV, and the score where the truth is known."""
    model = Model.load(arguments.model, backend=arguments.backend)
    if arguments.decimal:
        model.table = model.table.with_decimal(arguments.decimal)
    model.missing += parts("--missing", arguments.missing)
    frame = read(arguments.data, separator=arguments.separator, encoding=arguments.encoding)
    for note in frame.attrs.get(NOTES, ()):
        print(f"note: {note}", file=sys.stderr)
    outputs = model.outputs(frame)
    text = io.StringIO()
    model.answers(frame, outputs).to_csv(text, index=False)
    if arguments.output is None:
        sys.stdout.write(text.getvalue())
    else:
        with replacing(arguments.output) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    try:
        score = model.describe_score(frame, outputs)
    except DataError as error:
        score = f"no score, {error}"
    if score is not None:
        print(f"{model.target.column} is in {arguments.data}: {score}", file=sys.stderr)
    return 0


def _recipe(arguments: argparse.Namespace) -> Recipe:
    if arguments.epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {arguments.epochs}")
    hidden = []
    for part in arguments.hidden.split("-") if arguments.hidden else ():
        if not part.isdecimal() or int(part) < 1:
            raise ValueError(f"--hidden takes widths such as 64-32, got {arguments.hidden!r}")
        hidden.append(int(part))
    names = (
        "activation",
        "epochs",
        "batch_size",
        "lr",
        "weight_decay",
        "validation",
        "seed",
        "task",
        "backend",
        "dtype",
        "decimal",
        "dates",
    )
    lists = ("categories", "ignore", "keep", "missing")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    options |= {name: parts(f"--{name}", getattr(arguments, name)) for name in lists}
    return Recipe(hidden=tuple(hidden), **options)
