"""Runs that end because they no longer improve."""

from __future__ import annotations

import numpy as np
import pytest
from fitting import assert_same, net, parameters

from backprop_xp.training import SGD, EarlyStopping


def test_puts_back_the_best(data):
    x, y = data
    made, seen = net(), []
    held_out = (x[:20], y[:20])
    history = made.fit(
        x[20:],
        y[20:],
        epochs=200,
        batch_size=8,
        optimiser=SGD(lr=1.5),
        validation=held_out,
        early_stopping=4,
        callbacks=[lambda net, epoch: seen.append((epoch.validation_loss, parameters(net)))],
    )
    losses = [loss for loss, _ in seen]
    assert history.best == int(np.argmin(losses)) + 1
    assert len(losses) == history.best + 4
    assert history.stopped == "no better for 4 epochs"
    assert_same(parameters(made), seen[history.best - 1][1])
    assert any((p != q).any() for p, q in zip(parameters(made), seen[-1][1]))


def test_by_training_loss_and_least_improvement(data):
    # nothing changes, so that no epoch is better than the first
    history = net().fit(*data, epochs=9, optimiser=SGD(lr=0.0), early_stopping=EarlyStopping(2))
    assert (len(history.epochs), history.best) == (3, 1)
    history = net().fit(*data, epochs=9, early_stopping=EarlyStopping(2, min_delta=1e9))
    assert (len(history.epochs), history.best) == (3, 1)


def test_a_run_that_ends_by_itself_has_the_best_too(data):
    made, seen = net(), []
    history = made.fit(
        *data,
        epochs=6,
        batch_size=8,
        optimiser=SGD(lr=1.0),
        early_stopping=100,
        callbacks=[lambda net, epoch: seen.append(parameters(net))],
    )
    assert history.stopped == "" and history.best is not None
    assert_same(parameters(made), seen[history.best - 1])


@pytest.mark.parametrize("options", [{"patience": 0}, {"min_delta": -1.0}, {"patience": True}])
def test_messages(options):
    with pytest.raises(ValueError, match="a patience of at least 1 epoch and a min_delta of at least 0"):
        EarlyStopping(**options)
