"""Runs that end because they no longer improve."""

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
    history = net().fit(*data, epochs=9, optimiser=SGD(lr=0.0), early_stopping=EarlyStopping(2, 1e-9))
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


@pytest.mark.parametrize("patience", [0, True, 2.5, "3"])
def test_messages(patience, data):
    with pytest.raises(ValueError, match="patience of early stopping must be an integer from 1 on, got"):
        EarlyStopping(patience)
    with pytest.raises(ValueError, match=r"min_delta of early stopping must be a number from 0 on, got -1.0"):
        EarlyStopping(min_delta=-1.0)
    with pytest.raises((ValueError, TypeError), match=r"early.stopping must be .*, got"):
        net().fit(*data, early_stopping=patience)


def breaking_schedule(step):
    return 1.0 if step < 24 else None


def interrupted(net, epoch):
    if epoch.number == 4:
        raise KeyboardInterrupt


def moved(net, epoch):
    if epoch.number == 4:
        net.weights[0].data = np.zeros((1, 1))
        raise RuntimeError("mine")


ENDS = {
    "divergence": ({"schedule": lambda step: 1.0 if step < 24 else 1e200}, ArithmeticError),
    "a schedule": ({"schedule": breaking_schedule}, ValueError),
    "an interrupt": ({"callbacks": [interrupted]}, KeyboardInterrupt),
    "a callback": ({"callbacks": [moved]}, RuntimeError),
    "a callback that asks for it": ({"callbacks": [lambda net, epoch: np.bool_(epoch.number == 4)]}, None),
    "its epochs": ({"epochs": 4}, None),
}


@pytest.mark.parametrize("options, error", ENDS.values(), ids=ENDS)
def test_the_best_is_put_back_however_the_run_ends(data, options, error):
    x, y = data
    made, seen = net(), []

    def note(net, epoch):
        seen.append((epoch.validation_loss, parameters(net)))
        if epoch.number == 2:
            for p in net.parameters:  # whatever comes is worse
                p.data += 1.0

    callbacks = [note, *options.get("callbacks", ())]
    settings = {"epochs": 99, "batch_size": 8, "optimiser": SGD(lr=0.01), "early_stopping": 50} | options
    settings |= {"callbacks": callbacks, "validation": (x[:20], y[:20])}
    if error is None:
        history = made.fit(x, y, **settings)
    else:
        with np.errstate(all="ignore"), pytest.raises(error) as caught:
            made.fit(x, y, **settings)
        history = caught.value.history
        assert history.stopped.startswith(type(caught.value).__name__)
    losses = [loss for loss, _ in seen]
    assert history.best == int(np.nanargmin(losses)) + 1 == 2
    assert [epoch.validation_loss for epoch in history.epochs] == losses
    assert_same(parameters(made), seen[1][1])


def test_validation_that_fails(data):
    class Fails(type(net())):
        calls = 0

        def forward(self, x, **options):
            self.calls += 1
            if self.calls == 3:
                raise OSError("a disk")
            return super().forward(x, **options)

    x, y = data
    made, seen = Fails((3, 8, 2), loss="mse", reduction="mean", rng=0), []
    with pytest.raises(OSError, match="a disk") as caught:
        made.fit(
            x,
            y,
            epochs=9,
            validation=(x, y),
            early_stopping=5,
            callbacks=[lambda net, epoch: seen.append(parameters(net))],
        )
    assert len(caught.value.history.epochs) == 2
    assert_same(parameters(made), seen[caught.value.history.best - 1])


def test_without_early_stopping_an_exception_carries_the_history_too(data):
    with pytest.raises(KeyboardInterrupt) as caught:
        net().fit(*data, epochs=9, callbacks=[interrupted])
    assert (len(caught.value.history.epochs), caught.value.history.best) == (4, None)


def test_parameters_that_are_not_finite_are_never_the_best(data):
    """The training loss of an epoch is that before its steps, which may ruin everything."""
    made = net()
    with np.errstate(all="ignore"), pytest.raises(ArithmeticError) as caught:
        made.fit(
            *data,
            epochs=9,
            batch_size=60,
            early_stopping=5,
            schedule=lambda s: 0.01 if s < 3 else 1e308,
            optimiser=SGD(lr=10.0),
        )
    assert caught.value.history.best == 3
    assert all(np.isfinite(p.data).all() for p in made.parameters)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_validation_loss_that_is_no_number(data, bad):
    x, y = data
    with np.errstate(all="ignore"):
        history = net().fit(x, y, epochs=50, validation=(np.where(x > 1, bad, x), y * np.nan), early_stopping=3)
    assert history.stopped == "no better for 3 epochs: the validation loss was NaN or infinite in all of them"
    assert history.best is None and len(history.epochs) == 3


def test_some_validation_losses_that_are_no_numbers(data):
    x, y = data
    held_out = y.copy()

    def ruin(net, epoch):
        held_out[0] = np.nan if epoch.number in (3, 4) else 0.0

    history = net().fit(
        x, y, epochs=50, optimiser=SGD(lr=0.0), validation=(x, held_out), early_stopping=5, callbacks=[ruin]
    )
    assert history.stopped == "no better for 5 epochs: the validation loss was NaN or infinite in 2 of them"
    assert history.best in (1, 2)


def test_the_best_of_a_run_that_maximizes(data):
    x, y = data
    made, seen = net(), []
    history = made.fit(
        x,
        y,
        epochs=5,
        optimiser=SGD(lr=1e-3, maximize=True),
        validation=(x, y),
        early_stopping=2,
        callbacks=[lambda net, epoch: seen.append(epoch.validation_loss)],
    )
    assert seen == sorted(seen) and len(seen) == 5 and history.best == 5
