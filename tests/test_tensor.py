"""Arrays that are made when they are asked for: the newest call's, whoever asks in between."""

import copy
import pickle
import threading

import numpy as np
import pytest
from here import needs_compiler

from backprop_xp import Net, Tensor


def left(number, signal=False):
    """What a call leaves of a tensor of shape (2,)."""
    return (np.full(4, float(number)), slice(0, 2) if signal else None, slice(2, 4), (2,))


def test_what_a_call_left():
    tensor = Tensor(np.zeros(2))
    tensor._later = left(1)
    np.testing.assert_array_equal(tensor.grad, [1, 1])
    assert tensor.grad is tensor.grad and not tensor.data.any()
    tensor.grad *= 3
    np.testing.assert_array_equal(tensor.grad, [3, 3])
    tensor._later = left(2)
    tensor.data = np.ones(2)
    np.testing.assert_array_equal([tensor.data, tensor.grad], [[1, 1], [2, 2]])
    tensor.grad = None
    assert tensor.grad is None and tensor.data.all()


@pytest.mark.parametrize("name, other", [("data", "grad"), ("grad", "data")])
def test_setting_one_half_of_a_signal_keeps_the_other(name, other):
    signal = Tensor(None)
    signal._later = left(5, signal=True)
    setattr(signal, name, "mine")
    assert getattr(signal, name) == "mine"
    np.testing.assert_array_equal(getattr(signal, other), [5, 5])


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda tensor: pickle.loads(pickle.dumps(tensor))])
def test_copies(clone):
    tensor = Tensor(np.zeros(2), "w")
    tensor._later = left(1)
    for _ in range(2):
        np.testing.assert_array_equal(clone(tensor).grad, [1, 1])
        assert tensor.grad.all()


def test_a_reader_that_is_overtaken_loses_nothing():
    """The trainer's next call comes at any point of reading; afterwards its gradient is there."""

    class Overtaken(Tensor):
        __slots__ = ()

        def _arrays(self, later):
            if later[0][0] == 1:
                self._later = left(2)
            return super()._arrays(later)

    tensor = Overtaken(np.zeros(2))
    tensor._later = left(1)
    np.testing.assert_array_equal(tensor.grad, [1, 1])
    np.testing.assert_array_equal(tensor.grad, [2, 2])
    np.testing.assert_array_equal(tensor.grad, [2, 2])


@needs_compiler
@pytest.mark.parametrize("shape", [(5,), (3, 5)], ids=["sample", "batch"])
def test_reading_while_another_thread_trains(shape):
    net = Net((5, 4, 3), bias=True, loss="mse", rng=0, backend="numpy")
    random = np.random.default_rng(0)
    calls = [(random.normal(size=shape), random.normal(size=(*shape[:-1], 3))) for _ in range(2)]
    net.loss_and_grad(*calls[0])
    stop, wrong = threading.Event(), []

    def read():
        try:
            while not stop.is_set():
                for tensor in (*net.parameters, *net.linear_outputs):
                    tensor.grad  # noqa: B018
                    tensor.data  # noqa: B018
        except BaseException as error:
            wrong.append(error)

    expected = []
    for call in calls:
        net.loss_and_grad(*call)
        expected.append([p.grad.copy() for p in net.parameters])
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(2000):
        net.loss_and_grad(*calls[i % 2])
        for p, grad in zip(net.parameters, expected[i % 2]):
            np.testing.assert_array_equal(p.grad, grad)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
