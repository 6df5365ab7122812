"""Numbers as people write them."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data.numerals import DECIMALS, GROUPS, Notation, survey

NUMBERS = [1234567.5, -20500.25, 999.0, 0.75, -3.5, 45000.0]


def swapped(text):
    return text.replace(",", "_").replace(".", ",").replace("_", ".")


WAYS = {
    "plain": str,
    "grouped": "{:,}".format,
    "German": lambda v: swapped(f"{v:,}"),
    "French": lambda v: f"{v:,}".replace(",", "\u202f").replace(".", ","),
    "blanks": lambda v: f" {v:,} ".replace(",", "\u00a0"),
    "Swiss": lambda v: f"{v:,}".replace(",", "\u2019"),
    "underscores": "{:_}".format,
    "dollars": lambda v: f"-${-v:,.2f}" if v < 0 else f"${v:,.2f} ",
    "euros": lambda v: swapped(f"{v:,.2f}") + " €",
    "code before": lambda v: f"EUR {v:,.2f}",
    "code behind": "{:.2f} EUR".format,
    "unit": "{:.2f} km/h".format,
    "per cent": "{:.2f} %".format,
    "accounting": lambda v: f"({-v:,.2f})" if v < 0 else f"{v:,.2f}",
    "minus behind": lambda v: f"{abs(v):.2f}" + "-" * (v < 0),
    "true minus": lambda v: f"{v:.2f}".replace("-", "\u2212"),
    "plus": "{:+.2f}".format,
    "exponents": "{:.8e}".format,
    "exponents with commas": lambda v: f"{v:.8E}".replace(".", ","),
    "no zero": lambda v: f"{v:.2f}".replace("0.75", ".75"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_notation_is_found_and_read(way):
    texts = [WAYS[way](value) for value in NUMBERS]
    found = survey(Counter(texts))
    assert found.count == len(texts)
    notation = found.decide(None, None, True)
    np.testing.assert_allclose(notation.values(texts), NUMBERS, rtol=1e-12)


def test_indian_groups():
    notation = survey(Counter(["12,34,567.5", "1,00,000", "999"])).decide(None, None, True)
    assert notation.values(["12,34,567.5", "1,00,000"]).tolist() == [1234567.5, 100000]


def test_multiples_beside_a_currency():
    notation = survey(Counter(["€110.5M", "€565K", "€0"])).decide(None, None, True)
    assert notation.values(["€110.5M", "€565K", "€0"]).tolist() == [110.5e6, 565e3, 0]


@pytest.mark.parametrize(
    "texts, values",
    [
        (["1.2k", "345", "9.1k"], [1200, 345, 9100]),
        (["5M", "700", "2M"], [5e6, 700, 2e6]),
        (["3 Mio. €", "5 Mio. €", "2"], [3, 5, None]),
        (["1.2 million", "3 million", "345"], [1.2, 3, None]),
        (["$1.2bn", "$3.4bn", "$345"], [1.2, 3.4, None]),
    ],
)
def test_a_multiple_is_never_taken_for_a_plain_number(texts, values):
    notation = survey(Counter(texts)).decide(None, None, True)
    assert [None if np.isnan(v) else v for v in notation.values(texts)] == values


def test_a_column_of_thousands_without_exception_takes_no_plain_number_later_on():
    notation = survey(Counter(["1.2k", "3.4k"])).decide(None, None, True)
    assert notation.values(["1.2k"]) == [1.2]
    assert np.isnan(notation.values(["1"])).all()


@pytest.mark.parametrize("text", ["CHF 1073.-", "1073,-", "1073.\u2013", "1073,\u2014", "1073,-- €", "€ 1073.--"])
def test_a_dash_in_the_place_of_cents_is_no_sign(text):
    assert survey(Counter([text])).decide(None, None, True).values([text]) == [1073]
    assert survey(Counter(["-" + text])).decide(None, None, True).values(["-" + text]) == [-1073]


@pytest.mark.parametrize("text", ["$(1,243.90)", "$ (1,243.90)", "($1,243.90)", "$ (1243.9)"])
def test_an_accountant_s_parentheses_stand_on_either_side_of_the_currency(text):
    assert survey(Counter([text])).decide(None, None, True).values([text]) == [-1243.9]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "1.2.3",
        "1,2,3",
        "--5",
        "(5",
        "5)",
        "(-5)",
        "1 2",
        "12,34.5",
        "0x10",
        "1_0",
        "½",
        "1e",
        "$",
        "5-6",
        "$($5)",
        "$(-5)",
        "5.---",
        "٣",
    ],
)
def test_no_number_in_any_notation(text):
    for decimal in DECIMALS:
        for thousands in ("", *GROUPS):
            if thousands != decimal:
                assert np.isnan(Notation(decimal, thousands).values([text])).all()


@pytest.mark.parametrize(
    "texts, decimal",
    [
        (["1,234", "1,234,567"], "."),
        (["1,234", "1.5"], "."),
        (["1,234", "2,5"], ","),
        (["1,234", "0,125"], ","),
        (["1,234", "1234,5"], ","),
        (["1.234", "1.234.567"], ","),
        (["1.234", "1,5"], ","),
        (["1.234", "0.5"], "."),
        (["1,234e5", "3,141e2"], ","),
    ],
)
def test_one_cell_decides_for_the_column(texts, decimal):
    found = survey(Counter(texts))
    assert found.evidence == decimal
    assert found.decide(None, None, True).decimal == decimal


def test_what_is_open_is_decided_by_the_user_or_the_table_or_not_at_all():
    open_ = survey(Counter(["1,234", "3,141"]))
    assert open_.evidence is None
    assert open_.decide(None, None, True) is None
    assert open_.decide(None, None, False) is None
    assert open_.decide(None, ".", True) is None  # a factor of 1000 in a target
    assert open_.decide(None, ".", False).values(["1,234"]) == [1234]
    for mark, value in ((".", 1234), (",", 1.234)):
        assert open_.decide(mark, None, True).values(["1,234"]) == [value]
    assert open_.decide(None, ",", True).values(["1,234"]) == [1.234]
    assert survey(Counter(["$1,234", "$3,141"])).decide(None, None, True).values(["$1,234"]) == [1234]


def test_commas_that_begin_at_a_thousand_are_thousands():
    texts = [f"{v:,}" for v in range(100, 20_000, 700)]
    assert survey(Counter(texts)).decide(None, None, True).values(texts).tolist() == list(range(100, 20_000, 700))
    assert survey(Counter(["1,234", "1234"])).decide(None, ".", False) is None


def test_three_decimals_behind_a_point_stay_decimals_but_in_a_table_of_decimal_commas():
    found = survey(Counter(["1.234", "3.141"]))
    assert found.decide(None, None, True).values(["1.234"]) == [1.234]
    assert found.decide(None, ",", False).values(["1.234"]) == [1234]
    assert found.decide(None, ",", True) is None


def test_points_that_begin_at_a_thousand_are_asked_about():
    texts = [f"{v:,}".replace(",", ".") for v in range(100, 20_000, 700)]
    found = survey(Counter(texts))
    assert found.decide(None, None, False) is found.decide(None, ".", False) is None
    for decided in (found.decide(",", None, True), found.decide(None, ",", True)):
        assert decided.values(texts).tolist() == list(range(100, 20_000, 700))
    above = [text for text in texts if "." in text]
    assert survey(Counter(["0", *above])).decide(None, None, True).values(["1.500"]) == [1.5]  # as sensors have it
    commas = ["0", *(text.replace(".", ",") for text in above)]
    assert survey(Counter(commas)).decide(None, None, True).values(["1,500"]) == [1500]


@pytest.mark.parametrize("texts", [["$5", "€6"], ["5 kg", "6 lb"], ["1st", "2nd", "3rd"]])
def test_different_units_are_no_notation(texts):
    found = survey(Counter(texts))
    assert found.units and not found.readings


def test_a_share_and_a_plain_number_are_different_things():
    found = survey(Counter(["5 %", "6 %", "7 %", "0.05"]))
    assert found.count == 3
    assert np.isnan(found.decide(None, None, True).values(["5 %", "0.05"])).tolist() == [False, True]


def test_truth():
    assert Notation(truth=True).values(["TRUE", "false", "1"]).tolist() == [1, 0, 1]
    assert np.isnan(Notation().values(["TRUE"])).all()


@given(
    st.lists(st.decimals(-(10**9), 10**9, places=2).map(float), min_size=1, max_size=20),
    st.sampled_from([(t, d) for d in DECIMALS for t in ("", *GROUPS) if t != d]),
    st.sampled_from([("", ""), ("$", ""), ("", " €"), ("", "%"), ("CHF ", "")]),
)
def test_what_is_written_in_a_notation_is_read_in_it(numbers, marks, unit):
    def write(value):
        digits = f"{abs(value):,.2f}".replace(",", "t").replace(".", decimal).replace("t", thousands)
        return f"{'-' if value < 0 else ''}{unit[0]}{digits}{unit[1]}"

    thousands, decimal = marks
    texts = [write(value) for value in numbers]
    notation = Notation(decimal, thousands, unit[0].strip(), unit[1].strip())
    np.testing.assert_array_equal(notation.values(texts), numbers)
    found = survey(Counter(texts))
    assert found.count == len(texts)
    np.testing.assert_array_equal(found.readings[decimal].values(texts), numbers)  # two decimals leave nothing open


@given(st.lists(st.text(alphabet="0123456789.,'_ -+()$%eEkM", max_size=12), max_size=6))
def test_any_texts_have_a_survey(texts):
    found = survey(Counter(texts))
    for notation in found.readings.values():
        assert len(notation.values(texts)) == len(texts)
