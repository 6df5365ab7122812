"""What is written both as plain text and as LaTeX: symbols, formulas, and the arithmetic of one number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Template
from typing import NamedTuple

from ..formulas.notation import escaped, number

#: Terms of a sum that are written out; of a longer one as many as begin it, and how many more there are.
MOST_TERMS, FIRST_TERMS = 12, 4


class Math(NamedTuple):
    """The same in plain text and in LaTeX."""

    text: str
    latex: str


def math(text: str, latex: str | None = None, **symbols: Math) -> Math:
    """Templates with these symbols in the places of "$name"; one that is both where no LaTeX is given."""
    return Math(
        Template(text).substitute({name: symbol.text for name, symbol in symbols.items()}),
        Template(text if latex is None else latex).substitute({name: s.latex for name, s in symbols.items()}),
    )


def words(text: str) -> Math:
    """Words within a formula."""
    return Math(text, rf"\text{{{escaped(text)}}}")


def grad(symbol: Math) -> Math:
    """The gradient of the loss in what has this symbol."""
    return Math(f"grad {symbol.text}", rf"\frac{{\partial l}}{{\partial {symbol.latex}}}")


def element(symbol: Math, *indices: int | str) -> Math:
    """One number of an array; counted from 0, as in code."""
    at = ",".join(map(str, indices))
    inner = rf"\left({symbol.latex}\right)" if "\\frac" in symbol.latex or "_" in symbol.latex else symbol.latex
    return Math(f"{symbol.text}[{at}]", f"{inner}_{{{at}}}")


def total(terms: Sequence[str]) -> str:
    """A sum; of many terms the first few, and how many more there are."""
    return total_of(len(terms), terms.__getitem__)


def total_of(count: int, term: Callable[[int], str]) -> str:
    """A sum of ``count`` terms, of which no more are asked for than are shown."""
    shown = [term(i) for i in range(count if count <= MOST_TERMS else FIRST_TERMS)]
    if count == 1 and re.fullmatch(r"\([^()* ]*\)", shown[0]):
        return shown[0][1:-1]  # a number alone needs no parentheses
    more = [f"... ({count - len(shown)} more)"] if len(shown) < count else []
    return " + ".join([*shown, *more])


def product(*factors: float) -> str:
    """ "0.5 * (-2)"."""
    return " * ".join(number(factor) for factor in factors)


def in_product(text: str) -> str:
    """Arithmetic as a factor: in parentheses if signs of sums stand outside of all that it has."""
    depth, outside = 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        outside += character if depth == 0 else "."
    return f"({text})" if any(mark in outside for mark in (" + ", " - ", " if ")) or outside[:1] == "-" else text
