"""What an array can become without becoming another object."""

import numpy as np
import pytest

from backprop_xp.watched import Watched


def back_and_forth(array):
    array.resize((40_000, 3), refcheck=False)
    array.resize((4, 3), refcheck=False)


CHANGES = {
    "shape": lambda array: setattr(array, "shape", (3, 4)),
    "one axis more": lambda array: setattr(array, "shape", (4, 3, 1)),
    "dtype of the same size": lambda array: setattr(array, "dtype", np.int64),
    "byte order": lambda array: setattr(array, "dtype", array.dtype.newbyteorder()),
    "resized": lambda array: array.resize((8, 3), refcheck=False),
    "resized back and forth": back_and_forth,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes(change):
    array = np.zeros((4, 3))
    watched = Watched(array)
    array += 1
    array[0] = np.nan
    assert not watched.changed
    change(array)
    assert watched.changed
