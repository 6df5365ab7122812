"""fit, and the same loop written out against PyTorch."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fitting import assert_same, net, parameters

from backprop_xp import Net
from backprop_xp.training import SGD, Adam, evaluate, fit


def test_is_the_loop_of_pytorch(data):
    torch = pytest.importorskip("torch")
    x, y = data
    ours = net()
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    with torch.no_grad():
        for layer, w, b in zip((theirs[0], theirs[2]), ours.weights, ours.biases):
            layer.weight.copy_(torch.tensor(w.data))
            layer.bias.copy_(torch.tensor(b.data))
    optimiser = torch.optim.Adam(theirs.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 15)
    tx, ty, losses = torch.tensor(x), torch.tensor(y), []
    for _ in range(3):
        total = 0.0
        for rows in torch.arange(60).split(13):
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(theirs(tx[rows]), ty[rows])
            penalty = sum(0.005 * (layer.weight**2).sum() for layer in (theirs[0], theirs[2]))
            (loss + penalty).backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            optimiser.step()
            scheduler.step()
            total += loss.item() * len(rows)
        losses.append(total / 60)
    history = ours.fit(
        x, y, epochs=3, batch_size=13, optimiser=Adam(lr=0.01), schedule="cosine", l2=0.01, clip_norm=0.5, shuffle=False
    )
    np.testing.assert_allclose([epoch.loss for epoch in history.epochs], losses, rtol=1e-10)
    for w, layer in zip(ours.weights, (theirs[0], theirs[2])):
        np.testing.assert_allclose(w.data, layer.weight.detach().numpy(), rtol=1e-9)


def test_the_same_run_twice_and_another_seed(data):
    runs = []
    for seed in (1, 1, 2):
        made = net()
        history = made.fit(*data, epochs=4, batch_size=16, seed=seed)
        runs.append([[epoch.loss for epoch in history.epochs], *parameters(made)])
    assert_same(runs[0], runs[1])
    assert runs[0][0] != runs[2][0]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss, target", [("mse", "y"), ("half_squared_error", "y"), ("softmax_cross_entropy", "k")])
def test_losses_are_averages_over_samples(data, random, reduction, loss, target):
    x, y = data
    y = y if target == "y" else random.integers(0, 2, 60)
    made = net(loss=loss, reduction=reduction)
    history = made.fit(x, y, batch_size=16, optimiser=SGD(lr=0.0), validation=(x, y))
    expected = float(made.loss_and_grad(x, y)) / (60 if reduction == "sum" else 1)
    assert history.epochs[0].loss == pytest.approx(expected, rel=1e-12)
    assert history.epochs[0].validation_loss == pytest.approx(expected, rel=1e-12)


def test_validation_without_a_target(data):
    made = Net((3, 2), rng=0)
    history = made.fit(data[0], optimiser=SGD(lr=0.0), validation=(data[0],))
    assert history.epochs[0].validation_loss == pytest.approx(float(made.loss_and_grad(data[0])) / 60)


def test_sample_weights(data):
    x, y = data
    a, b = net(), net()
    a.fit(x, y, sample_weight=np.where(np.arange(60) < 30, 1.0, 0.0), epochs=2, batch_size=60, shuffle=False)
    b.fit(x[:30], y[:30], epochs=2, batch_size=60, shuffle=False)
    for p, q in zip(a.parameters, b.parameters):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-10)


def test_callbacks(data):
    calls = []
    made = net()
    history = made.fit(
        *data,
        epochs=9,
        callbacks=[lambda net, epoch: calls.append((net, epoch.number)), lambda net, epoch: epoch.number == 3],
    )
    assert calls == [(made, 1), (made, 2), (made, 3)]
    assert history.stopped == "a callback asked for it"


def test_no_epochs_leave_everything_as_it_is(data):
    made, other = net(), net()
    assert made.fit(*data, epochs=0).epochs == []
    assert_same(parameters(made), parameters(other))


def test_evaluate_in_batches(data, monkeypatch):
    made = net()
    monkeypatch.setattr(sys.modules[fit.__module__], "AT_ONCE", 7)
    assert evaluate(made, *data) == pytest.approx(float(made.loss_and_grad(*data)), rel=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": -1}, "epochs must be a number of passes over the data, got -1"),
        ({"epochs": 1.5}, "epochs must be a number of passes over the data, got 1.5"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive number or None, got 0.0"),
        ({"l2": -1.0}, "l1 and l2 must not be negative"),
        ({"validation": 3}, r"validation must be \(x, y\)"),
        ({"optimiser": "adma"}, "unknown optimiser 'adma'; did you mean 'adam'"),
        ({"checkpoint_every": 0, "checkpoint": "x"}, "checkpoint_every must be a positive number of steps, got 0"),
    ],
)
def test_messages(data, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(net(), *data, **options)
