"""`backprop-xp explain` and `backprop-xp demo`: from their arguments to what they print and write."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import net_options
from ..data import frames
from ..data.model import Model
from ..data.options import add_reading, refuse_without_data
from ..data.prediction import read_for
from ..exchange import load_with_extra
from ..files import check_outputs, replacing
from ..net import Net
from .explanation import Explanation, explain

#: The seed of the article's weights, and an input whose features differ, so that no two columns of grad W_0 are alike.
ARTICLE_SEED, ARTICLE_INPUT = 100, (1.0, -0.5, 0.25, 2.0, -1.5)


def add_to(commands: argparse._SubParsersAction) -> None:
    """Both commands' arguments."""
    told = commands.add_parser("explain", help="every step of forward and backward with its formula and numbers")
    told.add_argument("model", nargs="?", metavar="MODEL", help="the file of a net, or what train saved")
    told.add_argument("data", nargs="?", metavar="DATA", help="a table for the model, of which --row is explained")
    told.add_argument("--row", type=int, metavar="N", help="of DATA, as messages count them")
    told.add_argument("--net", metavar="2-3-1", help="the widths of a net with drawn weights (default: the article's)")
    net_options.add_to(told)
    net_options.add_reduction(told)
    told.add_argument("--seed", type=int, metavar="N", help=f"of the drawn weights (default: {ARTICLE_SEED})")
    told.add_argument("--input", metavar="1,0", help="the sample; of a batch one after another, 1,0;0,1")
    told.add_argument("--target", metavar="1", help="its target, written alike; for a class its number")
    _add_output(told)
    add_reading(told.add_argument_group("how DATA is written"))
    told.set_defaults(run=run_explain)
    demo = commands.add_parser("demo", help="the article's example, step by step")
    _add_output(demo)
    demo.set_defaults(run=run_demo)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--lr", type=float, default=0.01, metavar="X", help="of a gradient step (default: %(default)s)"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--text", action="store_true", help="print it (the default)")
    how.add_argument("--latex", metavar="FILE", help="write a LaTeX document")
    how.add_argument("--html", metavar="FILE", help="write a page, on which numbers can be changed")
    command.add_argument("--force", action="store_true", help="write over a file that is there already")


def _check_output(arguments: argparse.Namespace, inputs: Mapping[str, str | None]) -> None:
    outputs = {name: file for name in ("--latex", "--html") if (file := getattr(arguments, name[2:])) is not None}
    check_outputs(outputs, {name: file for name, file in inputs.items() if file}, replace=arguments.force)


def run_demo(arguments: argparse.Namespace) -> int:
    """The article's net; returns 1 if a check disagrees."""
    _check_output(arguments, {})
    return _told(explain(_article(ARTICLE_SEED), ARTICLE_INPUT, lr=arguments.lr), arguments)


def run_explain(arguments: argparse.Namespace) -> int:
    """Explain one sample or a batch; returns 1 if a check disagrees."""
    refuse_without_data(arguments)
    _check_output(arguments, {"MODEL": arguments.model, "DATA": arguments.data})
    if arguments.model is not None:
        net, x, y = _of_file(arguments)
        return _told(explain(net, x, y, lr=arguments.lr, training=False), arguments)
    if arguments.row is not None:
        raise ValueError("--row is one of DATA: explain MODEL DATA --row N")
    net = _drawn(arguments)
    x = _numbers("--input", arguments.input)
    if x is None:
        x = np.resize(ARTICLE_INPUT, net.sizes[0])
    return _told(explain(net, x, _target(net, x, arguments.target), lr=arguments.lr), arguments)


def _told(explanation: Explanation, arguments: argparse.Namespace) -> int:
    for kind in ("latex", "html"):
        if (path := getattr(arguments, kind)) is not None:
            content = getattr(explanation, kind).encode()
            with replacing(path) as file:
                file.write(content)
            print(f"written to {path}")
            break
    else:
        print(explanation.text, end="")
    if not explanation.ok:
        print("backprop-xp: a gradient is wrong", file=sys.stderr)
        return 1
    return 0


def _article(seed: int) -> Net:
    return Net(rng=np.random.RandomState(seed))


def _drawn(arguments: argparse.Namespace) -> Any:
    """The net of --net, or the article's."""
    seed = ARTICLE_SEED if arguments.seed is None else arguments.seed
    if arguments.net is None and not (arguments.activations or arguments.loss or arguments.bias):
        net = _article(seed)
        net.reduction = arguments.reduction or net.reduction
        return net
    return net_options.of_widths("5-10-4-12" if arguments.net is None else arguments.net, arguments, seed)


def _of_file(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The net in a file, a sample and its target: a row of a table, or the numbers of --input."""
    net_options.refuse_beside_file(arguments, "reduction", "seed")
    if arguments.data is None:
        if arguments.row is not None or arguments.input is None:
            raise ValueError("a model takes a row of a table, MODEL DATA --row N, or numbers, MODEL --input 1,0")
        net, _ = load_with_extra(arguments.model, backend="numpy")
        x = _numbers("--input", arguments.input)
        return net, x, _target(net, x, arguments.target)
    if arguments.row is None or arguments.input is not None or arguments.target is not None:
        raise ValueError("of DATA one row is explained: MODEL DATA --row N, without --input and --target")
    model = Model.load(arguments.model, backend="numpy")
    frame = frames.alike(read_for(model, arguments), model.missing)
    if arguments.row not in frame.index:
        raise ValueError(f"--row must be from {frame.index[0]} to {frame.index[-1]}, got {arguments.row}")
    row = frame.loc[[arguments.row]]
    return model.net, model.table.arrays(row)[0], model.targets(row, arguments.data)[0]


def _target(net: Any, x: np.ndarray, text: str | None) -> Any:
    """The target of x, of whole numbers where the loss takes classes and each sample has one number."""
    target, name = _numbers("--target", text), getattr(net.loss, "name", type(net.loss).__name__)
    needs, classes = (getattr(net.loss, attribute, False) for attribute in ("needs_target", "takes_indices"))
    expected = "a target: --target 1, or of two outputs --target 1,0"
    if classes:
        expected = "the number of a class: --target 1, or shares of two classes --target 0.25,0.75"
    if needs and target is None:
        raise ValueError(f"the loss {name} needs {expected}")
    if not needs and target is not None:
        raise ValueError(f"the loss {name} takes no target: leave --target out, or name another --loss")
    if target is None:
        return None
    samples, targets = (len(np.atleast_2d(array)) for array in (x, target))
    if samples != targets:
        raise ValueError(f"--target must have one for each sample of --input, {samples}, got {targets}: {text!r}")
    if not classes or target.shape[-1] > 1:
        return target
    with np.errstate(invalid="ignore"):
        indices = target[..., 0].astype(np.int64)
    if (indices != target[..., 0]).any():
        raise ValueError(f"the loss {name} takes {expected}, got {text!r}")
    return indices


def _numbers(option: str, text: str | None) -> Any:
    """ "1,0" as (2,), "1,0;0,1" as (2, 2), all finite."""
    if text is None:
        return None
    try:
        rows = [[float(number) for number in row.split(",")] for row in text.split(";")]
        array = np.array(rows)
    except ValueError:
        raise ValueError(f"{option} takes numbers such as 1,0, of a batch 1,0;0,1, got {text!r}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{option} takes finite numbers, got {text!r}")
    return array[0] if len(rows) == 1 else array
