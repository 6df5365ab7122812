"""Runs whose loss is no longer a number."""

import numpy as np
import pytest

from backprop_xp import Net
from backprop_xp.training import SGD, DivergedError, steps


def net(**options):
    return Net((3, 4, 2), ("relu", "identity"), **{"loss": "mse", "bias": True, "rng": 0} | options)


@pytest.fixture
def data(random):
    return random.normal(size=(40, 3)), random.normal(size=(40, 2))


def test_the_step_and_the_layer_are_named(data):
    made = net(dtype="float32")
    with pytest.raises(
        DivergedError, match=r"the loss became (nan|inf) at step \d+: .*; there is no checkpoint"
    ) as error:
        made.fit(*data, epochs=100, optimiser=SGD(lr=100.0))
    step, layer = error.value.step, error.value.layer
    # the parameters are those before that step, and the signal is the first that isn't finite
    again = net(dtype="float32")
    for found in steps(again, *data, epochs=100, optimiser=SGD(lr=100.0)):
        if found.number == step - 1:
            break
    for p, q in zip(made.parameters, again.parameters):
        np.testing.assert_array_equal(p.data, q.data)
    again.forward(data[0], keep_signals=True)
    names = ["t0", "z0", "t1", "z1", ""]
    tensors = [t for pair in zip(again.linear_outputs, again.nonlinear_outputs) for t in pair]
    finite = [np.isfinite(t.data).all() for t in tensors]
    assert layer == names[finite.index(False) if False in finite else -1]
    assert error.value.checkpoint is None


def test_a_weight_that_is_no_number_is_named(data):
    made = net()
    made.weights[1].data[0, 0] = np.nan
    with pytest.raises(DivergedError, match="became nan at step 1: the parameter W1 isn't finite") as error:
        made.fit(*data)
    assert (error.value.step, error.value.layer) == (1, "W1")


def test_the_first_signal_is_named(data):
    made = net()
    made.biases[0].data[:] = 1e308
    made.weights[1].data[:] = 1e308
    with pytest.raises(DivergedError, match="t1 is the first signal that isn't finite") as error:
        made.fit(*data)
    assert error.value.layer == "t1"


@pytest.mark.parametrize("which, message", [(0, "the input x of its batch isn't finite"), (1, "the target y of its")])
def test_data_that_is_no_number(data, which, message):
    data[which][25, 1] = np.nan
    with pytest.raises(DivergedError, match=f"at step 3: {message}"):
        net().fit(*data, batch_size=10, shuffle=False)


def test_the_last_good_checkpoint_is_named(data, tmp_path):
    made = net(dtype="float32")
    with pytest.raises(DivergedError, match=r"the last good checkpoint is .*checkpoint-0") as error:
        made.fit(*data, batch_size=8, epochs=100, optimiser=SGD(lr=100.0), checkpoint=tmp_path, checkpoint_every=1)
    with np.load(error.value.checkpoint) as file:
        assert np.isfinite(file["parameters"]).all()
    assert int(error.value.checkpoint.stem[-12:]) == error.value.step - 1


def test_a_bad_step_makes_no_checkpoint(data, tmp_path):
    """The loss is still finite, but the step after it is not."""
    made = net()
    with pytest.raises(DivergedError, match=r"W0 is no longer finite after step 2; the last good .*-000000000001.npz"):
        made.fit(
            *data,
            batch_size=20,
            epochs=3,
            optimiser=SGD(lr=1.0),
            schedule=lambda step: 1e-6 if step < 1 else 1e308,
            checkpoint=tmp_path,
            checkpoint_every=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000000001.npz"]


def test_unless_the_user_says_otherwise(data):
    made = net(dtype="float32")
    history = made.fit(*data, epochs=100, optimiser=SGD(lr=100.0), stop_on_nan=False)
    assert len(history.epochs) == 100 and np.isnan(history.epochs[-1].loss)
