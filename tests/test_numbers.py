"""What counts as a number, of any library, and what does not."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import Elementwise, Graph, Net
from backprop_xp.graph import Dropout, LayerNorm
from backprop_xp.initialisers import as_random
from backprop_xp.numbers import as_real, as_seed, flag, is_number, real, whole

INTEGERS = [np.int8, np.int64, np.uint8, np.uint64, lambda n: np.array(n), lambda n: np.array(n, np.int32)]
REALS = [np.float16, np.float32, np.float64, np.longdouble, Fraction, Decimal, np.array]
NO_NUMBERS = [True, np.True_, np.array(True), "5", b"5", np.str_("5"), np.array("5"), None, 5j, np.complex64(5), [5]]
NO_NUMBERS += [np.array([5]), np.array([]), np.datetime64(5, "s"), np.timedelta64(5, "s"), np.array(5, "m8[s]"), object]


@given(number=st.integers(0, 127), of=st.sampled_from([int, *INTEGERS]))
def test_whole_numbers(number, of):
    found = whole("n", of(number))
    assert found == number and type(found) is int


@given(number=st.floats(-100, 100, width=16), of=st.sampled_from([float, *REALS]))
def test_real_numbers(number, of):
    found = real("x", of(number))
    assert found == number and type(found) is float


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_none(value):
    assert not is_number(value) and as_real(value) is None
    with pytest.raises(ValueError, match=r"^n must be an integer from 0 on, got "):
        whole("n", value)
    with pytest.raises(ValueError, match=r"^x must be a number, got "):
        real("x", value)


@pytest.mark.parametrize("value", [5.0, np.float64(5), Fraction(5), Decimal(5), np.array(5.0)], ids=repr)
def test_a_whole_number_is_an_integer(value):
    with pytest.raises(ValueError, match="n must be an integer from 0 to 9, got"):
        whole("n", value, 0, 9)


def test_pytorchs():
    torch = pytest.importorskip("torch")
    assert whole("n", torch.tensor(5)) == 5 and real("x", torch.tensor(0.5)) == 0.5
    for value in (torch.tensor(True), torch.tensor([5]), torch.tensor(5j)):
        assert not is_number(value)


@pytest.mark.parametrize(
    "limits, allowed",
    [
        ({}, ""),
        ({"least": 0}, " from 0 on"),
        ({"least": 0, "most": 1}, " from 0 to 1"),
        ({"least": 0, "below": 1}, " from 0 to below 1"),
        ({"above": 0}, " above 0"),
        ({"above": 0, "below": 1}, " between 0 and 1"),
    ],
)
def test_ranges(limits, allowed):
    for value in (math.nan, -math.inf, math.inf, 10**400, *([-1] if limits else [])):
        with pytest.raises(ValueError, match=f"^x must be a number{allowed}, got "):
            real("x", value, **limits)
    assert real("x", math.inf, infinite=True) == math.inf
    for least, most, value in ((1, None, 0), (1, 3, 4)):
        with pytest.raises(ValueError, match="n must be an integer from 1 "):
            whole("n", value, least, most)


def test_flags_and_seeds():
    assert [flag("f", value) for value in (True, np.False_, 1, np.int8(0))] == [True, False, True, False]
    for value in ("no", None, 2, 0.5, [True]):
        with pytest.raises(ValueError, match="f must be True or False, got "):
            flag("f", value)
    assert as_seed(np.uint8(7)) == 7 and as_seed(None) != as_seed(None)
    with pytest.raises(ValueError, match="seed must be an integer from 0 on, got -1"):
        as_seed(-1)


@pytest.mark.parametrize("of", INTEGERS)
def test_numpys_integers_are_taken_everywhere(of):
    net = Net((of(3), of(2)), threads=of(1), rng=of(5))
    assert (net.sizes, net.threads) == ((3, 2), 1)
    np.testing.assert_array_equal(net.weights[0].data, Net((3, 2), rng=5).weights[0].data)
    assert as_random(of(5)).integers(1000) == as_random(5).integers(1000)
    g = Graph()
    made = g.net(g.dropout(g.linear(g.input(of(3)), of(2)), np.float32(0.5)), rng=0)
    made.seed = of(9)
    drawn = made.loss_and_grad(np.ones((4, 3)))
    made.seed, made.draws = 9, 0
    assert made.loss_and_grad(np.ones((4, 3))) == drawn


@pytest.mark.parametrize("of", REALS)
def test_numpys_reals_are_taken_everywhere(of):
    assert Dropout(of(0.5)).p == 0.5 and LayerNorm(of(0.5)).eps == 0.5
    assert Elementwise("f", "t * a", params={"a": of(0.5)}).parameters == (0.5,)
    for make in (
        lambda: Dropout(True),
        lambda: Dropout(1.5),
        lambda: LayerNorm(-1),
        lambda: LayerNorm(np.array([1.0])),
    ):
        with pytest.raises((TypeError, ValueError), match=r"needs 0 <= |must be a real number"):
            make()
