"""When a run ends, and with which parameters."""

import math
import warnings

import numpy as np
import pytest
from tables import blobs, line

from backprop_xp import Net
from backprop_xp.sklearn import BackpropClassifier, BackpropRegressor, estimator
from backprop_xp.sklearn.stopping import Convergence
from backprop_xp.training.history import Epoch

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def epochs_of(losses, tol, patience):
    """How many epochs with these losses a run has."""
    convergence = Convergence(tol, patience, None, False)
    for number, loss in enumerate(losses, 1):
        if convergence(None, Epoch(number, number, loss, None, 0.0)):
            return number
    return math.inf


def test_the_loss_must_fall_by_tol():
    falling = [10 - 0.5 * k for k in range(10)]
    assert epochs_of(falling, 0.4, 1) == math.inf
    assert epochs_of(falling, 0.5, 1) == math.inf
    assert epochs_of([1.0] * 9, 0.1, 3) == 1 + 4  # more than three epochs without a gain
    assert epochs_of([1.0, 0.95, 0.9, 0.85, 0.8], 0.1, 2) == 4  # it is compared with the lowest loss
    assert epochs_of([1.0] * 99, 1e9, math.inf) == math.inf
    assert epochs_of([math.nan] * 9, 0.0, 2) == 3


@pytest.mark.parametrize("patience", [1, 2, 5, 20])
def test_as_many_epochs_as_mlpclassifier(patience):
    """With one loss for all epochs, which both take from a learning rate of next to nothing."""
    from sklearn.neural_network import MLPClassifier

    x, y = blobs()
    options = {"learning_rate_init": 1e-12, "n_iter_no_change": patience, "tol": 1e-3, "random_state": 0}
    ours, theirs = (cls(**options).fit(x, y) for cls in (BackpropClassifier, MLPClassifier))
    assert ours.n_iter_ == theirs.n_iter_ == len(ours.loss_curve_) == patience + 2
    assert BackpropClassifier(**options | {"n_iter_no_change": np.inf, "max_iter": 30}).fit(x, y).n_iter_ == 30


def test_the_best_parameters_are_put_back():
    scores = iter([0.5, 0.9, 0.9, 0.2, 0.1])
    net = Net((2, 1), rng=0, backend="numpy")
    convergence = Convergence(0.0, 2, lambda: next(scores), False)
    for number in range(1, 6):
        net.weights[0].data = np.full((1, 2), float(number))
        if convergence(net, Epoch(number, number, 0.0, None, 0.0)):
            break
    convergence.put_back_the_best(net)
    assert net.weights[0].data.tolist() == [[2, 2]]
    assert convergence.scores == [0.5, 0.9, 0.9, 0.2, 0.1]


@pytest.mark.parametrize("kind", [BackpropClassifier, BackpropRegressor])
def test_early_stopping_keeps_what_scored_best(kind, monkeypatch):
    splits, split = [], estimator.train_test_split
    monkeypatch.setattr(estimator, "train_test_split", lambda *a, **k: splits.append(split(*a, **k)) or splits[-1])
    x, y = blobs(2) if kind is BackpropClassifier else line()
    random = np.random.default_rng(1)
    y = (
        np.where(random.random(len(y)) < 0.3, 1 - y, y)
        if kind is BackpropClassifier
        else y + random.normal(size=len(y))
    )
    model = kind((50,), early_stopping=True, learning_rate_init=0.05, n_iter_no_change=15, random_state=3).fit(x, y)
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert len(model.validation_scores_) == model.n_iter_ == len(model.loss_curve_) < model.max_iter
    assert model.best_loss_ is None
    held = splits[0][1]
    assert model.score(x[held], y[held]) == pytest.approx(model.best_validation_score_)


def test_held_out_rows_have_their_share_of_every_class(monkeypatch):
    splits, split = [], estimator.train_test_split
    monkeypatch.setattr(estimator, "train_test_split", lambda *a, **k: splits.append(split(*a, **k)) or splits[-1])
    x, y = blobs(n=90)
    BackpropClassifier(early_stopping=True, max_iter=1).fit(x, y)
    assert np.bincount(y[splits[-1][1]]).tolist() == [3, 3, 3]
    BackpropClassifier(early_stopping=True, max_iter=1).fit(x[:20], y[:20])  # two are held out, of three classes
    assert len(splits[-1][1]) == 2
    alone = np.where(np.arange(90) == 0, 3, y)  # a class of one
    BackpropClassifier(early_stopping=True, max_iter=1).fit(x, alone)
    with pytest.raises(ValueError, match="least populated class"):
        BackpropClassifier(early_stopping=True).fit(x, alone == 3)


def test_a_run_that_diverges_later_keeps_the_best():
    x, y = line()
    schedule = lambda step: 1.0 if step < 40 else 1e30  # noqa: E731
    model = BackpropRegressor(
        (8,), activation="identity", optimiser="sgd", learning_rate_init=0.01, schedule=schedule, early_stopping=True,
        n_iter_no_change=1000, random_state=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="Training diverged, and ends with the best parameters before"):
        model.fit(x, y)
    assert math.isnan(model.validation_scores_[-1]) and 30 < model.n_iter_ < 50
    assert model.score(x, y) > 0.5 and model.best_validation_score_ > 0.5
    model.set_params(early_stopping=False)
    with pytest.raises(ValueError, match=r"Solver produced non-finite parameter weights.* at step"):
        model.fit(x, y)


def test_a_warning_says_that_a_run_has_not_converged():
    from sklearn.exceptions import ConvergenceWarning

    x, y = blobs()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        BackpropClassifier(max_iter=3).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BackpropClassifier(max_iter=3, schedule="cosine").fit(x, y)  # which ends as planned
        BackpropClassifier(max_iter=100, tol=10).fit(x, y)


def test_an_interrupt_ends_the_run_and_leaves_an_estimator(monkeypatch):
    x, y = blobs()

    def interrupt(self, net, epoch, call=Convergence.__call__):
        call(self, net, epoch)
        if epoch.number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Convergence, "__call__", interrupt)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = BackpropClassifier(random_state=0).fit(x, y)
    assert model.n_iter_ == 3 and model.predict(x).shape == y.shape


def test_verbose_prints_a_line_an_epoch(capsys):
    x, y = blobs()
    model = BackpropClassifier(verbose=True, max_iter=2, early_stopping=True).fit(x, y)
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split(" = ")[0].split(":")[0] for line in lines]
    assert kinds == ["Iteration 1, loss", "Validation score", "Iteration 2, loss", "Validation score"]
    assert lines[2] == f"Iteration 2, loss = {model.loss_:.8f}"
    BackpropClassifier(max_iter=2).fit(x, y)
    assert capsys.readouterr() == ("", "")
