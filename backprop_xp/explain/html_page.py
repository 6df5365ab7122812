"""An explanation as a page: one file with the net's numbers, the page's own passes, and their drawing.

page/passes.js computes there, from the description of the net that is made here. Formulas go there as lists of steps:
no text of a user's is ever run.
"""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files
from typing import Any

import numpy as np

from ..formulas import Formula, special
from ..formulas.notation import Written
from ..operations.base import called
from ..plan.layout import Layout
from ..plan.plan import Node
from . import functions, losses
from .case import Case
from .operations import Writing
from .steps import Step
from .walk import Walk

#: Numbers that a page holds at most, of parameters and batch: with them it stays below this size, in bytes.
MOST_NUMBERS, LARGEST = 24_000, 400_000
#: Neurons of a layer that are drawn one by one; of a wider one the first, and how many more there are.
MOST_NEURONS = 16
#: Of the drawing, in px: a neuron, and the distance of neurons and of columns.
NEURON_HEIGHT, ROW, COLUMN = 38, 46, 118
SCRIPTS = ("elements.js", "passes.js", "worked.js", "drawing.js", "panel.js", "numbers.js", "page.js")
SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def written(walk: Walk) -> str:
    """The whole page.

    Raises:
        ValueError: there are too many numbers, or nodes, for a page.
    """
    if walk.numbers > MOST_NUMBERS:
        raise ValueError(
            f"a page holds up to {MOST_NUMBERS:,} numbers of parameters and batch, this is {walk.numbers:,}: "
            "take fewer samples or a smaller net, or the text"
        )
    folder = files(__package__) / "page"
    page = (folder / "page.html").read_text("utf-8")
    parts = {
        "title": html.escape(repr(walk.net)),
        "style": (folder / "page.css").read_text("utf-8"),
        "model": _as_script(model(walk)),
        "script": "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS),
    }
    for name, text in parts.items():
        page = page.replace(f"<!-- {name} -->", text, 1)
    if (size := len(page.encode())) > LARGEST:
        raise ValueError(f"a page has up to {LARGEST:,} bytes, this has {size:,}: take a smaller net, or the text")
    return page


def model(walk: Walk) -> dict[str, Any]:
    """What passes.js computes from, and what the page says of it."""
    case = walk.case
    tensors = list(case.tensors)
    place_of = {place: i for i, tensor in enumerate(tensors) for place in case.tensors[tensor]}
    found: list[functions.Function] = []
    nodes = [_node(case, node, place_of, found) for node in case.call.plan.nodes]
    loss = _loss(case, found)
    live = all(node["op"] != "own" for node in nodes) and loss["kind"] != "own"
    targets = case.targets
    return {
        "title": repr(walk.net),
        "live": live,
        "samples": case.samples,
        "nodes": nodes,
        "tensors": [_tensor(case, tensor, case.tensors[tensor]) for tensor in tensors],
        "functions": [_function(function) for function in found],
        "loss": loss,
        "y": None if targets is None else _numbers(targets),
        "classes": targets is not None and targets.ndim == 1,
        "weights": None if case.weights is None else _numbers(case.weights),
        "scale": _number(case.call.scale),
        "lr": walk.lr,
        "steps": [_step(case, step) for step in walk.steps],
        "cody": {name: list(getattr(special, name)) for name in "ABCDPQ"},
        "edges": _edges(case),
        "known": None if live else _known(walk),
        "most": MOST_NEURONS,
    }


def _node(
    case: Case, node: Node, place_of: dict[tuple[str, str], int], found: list[functions.Function]
) -> dict[str, Any]:
    order, written = list(case.nodes), Writing.at(case, node)
    made: dict[str, Any] = {
        "name": node.name,
        "symbol": case.symbol(node.name).text,
        "op": written.op,
        "called": called(node.operation),
        "inputs": [order.index(name) for name in node.inputs],
        "width": node.width,
        "owner": order.index(node.owner),
        "parameters": {name: place_of[node.owner, name] for name in case.own(node)},
    }
    if written.function is not None:
        made["fn"] = len(found)
        found.append(written.function)
    for name, given in written.given().items():
        made[name] = _numbers(given) if isinstance(given, np.ndarray) else given
    return made


def _loss(case: Case, found: list[functions.Function]) -> dict[str, Any]:
    written = losses.writing(case)
    made: dict[str, Any] = {"kind": written.kind, "name": called(case.net.loss)}
    if written.function is not None:
        made["fn"] = len(found)
        found.append(written.function)
    return made


def _function(function: functions.Function) -> dict[str, Any]:
    return {
        "name": function.name,
        "formula": _formula(function.formula),
        "value": _parts(function.value),
        "grad": _parts(function.grad),
        "parameters": {
            name: _numbers(np.array(value)) if isinstance(value, tuple) else _number(value)
            for name, value in function.parameters.items()
        },
    }


def _formula(formula: Formula) -> dict[str, Any]:
    """A formula as steps: an operation, the steps that it takes, and a constant or the name of a variable."""
    steps: list[tuple[str, list[int], Any]] = []
    last = max(formula.outputs[name] for name in ("value", "grad"))
    for node in formula.nodes[: last + 1]:
        op = "name" if node.op in ("variable", "parameter") else node.op
        steps.append((op, list(node.args), node.number if op == "constant" else node.name))
    return {"steps": steps, "value": formula.outputs["value"], "grad": formula.outputs["grad"]}


def _parts(form: Written) -> dict[str, Any]:
    """A written formula: texts, and [name, how tight] for slots."""
    return {"parts": list(form.parts), "where": [[name, list(parts)] for name, parts in form.where]}


def _tensor(case: Case, tensor: Any, places: list[tuple[str, str]]) -> dict[str, Any]:
    (node, name), *_ = places
    symbols = [case.parameter(case.nodes[owner], own).text for owner, own in places]
    shape = list(np.shape(tensor.data))
    return {"symbol": " = ".join(symbols), "node": node, "name": name, "shape": shape, "data": _numbers(tensor.data)}


def _step(case: Case, step: Step) -> dict[str, Any]:
    return {
        "phase": step.phase,
        "node": list(case.nodes).index(step.node),
        "parameter": step.parameter,
        "symbol": step.symbol.text,
        "formula": step.formula.text,
        "where": [each.text for each in step.where],
        "why": step.why,
    }


def _edges(case: Case) -> dict[str, Any]:
    """Where columns of neurons stand, in px, and the points through which edges between them go."""
    nodes = case.call.plan.nodes
    heights = {n.name: min(n.width, MOST_NEURONS) * ROW + (ROW if n.width > MOST_NEURONS else 0) + 30.0 for n in nodes}
    layout = Layout({node.name: node.inputs for node in nodes}, heights)
    column = {point: i for i, points in enumerate(layout.layers) for point in points}
    top = min(layout.x[node.name] - heights[node.name] / 2 for node in nodes)

    def at(point: Any) -> list[float]:
        return [column[point] * COLUMN, round(layout.x[point] - top, 1)]

    return {
        "at": [at(node.name) for node in nodes],
        "paths": [
            {"from": list(case.nodes).index(a), "to": list(case.nodes).index(b), "points": [at(p) for p in path[1:-1]]}
            for (a, b), path in layout.edges.items()
        ],
        "columns": len(layout.layers),
        "column": COLUMN,
        "row": ROW,
        "height": NEURON_HEIGHT,
    }


def _known(walk: Walk) -> dict[str, Any]:
    """The result of the library's passes, where a page can't compute it: some of the net is Python code."""
    case, names = walk.case, list(walk.case.nodes)
    parameters: list[dict[str, Any]] = [{} for _ in names]
    for (owner, name), gradient in case.gradients.items():
        parameters[names.index(owner)][name] = _numbers(gradient)
    return {
        "values": [_numbers(case.rows(name)) for name in names],
        "grads": [_numbers(case.grad_rows(name)) for name in names],
        "loss": _number(walk.loss),
        "parameters": parameters,
        "tensors": [_numbers(walk.gradient(tensor)) for tensor in case.tensors],
    }


def _numbers(array: np.ndarray) -> dict[str, str]:
    """Every bit of the numbers, as float64 in base 64."""
    return {"float64": base64.b64encode(np.ascontiguousarray(array, "<f8").tobytes()).decode()}


def _number(value: float) -> dict[str, str]:
    """One number, which JSON couldn't hold if it is infinite or NaN."""
    return {"scalar": _numbers(np.array([value]))["float64"]}


def _as_script(description: dict[str, Any]) -> str:
    """JSON that may stand in a page."""
    text = json.dumps(description, separators=(",", ":"), ensure_ascii=False)
    return "".join(SAFE.get(character, character) for character in text)
