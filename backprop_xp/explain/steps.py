"""The steps of one call in the article's order: forward through the nodes, the loss, and back again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..formulas.notation import SUM, number
from ..plan.plan import Node
from . import losses
from .case import Case
from .math import Math, element, grad
from .operations import Line, Writing


@dataclass(frozen=True)
class Step:
    """One line of forward, loss or backward.

    Attributes:
        phase: "forward", "loss" or "backward".
        node: the node whose value it computes, or whose gradient; of a parameter, a node that takes it.
        parameter: the name of the parameter whose gradient it is, "" where it is a node's.
        symbol, formula: of the result, and what it equals.
        where: what names in the formula stand for, "tanh'(t_0) = 1 - z_0^2".
        why: why that holds.
        shapes: of the result and of what it is made from.
        array: the result, (n, width) for a node's.
        element, worked, worked_where, number: one number of it: what it is called, its arithmetic ("" where Python code
            computes it), what names in that stand for, and the number.
    """

    phase: str
    node: str
    parameter: str
    symbol: Math
    formula: Math
    where: tuple[Math, ...]
    why: str
    shapes: str
    array: np.ndarray
    element: Math
    worked: str
    worked_where: tuple[str, ...]
    number: float

    @property
    def arithmetic(self) -> str:
        """ "grad t_1[0] = 19.03 * 0.4965 * (1 - 0.4965) = 4.758"; "" where Python code computes it."""
        if not self.worked:
            return ""
        shown = number(self.number, SUM)
        result = "" if self.worked == shown else f" = {shown}"
        names = f" with {', '.join(self.worked_where)}" if self.worked_where else ""
        return f"{self.element.text} = {self.worked}{result}{names}"


def steps(case: Case) -> list[Step]:
    """All steps; the gradients of inputs stand last."""
    nodes = case.call.plan.nodes
    forward = [_forward(case, node) for node in nodes if node.inputs]
    backward: list[Step] = []
    first = {node.owner: node.name for node in reversed(nodes)}  # of nodes that share parameters; going back, the last
    inputs = [node for node in nodes if not node.inputs]
    for node in [*reversed([node for node in nodes if node.inputs]), *inputs]:
        backward.append(_backward(case, node))
        if node.name == first[node.owner]:
            backward += [_parameter(case, node, name) for name in case.own(node)]
    return [*forward, _loss(case), *backward]


def _forward(case: Case, node: Node) -> Step:
    line, array = Writing.at(case, node).value(), case.rows(node.name)
    parts = [np.shape(a) for a in case.own(node).values()] + [(case.nodes[i].width,) for i in node.inputs]
    return _step("forward", node.name, "", case.symbol(node.name), line, array, (node.width,), parts, case)


def _loss(case: Case) -> Step:
    line = losses.writing(case).value()
    output = case.call.plan.output
    shapes, array = f"a number from {(output.width,)}", np.asarray(case.loss)
    return Step(
        "loss", output.name, "", losses.L, line.formula, line.where, line.why, shapes, array, losses.L, line.worked,
        line.worked_where, case.loss,
    )  # fmt: skip


def _backward(case: Case, node: Node) -> Step:
    """The gradient in a node's value: of the output from the loss, else the sum of what comes back from its users."""
    array, lines, parts = case.grad_rows(node.name), [], list[tuple[int, ...]]()
    if node.name == case.call.plan.output.name:
        lines.append(losses.writing(case).gradient())
    for user in case.call.plan.nodes:
        for position, name in enumerate(user.inputs):
            if name == node.name:
                lines.append(Writing.at(case, user).passed(position, 0))
                parts.append((user.width,))
    whole = lines[0] if len(lines) == 1 else _sum(lines, case.symbol(node.name).text)
    return _step("backward", node.name, "", grad(case.symbol(node.name)), whole, array, (node.width,), parts, case)


def _sum(lines: list[Line], name: str) -> Line:
    formula = Math(*(" + ".join(each) for each in zip(*(line.formula for line in lines))))
    why = f"{name} is used {len(lines)} times, and every use sends a gradient back: they add up. "
    worked = " + ".join(line.worked for line in lines) if all(line.worked for line in lines) else ""
    why += " ".join(dict.fromkeys(line.why for line in lines))
    where = tuple(each for line in lines for each in line.where)
    worked_where = tuple(each for line in lines for each in line.worked_where)
    return Line(formula, why, worked, lines[0].index, where, worked_where)


def _parameter(case: Case, node: Node, name: str) -> Step:
    """The gradient in a parameter, from all nodes that take it."""
    users = [each for each in case.call.plan.nodes if each.owner == node.owner]
    lines = [Writing.at(case, user).parameter(name) for user in users]
    whole = lines[0] if len(lines) == 1 else _sum(lines, case.parameter(node, name).text)
    array = case.gradients[node.owner, name]
    parts: list[tuple[int, ...]] = [(user.width,) for user in users]
    parts += [(case.nodes[i].width,) for user in users for i in user.inputs]
    symbol = grad(case.parameter(node, name))
    return _step("backward", node.name, name, symbol, whole, array, array.shape, parts, case)


def _step(
    phase: str,
    node: str,
    parameter: str,
    symbol: Math,
    line: Line,
    array: np.ndarray,
    shape: tuple[int, ...],
    parts: list[tuple[int, ...]],
    case: Case,
) -> Step:
    at = array[line.index] if parameter else array[(case.sample, *line.index)]
    shapes = str(shape) + (f" from {', '.join(map(str, parts))}" if parts else "")
    name = element(symbol, *line.index)
    return Step(
        phase, node, parameter, symbol, line.formula, line.where, line.why, shapes, array, name, line.worked,
        line.worked_where, float(at),
    )  # fmt: skip
