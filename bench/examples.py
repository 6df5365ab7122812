"""`python -m backprop_xp.bench.examples [NAME ...] [--epochs N]`: the worked examples, beside the same in PyTorch.

Both train the same net from the same weights on the same point sets, by L-BFGS with the same settings, for as many
epochs; derivatives are nested automatic differentiation there. Said of each are the seconds, and the relative error of
the first output on the example's grid.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np
import torch

from backprop_xp import Equation, Net, exchange, threads
from backprop_xp.torch_formulas import FUNCTIONS
from backprop_xp.training import LBFGS
from backprop_xp.training.point_sets import PointSet, as_sets

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class Captured(Exception):
    """What an example's ``solve`` was about to train: (net, sets, options of ``fit``)."""


def captured(example: Any, epochs: int | None) -> tuple[Net, dict[str, PointSet], dict[str, Any]]:
    """The training of an example's module, for ``epochs`` epochs or its own number."""

    def fit(net: Net, sets: Any, **options: Any) -> None:
        raise Captured(net, as_sets(sets), options)

    with mock.patch.object(Net, "fit", fit):
        try:
            example.solve(*([] if epochs is None else [epochs]))
        except Captured as found:
            return found.args  # type: ignore[return-value]
    raise RuntimeError(f"{example.__name__} trains nothing")


def train_in_torch(module: Any, sets: Mapping[str, PointSet], options: Mapping[str, Any]) -> None:
    """Full batches, by PyTorch's L-BFGS with a strong Wolfe line search."""
    given = options["optimiser"]
    settings = LBFGS() if isinstance(given, str) else given
    names = ("lr", "max_iter", "max_eval", "tolerance_grad", "tolerance_change", "history_size")
    chosen = {name: getattr(settings, name) for name in names}
    optimiser = torch.optim.LBFGS(module.parameters(), line_search_fn="strong_wolfe", **chosen)
    arrays = {name: [None if a is None else torch.tensor(a) for a in (each.x, each.y)] for name, each in sets.items()}

    def closure() -> Any:
        optimiser.zero_grad()
        loss = torch.stack([sets[name].weight * loss_of(module, sets[name].loss, *arrays[name]) for name in sets]).sum()
        loss.backward()
        return loss

    for _ in range(options["epochs"]):
        optimiser.step(closure)


def loss_of(module: Any, loss: Any, x: Any, y: Any) -> Any:
    """The mean loss of one point set: an equation's, or the mean squared error."""
    if not isinstance(loss, Equation):
        return torch.nn.functional.mse_loss(module(x), y.reshape(len(x), -1))
    x = x.clone().requires_grad_()
    known = {name: x[:, k] for k, name in enumerate(loss.names.inputs)}
    known |= {name: y.reshape(len(x), -1)[:, k] for k, name in enumerate(loss.targets)}
    outputs, found = module(x), {}

    def derivative(output: int, along: tuple[int, ...]) -> Any:
        if (output, along) not in found:
            found[output, along] = (
                torch.autograd.grad(derivative(output, along[:-1]).sum(), x, create_graph=True)[0][:, along[-1]]
                if along
                else outputs[:, output]
            )
        return found[output, along]

    for name, at in loss.parsed.named.items():
        terms = [(a, a) for a in sorted(at.along)] if isinstance(at.along, frozenset) else [at.along]
        known[name] = torch.stack([derivative(at.output, each) for each in terms]).sum(0)
    return 0.5 * torch.stack([each**2 for each in residuals(loss, known)]).sum(0).mean()


def residuals(equation: Equation, known: Mapping[str, Any]) -> list[Any]:
    """Every residual (n,), of what it reads by name."""
    formula, values = equation.parsed.formula, {}
    outputs = [formula.outputs[name] for name in equation.parsed.residuals]
    for i in formula.reachable(outputs):
        node = formula.nodes[i]
        match node.op:
            case "variable":
                values[i] = known[node.name]
            case "parameter":
                values[i] = torch.tensor(equation.parameters[formula.parameters.index(node.name)], dtype=torch.float64)
            case "constant":
                values[i] = torch.tensor(node.number, dtype=torch.float64)
            case _:
                values[i] = FUNCTIONS[node.op](*(values[a] for a in node.args))
    return [values[i] for i in outputs]


def compare(name: str, epochs: int | None) -> str:
    """One line about an example."""
    example = importlib.import_module(name)
    exact = example.EXACT if hasattr(example, "EXACT") else example.exact(example.POINTS)
    exact = exact[0] if isinstance(exact, tuple) else exact
    net, sets, options = captured(example, epochs)
    module = exchange.to_torch(net)
    copy.deepcopy(net).fit(sets, **options | {"epochs": 1})  # compiles
    begun = perf_counter()
    net.fit(sets, **options)
    ended = perf_counter()
    train_in_torch(module, sets, options)
    seconds = ended - begun, perf_counter() - ended
    with torch.no_grad():
        outputs = net(example.POINTS), module(torch.tensor(example.POINTS)).numpy()
    errors = [np.linalg.norm(u[:, 0] - exact) / np.linalg.norm(exact) for u in outputs]
    return (
        f"{name:16}{seconds[0]:10.1f} s{errors[0]:11.1e}{seconds[1]:12.1f} s{errors[1]:11.1e}"
        f"{seconds[1] / seconds[0]:11.1f}"
    )


def main(arguments: list[str] | None = None) -> None:
    names = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "show")
    parser = argparse.ArgumentParser(
        prog="python -m backprop_xp.bench.examples", description=__doc__.split(":")[0], allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--epochs", type=int, help="instead of each example's own number")
    asked = parser.parse_args(arguments)
    if unknown := [name for name in asked.names if name not in names]:
        parser.error(f"there is no example {unknown[0]!r}; there are {', '.join(names)}")
    torch.set_num_threads(threads.count(None))
    sys.path.insert(0, str(EXAMPLES))
    print(f"{'':16}{'backprop_xp':>12}{'error':>11}{'PyTorch':>14}{'error':>11}{'x PyTorch':>11}")
    for name in asked.names or names:
        print(compare(name, asked.epochs), flush=True)


if __name__ == "__main__":
    main()
