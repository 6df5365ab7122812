"""Numbers as people write them: one notation for a whole column.

A number may have a sign or stand in an accountant's parentheses, have a currency before or behind it or a unit behind
it, its digits in groups, a point or a comma before its decimals, and an exponent. Which of these a column has is found
out from all of its texts (:func:`survey`); where they leave open whether 1,234 is a thousand or one and a bit, the rest
of the table or the user decides (:meth:`Survey.decide`). Reading a text in a notation never guesses.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

TRUTH = {"true": 1.0, "false": 0.0}
MULTIPLES = {"k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9}
#: What all numbers of a column must have or none: 12 and 12 %, or 12 million, are different; 12 and $12 aren't.
SHARES = {
    "%", "‰", "k", "m", "mn", "mln", "mio", "mrd", "b", "bn", "bln", "tn", "tsd", "lakh", "lakhs", "lac", "crore",
    "crores", "cr", "thousand", "thousands", "million", "millions", "billion", "billions", "trillion", "trillions",
}  # fmt: skip
BLANKS = " \u00a0\u2007\u2009\u202f"  # plain, no-break, figure, thin, narrow no-break
#: What separates thousands: the mark that a notation keeps, and all that count as it.
GROUPS = {",": ",", ".": ".", " ": BLANKS, "'": "'\u2019", "_": "_"}
DECIMALS = (".", ",")
FEWEST_GROUPED = 10  # different numbers like 1,234 that, beside some below 1000, show that their commas are thousands'

_MINUS = "\\-\u2212\u2013"
_CURRENCY = (
    r"[$\u00a2-\u00a5\u058f\u060b\u09f2\u09f3\u0e3f\u20a0-\u20cf]|(?:US|R|AU?|CA?|HK|NZ|S)\$|USD|EUR|GBP|CHF|JPY|CNY|RMB|"
    r"INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RON|RUB|BRL|MXN|ZAR|KRW|TRY|SGD|HKD|ILS|Rs\.?|kr\.?|zł|Kč|Fr\.?"
)
_CELL = re.compile(
    rf"""(?:(?P<outer>{_CURRENCY})(?=\s*\())?\s*(?P<open>\()?\s*
    (?P<sign>[+{_MINUS}])?\s*(?P<front>{_CURRENCY})?\s*(?P<inner>[+{_MINUS}])?\s*
    (?P<body>[0-9](?:[0-9.,_'\u2019{BLANKS}]*[0-9.,])?|[.,][0-9]+)(?P<exponent>[eE][+-]?[0-9]+)?
    (?P<cents>[.,][{_MINUS}\u2014]{{1,2}})?\s*
    (?P<back>(?:{_CURRENCY}|[%‰°]|[^\W\d_])[^\d()+{_MINUS}]{{0,20}}?)?\s*
    (?P<trailing>(?<![.,{_MINUS}\u2014])[{_MINUS}])?\s*(?P<close>\))?
    """,
    re.VERBOSE,
)
_PADDED = re.compile("[+-]?0[0-9]")
_NOT_PLAIN = {".": re.compile(r"[^0-9eE+\-.\n]"), ",": re.compile(r"[^0-9eE+\-,\n]")}


class Parts(NamedTuple):
    """What a text that may be a number consists of."""

    negative: bool
    front: str
    body: str
    exponent: str
    back: str


@dataclass(frozen=True)
class Notation:
    """How the numbers of a column are written.

    Attributes:
        decimal: the mark before decimals, "." or ",".
        thousands: a key of :data:`GROUPS`, or "" if digits aren't grouped.
        front, back: a currency or a unit that numbers may have; one of :data:`SHARES` they must have.
        multiples: whether K, M and B behind a number multiply it.
        truth: whether true and false, in any case, are 1 and 0.
    """

    decimal: str = "."
    thousands: str = ""
    front: str = ""
    back: str = ""
    multiples: bool = False
    truth: bool = False

    def values(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) float64: NaN for whatever is no number in this notation, infinite for what is too large."""
        plain = self.plain(texts)
        return np.array([self._value(text) for text in texts], np.float64) if plain is None else plain

    def with_decimal(self, mark: str) -> Notation:
        """The same with this mark before decimals, and the other one between thousands."""
        other = DECIMALS[1 - DECIMALS.index(mark)]
        return replace(self, decimal=mark, thousands=other if self.thousands in ("", *DECIMALS) else self.thousands)

    def plain(self, texts: Sequence[str]) -> np.ndarray | None:
        """The values if all texts are digits, decimal marks and exponents, else None: the usual case, and fast."""
        if _is_share(self.back):
            return None
        joined = "\n".join(texts)
        if _NOT_PLAIN[self.decimal].search(joined) or joined.count("\n") != max(len(texts) - 1, 0):
            return None
        if self.decimal == ",":
            texts = joined.replace(",", ".").split("\n") if texts else texts
        try:
            return np.array(texts, object).astype(np.float64)
        except ValueError:
            return None

    def _value(self, text: str) -> float:
        if self.truth and text.lower() in TRUTH:
            return TRUTH[text.lower()]
        parts = parse(text)
        if parts is None or parts.front not in ("", self.front):
            return np.nan
        factor = MULTIPLES.get(parts.back) if self.multiples else None
        if factor is None and parts.back != self.back and (parts.back or _is_share(self.back)):
            return np.nan
        if not _fits(parts.body, bool(parts.exponent), self.thousands, self.decimal):
            return np.nan
        digits = parts.body
        for blank in GROUPS.get(self.thousands, ""):
            digits = digits.replace(blank, "")
        value = float(digits.replace(",", ".") + parts.exponent) * (factor or 1.0)
        return -value if parts.negative else value


PLAIN = Notation()


@dataclass(frozen=True)
class Survey:
    """What the texts of a column say about its notation.

    Attributes:
        readings: by decimal mark, the notations that read the most cells; two of them where the mark is left open.
        count: how many cells they read.
        marks: the decimal marks that occur, ".", "," or both.
        example: a text in which a mark occurs, else any.
        grouped: how many different numbers have one of these marks.
        below_thousand: whether there are numbers without a mark, all of three digits at most.
        only_zero: whether these are all 0.
        everywhere: whether every number has a mark.
        units: different currencies or units, for which there is no common notation.
        padded: a number that begins with a needless 0, as codes do.
    """

    readings: Mapping[str, Notation]
    count: int = 0
    marks: str = ""
    example: str = ""
    grouped: int = 0
    below_thousand: bool = False
    only_zero: bool = False
    everywhere: bool = False
    units: tuple[str, ...] = ()
    padded: str | None = None

    @property
    def evidence(self) -> str | None:
        """The decimal mark that this column shows beyond doubt."""
        return next(iter(self.readings)) if len(self.readings) == 1 else None

    def decide(self, said: str | None, found: str | None, scale_matters: bool) -> Notation | None:
        """The one notation, or None where there are two and nothing decides.

        Args:
            said: the decimal mark that the user named.
            found: the one that the rest of the table shows.
            scale_matters: whether a factor of 1000 common to all numbers matters: for a target, not for a feature.
        """
        if len(self.readings) == 1:
            return next(iter(self.readings.values()))
        if said or not self.marks:
            return self.readings[said or found or "."]
        thousands = self.below_thousand and self.grouped >= FEWEST_GROUPED
        if self.marks == "." and thousands and not self.only_zero and found != ",":
            return None
        if self.marks == ".":
            return (
                self.readings["."] if found != "," else None if scale_matters and not thousands else self.readings[","]
            )
        if self.marks != ",":
            return None if scale_matters or not found else self.readings[found]
        if found == ",":
            return self.readings[","]
        in_proportion = self.everywhere and found == "." and not scale_matters
        if thousands or in_proportion or "$" in self.readings["."].front:
            return self.readings["."]
        return None


def survey(counts: Mapping[str, int]) -> Survey:
    """What these texts, with how often each occurs, say about their notation."""
    return _plain_survey(counts) or _survey(counts)


def _plain_survey(counts: Mapping[str, int]) -> Survey | None:
    """The same where it can be seen at once: nothing but digits, points that are no thousands', and exponents."""
    texts = list(counts)
    if not texts or PLAIN.plain(texts) is None:
        return None
    points = [text for text in texts if "." in text]
    if points and all(_body(".", ",").fullmatch(text.lstrip("+-")) for text in points):
        return None
    readings = {".": PLAIN} if points else {".": PLAIN, ",": Notation(",")}
    padded = next((text for text in texts if _PADDED.match(text)), None)
    return Survey(readings, sum(counts.values()), "." if points else "", (points or texts)[0], padded=padded)


def _survey(counts: Mapping[str, int]) -> Survey:
    parsed = {text: parts for text in counts if (parts := parse(text))}
    front, back, multiples, units = _units(parsed, counts)
    if units:
        return Survey({}, count=sum(counts[text] for text in parsed), example=next(iter(parsed)), units=units)
    alike = {
        text: parts
        for text, parts in parsed.items()
        if parts.front in ("", front)
        and (parts.back == back or (not parts.back and not _is_share(back)) or (multiples and parts.back in MULTIPLES))
    }
    shapes: Counter[tuple[str, bool]] = Counter()
    for text, parts in alike.items():
        shapes[_shape(parts.body), bool(parts.exponent)] += counts[text]
    present = [mark for mark, chars in GROUPS.items() if any(c in shape for shape, _ in shapes for c in chars)]
    fits: dict[tuple[str, str], int] = {}
    for decimal in DECIMALS:
        for thousands in ("", *present):
            if thousands != decimal:
                fits[thousands, decimal] = sum(n for shape, n in shapes.items() if _fits(*shape, thousands, decimal))
    most = max(fits.values(), default=0)
    if not most:
        return Survey({})
    readings: dict[str, Notation] = {}
    for (thousands, decimal), count in fits.items():
        if count == most:
            readings.setdefault(decimal, Notation(decimal, thousands, front, back, multiples))
    marks = "".join(mark for mark in DECIMALS if mark in present)
    plain = [shape for shape, _ in shapes if not set(marks) & set(shape)]
    marked = [text for text, parts in alike.items() if set(marks) & set(parts.body)]
    return Survey(
        readings,
        most,
        marks,
        next(iter(marked or alike)),
        grouped=len(marked),
        below_thousand=bool(plain) and all(len(shape) <= 3 for shape in plain),
        only_zero=set(plain) == {"0"},
        everywhere=not plain,
        padded=next((text for text, parts in alike.items() if _PADDED.match(parts.body)), None),
    )


@functools.lru_cache(1 << 16)
def parse(text: str) -> Parts | None:
    """The parts of a text that may be a number in some notation."""
    found = _CELL.fullmatch(text.strip())
    if not found:
        return None
    part = {name: text or "" for name, text in found.groupdict().items()}
    signs = part["open"] + part["sign"] + part["inner"] + part["trailing"]
    if len(signs) > 1 or bool(part["open"]) != bool(part["close"]) or (part["outer"] and part["front"]):
        return None
    front = part["outer"] + part["front"]
    return Parts(signs not in ("", "+"), front, part["body"], part["exponent"], part["back"])


def _units(parsed: Mapping[str, Parts], counts: Mapping[str, int]) -> tuple[str, str, bool, tuple[str, ...]]:
    """The currency before, the unit behind, whether K, M, B multiply, and what differs where no one fits.

    What less than half of the cells have is no unit of the column, but makes these cells odd.
    """
    fronts: Counter[str] = Counter()
    backs: Counter[str] = Counter()
    for text, parts in parsed.items():
        fronts[parts.front] += counts[text]
        backs[parts.back] += counts[text]
    total = sum(fronts.values())
    front_kinds = [name for name in fronts if name] if 2 * (total - fronts[""]) > total else []
    back_kinds = [name for name in backs if name] if 2 * (total - backs[""]) > total else []
    scales = [name for name in backs if name in MULTIPLES]
    mixed = len(scales) > 1 or (2 * (total - backs[""]) > total and backs[""])
    if scales and set(backs) <= {"", *MULTIPLES} and (front_kinds or mixed):
        return (front_kinds or [""])[0], "", True, tuple(front_kinds) if len(front_kinds) > 1 else ()
    for kinds in (front_kinds, back_kinds):
        if len(kinds) > 1:
            return "", "", False, tuple(kinds)
    return (front_kinds or [""])[0], (back_kinds or [""])[0], False, ()


@functools.lru_cache
def _is_share(unit: str) -> bool:
    """Whether a number with this unit differs from the same without it."""
    return any(word in SHARES for word in unit.lower().replace(".", " ").split())


def _shape(body: str) -> str:
    """The body with a 9 for each digit, but for a first 0."""
    return body[:1] + body[1:].translate(_NINES) if body.startswith("0") else body.translate(_NINES)


_NINES = str.maketrans("012345678", "9" * 9)


def _fits(body: str, exponent: bool, thousands: str, decimal: str) -> bool:
    """Whether these are digits in this notation; before an exponent nobody groups them."""
    return bool(_body("" if exponent else thousands, decimal).fullmatch(body))


@functools.lru_cache
def _body(thousands: str, decimal: str) -> re.Pattern[str]:
    """Digits in this notation; in groups of three, or as in India after the last three of two."""
    mark, group = re.escape(decimal), f"[{re.escape(GROUPS.get(thousands, ''))}]"
    grouped = rf"[1-9][0-9]{{0,2}}(?:{group}[0-9]{{3}})+|" if thousands else ""
    if thousands == ",":
        grouped += rf"[1-9][0-9]?(?:{group}[0-9]{{2}})+{group}[0-9]{{3}}|"
    return re.compile(rf"(?:{grouped}[0-9]+)(?:{mark}[0-9]*)?|{mark}[0-9]+")
