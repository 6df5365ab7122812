"""Pictures of training runs."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from matplotlib import image

from backprop_xp.data import Recipe, train
from backprop_xp.data.picture import draw


@pytest.mark.parametrize("target", [["a", "b"] * 10, np.linspace(0.5, 3.7, 20), [f"class {i % 17}" for i in range(85)]])
def test_a_picture(target, tmp_path):
    frame = pandas.DataFrame({"x": np.arange(len(target)) % 7, "y": target})
    trained = train(frame, "y", Recipe(hidden=(), epochs=2, backend="numpy"))
    draw(trained, tmp_path / "run.png")
    pixels = image.imread(tmp_path / "run.png")
    assert pixels.shape[1] == 1100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["run.png"]
