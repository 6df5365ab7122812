"""Losses on a device are looked at one step late, and what a step left when its loss was bad is what was there before."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from backprop_xp import Net, get_backend
from backprop_xp.training import SGD, Adam, DivergedError, loop, steps
from backprop_xp.training.lookout import Lookout, Seen

pytestmark = pytest.mark.gpu
FINITE, BAD = 1.5, [np.nan, np.inf, -np.inf]


def net(backend="cupy", dtype="float64"):
    return Net((3, 4, 2), ("relu", "identity"), loss="mse", bias=True, rng=0, backend=backend, dtype=dtype)


@pytest.fixture
def data(random):
    return random.normal(size=(40, 3)), random.normal(size=(40, 2))


def look(lookout, number, loss):
    return lookout.look(Seen(number, loss, (number, None, None), lambda: None))


def host(made):
    return [p.data.get() if hasattr(p.data, "get") else p.data.copy() for p in made.parameters]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", BAD)
def test_the_device_notes_the_first_step_that_went_wrong(cupy, bad, dtype):
    lookout = Lookout(get_backend("cupy"))
    for number, loss in enumerate([FINITE, FINITE, bad, FINITE, bad], 1):
        seen = look(lookout, number, cupy.asarray(loss, dtype))
        assert (seen is None) == (number < 4)
        assert lookout.loss.dtype == np.float64
        np.testing.assert_array_equal(lookout.loss.get(), loss)
        if number == 4:
            assert (seen.number, seen.batch, int(lookout.first)) == (3, (3, None, None), 3)
    assert lookout.settle() is not None
    assert lookout.settle() is None


def test_the_largest_numbers_are_finite(cupy):
    lookout = Lookout(get_backend("cupy"))
    for dtype in ("float32", "float64"):
        look(lookout, 1, cupy.asarray(np.finfo(dtype).max, dtype))
        assert lookout.settle() is None


def test_a_loss_of_another_kind(cupy):
    lookout = Lookout(get_backend("cupy"))
    for loss in (2.5, np.float32(2.5), cupy.asarray([2.5]), cupy.asarray(2.5, "float16")):
        assert look(lookout, 1, loss) is None
        assert float(lookout.loss) == 2.5


def test_a_step_waits_for_the_one_before_alone(cupy):
    class Event:
        def __init__(self, name):
            self.name = name

        def record(self):
            log.append(f"record {self.name}")

        def synchronize(self):
            log.append(f"wait {self.name}")

    lookout, log = Lookout(get_backend("cupy")), []
    lookout._events = [Event(0), Event(1)]
    for number in (1, 2, 3):
        look(lookout, number, cupy.ones(()))
    lookout.settle()
    assert log == ["record 1", "record 0", "wait 1", "record 1", "wait 0", "wait 1"]


@pytest.mark.parametrize("row, step", [(25, 3), (35, 4)], ids=["within an epoch", "at its end"])
@pytest.mark.parametrize("make", [lambda: SGD(lr=0.1, momentum=0.9), lambda: Adam(lr=0.1)], ids=["sgd", "adam"])
def test_the_parameters_and_the_state_are_those_before_that_step(data, row, step, make):
    x, y = data
    good = net("numpy")
    theirs = make()
    for _ in itertools.islice(steps(good, x, y, batch_size=10, shuffle=False, optimiser=theirs), step - 1):
        pass
    x[row, 1] = np.nan
    made, ours = net(), make()
    message = rf"the loss became nan at step {step}: the input x of its batch isn't finite"
    with pytest.raises(DivergedError, match=message) as error:
        made.fit(x, y, epochs=3, batch_size=10, shuffle=False, optimiser=ours)
    assert error.value.step == step
    for p, q in zip(host(good), host(made)):
        np.testing.assert_allclose(q, p, rtol=1e-9, atol=1e-12)
    assert ours.count == theirs.count == step - 1
    for name, state in ours.state.items():
        np.testing.assert_allclose(state.get(), theirs.state[name], rtol=1e-9, atol=1e-12)


def test_what_a_step_changes_beside_parameters_is_put_back(data, monkeypatch):
    x, y = data
    x[15] = np.nan
    undone, made = [], net()
    monkeypatch.setattr(loop, "undo", lambda net: lambda: undone.append(net))
    with pytest.raises(DivergedError, match="at step 2"):
        made.fit(x, y, batch_size=10, shuffle=False)
    assert undone == [made]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_no_checkpoint_is_of_a_step_that_was_not_made(data, tmp_path, every):
    x, y = data
    x[25, 1] = np.nan
    with pytest.raises(DivergedError, match="at step 3") as error:
        net().fit(x, y, batch_size=10, shuffle=False, checkpoint=tmp_path, checkpoint_every=every)
    written = sorted(int(path.stem[-12:]) for path in tmp_path.glob("checkpoint-*.npz"))
    assert max(written, default=0) == (2 if every < 3 else 0)
    assert (error.value.checkpoint is None) == (every == 3)
    if every < 3:
        with np.load(error.value.checkpoint) as file:
            assert np.isfinite(file["parameters"]).all()


def test_a_generator_raises_one_step_late_and_at_the_end_of_an_epoch_at_once(data):
    x, y = data
    x[15] = np.nan
    seen = []
    with pytest.raises(DivergedError, match="at step 2"):
        for step in steps(net(), x, y, batch_size=10, shuffle=False):
            seen.append(step.number)
    assert seen == [1, 2]
    x[35], x[15] = np.nan, 0.0
    with pytest.raises(DivergedError, match="at step 4"):
        for step in steps(net(), x, y, batch_size=10, shuffle=False):
            seen.append(step.number)
    assert seen == [1, 2, 1, 2, 3]


def test_float32_losses_of_an_epoch_are_added_in_double(cupy):
    x, y = np.full((600, 3), 0.1, np.float32), np.full((600, 2), 0.3, np.float32)
    epochs = [
        net(backend, "float32").fit(x, y, batch_size=2, optimiser=SGD(lr=0.0)).epochs[0].loss
        for backend in ("numpy", "cupy")
    ]
    assert epochs[1] == pytest.approx(epochs[0], rel=1e-7)
