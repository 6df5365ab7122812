"""The environment: one table of what is read, and no value that ends a call."""

import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import backprop_xp
from backprop_xp import environment
from backprop_xp.environment import VARIABLES

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.floats().map(str)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
class TestEvery:
    def test_says_what_it_is(self, variable):
        assert variable.default_text and variable.range and variable.meaning

    @pytest.mark.parametrize("text", [None, "", " "])
    def test_has_a_default(self, variable, text, monkeypatch):
        monkeypatch.delenv(variable.name, raising=False)
        if text is not None:
            monkeypatch.setenv(variable.name, text)
        assert variable.read() == variable.default

    @given(text=TEXTS)
    def test_takes_any_text(self, variable, text):
        """In its range, or said to be out of it."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            environment._parsed.cache_clear()
            value = environment._parsed(variable, text)
            assert environment._parsed(variable, text) == value
        assert len(caught) <= 1
        if caught:
            assert value == variable.default
            assert str(caught[0].message).startswith(f"{variable.name} must be {variable.range}, got ")


@pytest.mark.parametrize("text, seconds", [("1", 1.0), (" 0.5 ", 0.5), ("86400", 86400.0), ("1e3", 1000.0)])
def test_a_time_limit(monkeypatch, text, seconds):
    monkeypatch.setenv("BACKPROP_XP_COMPILE_TIMEOUT", text)
    assert environment.COMPILE_TIMEOUT.read() == seconds


def test_a_changed_value_counts_at_once(monkeypatch):
    for number in (1, 7, 1024):
        monkeypatch.setenv("BACKPROP_XP_NUM_THREADS", str(number))
        assert environment.NUM_THREADS.read() == number


def test_names_are_unique():
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)


def test_nothing_else_reads_the_environment():
    package = Path(backprop_xp.__file__).parent
    for path in (*package.rglob("*.py"), *(package.parent / "bench").glob("*.py")):
        if path.name != "environment.py":
            assert not re.findall(r"os\.environ|getenv", path.read_text(encoding="utf-8")), path
