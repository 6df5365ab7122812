"""`backprop-xp train`: from its arguments to what it prints and writes."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings

from ..distributed import World, launched, world
from ..exchange.container import need_safetensors
from ..files import check_outputs, same_file
from ..messages import sentence
from ..training import DivergedError
from . import options, prediction, report
from .model import Model
from .picture import draw
from .recipe import train
from .sets import SET_TARGET, SETS, in_parts, need, read, stem
from .trained import Trained
from .wording import listed, parts

MOST_NOTES = 20


def add_to(commands: argparse._SubParsersAction) -> None:
    """The two commands' arguments."""
    options.add_train(commands, run_train)
    options.add_predict(commands, prediction.run)


def run_train(arguments: argparse.Namespace) -> int:
    """Train, save the model, print the score, draw the picture; all ranks together where ``mpiexec`` started some.

    Only the first rank writes and prints. What can be known to fail at the end is refused at the beginning, and nothing
    after the training can lose the model.
    """
    if not launched():
        return _train(arguments, None)
    with world(brief=True) as ranks, warnings.catch_warnings():
        if ranks.rank:
            warnings.simplefilter("ignore")
        return _train(arguments, ranks)


def _train(arguments: argparse.Namespace, ranks: World | None) -> int:
    first = ranks is None or ranks.rank == 0
    name = stem(arguments.data)
    model = f"{name}.safetensors" if arguments.model is None else arguments.model
    plot = f"{name}.png" if arguments.plot is None else arguments.plot
    recipe = options.recipe(arguments)
    need_safetensors()
    files = _inputs(arguments)
    if first:
        check_outputs({"--model": model, "--plot": plot}, files, replace=arguments.force)
    try:
        need("matplotlib")
    except Exception as error:  # a broken installation can fail in any way at import
        warnings.warn(f"there will be a model and no picture: {error}", RuntimeWarning, stacklevel=2)
    parted = ranks is not None and in_parts(arguments.data)
    frame = read(
        arguments.data,
        separator=arguments.separator,
        encoding=arguments.encoding,
        world=ranks if parted else None,
    )
    column = arguments.target or (SET_TARGET if arguments.data in SETS else None)
    if column is None:
        raise ValueError(f"--target must name the column to predict: {listed(frame.columns)}")
    if column.strip() not in frame.columns:
        column = parts("--target", column)
    test = None
    if arguments.test is not None:
        test = read(arguments.test, separator=arguments.separator, encoding=arguments.encoding)
    started = time.perf_counter()
    try:
        trained = train(frame, column, recipe, test=test, world=ranks, shards=parted)
    except DivergedError as error:
        raise ValueError(f"{error}; try a smaller --lr") from None
    if not first:
        return 0
    seconds = time.perf_counter() - started
    written = f"model in {_save(trained.model, model)}"
    try:
        _report(trained, seconds)
        _draw(trained, plot)
        written += f", picture in {plot}"
    finally:
        print(written)
    return 0


def _inputs(arguments: argparse.Namespace) -> dict[str, str]:
    """The files that are read, by the arguments that name them."""
    named = {"--data": arguments.data, "--test": arguments.test}
    files = {name: path for name, path in named.items() if path is not None and path not in SETS}
    if arguments.test is not None and (arguments.test == arguments.data or same_file(arguments.test, arguments.data)):
        raise ValueError(f"--test must be another table than --data, whose rows are trained on: {arguments.test}")
    return files


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
    for note in trained.notes[:MOST_NOTES]:
        print(f"note: {note}")
    if len(trained.notes) > MOST_NOTES:
        print(f"note: ... and {len(trained.notes) - MOST_NOTES} more")
    for line in report.lines(trained, seconds):
        print(line)


def _draw(trained: Trained, plot: str) -> None:
    try:
        draw(trained, plot)
    except Exception as error:  # a drawing can fail in any way
        raise ValueError(f"there is no picture: {sentence(error)}") from error
