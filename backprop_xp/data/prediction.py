"""`backprop-xp predict`: a model's answers about a table, row by row."""

from __future__ import annotations

import argparse
import io
import os
import sys

import numpy as np

from ..files import check_outputs, replacing
from . import frames
from .errors import DataError
from .frames import Frame
from .model import Model
from .preparing import refuse_unknown
from .reader import NOTES
from .sets import SETS, read
from .table import refusals
from .wording import parts, quoted


def run(arguments: argparse.Namespace) -> int:
    """Print or write the answers as CSV, and the score where the truth is known.

    A row that can't be used has an empty answer, and is named on standard error. An ``--output`` that is standard
    output by another name, /dev/stdout say, is written as standard output is.

    Returns:
        The exit code: 1 if a row has no answer.
    """
    to_file = arguments.output is not None and not _is_stdout(arguments.output)
    if to_file:
        read_from = {} if arguments.data in SETS else {"the data": arguments.data}
        inputs = {"the model": arguments.model} | read_from
        check_outputs({"--output": arguments.output}, inputs, replace=arguments.force)
    model = Model.load(arguments.model, backend=arguments.backend)
    frame = read_for(model, arguments)
    for note in frame.attrs.get(NOTES, ()):
        _say(f"note: {note}")
    frame = frames.alike(frame)
    names = None if arguments.id is None else _column(frame, arguments.id)
    if arguments.unknown == "ignore":
        for refusal in refusals(model.table.unseen(frames.alike(frame, model.missing)), frame):
            _say(f"taken for none of those: {refusal}")
        model.table = model.table.lenient()
    outputs, left, refused = model.outputs_where_possible(frame)
    answers, complete = _answers(model, frame, outputs, left, arguments.proba)
    if names is not None:
        if names in answers.columns:
            raise ValueError(f"--id: an answer's column is called {quoted(names)} too")
        answers.insert(0, names, frame[names].to_numpy())
    _write(answers, arguments.output if to_file else None)
    for refusal in refusals(refused, frame):
        _say(f"no answer: {refusal}")
    try:
        score = model.describe_score(frame.iloc[left], outputs)
    except DataError as error:
        score = f"no score, {error}"
    if score is not None:
        score += " (it was trained on rows of this table)" if model.was_trained_on(frame.iloc[left]) else ""
        is_in = "is" if len(model.target.columns) == 1 else "are"
        _say(f"{', '.join(model.target.columns)} {is_in} in {arguments.data}: {score}")
    return 0 if complete else 1


def read_for(model: Model, arguments: argparse.Namespace) -> Frame:
    """DATA, written as the arguments say, of whose decimals and missing values the model knows from now on."""
    if arguments.decimal:
        model.take_decimal(arguments.decimal)
    model.missing += parts("--missing", arguments.missing)
    return read(arguments.data, separator=arguments.separator, encoding=arguments.encoding)


def _answers(model: Model, frame: Frame, outputs: np.ndarray, left: np.ndarray, proba: bool) -> tuple[Frame, bool]:
    """A row of answers for every row of the table, empty where it isn't ``left``, and whether none is empty."""
    answers = model.answers(frame.iloc[left], outputs, proba).set_axis(left)
    complete = len(left) == len(frame) and bool(answers[list(model.target.columns)].notna().all(axis=None))
    return answers.reindex(range(len(frame))), complete


def _column(frame: Frame, name: str) -> str:
    column = frames.name(name)
    refuse_unknown(frame, [column])
    return column


def _write(answers: Frame, path: str | None) -> None:
    text = io.StringIO()
    answers.to_csv(text, index=False)
    if path is None:
        print(text.getvalue(), end="")
        return
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _is_stdout(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(sys.stdout.fileno()))
    except (OSError, AttributeError):  # there is no such file, or no standard output
        return False
