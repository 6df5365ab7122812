"""Dates and times as people write them."""

from collections import Counter

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data import dates

DAYS = pandas.to_datetime(["2019-12-31 23:59:58", "2020-02-29 00:00:01", "2021-07-04 12:30:00", "1999-01-13 13:00:00"])
WAYS = {
    "%Y-%m-%d %H:%M:%S": "ymd", "%Y/%m/%dT%H:%M:%SZ": "ymd", "%Y-%m-%d %H:%M:%S.000": "ymd", "%d/%m/%Y %H:%M:%S": "dmy",
    "%d.%m.%Y, %H:%M:%S": "dmy", "%m/%d/%Y %I:%M:%S %p": "mdy", "%d %b %Y %H:%M:%S": "day month year",
    "%d-%B-%y %H:%M:%S": "day month year", "%B %d, %Y %H:%M:%S": "month day year", "%a, %d %b %Y %H:%M:%S +0000": "day month year",
    "%Y%m%d %H:%M:%S": "digits",
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_form_is_found_and_read(way):
    texts = DAYS.strftime(way).tolist()
    found = dates.survey(Counter(texts))
    assert WAYS[way] in found
    assert found[WAYS[way]] == len(texts)
    np.testing.assert_array_equal(dates.values(WAYS[way], texts), DAYS.to_numpy("datetime64[s]").astype(float))


def test_months_and_times():
    assert (dates.values("ym", ["1970-03"]) == dates.values("my", ["3/1970"])).all()
    assert dates.values("month year", ["Mar 1970", "Mar-70", "March'70"]).tolist() == [59 * 86400] * 3
    assert dates.values("clock", ["0:01", "1:00 pm", "12:00 AM", "25:00:30"]).tolist() == [60, 46800, 0, 90030]


def test_zones():
    assert dates.values("ymd", ["1970-01-01T02:00+02:00", "1970-01-01T00:00Z", "1969-12-31 18:30 -0530"]).tolist() == [
        0,
        0,
        0,
    ]


def test_day_or_month_first():
    assert set(dates.survey(Counter(["03/04/2020", "05/06/2021"]))) >= set(dates.EITHER)
    assert list(dates.survey(Counter(["03/04/2020", "13/06/2021"]))) == ["dmy"]
    assert list(dates.survey(Counter(["03/04/2020", "05/16/2021"]))) == ["mdy"]


def test_two_digits_of_a_year():
    years = [pandas.Timestamp(s, unit="s").year for s in dates.values("dmy", ["01/02/68", "01/02/69"])]
    assert years == [2068, 1969]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2020-02-30",
        "2020-13-01",
        "1.2.10",
        "2020-01-01 25:00",
        "12:60",
        "13:00 pm",
        "31 Foo 2020",
        "3.14",
        "20201301",
        "may",
        "May 15",
        "15-May",
    ],
)
def test_no_date_in_any_form(text):
    assert all(np.isnan(dates.values(form, [text])).all() for form in dates.FORMS)


@given(st.datetimes(pandas.Timestamp("1700-01-01"), pandas.Timestamp("2200-01-01")))
def test_lines_and_circles(moment):
    day = pandas.Timestamp(moment)
    seconds = np.array([day.to_datetime64().astype("datetime64[us]").astype(np.int64) / 1e6])
    assert dates.LINES["year"](seconds) == [day.year]
    for name, position, period in (
        ("day of the year", day.day_of_year - 1, 365.2425),
        ("day of the week", day.day_of_week, 7),
    ):
        sine, cosine = (turn(seconds)[0] for turn in dates.CIRCLES[name])
        angle = 2 * np.pi * position / period
        np.testing.assert_allclose([sine, cosine], [np.sin(angle), np.cos(angle)], atol=1e-9)
