"""An explanation as a LaTeX document."""

from __future__ import annotations

import numpy as np

from ..formulas.notation import escaped
from .math import Math
from .steps import Step
from .walk import Walk

#: Columns, and rows, of a matrix that are written out; of a larger one the first.
MOST_COLUMNS, MOST_ROWS = 12, 24
END_OF_ROW = r" \\ "
TITLES = {"forward": "Forward", "loss": "The loss", "backward": "Backward"}
PREAMBLE = r"""\documentclass[a4paper]{article}
\usepackage{amsmath}
\usepackage[landscape,margin=2cm]{geometry}
\setcounter{MaxMatrixCols}{20}
\allowdisplaybreaks
\begin{document}
"""


def written(walk: Walk) -> str:
    """A document that pdflatex takes as it is."""
    case = walk.case
    lines = [PREAMBLE, rf"\section*{{{escaped(repr(walk.net))}}}", r"\subsection*{Given}"]
    given: list[tuple[Math, np.ndarray]] = [(case.symbol(name), a) for name, a in case.call.inputs.items()]
    if case.targets is not None:
        given.append((Math("y", "y"), case.targets))
    for node in case.call.plan.nodes:
        if node.owner == node.name:
            given += [(case.parameter(node, name), array) for name, array in case.own(node).items()]
    lines += [rf"\[ {symbol.latex} = {_matrix(array)} \]" for symbol, array in given]
    phase = ""
    for step in walk.steps:
        if step.phase != phase:
            phase = step.phase
            lines += ["", rf"\subsection*{{{TITLES[phase]}}}"]
        lines += _step(step)
    lr, slope = walk.lr, walk.slope
    lines += [
        r"\subsection*{A step of gradient descent}",
        rf"Every parameter less {lr:g} times its gradient: the loss should change by $-{lr:g} \cdot {slope:.6g}$.",
        rf"It was {walk.loss:.6f}, and is {walk.after:.6f}.",
        r"\end{document}",
    ]
    return "\n".join([*lines, ""])


def _step(step: Step) -> list[str]:
    lines = [rf"\noindent {escaped(step.why)}", rf"\[ {step.symbol.latex} = {step.formula.latex} \]"]
    lines += [rf"\[ {each.latex} \]" for each in step.where]
    if step.worked:
        lines.append(rf"{{\small\ttfamily\raggedright\noindent {escaped(step.arithmetic)}\par}}")
    if step.phase != "loss":
        lines.append(rf"\[ {step.symbol.latex} = {_matrix(step.array)} \]")
    return lines


def _matrix(array: np.ndarray) -> str:
    """A matrix; vectors, and batches of one, are written as rows."""
    rows = np.atleast_2d(array)
    body = []
    for row in rows[:MOST_ROWS]:
        cells = [f"{value:.4g}" for value in row[:MOST_COLUMNS]]
        body.append(" & ".join([*cells, *([r"\dots"] if len(row) > MOST_COLUMNS else [])]))
    if len(rows) > MOST_ROWS:
        body.append(r"\vdots")
    return rf"\begin{{pmatrix}} {END_OF_ROW.join(body)} \end{{pmatrix}}"
