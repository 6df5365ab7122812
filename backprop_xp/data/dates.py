"""Dates and times as people write them, and what a net is told of them.

A moment is a number of seconds since 1970 (UTC where a text names its zone); of a time without a date, since midnight.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY, _YEAR = 86400.0, 365.2425
_LONG = "january february march april may june july august september october november december"
_MONTHS = {name[:n]: i for i, name in enumerate(_LONG.split(), 1) for n in (3, len(name))} | {"sept": 9}
_NAME = r"(?P<b>[A-Za-z]{3,9})\.?"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
_CLOCK = r"(?P<H>\d{1,3}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s*(?P<p>[ap]\.?m\.?)?"
_ZONE = r"\s*(?P<z>Z|UTC|GMT|[+-]\d{2}:?\d{2})?"
_DAY_FIRST = r"(?P<d>\d{1,2})(?P<s>[-/. ])(?P<m>\d{1,2})(?P=s)(?P<Y>\d{4}|\d{2})"
_MONTH_FIRST = r"(?P<m>\d{1,2})(?P<s>[-/. ])(?P<d>\d{1,2})(?P=s)(?P<Y>\d{4}|\d{2})"

#: How dates may be written, by name.
FORMS: dict[str, re.Pattern[str]] = {
    name: re.compile(rf"{_WEEKDAY}{date}(?:(?:\s*T|,?\s+){_CLOCK}{_ZONE})?", re.IGNORECASE)
    for name, date in {
        "ymd": r"(?P<Y>\d{4})(?P<s>[-/. ])(?P<m>\d{1,2})(?P=s)(?P<d>\d{1,2})",
        "dmy": _DAY_FIRST,
        "mdy": _MONTH_FIRST,
        "day month year": rf"(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[-/. ]*{_NAME}[-/., ]*(?P<Y>\d{{4}}|\d{{2}})",
        "month day year": rf"{_NAME}[-/ ]*(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[-/, ]+(?P<Y>\d{{4}}|\d{{2}})",
        "year month day": rf"(?P<Y>\d{{4}})[-/. ]{_NAME}[-/. ](?P<d>\d{{1,2}})",
        "ym": r"(?P<Y>\d{4})[-/](?P<m>\d{2})",
        "my": r"(?P<m>\d{1,2})[-/](?P<Y>\d{4})",
        "month year": rf"{_NAME}[-/. ,'\u2019]*(?P<Y>\d{{4}}|(?<=[-'\u2019])\d{{2}})",
        "digits": r"(?P<Y>(?:19|20)\d{2})(?P<m>\d{2})(?P<d>\d{2})",
    }.items()
}
FORMS["clock"] = re.compile(_CLOCK, re.IGNORECASE)
EITHER = ("dmy", "mdy")  # that the same text may be
_SAMPLE = 50  # texts that show whether a form is worth trying on all


def values(form: str, texts: Sequence[str]) -> np.ndarray:
    """(n,) float64: the moments that these texts name, NaN for whatever is none in this form."""
    return np.array([_moment(form, text) for text in texts], np.float64)


def survey(counts: Mapping[str, int]) -> dict[str, int]:
    """The forms that read the most cells, and how many; of texts with how often each occurs."""
    texts = list(counts)
    sample = texts[:: -(-len(texts) // _SAMPLE) or 1]
    fits: dict[str, int] = {}
    for form in FORMS:
        if 2 * sum(not np.isnan(_moment(form, text)) for text in sample) >= len(sample) > 0:
            fits[form] = sum(n for text, n in counts.items() if not np.isnan(_moment(form, text)))
    most = max(fits.values(), default=0)
    return {form: count for form, count in fits.items() if count == most > 0}


@functools.lru_cache(1 << 16)
def _moment(form: str, text: str) -> float:
    found = FORMS[form].fullmatch(text.strip())
    if not found:
        return np.nan
    part = found.groupdict()
    clock = _seconds(part)
    if clock is None:
        return np.nan
    if form == "clock":
        return clock
    if clock >= _DAY + 1:
        return np.nan
    try:
        month = int(part["m"]) if part.get("m") else _MONTHS[part["b"].lower()]
        year = int(part["Y"])
        if len(part["Y"]) == 2:
            if part.get("s") in (".", " ") and len(text.split(part["s"])[0]) < 2:  # 1.2.10 is a version
                return np.nan
            year += 1900 if year >= 69 else 2000  # as POSIX has it
        date = datetime(year, month, int(part.get("d") or 1), tzinfo=UTC)
        return (date - _EPOCH).total_seconds() + clock - _offset(part["z"])
    except (ValueError, KeyError):
        return np.nan


def _seconds(part: Mapping[str, str | None]) -> float | None:
    """Since midnight; None for what no clock shows."""
    if part["H"] is None or part["M"] is None:
        return 0.0
    hour, minute, second = int(part["H"]), int(part["M"]), int(part["S"] or 0)
    if part["p"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (part["p"][0] in "pP")
    if minute > 59 or second > 60:
        return None
    return timedelta(hours=hour, minutes=minute, seconds=second).total_seconds() + float(f"0.{part['f'] or 0}")


def _offset(zone: str | None) -> float:
    if not zone or zone[0] not in "+-":
        return 0.0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    return (60 * hours + minutes) * (-60.0 if zone[0] == "-" else 60.0)


def _days(moments: np.ndarray) -> np.ndarray:
    return np.floor(moments / _DAY).astype(np.int64).astype("datetime64[D]")


def _year(moments: np.ndarray) -> np.ndarray:
    return _days(moments).astype("datetime64[Y]").astype(np.float64) + 1970


def _day_of_year(moments: np.ndarray) -> np.ndarray:
    days = _days(moments)
    return (days - days.astype("datetime64[Y]")).astype(np.float64)


def _turn(position: Callable[[np.ndarray], np.ndarray], period: float) -> tuple[Callable[..., np.ndarray], ...]:
    """Sine and cosine of a position on a circle."""
    return tuple(lambda m, f=f: f(2 * np.pi * position(m) / period) for f in (np.sin, np.cos))


#: What a net is told of a moment; of seconds without NaN, (n,) each. Lines go on, circles come round again.
LINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"year": _year, "elapsed days": lambda m: m / _DAY}
CIRCLES: dict[str, tuple[Callable[..., np.ndarray], ...]] = {
    "day of the year": _turn(_day_of_year, _YEAR),
    "day of the week": _turn(lambda m: (_days(m).astype(np.float64) + 3) % 7, 7),
    "time of day": _turn(lambda m: m % _DAY, _DAY),
}
