"""Formulas as people write them, as plain text and as LaTeX, with names or with numbers in the places of variables."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .language import MASKS, Formula

#: Characters that LaTeX has commands for, which it takes outside of formulas.
NAMED = {"\\": "backslash", "^": "asciicircum", "~": "asciitilde", "<": "less", ">": "greater", "|": "bar"}
#: Accents, as Unicode numbers them, that LaTeX puts on letters in any font, such as acute and diaeresis.
ACCENTS = ("0300", "0301", "0302", "0303", "0308", "030A", "030C")

#: How tightly parts of a formula hang together: a part looser than its place wants stands in parentheses.
CHOICE, SUM, PRODUCT, POWER, ATOM = range(5)

#: Of an operation how tight it is and how it is written: "[a2]" is its first argument, which must be that tight.
TEXT = {
    "add": (SUM, "[a1] + [b2]"),
    "subtract": (SUM, "[a1] - [b2]"),
    "multiply": (PRODUCT, "[a2] * [b3]"),
    "divide": (PRODUCT, "[a2] / [b3]"),
    "negative": (SUM, "-[a2]"),
    "power": (POWER, "[a4]^[b4]"),
    "less": (CHOICE, "[a1] < [b1]"),
    "less_equal": (CHOICE, "[a1] <= [b1]"),
    "greater": (CHOICE, "[a1] > [b1]"),
    "greater_equal": (CHOICE, "[a1] >= [b1]"),
    "equal": (CHOICE, "[a1] = [b1]"),
    "not_equal": (CHOICE, "[a1] != [b1]"),
    "where": (CHOICE, "[b1] if [a0] else [c0]"),
    "abs": (ATOM, "|[a0]|"),
    "expm1": (SUM, "exp([a0]) - 1"),
    "log1p": (ATOM, "log(1 + [a1])"),
    "normal_cdf": (ATOM, "Phi([a0])"),
    "normal_pdf": (ATOM, "phi([a0])"),
    "minimum": (ATOM, "min([a0], [b0])"),
    "maximum": (ATOM, "max([a0], [b0])"),
} | {name: (ATOM, f"{name}([a0])") for name in ("sign", "sqrt", "exp", "log", "sin", "cos", "tanh", "erf")}

LATEX = TEXT | {
    "multiply": (PRODUCT, r"[a2] \cdot [b3]"),
    "divide": (ATOM, r"\frac{[a0]}{[b0]}"),
    "power": (POWER, "{[a4]}^{[b0]}"),
    "less_equal": (CHOICE, r"[a1] \le [b1]"),
    "greater_equal": (CHOICE, r"[a1] \ge [b1]"),
    "not_equal": (CHOICE, r"[a1] \ne [b1]"),
    "where": (ATOM, r"\begin{cases} [b0] & \text{if } [a0] \\ [c0] & \text{otherwise} \end{cases}"),
    "abs": (ATOM, r"\left|[a0]\right|"),
    "expm1": (SUM, "e^{[a0]} - 1"),
    "exp": (POWER, "e^{[a0]}"),
    "log1p": (ATOM, r"\log\left(1 + [a1]\right)"),
    "normal_cdf": (ATOM, r"\Phi\left([a0]\right)"),
    "normal_pdf": (ATOM, r"\varphi\left([a0]\right)"),
    "minimum": (ATOM, r"\min\left([a0], [b0]\right)"),
    "maximum": (ATOM, r"\max\left([a0], [b0]\right)"),
    "sqrt": (ATOM, r"\sqrt{[a0]}"),
} | {name: (ATOM, rf"\{name}\left([a0]\right)") for name in ("log", "sin", "cos", "tanh")} \
  | {name: (ATOM, rf"\operatorname{{{name}}}\left([a0]\right)") for name in ("sign", "erf")}  # fmt: skip

PLACE = re.compile(r"\[([abc])(\d)\]")
SYMBOLS = {"alpha", "beta", "delta"}
MOST_FLAT = 40  # steps of a formula that are written as one; in a longer one, what stands in it twice gets a name
DEEPEST = 60
#: Digits of numbers that are computed, and of those that stand in a formula.
DIGITS, CONSTANT_DIGITS = 4, 6


class Slot(NamedTuple):
    """The place of a variable or a parameter; what stands there must be this tight, or in parentheses."""

    name: str
    tight: int = SUM


Part = str | Slot


@dataclass(frozen=True)
class Written:
    """A formula in words and slots.

    Attributes:
        parts: of the formula.
        where: names that stand in it for longer expressions, each with the parts of what it stands for.
        latex: whether it is LaTeX.
    """

    parts: tuple[Part, ...]
    where: tuple[tuple[str, tuple[Part, ...]], ...] = ()
    latex: bool = False

    def fill(self, values: Mapping[str, str | float]) -> str:
        """The formula with these texts and numbers in the slots of these names, and other slots' names in them."""
        return self._joined(self.parts, values)

    def fill_where(self, values: Mapping[str, str | float]) -> list[str]:
        """ "e = exp(-|t|)", and so on."""
        return [f"{self._name(name)} = {self._joined(parts, values)}" for name, parts in self.where]

    def slots(self) -> set[str]:
        """The names of all slots."""
        every = (*self.parts, *(part for _, parts in self.where for part in parts))
        return {part.name for part in every if isinstance(part, Slot)}

    def _joined(self, parts: tuple[Part, ...], values: Mapping[str, str | float]) -> str:
        return "".join(part if isinstance(part, str) else self._put(part, values) for part in parts)

    def _put(self, slot: Slot, values: Mapping[str, str | float]) -> str:
        value = values.get(slot.name, self._name(slot.name))
        return value if isinstance(value, str) else number(value, slot.tight)

    def _name(self, name: str) -> str:
        return latex_name(name) if self.latex else name


def written(formula: Formula, output: str, latex: bool = False) -> Written:
    """One output of a formula; names that its author gave to subexpressions are kept."""
    return _Writer(formula, formula.outputs[output], latex).written()


def latex_name(name: str) -> str:
    """A variable's name in LaTeX: one letter in italics, Greek letters by name, others upright."""
    if name in SYMBOLS:
        return f"\\{name}"
    return name if len(name) == 1 and name.isascii() and name.isalnum() else rf"\mathrm{{{escaped(name)}}}"


def escaped(text: str) -> str:
    """Any text as LaTeX that shows it, within formulas and outside.

    Of letters beyond ASCII those with an accent that every LaTeX has; other characters are shown as U+2207.
    """
    return "".join(
        character if character.isalnum() and character.isascii() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if character in NAMED:
        return rf"\text{{\text{NAMED[character]}}}"
    if character.isascii():
        return f"\\{character}" if character in "_{}%&#$" else character
    letter, _, accent = unicodedata.decomposition(character).partition(" ")
    known = ord(character) < 0x180 and accent in ACCENTS and chr(int(letter, 16)).isascii()
    return rf"\text{{{character if known else f'U+{ord(character):04X}'}}}"


def number(value: float, tight: int = PRODUCT) -> str:
    """A number with DIGITS digits; a negative one in parentheses where what stands there must be tighter than a sum.

    A number near 1 has more: as many as leave DIGITS of 1 minus the number.
    """
    rest = 1 - abs(value)
    digits = DIGITS - math.ceil(math.log10(rest)) if 1e-8 < rest < 0.1 else DIGITS
    shown = f"{value + 0.0:.{digits}g}"
    return f"({shown})" if shown.startswith("-") and tight > SUM else shown


class _Writer:
    def __init__(self, formula: Formula, result: int, latex: bool) -> None:
        self.formula, self.result, self.latex = formula, result, latex
        self.table = LATEX if latex else TEXT
        self.names = self._given_names() or self._new_names()
        self._name_what_is_deep()

    def written(self) -> Written:
        where, seen = [], set[int]()
        waiting = [self.result]
        while waiting:  # the names that a written part uses, and those that these use
            for i in self._named_below(waiting.pop()):
                if i not in seen:
                    seen.add(i)
                    waiting.append(i)
        for i in sorted(seen):  # each after those it uses
            where.append((self.names[i], self._merged(self._body(i)[1])))
        return Written(self._merged(self._body(self.result)[1]), tuple(where), self.latex)

    def _given_names(self) -> dict[int, str]:
        leaves = (*self.formula.variables, *self.formula.parameters)
        named = {i: name for name, i in self.formula._names.items() if name not in leaves}
        return {i: name for i, name in named.items() if i != self.result and self.formula.nodes[i].args}

    def _new_names(self) -> dict[int, str]:
        """Names for what would be written twice in a long formula."""
        size, uses, nodes = dict[int, int](), dict[int, int](), self.formula.nodes
        for i in range(self.result + 1):
            size[i] = min(1 + sum(size[a] for a in nodes[i].args), 10**6)
        if size[self.result] <= MOST_FLAT:
            return {}
        stack, seen = [self.result], {self.result}
        while stack:
            for a in nodes[stack.pop()].args:
                uses[a] = uses.get(a, 0) + 1
                if a not in seen:
                    seen.add(a)
                    stack.append(a)
        names: dict[int, str] = {}
        for i in sorted(seen):
            if uses.get(i, 0) > 1 and size[i] > 2 and nodes[i].op not in MASKS:
                names[i] = self._fresh(names)
        return names

    def _name_what_is_deep(self) -> None:
        """Names that cut what is nested deeper than people, and Python, can follow."""
        depth: list[int] = []
        for i, node in enumerate(self.formula.nodes[: self.result]):
            depth.append(0 if i in self.names else 1 + max((depth[a] for a in node.args), default=0))
            if depth[i] > DEEPEST and node.op not in MASKS:
                self.names[i], depth[i] = self._fresh(self.names), 0

    def _fresh(self, names: Mapping[int, str]) -> str:
        taken = {*self.formula._names, *names.values()}
        return next(name for k in itertools.count() if (name := f"u{k}") not in taken)

    def _named_below(self, i: int) -> list[int]:
        found, stack = [], [*self.formula.nodes[i].args]
        while stack:
            a = stack.pop()
            if a in self.names:
                found.append(a)
            else:
                stack.extend(self.formula.nodes[a].args)
        return found

    def _part(self, i: int) -> tuple[int, list[Part]]:
        """How tight it is, and what is written where another node takes it."""
        return (ATOM, [self._shown(self.names[i])]) if i in self.names else self._body(i)

    def _body(self, i: int) -> tuple[int, list[Part]]:
        node = self.formula.nodes[i]
        if node.op in ("variable", "parameter"):
            return ATOM, [Slot(node.name)]
        if node.op == "constant":
            return (SUM if node.number < 0 else ATOM), [f"{node.number:.{CONSTANT_DIGITS}g}"]
        base, exponent = self._power(i)
        if exponent > 1:
            return self._filled("power", [self._part(base), (ATOM, [str(exponent)])])
        return self._filled(node.op, [self._part(a) for a in node.args])

    def _power(self, i: int) -> tuple[int, int]:
        """The node as a base and an exponent: products of a node with itself are written so."""
        node = self.formula.nodes[i]
        if node.op == "multiply":
            (a, m), (b, n) = (self._power(arg) if arg not in self.names else (arg, 1) for arg in node.args)
            if a == b:
                return a, m + n
        return i, 1

    def _filled(self, op: str, args: list[tuple[int, list[Part]]]) -> tuple[int, list[Part]]:
        tight, pattern = self.table[op]
        parts: list[Part] = []
        for k, piece in enumerate(PLACE.split(pattern)):
            if k % 3 == 0:
                parts.append(piece)
            elif k % 3 == 1:
                has, inner = args["abc".index(piece)]
            elif len(inner) == 1 and isinstance(inner[0], Slot):
                parts.append(Slot(inner[0].name, int(piece)))
            else:
                parts += inner if has >= int(piece) else [self._open(), *inner, self._close()]
        return tight, parts

    def _open(self) -> str:
        return r"\left(" if self.latex else "("

    def _close(self) -> str:
        return r"\right)" if self.latex else ")"

    def _shown(self, name: str) -> str:
        return latex_name(name) if self.latex else name

    @staticmethod
    def _merged(parts: list[Part]) -> tuple[Part, ...]:
        merged: list[Part] = []
        for part in parts:
            if isinstance(part, str) and merged and isinstance(merged[-1], str):
                merged[-1] += part
            elif part != "":
                merged.append(part)
        return tuple(merged)
