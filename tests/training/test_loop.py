"""The loop as a generator."""

import numpy as np
from fitting import assert_same, net, parameters

from backprop_xp.training import SGD, Cosine, WarmUp, steps


def test_the_generator_is_the_same_loop(data):
    a, b = net(), net()
    a.fit(*data, epochs=3, batch_size=16, optimiser="rmsprop", schedule=WarmUp(5) * Cosine(12), l1=0.01)
    for step in steps(b, *data, epochs=3, batch_size=16, optimiser="rmsprop", schedule=WarmUp(5) * Cosine(12), l1=0.01):
        last = step
    assert (last.number, last.epoch, last.last, last.samples) == (12, 3, True, 12)
    assert_same(parameters(a), parameters(b))


def test_each_turn_of_the_generator_is_one_step(data):
    made, before = net(), None
    for step in steps(made, *data, batch_size=16):
        now = parameters(made)
        assert before is None or any((p != q).any() for p, q in zip(before, now))
        assert isinstance(step.loss, float)
        before = now


def test_what_a_user_does_between_steps_is_seen(data):
    made = net()
    for step in steps(made, *data, epochs=2, batch_size=20, optimiser=SGD(lr=0.0)):
        if step.number == 2:
            made.weights[0].data = np.zeros((8, 3))
        elif step.number == 4:
            made.biases[1].data[:] = 7.0
    np.testing.assert_array_equal(made.weights[0].data, 0.0)
    np.testing.assert_array_equal(made.biases[1].data, 7.0)
