"""How much each sample counts."""

import numpy as np
import pytest

from backprop_xp.sklearn import weights


def test_of_samples():
    assert weights.of_samples(None, 3) is None
    given = weights.of_samples([1, 0, 2], 3)
    assert given.dtype == np.float64 and given.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 2.0], r"must have the shape \(3,\), one number a sample, got \(2,\)"),
        (2.0, r"must have the shape \(3,\), one number a sample, got \(\)"),
        ([[1.0], [2.0], [3.0]], r"must have the shape \(3,\)"),
        ([1.0, -1.0, 1.0], "must hold finite numbers from 0 on, got -1 for sample 1"),
        ([1.0, 1.0, np.nan], "must hold finite numbers from 0 on, got nan for sample 2"),
        ([np.inf, 1.0, 1.0], "must hold finite numbers from 0 on, got inf for sample 0"),
        ([0, 0, 0], "every weight is zero"),
    ],
)
def test_of_samples_refuses(weight, message):
    with pytest.raises(ValueError, match=f"^sample_weight .*{message}"):
        weights.of_samples(weight, 3)


CLASSES, CODES = np.array(["a", "b", "c"]), np.array([0, 0, 0, 1])


def test_balanced_is_scikit_learns():
    from sklearn.utils.class_weight import compute_sample_weight

    codes = np.array([0, 0, 0, 1, 2, 2])
    np.testing.assert_allclose(
        weights.of_classes("balanced", CLASSES, codes, None), compute_sample_weight("balanced", codes)
    )


def test_balanced_counts_samples_by_their_weights():
    weight = np.array([1.0, 1.0, 2.0, 8.0])
    total = weights.of_classes("balanced", CLASSES[:2], CODES, weight)
    assert total[:3].sum() == pytest.approx(total[3:].sum())
    # a weight of two is the sample twice
    twice = weights.of_classes("balanced", CLASSES[:2], np.array([0, 0, 0, 0, 1, 1]), None)
    assert weights.of_classes("balanced", CLASSES[:2], CODES, np.array([1.0, 1, 2, 2]))[0] == pytest.approx(twice[0])


def test_by_label():
    assert weights.of_classes(None, CLASSES, CODES, None) is None
    assert weights.of_classes({"b": 5}, CLASSES, CODES, None).tolist() == [1, 1, 1, 5]
    assert weights.of_classes({"a": 0.5, "b": 2}, CLASSES, CODES, np.array([1, 2, 3, 4.0])).tolist() == [0.5, 1, 1.5, 8]
    assert weights.of_classes({1: 3}, np.array([0, 1]), np.array([0, 1]), None).tolist() == [1, 3]
    assert weights.of_classes({True: 3}, np.array([False, True]), np.array([0, 1]), None).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"d": 1}, r"class_weight has a weight for 'd', and the classes of y are \['a', 'b', 'c'\]"),
        ({"a": -1}, "class_weight of 'a' must be a number from 0 on, got -1"),
        ({"a": "x"}, "class_weight of 'a' must be a number from 0 on, got 'x'"),
        ("equal", "class_weight must be None, 'balanced' or a dict"),
        ([1, 2, 3], "class_weight must be None, 'balanced' or a dict"),
        ({"a": 0, "b": 0}, "leave every sample a weight of zero"),
    ],
)
def test_of_classes_refuses(class_weight, message):
    with pytest.raises(ValueError, match=message):
        weights.of_classes(class_weight, CLASSES, CODES, None)
