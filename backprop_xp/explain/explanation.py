"""``net.explain(x, y)``: every step of one call, in text, in LaTeX and as a page."""

from __future__ import annotations

import html
import os
from pathlib import Path
from typing import Any

from ..files import replacing
from ..keywords import known_options
from ..messages import unknown
from . import html_page, latex, text
from .walk import Walk


class Explanation(Walk):
    """A walk through one call that shows itself: ``print`` it; ``save`` it as .txt, .tex or .html.

    A notebook shows the page.
    """

    @property
    def text(self) -> str:
        """All of it as plain text."""
        return text.written(self)

    @property
    def latex(self) -> str:
        """All of it as a LaTeX document."""
        return latex.written(self)

    @property
    def html(self) -> str:
        """The page: one file that needs no other, where numbers can be changed.

        Raises:
            ValueError: the net and the batch hold too many numbers for a page.
        """
        return html_page.written(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page (.html), the LaTeX document (.tex) or the text (.txt).

        Raises:
            ValueError: a name that ends otherwise. OSError: it can't be written.
        """
        kinds = {".html": "html", ".tex": "latex", ".txt": "text"}
        suffix = Path(os.fsdecode(path)).suffix.lower()
        if suffix not in kinds:
            raise ValueError(unknown("ending of a file", suffix, kinds))
        content = getattr(self, kinds[suffix])
        with replacing(path) as file:
            file.write(content.encode())

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Explanation({self.net!r}, {len(self.steps)} steps, loss {self.loss:.6g})"

    def _repr_html_(self) -> str:
        page = html.escape(self.html)
        return f'<iframe title="How gradients flow" srcdoc="{page}" style="width:100%;height:60rem;border:0"></iframe>'


@known_options
def explain(
    net: Any, x: Any, y: Any = None, *, sample_weight: Any = None, lr: float = 0.01, training: bool = True
) -> Explanation:
    """Every step of ``net.loss_and_grad(x, y)`` with its formula, its shapes and its numbers, and why it holds.

    It is computed in float64 on NumPy, on a copy: the net stays as it is. Of a batch the arithmetic of the first
    sample is shown.

    Args:
        x, y, sample_weight, training: as for ``loss_and_grad``.
        lr: the learning rate of a step of gradient descent, after which the loss is computed again.
    """
    return Explanation(net, x, y, sample_weight, lr, training)
