"""`backprop-xp train` and `backprop-xp predict`: from their arguments to what they print and write."""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

from ..files import replacing
from ..training import DivergedError
from .model import Model
from .picture import draw
from .recipe import Recipe, train
from .sets import SET_TARGET, SETS, read


def add_to(commands: argparse._SubParsersAction) -> None:
    """The two commands' arguments."""
    default, data = Recipe(), f"{', '.join(SETS)}, or a file .csv, .npz or .parquet"
    fit = commands.add_parser("train", help="train a net on real data, and say how good it is")
    fit.add_argument("--data", required=True, metavar="DATA", help=data)
    fit.add_argument("--target", metavar="COLUMN", help="what to predict (needed for files)")
    fit.add_argument("--task", default=default.task, help="classification, regression, or auto: by the target's looks")
    fit.add_argument("--categories", default="", metavar="A,B", help="numeric columns whose numbers are names")
    fit.add_argument("--ignore", default="", metavar="A,B", help="columns to leave out")
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
    use.add_argument("--output", type=Path, metavar="FILE.csv", help="write the answers there, not to standard output")
    use.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")
    use.set_defaults(run=run_predict)


def run_train(arguments: argparse.Namespace) -> int:
    """Train, print the score, draw the picture, save the model."""
    name = Path(arguments.data).stem
    model, plot = arguments.model or Path(f"{name}.safetensors"), arguments.plot or Path(f"{name}.png")
    for path in (model, plot):
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}")
    recipe = _recipe(arguments)
    frame = read(arguments.data)
    column = arguments.target or (SET_TARGET if arguments.data in SETS else None)
    if column is None:
        raise ValueError(f"--target must name the column to predict: {', '.join(map(str, frame.columns[:20]))}")
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
    frame = read(arguments.data)
    outputs = model.outputs(frame)
    text = io.StringIO()
    model.answers(frame, outputs).to_csv(text, index=False)
    if arguments.output is None:
        sys.stdout.write(text.getvalue())
    else:
        with replacing(arguments.output) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    if model.target.column in frame.columns and not frame[model.target.column].isna().any():
        score = model.target.describe_score(outputs, frame[model.target.column])
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
    )
    return Recipe(
        hidden=tuple(hidden),
        categories=_list(arguments.categories),
        ignore=_list(arguments.ignore),
        **{name: getattr(arguments, name) for name in names},
    )


def _list(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
