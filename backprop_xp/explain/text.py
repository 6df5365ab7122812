"""An explanation as plain text."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np

from .. import check
from .steps import Step
from .walk import Walk

WIDTH = 110
#: Numbers of an array that are written out; of a larger one the first and the last.
MOST_SHOWN = 2000
TITLES = {"forward": "Forward", "loss": "The loss", "backward": "Backward, each gradient from those before it"}


def written(walk: Walk) -> str:
    """The whole walk: what is given, every step, the proof, and a step of gradient descent."""
    case, lines = walk.case, [f"{walk.net!r}", _flow(walk), ""]
    lines += ["Given"]
    for name, array in case.call.inputs.items():
        lines += _array(case.symbol(name).text, array)
    if (targets := case.targets) is not None:
        lines += _array("y", targets if case.samples > 1 or targets.ndim == 1 else targets[0])
    if case.weights is not None:
        lines += _array("weight", case.weights)
    for node in case.call.plan.nodes:
        if node.owner == node.name:
            for name, array in case.own(node).items():
                lines += _array(case.parameter(node, name).text, array)
    if case.samples > 1:
        lines += ["", f"{case.samples} samples, a row each: every step is taken for all, and worked out for the first."]
    phase = ""
    for place, step in enumerate(walk.steps, 1):
        if step.phase != phase:
            phase = step.phase
            lines += ["", TITLES[phase]]
        lines += _step(place, step, case.samples)
    return "\n".join([*lines, "", *_proof(walk), "", *_descent(walk), ""])


def _flow(walk: Walk) -> str:
    case = walk.case
    if case.layered:
        return " -> ".join([*(case.symbol(node.name).text for node in case.call.plan.nodes), "loss"])
    uses = (f"{', '.join(node.inputs)} -> {node.name}" for node in case.call.plan.nodes if node.inputs)
    return textwrap.fill("; ".join([*uses, f"{case.call.plan.output.name} -> loss"]), WIDTH)


def _step(place: int, step: Step, samples: int) -> list[str]:
    where = "".join(f", {each.text}" for each in step.where)
    lines = [_wrapped(f"{place:3}. {step.symbol.text} = {step.formula.text}{where and ' where' + where[1:]}", 8)]
    lines += [f"     {step.shapes}", _wrapped(f"     {step.why}", 5)]
    if step.worked:
        lines.append(_wrapped(f"     {step.arithmetic}", 10))
    if step.phase == "loss":
        return [*lines, f"     l = {step.number:.6f}"] if not step.worked else lines
    array = step.array[0] if samples == 1 and not step.parameter else step.array
    return [*lines, *_array(step.symbol.text, array, 5)]


def _proof(walk: Walk) -> list[str]:
    lines = ["Is it right?"]
    if walk.differences is None:
        lines.append(f"     {walk.numbers:,} numbers are many to move one by one: backprop_xp.check_gradients does.")
    else:
        lines.append(
            "     Every number is moved up and down a little, and the loss computed again (central differences):"
        )
        lines += _report(walk, walk.differences)
    if isinstance(walk.pytorch, str):
        return [*lines, f"     {walk.pytorch}."]
    return [*lines, "     PyTorch's autograd:", *_report(walk, walk.pytorch)]


def _report(walk: Walk, report: check.Report) -> list[str]:
    symbols = {name: walk.case.call.plan.symbol(name) for name in walk.net._by_place()}
    rows = [(symbols.get(row.name, row.name), "equal" if row.ok else "WRONG", row.error) for row in report.rows]
    wide = max(len(name) for name, _, _ in rows)
    return [f"       {name:{wide}}  {verdict}, to {error:.0e}" for name, verdict, error in rows]


def _descent(walk: Walk) -> list[str]:
    lr, loss, after, slope = walk.lr, walk.loss, walk.after, walk.slope
    verdict = "falls" if after < loss else "stays" if after == loss else "doesn't fall: the step is too long"
    return [
        f"A step of gradient descent: every parameter less {lr:g} times its gradient",
        f"     the squares of all parameters' gradients add up to {slope:.6g}, so the loss should change by about",
        f"     -{lr:g} * {slope:.6g} = {-lr * slope:.6g}",
        f"     the loss before: {loss:.6f}, after: {after:.6f}; it {verdict}",
    ]


def _wrapped(line: str, indent: int) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _array(name: str, array: np.ndarray, indent: int = 2) -> list[str]:
    head = " " * indent + f"{name} = "
    if array.dtype.kind in "biu":
        shown = np.array2string(array, WIDTH - len(head), threshold=MOST_SHOWN)
    else:
        wide = max((len(f"{v:.4g}") for v in array.flat[:MOST_SHOWN]), default=0)
        formatter: Any = {"float_kind": lambda v: f"{v:.4g}".rjust(wide)}
        shown = np.array2string(array, WIDTH - len(head), threshold=MOST_SHOWN, formatter=formatter)
    first, *others = shown.splitlines()
    return [head + first, *(" " * len(head) + other for other in others)]
