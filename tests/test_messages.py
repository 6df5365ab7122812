"""The wording that error messages share."""

import pytest

from backprop_xp.messages import nearest, unknown


@pytest.mark.parametrize(
    "name, known, hint",
    [
        ("trian", ("train", "predict"), "did you mean 'train'?"),
        ("TRAIN", ("train", "predict"), "did you mean 'train'?"),
        ("linear", ("Linear", "ReLU"), "did you mean 'Linear'?"),
        ("val", ("validation", "verbose"), "did you mean 'validation'?"),
        ("", ("x",), "known are x"),
        ("q", ("x", "X"), "known are x, X"),
        ("learning_rate", ("lr_decay", "lr"), "did you mean 'lr'?"),
        ("--max-iter", ("--max", "--epochs"), "did you mean '--epochs'?"),
        ("lr", ("learning_rate_init",), "did you mean 'learning_rate_init'?"),
        (";", (".", ","), "known are '.', ','"),
    ],
)
def test_unknown_names_the_nearest_or_all(name, known, hint):
    assert unknown("name", name, iter(known)) == f"unknown name {name!r}; {hint}"
    assert (nearest(name, iter(known)) or "") in hint
    assert (nearest(name, known) is None) == hint.startswith("known are")
