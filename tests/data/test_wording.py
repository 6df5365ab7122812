"""Advice that can be typed."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data.wording import listed, option, parts, quoted


@given(
    st.lists(st.text(min_size=1).filter(lambda text: text == text.strip() and "\0" not in text), min_size=1, max_size=4)
)
def test_a_shell_and_the_command_give_the_values_back(values):
    words = shlex.split(option("--missing", *values))
    text = words[0].removeprefix("--missing=") if len(words) == 1 else words[1]
    assert len(words) == 1 or not text.startswith("-")
    assert parts("--missing", text) == tuple(values)


def test_lists():
    assert parts("--ignore", 'a, "b, c",d ,,') == ("a", "b, c", "d")
    assert parts("--ignore", "") == ()
    with pytest.raises(ValueError, match="--ignore takes A,B"):
        parts("--ignore", '"a')


def test_names_are_quoted_and_short():
    assert quoted(" y") == "' y'"
    assert len(quoted("a" * 1000)) < 100
    assert listed(["a", "b", "c"], 2) == "'a', 'b', ..."
