"""Nets of one kind are trained by one run, made again with the numbers of each, to the bits of runs of their own."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import BatchNorm, LeakyReLU, Net
from backprop_xp.toolchain import compiler
from backprop_xp.training import (
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    DivergedError,
    EarlyStopping,
    History,
    again,
    compiled,
    ensemble,
)
from backprop_xp.training.ensembles import DEFAULTS
from backprop_xp.training.optimisers import get_optimiser

pytestmark = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(53, 3)), RANDOM.normal(size=(53, 2))


def net(seed=0, activation="tanh", **options):
    options = {"bias": True, "reduction": "mean", "init": "glorot_uniform", "backend": "numpy"} | options
    return Net((3, 5, 2), [activation, None], "mse", rng=seed, **options)


def everything(net, history):
    """All that a run leaves behind."""
    epochs = [(epoch.number, epoch.step, epoch.loss, epoch.validation_loss) for epoch in history.epochs]
    arrays = [a for p in net.parameters for a in (p.data, p.grad)]
    return (
        str(epochs), history.stopped, history.best, history.seed, *(None if a is None else a.tobytes() for a in arrays)
    )  # fmt: skip


def runs_made():
    """A context that tells how many runs were made for nets of one kind, in a list."""
    made, create = [], again.Again.__init__

    def counted(self, given):
        made.append(given)
        create(self, given)

    return mock.patch.object(again.Again, "__init__", counted), made


def assert_the_bits_of_each_alone(made, each, **options):
    """... of nets that a function makes. Options that are functions are of a state. Returns how many runs were made."""

    def fresh(given):
        return {name: value() if callable(value) else value for name, value in given.items()}

    expected = []
    for one, own in zip(made(), each, strict=True):
        try:
            history = one.fit(X, Y, **fresh({k: v for k, v in options.items() if k != "threads"}) | fresh(own))
        except DivergedError as error:
            history = error.history
        expected.append(everything(one, history))
    those, (counting, found) = ensemble(made()), runs_made()
    with counting:
        histories = those.fit(X, Y, each=[fresh(own) for own in each], **fresh(options))
    assert [everything(*both) for both in zip(those.nets, histories, strict=True)] == expected
    return len(found)


OPTIMISERS = [
    lambda: SGD(lr=0.1),
    lambda: SGD(lr=0.3, momentum=0.9),
    lambda: SGD(lr=0.01, weight_decay=0.1, maximize=True),
    lambda: SGD(lr=1e200),
    lambda: Adam(lr=0.1),
    lambda: Adam(lr=0.01, betas=(0.5, 0.9)),
    lambda: Adagrad(initial_accumulator_value=0.5),
]


@settings(deadline=None, max_examples=40)
@pytest.mark.filterwarnings("ignore:.* nets? diverged")
@given(
    each=st.lists(
        st.fixed_dictionaries(
            {"optimiser": st.sampled_from(OPTIMISERS)},
            optional={"seed": st.integers(0, 2), "schedule": st.sampled_from(["cosine", None])},
        ),
        min_size=2,
        max_size=7,
    ),
    epochs=st.integers(0, 3),
    shuffle=st.booleans(),
    batch_size=st.integers(5, 60),
    l2=st.sampled_from([0.0, 0.1]),
    patience=st.sampled_from([None, 1]),
    stop_on_nan=st.booleans(),
    threads=st.integers(1, 3),
)
def test_every_setting(each, patience, **options):
    stopping = {} if patience is None else {"early_stopping": lambda: EarlyStopping(patience)}
    assert_the_bits_of_each_alone(lambda: [net(k) for k in range(len(each))], each, **stopping, **options)


def test_one_run_a_thread_is_made_for_a_kind():
    """... but the first net's, which is made to check what was given."""
    each = [{"seed": k, "optimiser": lambda k=k: Adam(lr=0.01 * (1 + k))} for k in range(6)]
    options = {"threads": 1, "epochs": 3, "early_stopping": lambda: EarlyStopping(2), "validation": (X[:9], Y[:9])}
    assert assert_the_bits_of_each_alone(lambda: [net(k) for k in range(6)], each, **options) == 1


def test_kinds_of_several_shapes_and_functions():
    def made():
        kinds = [
            {},
            {"activation": "relu"},
            {"activation": LeakyReLU(negative_slope=0.1)},
            {"activation": LeakyReLU(negative_slope=0.2)},
            {"bias": False},
        ]
        return [net(k, **options) for options in [*kinds, {"dtype": "float32"}] for k in range(2)]

    assert assert_the_bits_of_each_alone(made, [{}] * 12, threads=1, epochs=2) == 6


def test_what_the_engines_compute_alone_they_compute_here():
    made = lambda: [net(k, engine="layered") for k in range(3)]  # noqa: E731
    assert assert_the_bits_of_each_alone(made, [{}] * 3, threads=1, epochs=2) == 1


def test_nets_are_trained_again():
    alone, together = [net(k) for k in range(3)], [net(k) for k in range(3)]
    for _ in range(2):
        histories = [one.fit(X, Y) for one in alone]
        found = ensemble(together).fit(X, Y)
    assert [*map(everything, alone, histories)] == [*map(everything, together, found)]
    assert kind(together[2])


def test_nets_that_were_trained_alone():
    """Their parameters are then parts of one array."""

    def made():
        found = [net(k) for k in range(3)]
        for one in found:
            one.fit(X, Y)
        return found

    assert assert_the_bits_of_each_alone(made, [{}] * 3, threads=1, epochs=2) == 1


def test_epochs_that_are_equal_make_one_kind():
    each = [{"epochs": int(text)} for text in ("300", "300", "301")]
    assert assert_the_bits_of_each_alone(lambda: [net(k) for k in range(3)], each, threads=1, batch_size=60) == 1


def test_no_epoch_leaves_the_gradients_as_they_were():
    def made():
        found = [net(k) for k in range(2)]
        for one in found:
            one.loss_and_grad(X, Y)
        return found

    assert_the_bits_of_each_alone(made, [{}, {}], epochs=0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_net_that_begins_with_what_is_no_number(bad):
    def made():
        found = [net(k) for k in range(4)]
        found[1].weights[1].data[1, 2] = bad
        return found

    with pytest.warns(RuntimeWarning, match="^1 of 4 nets diverged: 1"):
        assert assert_the_bits_of_each_alone(made, [{}] * 4, threads=1, epochs=2) == 1


def test_an_interrupt_leaves_every_net_whole(monkeypatch):
    """The first is trained by then, the second as far as it has come, the third as it was."""
    run, calls = compiled._Ready.run, iter(range(9))

    def interrupted(self, *args):
        if next(calls) == 4:
            raise KeyboardInterrupt
        run(self, *args)

    alone, together = [net(k) for k in range(3)], [net(k) for k in range(3)]
    for one, epochs in zip(alone, (3, 1, 0)):
        one.fit(X, Y, epochs=epochs)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(compiled._Ready, "run", interrupted)
        ensemble(together).fit(X, Y, epochs=3, threads=1)
    nothing = History()
    assert [everything(one, nothing) for one in together] == [everything(one, nothing) for one in alone]
    histories = ensemble(together).fit(X, Y, epochs=2, threads=1)
    for one, history in zip(alone, histories):
        assert (history.losses == one.fit(X, Y, epochs=2).losses).all()


def kind(made, **options):
    given = DEFAULTS | {"net": made} | options
    return again.kind(given | {"optimiser": get_optimiser(given["optimiser"])})


class Own(Net):
    pass


def of_one_memory():
    made, memory = net(), np.zeros(24)
    made.weights[0].data, made.weights[1].data = memory[:15].reshape(5, 3), memory[14:].reshape(2, 5)
    return made


def in_columns():
    made = net()
    made.weights[0].data = np.asfortranarray(made.weights[0].data)
    return made


def with_a_loss_of_its_own():
    made = net()
    made.loss_and_grad = lambda *args, **options: None
    return made


def in_another_dtype():
    made = net()
    made.weights[0].data = made.weights[0].data.astype("float32")
    return made


@pytest.mark.parametrize(
    "made, options",
    [
        (of_one_memory, {}),
        (in_columns, {}),
        (with_a_loss_of_its_own, {}),
        (in_another_dtype, {}),
        (lambda: Own((3, 2), rng=0), {}),
        (lambda: Net((3, 4, 2), [[BatchNorm(), "tanh"], None], rng=0), {}),
        (net, {"callbacks": [print]}),
        (net, {"checkpoint": "folder"}),
        (net, {"optimiser": LBFGS()}),
        (net, {"epochs": 0}),
    ],
)
def test_what_has_no_kind(made, options):
    assert kind(made(), **options) is None


@pytest.mark.parametrize("options", [{"l2": 0.1}, {"epochs": 2}, {"early_stopping": 3}, {"optimiser": "sgd"}])
def test_options_that_make_another_kind(options):
    assert kind(net()) and kind(net(), **options) not in (None, kind(net()))
    assert kind(net(), seed=3, schedule="cosine", optimiser=Adam(lr=3.0)) == kind(net(1))


def test_an_optimiser_that_has_trained_has_no_kind():
    optimiser = Adam()
    net().fit(X, Y, optimiser=optimiser)
    assert kind(net(), optimiser=optimiser) is None
