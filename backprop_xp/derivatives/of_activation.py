"""The chain rule of one activation as formulas, for compiled passes: what loops.py computes with arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..activations import ACTIVATIONS
from ..formulas import Formula, differentiate
from .activations import up_to
from .chain_rule import Rules

#: By an activation's text, its second derivative as a formula of ``value`` and ``derivative``.
SECOND = {cls.text: cls.second for cls in ACTIVATIONS.values() if cls.second}


class ChainRule(NamedTuple):
    """What compiled code of an activation computes.

    Attributes:
        forward: of t and its derivatives, z = f(t) and its derivatives, the outputs z0 z1 ...
        backward: of t and its derivatives, and then of the gradients in z and its derivatives, the gradients in t and
            its derivatives, the outputs grad0 grad1 ...
        by_value: whether the second and third variable of both are f(t) and f'(t), which are computed beforehand.
    """

    forward: Formula
    backward: Formula
    by_value: bool


@lru_cache(maxsize=512)
def chain_rule(text: Any, rules: Rules) -> ChainRule:
    """Of an activation's ``text``, for these derivatives."""
    return ChainRule(_forward(text, rules), _backward(text, rules), text in SECOND)


@lru_cache(maxsize=512)
def slopes(text: Any) -> tuple[Formula, bool]:
    """f(t), f'(t) and f''(t) of an activation's ``text``, the outputs f0 f1 f2; and ``by_value`` as in ChainRule."""
    formula, f = _derivatives(text, 2)
    formula.outputs |= {f"f{k}": node for k, node in enumerate(f)}
    return formula, text in SECOND


def _forward(text: Any, rules: Rules) -> Formula:
    formula, f = _derivatives(text, rules.order)
    make = _Nodes(formula)
    t = [formula.parse("t"), *make.variables("t", range(1, len(rules.stack)))]
    for k in range(len(rules.stack)):
        parts = [make.product(f[m], product) for m, product in _products(make, rules, k, t)]
        formula.outputs[f"z{k}"] = make.total(parts) if k else f[0]
    return formula


def _backward(text: Any, rules: Rules) -> Formula:
    formula, f = _derivatives(text, rules.order + 1)
    make = _Nodes(formula)
    signals = range(len(rules.stack))
    t = [formula.parse("t"), *make.variables("t", signals[1:])]
    grad_z = make.variables("grad_z", signals)
    # of each signal and each derivative of f, what it is multiplied by in the sum of all grad_z_M z_M
    shares: list[dict[int, list[int]]] = [{} for _ in signals]
    shares[0][1] = [grad_z[0]]
    for k in signals[1:]:
        for m, product in _products(make, rules, k, t):
            shares[0].setdefault(m + 1, []).append(make.product(grad_z[k], product))
            slopes = _slopes(make, rules, k, m, t)
            for block, slope in slopes.items():
                shares[block].setdefault(m, []).append(make.product(grad_z[k], slope))
    for k in signals:
        formula.outputs[f"grad{k}"] = make.total(
            [make.product(f[m], make.total(each)) for m, each in shares[k].items()]
        )
    return formula


def _products(make: _Nodes, rules: Rules, k: int, t: Sequence[int]) -> list[tuple[int, int]]:
    """Of signal k, each derivative m of f that it is made of, and the sum of what f^(m) is multiplied by."""
    found: dict[int, list[int]] = {}
    for factor, blocks in rules.terms[k]:
        found.setdefault(len(blocks), []).append(make.product(make.number(factor), *(t[b] for b in blocks)))
    return [(m, make.total(each)) for m, each in found.items()]


def _slopes(make: _Nodes, rules: Rules, k: int, m: int, t: Sequence[int]) -> dict[int, int]:
    """The derivatives of the sum in :func:`_products` for f^(m), by the signals in which it is derived."""
    found: dict[int, list[int]] = {}
    for factor, blocks in rules.terms[k]:
        for block in dict.fromkeys(blocks if len(blocks) == m else ()):
            others = list(blocks)
            others.remove(block)
            times = factor * blocks.count(block)
            found.setdefault(block, []).append(make.product(make.number(times), *(t[b] for b in others)))
    return {block: make.total(each) for block, each in found.items()}


def _derivatives(text: Any, order: int) -> tuple[Formula, list[int]]:
    """A formula of t, and the nodes of f(t), f'(t), ... in it; where it is by value, of t, f(t) and f'(t)."""
    if text not in SECOND:
        formula = up_to(text, order)
        return formula, [formula.outputs[f"f{k}"] for k in range(order + 1)]
    formula = Formula(("t", "value", "derivative"), (), {}, {"f2": SECOND[text]})
    nodes = [formula.parse("value"), formula.parse("derivative"), formula.outputs["f2"]]
    make = _Nodes(formula)
    for k in range(3, order + 1):
        by_value, by_derivative = (differentiate(formula, f"f{k - 1}", each) for each in ("value", "derivative"))
        nodes.append(make.total([make.product(by_value, nodes[1]), make.product(by_derivative, nodes[2])]))
        formula.outputs[f"f{k}"] = nodes[-1]
    return formula, nodes


class _Nodes:
    """Makes nodes of a formula."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula

    def variables(self, name: str, numbers: Sequence[int]) -> list[int]:
        """Variables that no text of the formula can name."""
        names = [f"{name}[{k}]" for k in numbers]
        self.formula.variables += tuple(names)
        return [self.formula.node("variable", name=each) for each in names]

    def number(self, value: float) -> int:
        return self.formula.constant(float(value))

    def product(self, *nodes: int) -> int:
        return self._all("multiply", nodes)

    def total(self, nodes: Sequence[int]) -> int:
        return self._all("add", nodes)

    def _all(self, operation: str, nodes: Sequence[int]) -> int:
        result = nodes[0]
        for node in nodes[1:]:
            result = self.formula.node(operation, result, node)
        return result
