"""Pictures of training runs."""

import numpy as np
import pandas
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from backprop_xp.data import Recipe, picture, train
from backprop_xp.data.picture import draw
from backprop_xp.training import Epoch

QUICK = {"hidden": (), "epochs": 2, "backend": "numpy"}


def table(target):
    return pandas.DataFrame({"x": np.arange(len(target)) % 7, "y": target})


@pytest.mark.parametrize("target", [["a", "b"] * 10, np.linspace(0.5, 3.7, 20), [f"class {i % 17}" for i in range(85)]])
def test_a_picture(target, tmp_path):
    trained = train(table(target), "y", Recipe(**QUICK))
    draw(trained, tmp_path / "run.png")
    pixels = image.imread(tmp_path / "run.png")
    assert pixels.shape[:2] == (920, 1100)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["run.png"]


@pytest.fixture
def panels(monkeypatch, tmp_path):
    """Draws, and gives every panel by its title."""

    def drawn(trained):
        figures = []
        monkeypatch.setattr(
            Figure, "subplots", lambda *a, real=Figure.subplots, **k: figures.append(a[0]) or real(*a, **k)
        )
        draw(trained, tmp_path / "run.png")
        return figures[0], {axes.get_title().split(" (")[0]: axes for axes in figures[0].axes}

    return drawn


def test_what_is_drawn_of_classes(panels):
    figure, found = panels(train(table(["a", "b"] * 20), "y", Recipe(**QUICK, early_stopping=1)))
    assert {"loss", "importance of columns", "answers to held-out rows", "calibration"} <= found.keys()
    labels = [text.get_text() for text in found["loss"].get_legend().get_texts()]
    assert labels[:2] == ["training", "rows that decide the end"] and labels[2].startswith("lowest, ")
    bar = next(axes for axes in figure.axes if axes.get_ylabel() == "of the class's rows")
    assert next(text.get_text() for text in bar.get_yticklabels()) == "0%"


def test_what_is_drawn_of_several_targets_and_folds(panels):
    frame = table(np.linspace(0.5, 3.7, 30)).assign(z=np.linspace(2, 9, 30) ** 2)
    trained = train(frame, ["y", "z"], Recipe(**QUICK, folds=2))
    figure, _ = panels(trained)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles.count("residuals of held-out rows") == 2
    assert "2 targets, mean R^2" in figure.get_suptitle()


def test_ticks_are_plain_numbers():
    trained = train(table(np.linspace(0.5, 3.7, 20)), "y", Recipe(**QUICK))
    for losses, scale in (
        ([0.56, 0.68], "linear"),
        ([0.9, 0.004], "log"),
        ([1.0, 0.0], "linear"),
        ([1e9, 1e-9], "log"),
    ):
        trained.history.epochs = [Epoch(i, i, loss, loss, 0.0) for i, loss in enumerate(losses, 1)]
        figure = Figure()
        axes = figure.subplots()
        picture._losses(axes, trained)
        figure.canvas.draw()
        low, high = axes.get_ylim()
        ticks = zip(axes.yaxis.get_ticklabels(), axes.yaxis.get_ticklocs())
        shown = [label.get_text() for label, place in ticks if low <= place <= high]
        assert axes.get_yscale() == scale and len(shown) >= 3
        assert not any("10^" in text for text in [*shown, *(t.get_text() for t in axes.yaxis.get_minorticklabels())])


def test_names_that_matplotlib_would_take_for_formulas(tmp_path):
    frame = table(["$a", "b$^"] * 10).rename(columns={"x": "$\\frac{$", "y": "y$_$"})
    draw(train(frame, "y$_$", Recipe(**QUICK)), tmp_path / "run.png")
    assert (tmp_path / "run.png").exists()
