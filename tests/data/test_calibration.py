"""Bins of rows: what was said, and what was found."""

import numpy as np
import pandas
import pytest

from backprop_xp.data import Amount, Classes, calibration

CLASSES = Classes("y", ("a", "b"))


def logits(probabilities):
    """Outputs that say "a" with these probabilities."""
    p = np.array(probabilities)
    return np.stack([np.log(p), np.log1p(-p)], axis=1)


def test_sureness():
    truth = pandas.Series(["a", "b", "a", "b", "a"])
    bins = calibration.sureness(CLASSES, logits([0.81, 0.85, 0.3, 0.99, 0.999]), truth)
    assert [each.rows for each in bins] == [1, 2, 2]
    np.testing.assert_allclose([each.said for each in bins], [0.7, 0.83, 0.9945])
    np.testing.assert_allclose([each.found for each in bins], [0, 0.5, 0.5])
    assert calibration.off(bins) == pytest.approx((0.7 + 2 * 0.33 + 2 * 0.4945) / 5)


def test_sureness_of_exactly_one_and_of_none():
    truth = pandas.Series(["a", "b", None])
    bins = calibration.sureness(CLASSES, np.array([[1000.0, 0.0], [np.nan, 0.0], [0.0, 5.0]]), truth)
    assert [(each.found, each.rows) for each in bins] == [(0.5, 2)]
    assert np.isnan(calibration.off([]))


def test_means():
    said = np.arange(40.0)[:, None]
    truth = pandas.Series(2 * np.arange(40.0) + 1)
    bins = calibration.means(Amount("y", 0.0, 1.0), said, truth)
    assert len(bins) == 10 and all(each.rows == 4 for each in bins)
    assert bins[0].said == 1.5 and bins[0].found == 4 and bins[0].spread == pytest.approx(np.sqrt(5))
    assert len(calibration.means(Amount("y", 0.0, 1.0), said[:3] * np.nan, truth[:3])) == 0
