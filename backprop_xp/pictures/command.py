"""`backprop-xp picture`: how a net's gradients flow, or what it answers where, from the command line."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import net_options
from ..data import frames
from ..data.columns import Number
from ..data.model import Model
from ..data.options import add_reading, refuse_without_data
from ..data.prediction import read_for
from ..data.sets import SETS, need
from ..data.several import Several, Target
from ..data.targets import Classes
from ..exchange import load_with_extra
from ..files import check_outputs, replacing
from ..messages import unknown
from ..numbers import whole
from ..proofs import target
from .decision_boundary import decision_boundary
from .gradient_flow import GradientFlow

KINDS = ("gradients", "boundary")
FORMATS = ("png", "svg", "pdf")
SAMPLES = 500  # rows of a table at most; drawn ones where there is no table
SEED = 0
USUAL = 2.0  # spreads on either side of a column's mean: where its rows are, if no table shows them
WIDTH, HEIGHT = 6.4, 4.8  # inches, of a panel


class Subject(NamedTuple):
    """What is drawn.

    Attributes:
        x, y: samples (n, features) and their targets, None where there are none.
        columns, target: of the table that the net was trained on, where it is known.
    """

    net: Any
    x: Any = None
    y: Any = None
    columns: Sequence[Any] = ()
    target: Target | None = None


def add_to(commands: argparse._SubParsersAction) -> None:
    """The command's arguments."""
    told = commands.add_parser("picture", help="how gradients flow through a net, or its decision boundary")
    told.add_argument("kind", choices=KINDS, metavar="KIND", help=f"{' or '.join(KINDS)}, of nets of two features")
    told.add_argument("model", nargs="?", metavar="MODEL", help="the file of a net, or what train saved")
    told.add_argument("data", nargs="?", metavar="DATA", help="a table for the model")
    told.add_argument("--net", metavar="2-16-16-1", help="the widths of a net with drawn weights instead")
    net_options.add_to(told)
    told.add_argument("--init", metavar="NAME", help="how its weights are drawn (default: normal)")
    told.add_argument("--seed", type=int, default=SEED, metavar="N", help="of what is drawn (default: %(default)s)")
    told.add_argument("--output", metavar="FILE", help=f"{', '.join(FORMATS)} (default: KIND.png)")
    told.add_argument("--force", action="store_true", help="write over a file that is there already")
    add_reading(told.add_argument_group("how DATA is written"))
    told.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw to a file, and print what the picture of gradients says in numbers."""
    refuse_without_data(arguments)
    path = f"{arguments.kind}.png" if arguments.output is None else arguments.output
    kind = path.rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise ValueError(f"--output: {unknown('format', kind, FORMATS)}")
    inputs = {"MODEL": arguments.model, "DATA": None if arguments.data in SETS else arguments.data}
    check_outputs({"--output": path}, {name: file for name, file in inputs.items() if file}, replace=arguments.force)
    need("matplotlib")
    from matplotlib.figure import Figure

    subject = _of_file(arguments) if arguments.model is not None else _drawn(arguments)
    panels = 2 if arguments.kind == "gradients" else 1
    figure = Figure(figsize=(WIDTH * panels, HEIGHT), layout="constrained")
    if arguments.kind == "gradients":
        _gradients(subject, arguments.seed, figure.subplots(1, panels))
    else:
        _boundary(subject, figure.subplots())
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    with replacing(path) as file:
        file.write(content.getbuffer())
    print(f"picture in {path}")
    return 0


def _gradients(subject: Subject, seed: int, axes: Any) -> None:
    net, x, y = subject[:3]
    if x is None:
        x, y = _samples(net, np.random.default_rng(whole("--seed", seed)))
    flow = GradientFlow(net, x, y, training=False)
    print(flow)
    flow.plot(axes)


def _boundary(subject: Subject, axes: Any) -> None:
    net, x, y, columns, target = subject
    scaled = [column for column in columns if isinstance(column, Number)]
    told: dict[str, Any] = {} if target is None else _answer(target)
    if len(scaled) == 2:
        told["features"] = [column.name for column in scaled]
        told["limits"] = [(-USUAL, USUAL)] * 2 if x is None else None
    decision_boundary(net, x, y, axes=axes, **told)
    if len(scaled) == 2:
        _in_units_of_the_table(axes, scaled)


def _answer(target: Target) -> dict[str, Any]:
    """What :func:`decision_boundary` is told of a table's target, or of the first of several."""
    if isinstance(target, Classes):
        return {"labels": target.labels}
    first = target.members[0] if isinstance(target, Several) else target
    if isinstance(first, Classes):
        return {"answer": f"probability of {first.column} {first.labels[0]}"}
    return {"answer": first.column, "units": lambda z: first.amounts(z.reshape(-1, 1)).reshape(z.shape)}


def _in_units_of_the_table(axes: Any, columns: Sequence[Number]) -> None:
    """Ticks at round numbers of what a table has, and not of what a net is given."""
    from matplotlib.ticker import MaxNLocator

    for axis, column, (low, high) in zip((axes.xaxis, axes.yaxis), columns, (axes.get_xlim(), axes.get_ylim())):
        scaling = column.scaling
        ticks = MaxNLocator(6).tick_values(scaling.mean + scaling.scale * low, scaling.mean + scaling.scale * high)
        places = scaling(np.asarray(ticks))
        inside = (places >= low) & (places <= high)
        axis.set_ticks(places[inside], [f"{tick:g}" for tick in ticks[inside]])


def _drawn(arguments: argparse.Namespace) -> Subject:
    if arguments.net is None:
        raise ValueError("whose picture? give MODEL, the file of a net, or --net and its widths, such as 2-16-16-1")
    return Subject(net_options.of_widths(arguments.net, arguments, whole("--seed", arguments.seed)))


def _of_file(arguments: argparse.Namespace) -> Subject:
    """The net in a file, and rows of a table."""
    net_options.refuse_beside_file(arguments, "init")
    net, extra = load_with_extra(arguments.model, backend="numpy")
    if arguments.data is None and "table" not in extra:
        return Subject(net)
    model = Model.built(arguments.model, net, extra)
    if arguments.data is None:
        return Subject(net, columns=model.table.columns, target=model.target)
    frame = frames.alike(read_for(model, arguments), model.missing)
    rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), SAMPLES)).astype(np.intp))
    frame = frame.iloc[rows]
    needed = arguments.kind == "gradients" or set(model.target.columns) <= set(frame.columns)
    y = model.targets(frame, arguments.data) if needed else None
    return Subject(model.net, model.table.arrays(frame), y, model.table.columns, model.target)


def _samples(net: Any, random: np.random.Generator) -> tuple[Any, Any]:
    """Inputs from N(0, 1), and targets that the net's loss takes."""
    x = {name: random.standard_normal((SAMPLES, width)) for name, width in net._plan().inputs.items()}
    y = target(net.loss, (SAMPLES, net._plan().output.width), random)
    return x if len(x) > 1 else next(iter(x.values())), y
