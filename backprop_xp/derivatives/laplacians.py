"""Laplacians in formulas: second derivatives that are read for nothing but their sum.

Where all residuals have the same slope in u_xx and in u_yy, they depend on u_xx + u_yy alone. That sum is then carried
through the net as one signal (chain_rule.py), under the name of the first of them, and the others stand for 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..formulas import Formula, differentiate
from ..formulas.language import MASKS
from .names import Named


def collected(formula: Formula, residuals: Sequence[str], named: Mapping[str, Named]) -> dict[str, Named]:
    """What residuals read of outputs, by name, with sums of second derivatives in the place of these.

    Args:
        formula: its outputs ``residuals`` read the variables ``named``.
    """
    groups: dict[tuple[int, ...], dict[str, int]] = {}
    for name, at in named.items():
        if isinstance(at.along, tuple) and len(at.along) == 2 and at.along[0] == at.along[1]:
            slopes = (differentiate(formula, residual, name) for residual in residuals)
            groups.setdefault((at.output, *slopes), {})[name] = at.along[0]
    found = dict(named)
    for (output, *_), group in groups.items():
        if len(group) == 1 or _steps(formula, residuals, group):
            continue
        first, *others = group
        found[first] = Named(output, frozenset(group.values()))
        for name in others:
            del found[name]
    return found


def _steps(formula: Formula, residuals: Sequence[str], names: Mapping[str, int]) -> bool:
    """Whether something in them that has no slope, such as where(u_xx < u_yy, 1, 2), depends on these variables."""
    depends: list[bool] = []
    last = max(formula.outputs[residual] for residual in residuals)
    for node in formula.nodes[: last + 1]:
        depends.append((node.op == "variable" and node.name in names) or any(depends[arg] for arg in node.args))
        if depends[-1] and (node.op in MASKS or node.op == "sign"):
            return True
    return False
