"""The net that a command line names: the options that several commands have for it, and what they make."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from . import exchange
from .net import Net

#: Options that :func:`made` takes; a command has some of them.
NAMES = ("activations", "loss", "dtype", "bias", "reduction", "backend", "init")


def add_to(command: argparse._ActionsContainer) -> None:
    """The functions and biases of a net that widths alone would make the article's."""
    command.add_argument(
        "--activations", metavar="A,B", help="one a layer, or one for all but the last (default: tanh, identity last)"
    )
    command.add_argument("--loss", metavar="NAME", help="(default: half_sum_sq, which takes no target)")
    command.add_argument("--bias", action="store_true", help="every layer has one")


def add_reduction(command: argparse._ActionsContainer) -> None:
    """What the losses of a batch are put together to."""
    command.add_argument("--reduction", choices=("sum", "mean"), help="of the losses of a batch (default: sum)")


def add_backend(command: argparse._ActionsContainer) -> None:
    """Where a net computes."""
    command.add_argument("--backend", metavar="NAME", help="auto, numpy, cupy or cupy:N")


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of NAMES that the command has, for :func:`made`."""
    return {name: value for name, value in vars(arguments).items() if name in NAMES}


def widths(text: str) -> tuple[int, ...] | None:
    """Layer widths from text such as "784-128-10", None if it says something else."""
    return tuple(map(int, text.split("-"))) if re.fullmatch(r"\d+(-\d+)+", text) else None


def functions(activations: str, depth: int) -> list[str]:
    """What every layer applies: of names with commas, where one alone stands for all layers but the last."""
    names = activations.split(",")
    return [*names * (depth - 1), "identity"] if len(names) == 1 < depth else names


def refuse_beside_file(arguments: argparse.Namespace, *names: str) -> None:
    """Raise a ValueError where one of these options is given beside MODEL, the file of a net."""
    if arguments.net is not None:
        raise ValueError(f"give MODEL, the file of a net, or --net: got {arguments.model} and --net {arguments.net}")
    for name in ("activations", "loss", "bias", *names):
        value = getattr(arguments, name)
        if value is not None and value is not False:
            raise ValueError(f"{arguments.model} holds a net, which says --{name} itself")


def of_widths(text: str, arguments: argparse.Namespace, seed: int) -> Any:
    """The net of --net, ``text``, and the options beside it, on NumPy, with weights drawn by a seed."""
    if widths(text) is None:
        raise ValueError(f"--net takes widths such as 2-3-1, got {text!r}")
    return made(text, **chosen(arguments), backend="numpy", rng=seed)


def made(
    text: str, activations: str | None = None, loss: str | None = None, dtype: str | None = None, bias: bool = False,
    reduction: str | None = None, backend: str | None = None, init: str | None = None, rng: Any = 0,
) -> Any:  # fmt: skip
    """The net that a command line names: widths such as 784-128-10, or a file that ``net.save`` wrote.

    Args:
        activations: see :func:`functions`. A layer's own may be several, "layer_norm+relu+dropout".
        loss, dtype, bias, reduction, init, rng: as for :class:`backprop_xp.Net`; a file says them itself.
    """
    sizes = widths(text)
    if sizes is not None:
        names: Any = [name.split("+") for name in functions(activations, len(sizes) - 1)] if activations else None
        given = {"loss": loss, "dtype": dtype, "reduction": reduction, "init": init}
        options: dict[str, Any] = {name: value for name, value in given.items() if value}
        return Net(sizes, names, bias=bias, rng=rng, backend=backend, **options)
    if not text or not Path(text).exists():
        raise ValueError(f"NET must be widths such as 784-128-10 or the file of a net, got {text!r}")
    if activations or loss or dtype or bias or reduction or init:
        raise ValueError(f"{text} is a file, which says activations, loss, dtype, bias, reduction and weights itself")
    return exchange.load(text, backend=backend)
