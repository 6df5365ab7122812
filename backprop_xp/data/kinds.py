"""What a column is: numbers in a notation, moments in a form, or names. Decided once, over all of its cells."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from . import dates as date_forms
from . import numerals
from .cells import MOMENT, NOT_KNOWN, NUMBER, TEXT, Cells
from .errors import DataError
from .numerals import PLAIN, TRUTH, Notation
from .wording import option, quoted

MOST_CATEGORIES = 1000
MOST_PROPOSED = 5  # texts that may stand for missing values
FEWEST_DIGIT_DATES = 2  # different texts such as 20200131

#: The mark before decimals, and "dmy" or "mdy"; None for what stays open.
Evidence = tuple[str | None, str | None]

AS_DATES = "dates become year, day of the year and of the week, and elapsed time"


@dataclass(frozen=True)
class Conventions:
    """What decides where a column by itself leaves open how its numbers and dates are written.

    Attributes:
        decimal: the mark before decimals that the user named.
        dates: "dmy" or "mdy", if the user named one.
        decimal_found, dates_found: what other columns show beyond doubt.
    """

    decimal: str | None = None
    dates: str | None = None
    decimal_found: str | None = None
    dates_found: str | None = None

    @classmethod
    def of(cls, shown: Iterable[Evidence], decimal: str | None = None, dates: str | None = None) -> Conventions:
        """What the user named, and what columns show."""
        each = (set(found) - {None} for found in zip(*shown, (None, None)))
        return cls(decimal, dates, *(found.pop() if len(found) == 1 else None for found in each))


def evidence(column: Cells) -> Evidence:
    """What this column shows beyond doubt."""
    total = 0 if column.kind != TEXT or column.named else sum(column.known.values())
    if not total:
        return None, None
    forms = [form for form in date_forms.EITHER if column.dates.get(form) == total]
    mark = column.numerals.evidence if column.numerals.count == total else None
    return mark, forms[0] if len(forms) == 1 else None


@dataclass(frozen=True)
class Kind:
    """A column's kind.

    Attributes:
        kind: "text" (names), "number" or "moment".
        notation, form: of the texts of numbers or moments.
        notes: sentences about what was decided; without the column's name.
    """

    kind: str
    notation: Notation = PLAIN
    form: str = "ymd"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def values(self, column: Cells) -> np.ndarray:
        """(n,) float64: numbers, or seconds since 1970; NaN where missing.

        Raises:
            DataError: a cell is neither of this kind nor missing; the message names row and column.
        """
        if self.form == "digits" and column.kind == NUMBER:  # 20240131 is a whole number elsewhere
            column = column.labels()
        strange = f"is no {'number' if self.kind == NUMBER else 'date'}"
        if column.kind != TEXT:
            if column.kind != self.kind and len(column.distinct):
                raise DataError(f"{column.show(~column.missing)} {strange}", ~column.missing)
            values = column.spread(column.distinct)
        else:
            read = self.notation.values if self.kind == NUMBER else lambda texts: date_forms.values(self.form, texts)
            values = column.spread(read(column.distinct))
            odd = np.isnan(values) & ~column.missing
            if odd.any():
                odd &= ~column.is_any(NOT_KNOWN)
            if odd.any():
                reason = f"{strange}{self._as_in_training()}{self._otherwise(column, odd)}"
                raise DataError(f"{column.show(odd)} {reason}", odd)
        if (infinite := np.isinf(values)).any():
            raise DataError(f"{column.show(infinite)} is not finite", infinite)
        return values

    def missing(self, column: Cells) -> np.ndarray:
        """(n,) bool: which cells are missing in a column of this kind."""
        if self.kind == TEXT or column.kind != TEXT:
            return column.missing
        return column.missing | column.is_any(NOT_KNOWN)

    def _as_in_training(self) -> str:
        if self.kind == MOMENT:
            return f" written as {self.form!r}, as the column's are"
        notation = self.notation
        marks = [f"{notation.decimal!r} before decimals"] if notation.decimal != PLAIN.decimal else []
        marks += [f"{notation.thousands!r} between thousands"] if notation.thousands else []
        marks += [repr(unit) for unit in (notation.front, notation.back) if unit]
        return f" with {' and '.join(marks)}, as the column's are" if marks else ""

    def _otherwise(self, column: Cells, odd: np.ndarray) -> str:
        """The decimal mark with which the first of these cells would be a number."""
        text = column.distinct[column.codes[odd.argmax()]]
        for mark in numerals.DECIMALS if self.kind == NUMBER else ():
            if not np.isnan(self.notation.with_decimal(mark).values([text])[0]):
                return f"; --decimal {mark} reads it"
        return ""


NAMES = Kind(TEXT)


def kind_of(column: Cells, conventions: Conventions, target: bool = False) -> Kind:
    """What this column is.

    Raises:
        DataError: most of its cells are numbers or dates but not all, or how they are written is open.
    """
    if column.named:
        return NAMES
    if column.kind != TEXT:
        return Kind(column.kind, Notation(truth=column.truth), notes=(AS_DATES,) if column.kind == MOMENT else ())
    counts = column.known
    total = sum(counts.values())
    if not total:
        return NAMES
    if all(text.lower() in TRUTH for text in counts):
        return Kind(NUMBER, Notation(truth=True))
    forms, survey = column.dates, column.numerals
    read = max(forms.values(), default=0)
    if read == total and ("digits" not in forms or len(counts) >= FEWEST_DIGIT_DATES):
        return _dates(column, counts, forms, conventions)
    if survey.units and 2 * survey.count > total:
        return Kind(TEXT, notes=(_different_units(column, survey, counts),))
    if survey.count < total and not _mostly(max(survey.count, read), counts, survey):
        return NAMES
    if survey.count < read or survey.count < total:
        raise DataError(_odd(column, counts, survey, forms, target))
    return _numbers(column, counts, survey, conventions, target)


def _mostly(count: int, counts: dict[str, int], survey: numerals.Survey) -> bool:
    """Whether these are numbers or dates with strays: most cells are, or most of the different texts."""
    reading = next(iter(survey.readings.values()), None)
    distinct = 0 if reading is None else int((~np.isnan(reading.values(list(counts)))).sum())
    return 2 * count > sum(counts.values()) or 2 * distinct > len(counts)


def _numbers(
    column: Cells, counts: dict[str, int], survey: numerals.Survey, conventions: Conventions, target: bool
) -> Kind:
    notation = survey.decide(conventions.decimal, conventions.decimal_found, target)
    if notation is None:
        point, comma = (survey.readings[mark].values([survey.example])[0] for mark in numerals.DECIMALS)
        raise DataError(
            f"column {quoted(column.name)}: {quoted(survey.example)} may be {point:.12g} or {comma:.12g}, and no cell "
            "tells which; say what stands before decimals with --decimal . or --decimal ,"
        )
    texts, notes, strange = list(counts), [], survey.example
    if written := PLAIN.plain(texts) is None:
        strange = next(text for text in texts if PLAIN.plain([text]) is None)
    if written or (survey.marks and notation.thousands):
        value = notation.values([strange])[0]
        other = next((mark for mark in survey.readings if mark != notation.decimal), None) if survey.marks else None
        unsaid = f"; --decimal {other} reads them otherwise" if other and not conventions.decimal else ""
        notes.append(f"{quoted(strange)} and the like are read as numbers, {value:.12g}{unsaid}")
    if survey.padded and not target:
        advice = option("--categories", column.name)
        notes.append(f"{quoted(survey.padded)} and the like are read as numbers; {advice} takes them as names")
    return Kind(NUMBER, notation, notes=tuple(notes))


def _dates(column: Cells, counts: dict[str, int], forms: dict[str, int], conventions: Conventions) -> Kind:
    form = next(iter(forms))
    example = next(iter(counts))
    if set(date_forms.EITHER) <= forms.keys():
        dotted = all("." in text for text in counts)  # 03.04.2020: nobody writes the month first
        order = conventions.dates or conventions.dates_found or ("dmy" if dotted else None)
        day_first, month_first = (date_forms.values(each, list(counts)) for each in date_forms.EITHER)
        if order is None and not np.array_equal(day_first, month_first):
            raise DataError(
                f"column {quoted(column.name)}: {quoted(example)} may have the day or the month first, and no row "
                "tells which; say it with --dates dmy or --dates mdy"
            )
        form = order or form
    said = "times of day" if form == "clock" else f"dates ({form})"
    note = f"{quoted(example)} and the like are read as {said}{'' if form == 'clock' else '; ' + AS_DATES}"
    return Kind(MOMENT, form=form, notes=(note,))


def _different_units(column: Cells, survey: numerals.Survey, counts: dict[str, int]) -> str:
    units = " and ".join(map(quoted, survey.units[:3]))
    if 2 * len(counts) > sum(counts.values()) > 20:
        raise DataError(
            f"column {quoted(column.name)} looks like numbers with different units, {units}; write them alike, or "
            f"leave it out with {option('--ignore', column.name)}"
        )
    return f"looks like numbers with different units, {units}; taken as names"


def _odd(column: Cells, counts: dict[str, int], survey: numerals.Survey, forms: dict[str, int], target: bool) -> str:
    """What to do about the cells of a column of numbers or dates that are neither."""
    form, notation = next(iter(forms), None), next(iter(survey.readings.values()), None)
    if form is not None and max(forms.values()) > survey.count:
        what, odd = "date", [text for text in counts if np.isnan(date_forms.values(form, [text])[0])]
    else:
        assert notation is not None
        what, odd = "number", [text for text in counts if np.isnan(notation.values([text])[0])]
    again = [text for text in odd if counts[text] > 1 and numerals.parse(text) is None]
    again = sorted(again, key=lambda text: -counts[text])[:MOST_PROPOSED]
    first = column.show(column.is_any(again[:1] or odd))
    like = next((text for text in counts if text not in odd), "")
    if what == "number" and numerals.parse((again or odd)[0]):
        message = f"{first} isn't written as most numbers of the column are, such as {quoted(like)}; correct it"
    else:
        message = f"{first} is no {what}, as most of the column are; correct it"
    if again and len(counts) - len(odd) > 1:
        message += f", say that it means a missing value with {option('--missing', *again)}"
    if target:
        return message + ", or have all of them taken as classes with --task classification"
    if len(column.distinct) <= MOST_CATEGORIES:
        return message + f", or have all of them taken as names with {option('--categories', column.name)}"
    return message + f", or leave the column out with {option('--ignore', column.name)}"
