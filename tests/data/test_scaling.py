"""Columns of numbers are scaled by what is usual in them, and what is far away comes nearer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.data.errors import DataError
from backprop_xp.data.scaling import FAR, Scaling, build, learn
from backprop_xp.exchange.container import ModelFileError


def test_usual_numbers_are_standardised():
    values = np.random.default_rng(0).normal(7, 3, 1000)
    scaled = learn(values, "a")(values)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(scaled, (values - values.mean()) / values.std(), atol=1e-12)


@pytest.mark.parametrize("odd", [58.9, 999999.0, -1e30])
@pytest.mark.parametrize("zeros", [0, 700], ids=["few zeros", "mostly zeros"])
def test_a_few_numbers_that_are_far_away_leave_the_others_their_scale(odd, zeros):
    usual = np.concatenate([np.random.default_rng(0).normal(5, 1, 500), np.zeros(zeros)])
    without, scaling = learn(usual, "a"), learn(np.concatenate([usual, [odd] * 3]), "a")
    assert scaling.scale < 1.2 * without.scale
    assert abs(scaling.mean - without.mean) < 0.1 * without.scale
    assert FAR < abs(scaling(odd)) < 100


def test_two_numbers_are_scaled_however_rare_one_is():
    values = np.array([0.0] * 99 + [1.0])
    scaling = learn(values, "a")
    assert (scaling.mean, scaling.scale) == (values.mean(), values.std())


@given(st.floats(-1e37, 1e37), st.floats(-1e37, 1e37))
def test_a_larger_number_is_never_a_smaller_input(one, other):
    scaling = Scaling(1.0, 0.5, FAR)
    low, high = sorted((one, other))
    assert -1000 < scaling(low) <= scaling(high) < 1000


def test_what_is_no_number_to_compute_with_stays_so():
    assert Scaling(1.0, 0.5, FAR)(1e300) == 2e300
    assert np.isnan(Scaling(1.0, 0.5, FAR)(np.nan))


def test_nothing_to_learn_from():
    assert learn(np.array([np.nan]), "a") is None
    assert learn(np.array([2.0, 2.0, np.nan]), "a") is None
    with pytest.raises(DataError, match=r"column .a.: its numbers, .* can.t be standardised"):
        learn(np.array([-1.7976931348623157e308, 1.7976931348623157e308]), "a")


def test_there_and_back_through_json():
    for scaling in (Scaling(1.5, 2.0, FAR), Scaling(1.5, 2.0)):
        assert build(json.loads(json.dumps(scaling.describe()))) == scaling


def test_older_files_know_nothing_of_numbers_far_away():
    assert build({"mean": 1.0, "scale": 2.0})(2001.0) == 1000


@pytest.mark.parametrize("far", [0, -1, "nan", None])
def test_a_hostile_description(far):
    with pytest.raises(ModelFileError):
        build({"mean": 0, "scale": 1, "far": far})
