"""How a history shows itself."""

import builtins

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.training.history import Epoch, History


def history(losses=(6.05, 2.0, 0.7829), validation=None, **more):
    held_out = validation or [None] * len(losses)
    return History([Epoch(i, i, loss, v, 0.1) for i, (loss, v) in enumerate(zip(losses, held_out), 1)], **more)


@pytest.mark.parametrize(("made", "said"), [
    (history(), "History(3 epochs, loss 6.05 -> 0.7829)"),
    (history((2.5,)), "History(1 epoch, loss 2.5)"),
    (History(), "History(no epochs)"),
    (history(validation=[5.0, 1.5, 2.5], best=2, stopped="no better for 1 epoch"),
     "History(3 epochs, loss 6.05 -> 0.7829, validation loss 5 -> 2.5, best at epoch 2, stopped: no better for 1 epoch)"),
    (history([1.0] * 1500), "History(1,500 epochs, loss 1 -> 1)"),
    (history((float("nan"), float("inf"))), "History(2 epochs, loss nan -> inf)"),
])  # fmt: skip
def test_it_prints_as_one_line(made, said):
    assert repr(made) == str(made) == said


def test_what_fit_returns(random):
    x = random.normal(size=(40, 3))
    found = Net((3, 2), loss="mse", rng=0).fit(x, x[:, :2], epochs=3, batch_size=8, validation=(x[:8], x[:8, :2]))
    assert repr(found).startswith("History(3 epochs, loss ") and "\n" not in repr(found)
    np.testing.assert_array_equal(found.losses, [epoch.loss for epoch in found.epochs])
    np.testing.assert_array_equal(found.validation_losses, [epoch.validation_loss for epoch in found.epochs])
    assert np.isnan(history().validation_losses).all()


class TestPlot:
    @pytest.fixture(autouse=True)
    def without_a_screen(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("agg")
        yield
        matplotlib.pyplot.close("all")

    def test_both_losses_and_the_best_epoch(self):
        axes = history(validation=[5.0, 1.5, 2.5], best=2).plot()
        training, validation, best = axes.get_lines()
        np.testing.assert_array_equal(training.get_xydata(), [[1, 6.05], [2, 2.0], [3, 0.7829]])
        np.testing.assert_array_equal(validation.get_ydata(), [5.0, 1.5, 2.5])
        np.testing.assert_array_equal(best.get_xydata(), [[2, 1.5]])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            "training",
            "validation",
            "best, epoch 2",
        ]
        assert axes.get_yscale() == "log" and axes.get_xlabel() == "epoch"

    @pytest.mark.parametrize("losses", [(1.0, 0.0), (-1.0, -2.0), (float("nan"), float("nan")), (2.5,), ()])
    def test_any_losses(self, losses):
        axes = history(losses).plot()
        axes.figure.canvas.draw()
        assert axes.get_yscale() == ("log" if losses in ((2.5,), ()) or losses[0] != losses[0] else "linear")

    def test_on_axes_that_are_there(self):
        from matplotlib import pyplot

        axes = pyplot.subplots()[1]
        assert history().plot(axes) is axes and len(axes.get_lines()) == 1


def test_without_matplotlib(monkeypatch):
    right = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return right(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'backprop-xp\[data\]'"):
        history().plot()
