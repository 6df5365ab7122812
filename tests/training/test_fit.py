"""fit, and the same loop written out against PyTorch."""

import inspect
import sys

import numpy as np
import pytest
from fitting import assert_same, net, parameters

from backprop_xp import Net
from backprop_xp.losses import SoftmaxCrossEntropy
from backprop_xp.training import SGD, Adam, evaluate, fit, steps


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


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        SoftmaxCrossEntropy(weight=(1.0, 0.25)),
        SoftmaxCrossEntropy(ignore_index=-1),
        SoftmaxCrossEntropy(weight=(3.0, 0.5), ignore_index=-1, label_smoothing=0.1),
    ],
    ids=str,
)
def test_weights_of_classes_count_in_the_averages_of_an_epoch(data, random, reduction, weighted, loss):
    x, _ = data
    y = random.integers(-1 if loss.ignore_index else 0, 2, 60)
    y[:16] = -1 if loss.ignore_index else 0
    weight = random.random(60) if weighted and reduction == "mean" else None
    made = net(loss=loss, reduction=reduction)
    epoch = made.fit(x, y, batch_size=16, optimiser=SGD(lr=0.0), sample_weight=weight, validation=(x, y)).epochs[0]
    samples = 60 if reduction == "sum" else 1
    assert epoch.loss == pytest.approx(float(made.loss_and_grad(x, y, sample_weight=weight)) / samples, rel=1e-12)
    assert epoch.validation_loss == pytest.approx(float(made.loss_and_grad(x, y)) / samples, rel=1e-12)


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
        ({"epochs": -1}, "epochs must be an integer from 0 on, got -1"),
        ({"epochs": 1.5}, "epochs must be an integer from 0 on, got 1.5"),
        ({"clip_norm": 0.0}, "clip_norm must be a number above 0, got 0.0"),
        ({"l2": -1.0}, "l2 must be a number from 0 on, got -1.0"),
        ({"validation": 3}, r"validation must be \(x, y\)"),
        ({"optimiser": "adma"}, "unknown optimiser 'adma'; did you mean 'adam'"),
        ({"checkpoint_every": 0, "checkpoint": "x"}, "checkpoint_every must be an integer from 1 on, got 0"),
    ],
)
def test_messages(data, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(net(), *data, **options)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_batches_without_any_weight_contribute_nothing(data, optimiser):
    """The last three batches of each epoch have none; Adam goes on by its moments, as after a gradient of 0."""
    x, y = data
    weight = np.where(np.arange(60) < 30, 2.0, 0.0)
    made, alone = net(), net()
    history = made.fit(x, y, sample_weight=weight, epochs=2, batch_size=10, shuffle=False, optimiser=optimiser)
    assert all(np.isfinite(p.data).all() for p in made.parameters)
    other = alone.fit(x[:30], y[:30], epochs=2, batch_size=10, shuffle=False, optimiser=optimiser)
    assert history.epochs[0].loss == pytest.approx(other.epochs[0].loss, rel=1e-12)
    if optimiser == "sgd":
        for p, q in zip(made.parameters, alone.parameters):
            np.testing.assert_allclose(p.data, q.data, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_no_weight_at_all(data, reduction):
    made, other = net(reduction=reduction), net()
    assert made.fit(*data, sample_weight=np.zeros(60), optimiser="sgd").epochs[0].loss == 0
    assert_same(parameters(made), parameters(other))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weighted_losses_of_epochs(data, random, reduction):
    weight = random.uniform(0, 2, size=60)
    made = net(reduction=reduction)
    history = made.fit(*data, sample_weight=weight, batch_size=16, optimiser=SGD(lr=0.0))
    expected = float(made.loss_and_grad(*data, sample_weight=weight)) / (60 if reduction == "sum" else 1)
    assert history.epochs[0].loss == pytest.approx(expected, rel=1e-12)


INTEGERS = [np.int64, np.uint8, lambda n: np.array(n)]
REALS = [np.float32, np.float64, lambda x: np.array(x)]


@pytest.mark.parametrize("of", INTEGERS)
@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "early_stopping", "checkpoint_every"])
def test_numpys_integers(data, tmp_path, name, of):
    plain = {"epochs": 3, "batch_size": 16, "seed": 5, "early_stopping": 3, "checkpoint_every": 2}
    made, same = net(), net()
    made.fit(*data, checkpoint=tmp_path / "a", **plain)
    same.fit(*data, checkpoint=tmp_path / "b", **plain | {name: of(plain[name])})
    assert_same(parameters(made), parameters(same))
    same.fit(*data, checkpoint=tmp_path / "a", resume=np.True_, **plain | {name: of(plain[name])})


@pytest.mark.parametrize("of", REALS)
@pytest.mark.parametrize("name", ["clip_norm", "l1", "l2"])
def test_numpys_reals(data, name, of):
    made, same = net(), net()
    made.fit(*data, **{name: 0.25})
    same.fit(*data, **{name: of(0.25)}, schedule=lambda step: of(1.0))
    assert_same(parameters(made), parameters(same))


def test_an_infinite_norm_clips_nothing(data):
    made, same = net(), net()
    made.fit(*data, clip_norm=np.inf)
    same.fit(*data)
    assert_same(parameters(made), parameters(same))


def test_without_a_seed_each_run_has_its_own(data):
    first, second, again = net(), net(), net()
    seeds = [made.fit(*data, batch_size=8, seed=None).seed for made in (first, second)]
    assert seeds[0] != seeds[1] and (first.weights[0].data != second.weights[0].data).any()
    assert again.fit(*data, batch_size=8, seed=seeds[0]).seed == seeds[0]
    assert_same(parameters(again), parameters(first))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_what_is_no_seed(data, seed):
    with pytest.raises(ValueError, match=f"seed must be an integer from 0 on, got {seed!r}"):
        net().fit(*data, seed=seed)


class TestOptions:
    def test_the_signature_is_a_real_one(self):
        names = list(inspect.signature(Net.fit).parameters)
        assert names == list(inspect.signature(fit).parameters)
        assert {"epochs", "optimiser", "early_stopping", "seed"} <= set(names) and "options" not in names
        assert list(inspect.signature(net().fit).parameters) == names[1:]

    @pytest.mark.parametrize(
        "call",
        [
            lambda *a, **k: net().fit(*a, **k),
            lambda *a, **k: fit(net(), *a, **k),
            lambda *a, **k: steps(net(), *a, **k),
        ],
    )
    def test_names(self, data, call):
        with pytest.raises(TypeError, match=r"unknown option of (fit|steps) 'epoch'; did you mean 'epochs'"):
            call(*data, epoch=3)
        with pytest.raises(TypeError, match=r"unknown option of (fit|steps) 'zzz'; known are .*batch_size"):
            call(*data, zzz=3)
        with pytest.raises(TypeError, match=r"lr is no option of (fit|steps) but of its optimiser"):
            call(*data, lr=0.1)
        call(*data, optimizer="sgd")
        with pytest.raises(TypeError, match=r"optimiser and optimizer are one option of (fit|steps): give one of them"):
            call(*data, optimizer="sgd", optimiser="sgd")

    def test_the_other_spelling(self, data):
        made, same = net(), net()
        made.fit(*data, optimiser=SGD(lr=0.1))
        same.fit(*data, optimizer=SGD(lr=0.1))
        assert_same(parameters(made), parameters(same))
