"""`backprop-xp train` and `backprop-xp predict`: from their arguments to what they print and write."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from ..dtypes import DTYPES
from ..exchange.container import need_safetensors
from ..files import check_outputs, replacing
from ..messages import sentence
from ..training import DivergedError
from .dates import EITHER
from .errors import DataError
from .model import Model
from .nets import NORMALISATIONS
from .numerals import DECIMALS
from .picture import draw
from .reader import NOTES, SEPARATORS
from .recipe import Recipe, Trained, train
from .sets import SET_TARGET, SETS, need, read
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
    fit.add_argument(
        "--residual", action="store_true", help="add hidden layers that are as wide as the one before to what they take"
    )
    fit.add_argument(
        "--dropout",
        type=float,
        default=default.dropout,
        metavar="P",
        help="share of the hidden layers' numbers that training leaves out (default: %(default)s)",
    )
    fit.add_argument(
        "--normalisation",
        default=default.normalisation,
        choices=NORMALISATIONS,
        help="of the hidden layers (default: %(default)s)",
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
    fit.add_argument("--dtype", default=default.dtype, choices=DTYPES)
    fit.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")
    fit.add_argument("--model", metavar="FILE", help="where to save it (default: DATA.safetensors)")
    fit.add_argument("--plot", metavar="FILE", help="where to draw it (default: DATA.png)")
    fit.set_defaults(run=run_train)
    use = commands.add_parser("predict", help="apply a saved model to a table")
    use.add_argument("model", metavar="MODEL", help="what train saved")
    use.add_argument("data", metavar="DATA", help=data)
    _add_reading(use)
    use.add_argument("--output", metavar="FILE.csv", help="write the answers there, not to standard output")
    use.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")
    use.set_defaults(run=run_predict)


def _add_reading(command: argparse.ArgumentParser) -> None:
    """How a file is written, for both commands."""
    command.add_argument(
        "--separator", metavar="MARK", help=f"of a text file's columns: a mark, or {', '.join(SEPARATORS)}"
    )
    command.add_argument("--decimal", choices=DECIMALS, metavar="MARK", help="before decimals: . or , (or found out)")
    command.add_argument("--encoding", metavar="NAME", help="of a text file (default: UTF-8, UTF-16 or Latin-1)")
    command.add_argument(
        "--missing", default="", metavar="TEXT,...", help="texts that mean a missing value, besides an empty cell"
    )


def run_train(arguments: argparse.Namespace) -> int:
    """Train, save the model, print the score, draw the picture.

    What can be known to fail at the end is refused at the beginning, and nothing after the training can lose the model.
    """
    name = Path(arguments.data).stem
    model = f"{name}.safetensors" if arguments.model is None else arguments.model
    plot = f"{name}.png" if arguments.plot is None else arguments.plot
    recipe = _recipe(arguments)
    need_safetensors()
    check_outputs({"--model": model, "--plot": plot}, _inputs(arguments))
    try:
        need("matplotlib")
    except Exception as error:  # a broken installation can fail in any way at import
        warnings.warn(f"there will be a model and no picture: {error}", RuntimeWarning, stacklevel=2)
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
    written = f"model in {_save(trained.model, model)}"
    try:
        _report(trained, seconds)
        _draw(trained, plot)
        written += f", picture in {plot}"
    finally:
        print(written)
    return 0


def _save(model: Model, path: str) -> str:
    """Where it is now; where it can't be written after all, it is kept in a folder for temporary files."""
    try:
        model.save(path)
    except OSError as error:
        rescued = os.path.join(tempfile.mkdtemp(prefix="backprop_xp-"), os.path.basename(path))
        model.save(rescued)
        raise ValueError(f"{sentence(error)}; the model is in {rescued}") from None
    return path


def _report(trained: Trained, seconds: float) -> None:
    for note in trained.notes[:20]:
        print(f"note: {note}")
    if len(trained.notes) > 20:
        print(f"note: ... and {len(trained.notes) - 20} more")
    last = trained.history.epochs[-1]
    print(f"{trained.model.net}: {last.number} epochs in {seconds:.2f} s, training loss {last.loss:.4g}")
    print(f"held out: {trained.describe_score()}")


def _draw(trained: Trained, plot: str) -> None:
    try:
        draw(trained, plot)
    except Exception as error:  # a drawing can fail in any way
        raise ValueError(f"there is no picture: {sentence(error)}") from error


def run_predict(arguments: argparse.Namespace) -> int:
    """Print or write the answers as CSV, and the score where the truth is known.

    An ``--output`` that is standard output by another name, /dev/stdout say, is written as standard output is.
    """
    to_file = arguments.output is not None and not _is_stdout(arguments.output)
    if to_file:
        check_outputs({"--output": arguments.output}, {"the model": arguments.model} | _inputs(arguments))
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
    if to_file:
        with replacing(arguments.output) as file:
            file.write(text.getvalue().encode())
    else:
        print(text.getvalue(), end="")
    try:
        score = model.describe_score(frame, outputs)
    except DataError as error:
        score = f"no score, {error}"
    if score is not None:
        print(f"{model.target.column} is in {arguments.data}: {score}", file=sys.stderr)
    return 0


def _inputs(arguments: argparse.Namespace) -> dict[str, str]:
    return {} if arguments.data in SETS else {"--data" if arguments.run is run_train else "the data": arguments.data}


def _is_stdout(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (OSError, AttributeError):  # there is no such file, or no standard output
        return False


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
        "residual",
        "dropout",
        "normalisation",
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
