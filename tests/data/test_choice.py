"""Weight decay and depth: usual ones for few rows, tried on a split of the training rows for many."""

import numpy as np
import pandas
import pytest

from backprop_xp import Net
from backprop_xp.data import Recipe, choice, train
from backprop_xp.data.recipe import fit_options, prepare
from backprop_xp.training import SGD, DivergedError

BASE = {"backend": "numpy", "epochs": 2}


def table(n=100):
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 3))
    return pandas.DataFrame(x, columns=list("abc")).assign(y=x[:, 0] * x[:, 1])


def settled(losses, monkeypatch, rows=100, few=50, **options):
    """What is chosen where trainings come to these losses, by (weight decay, hidden), and what was tried."""
    recipe = Recipe(**BASE, **options)
    data = prepare(table(rows), "y", recipe)
    tried = []

    def fit(part, trial, judges):
        assert not np.isin(judges, [*part.first, *data.held]).any()
        assert not np.isin(part.first, data.held).any() and trial.early_stopping is None
        assert len(part.first) == len(data.first) - round(choice.SHARE * len(data.first))
        tried.append((trial.weight_decay, trial.hidden))
        return losses(*tried[-1])

    monkeypatch.setattr(choice, "FEW_ROWS", few)
    recipe, notes = choice.settled(data, recipe, fit)
    return (recipe.weight_decay, recipe.hidden), notes, tried


def test_few_rows_get_the_usual_ones(monkeypatch):
    assert settled(lambda *_: 1.0, monkeypatch, few=80) == ((1.0, (128,)), [], [])
    assert Recipe().new_optimiser().weight_decay == 1.0 and Recipe().widths == (128,)


def test_the_lowest_loss_decides(monkeypatch):
    found, notes, tried = settled(lambda decay, hidden: abs(decay - 0.1) + 1 / len(hidden), monkeypatch)
    assert found == (0.1, (128, 128))
    assert tried == [(1.0, (128,)), (0.1, (128,)), (0.01, (128,)), (0.1, (128, 128))]
    assert notes == [
        "--weight-decay 0.1 is taken, for the lowest loss on 16 of the training rows (1: 1.9, 0.1: 1, 0.01: 1.09)",
        "--hidden 128-128 is taken, for the lowest loss on 16 of the training rows (128: 1, 128-128: 0.5)",
    ]


@pytest.mark.parametrize(
    "options, tried",
    [
        ({"weight_decay": 0.5}, [(0.5, (128,)), (0.5, (128, 128))]),
        ({"hidden": (4,)}, [(1.0, (4,)), (0.1, (4,)), (0.01, (4,))]),
        ({"hidden": (), "weight_decay": 0}, []),
        ({"optimiser": "sgd", "hidden": (4,)}, []),
    ],
)
def test_what_is_given_is_not_tried(options, tried, monkeypatch):
    assert settled(lambda *_: 1.0, monkeypatch, **options)[2] == tried


def test_what_diverges_is_not_chosen(monkeypatch):
    assert settled(lambda decay, hidden: np.inf if decay < 1 or len(hidden) > 1 else 5.0, monkeypatch)[0] == (
        1.0,
        (128,),
    )
    assert settled(lambda decay, hidden: np.nan if decay == 1 else decay, monkeypatch)[0] == (0.01, (128,))


def test_a_training_that_diverges_is_the_worst(monkeypatch):
    """And ends none of the others."""
    monkeypatch.setattr(choice, "FEW_ROWS", 50)
    fit = Net.fit

    def diverge(net, *data, optimiser, **options):
        if optimiser.weight_decay != 0.01:
            raise DivergedError(np.nan, 1, "t0", None)
        return fit(net, *data, optimiser=optimiser, **options)

    monkeypatch.setattr(Net, "fit", diverge)
    assert train(table(), "y", Recipe(**BASE, hidden=(3,))).recipe.weight_decay == 0.01


def test_held_out_rows_have_no_say(monkeypatch):
    monkeypatch.setattr(choice, "FEW_ROWS", 50)
    frame, recipe = table(), Recipe(**BASE, hidden=(3,))
    before = train(frame, "y", recipe)
    assert "--weight-decay" in before.notes[-1] and before.recipe.weight_decay in choice.DECAYS
    frame.loc[before.held_out.index, ["a", "y"]] = 1e4
    after = train(frame, "y", recipe)
    assert after.notes == before.notes
    for p, q in zip(before.model.net.parameters, after.model.net.parameters):
        np.testing.assert_array_equal(p.data, q.data)


def test_optimisers_have_their_own_rates():
    options = fit_options(Recipe(optimiser="sgd", schedule="constant", early_stopping=3))
    assert isinstance(options["optimiser"], SGD) and options["optimiser"].lr == SGD().lr
    assert options["optimiser"].weight_decay == 0 and options["schedule"] == "constant"
    assert options["early_stopping"] == 3
    assert Recipe(optimiser="sgd", lr=0.5, weight_decay=0.25).new_optimiser().weight_decay == 0.25
    assert Recipe().new_optimiser().lr == 0.01


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optimiser": "adan"}, "unknown optimiser 'adan'; did you mean 'adam'"),
        ({"schedule": "step"}, "unknown schedule 'step'"),
        ({"early_stopping": 0}, "early_stopping must be an integer from 1 on, got 0"),
        ({"class_weight": "even"}, "unknown class_weight 'even'"),
        ({"folds": 1}, "folds must be an integer from 2 on, got 1"),
        ({"weight_decay": -1}, "weight_decay must be a number from 0 on"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
