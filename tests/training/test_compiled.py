"""Steps in calls of C are those of the loop in Python, bit for bit, and Python makes those that they can't."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop_xp import ElementwiseLoss, Graph, GraphNet, Input, Linear, Net, ReLU, Sigmoid, engines
from backprop_xp.losses import Huber, SoftmaxCrossEntropy
from backprop_xp.programs import fused, matrices, narrow
from backprop_xp.toolchain import cache, compiler
from backprop_xp.training import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Cosine,
    DivergedError,
    EarlyStopping,
    RMSprop,
    StepDecay,
    WarmUp,
    compiled,
    fit,
    steps,
)
from backprop_xp.training.batches import as_batches
from backprop_xp.training.checkpoints import Folder, read
from backprop_xp.training.loop import Loop, Options

pytestmark = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")

OPTIMISERS = {
    "sgd": lambda: SGD(lr=0.05),
    "nesterov": lambda: SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "up": lambda: SGD(lr=0.01, momentum=0.5, dampening=0.2, maximize=True),
    "adam": lambda: Adam(lr=0.02, weight_decay=0.01),
    "amsgrad": lambda: Adam(lr=0.02, amsgrad=True),
    "adamw": lambda: AdamW(lr=0.02),
    "rmsprop": lambda: RMSprop(momentum=0.5, centered=True),
    "adagrad": lambda: Adagrad(lr_decay=0.1, initial_accumulator_value=0.1),
}
SCHEDULES = {
    "constant": None,
    "cosine": "cosine",
    "made up": WarmUp(4) * Cosine(12).then(9, StepDecay(2)),
    "a function": lambda step: 1 / (1 + step),
}
#: The loss, and the kind of its target.
LOSSES = {
    "mse": ("mse", "numbers"),
    "huber": (Huber(delta=0.3), "numbers"),
    "half_squared_error": ("half_squared_error", "numbers"),
    "classes": ("softmax_cross_entropy", "classes"),
    "probabilities": ("softmax_cross_entropy", "numbers"),
    "half_sum_sq": ("half_sum_sq", "nothing"),
    "a formula": (ElementwiseLoss("quartic", "(z - y) ** 4", "4 * (z - y) ** 3"), "numbers"),
}


def python_alone():
    """A context in which no step is made in C."""
    return mock.patch.object(compiled, "why_not", lambda loop: "the test wants Python")


def loops():
    """Contexts for runs in C and in Python."""
    return {"C": contextlib.nullcontext(), "Python": python_alone()}


def make(loss="mse", sizes=(5, 9, 3), dtype="float64", **options):
    hidden = ("tanh", "gelu", "relu")[: len(sizes) - 2]
    options = {"bias": True, "reduction": "mean"} | options
    return Net(sizes, (*hidden, "identity"), loss, dtype=dtype, rng=4, backend="numpy", init="glorot_normal", **options)


def draw(n=53, kind="numbers", sizes=(5, 9, 3)):
    random = np.random.default_rng(n)
    x, outputs = random.normal(size=(n, sizes[0])), sizes[-1]
    y = {"numbers": random.uniform(size=(n, outputs)), "classes": random.integers(0, outputs, n), "nothing": None}[kind]
    return x, y


def everything(net, history):
    """All that a run leaves behind."""
    numbers = [[epoch.loss, epoch.validation_loss, epoch.step, epoch.number] for epoch in history.epochs]
    arrays = [a for p in net.parameters for a in (p.data, p.grad)]
    return str(numbers), str(history.stopped), history.best, *(None if a is None else a.tobytes() for a in arrays)


def steps_in_c():
    """A context that tells how many steps calls of C have made, in a list."""
    made, account = [], compiled._Ready.account

    def counted(self):
        found = account(self)
        made.append(len(found.losses) if found else 0)
        return found

    return mock.patch.object(compiled._Ready, "account", counted), made


def assert_both_are_the_same(new_net, x, y, wanted=None, **options):
    """Of fit in C and in Python. ``options`` are functions where they are of a state.

    Args:
        wanted: how many steps C must have made; by default all.
    """

    def run():
        net = new_net()
        history = net.fit(x, y, **{k: v() if k in ("optimiser", "callbacks") else v for k, v in options.items()})
        return everything(net, history), history

    counting, made = steps_in_c()
    with counting:
        found, history = run()
    with python_alone():
        expected, _ = run()
    assert found == expected
    assert sum(made) == (history.epochs[-1].step if wanted is None else wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser(optimiser, dtype):
    assert_both_are_the_same(
        lambda: make(dtype=dtype), *draw(), optimiser=OPTIMISERS[optimiser], epochs=3, batch_size=8, schedule="cosine"
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss, reduction, weighted):
    made, kind = LOSSES[loss]
    weight = np.random.default_rng(1).uniform(size=53) if weighted else None
    if weighted:
        weight[10:40] = 0.0  # batches of which none, some and all have a weight
    for dtype in ("float32", "float64"):
        assert_both_are_the_same(
            lambda dtype=dtype: make(made, dtype=dtype, reduction=reduction),
            *draw(kind=kind),
            sample_weight=weight,
            epochs=2,
            batch_size=10,
            shuffle=False,
            optimiser=lambda: Adam(lr=0.01),
        )


@given(
    dtype=st.sampled_from(["float32", "float64"]),
    bias=st.booleans(),
    depth=st.integers(0, 3),
    samples=st.integers(1, 70),
    batch_size=st.integers(1, 80),
    epochs=st.integers(0, 4),
    optimiser=st.sampled_from(sorted(OPTIMISERS)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    loss=st.sampled_from(sorted(LOSSES)),
    reduction=st.sampled_from(["sum", "mean"]),
    weighted=st.booleans(),
    clip_norm=st.sampled_from([None, 1e-3, 0.7, 1e6, float("inf")]),
    l1=st.sampled_from([0.0, 0.01]),
    l2=st.sampled_from([0.0, 0.1]),
    shuffle=st.booleans(),
    seed=st.integers(0, 5),
    threads=st.integers(1, 3),
)
def test_every_setting(
    dtype, bias, depth, samples, batch_size, epochs, optimiser, schedule, loss, reduction, weighted, **options
):
    loss, kind = LOSSES[loss]
    sizes, threads = (5, *(9, 7, 11)[:depth], 3), options.pop("threads")
    x, y = draw(samples, kind, sizes)
    weight = np.random.default_rng(0).uniform(-0.1, 1, size=samples) if weighted else None
    assert_both_are_the_same(
        lambda: make(loss, sizes, dtype, bias=bias, reduction=reduction, threads=threads),
        x,
        y,
        wanted=0 if epochs == 0 else None,
        epochs=epochs,
        batch_size=batch_size,
        optimiser=OPTIMISERS[optimiser],
        schedule=SCHEDULES[schedule],
        sample_weight=weight,
        stop_on_nan=False,
        **options,
    )


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 24, 25, 300, 1500, 4500])
def test_few_and_many_samples_of_a_wide_net_on_threads(n, threads, monkeypatch):
    """In a batch and in the epoch's last; the update of so many parameters is shared out among the threads."""
    monkeypatch.setattr(matrices, "WORTH_A_THREAD", 1.0)
    sizes = (150, 160, 70, 3)
    x, y = draw(n + min(n, 30) + n, "classes", sizes)
    for dtype in ("float32", "float64"):
        assert_both_are_the_same(
            lambda dtype=dtype: make("softmax_cross_entropy", sizes, dtype, threads=threads),
            x,
            y,
            batch_size=n,
            epochs=2,
            clip_norm=0.1,
            l1=1e-4,
        )


@pytest.mark.parametrize("seconds", [0.0, 1e-3])
def test_whenever_the_time_is_up(seconds):
    with mock.patch.object(matrices, "SECONDS", seconds):
        assert_both_are_the_same(make, *draw(), epochs=3, batch_size=4, clip_norm=0.1, validation=draw(20))


class TestNarrow:
    """Batches for the narrow form; the epoch's last one is for the other."""

    n = fused.NARROW_SAMPLES + 1

    def draw(self, kind="numbers", sizes=(5, 9, 3)):
        return draw(2 * self.n + 7, kind, sizes)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("loss", ["huber", "classes", "probabilities", "half_sum_sq"])
    def test_losses(self, loss, dtype, weighted):
        made, kind = LOSSES[loss]
        x, y = self.draw(kind)
        weight = np.random.default_rng(0).uniform(size=len(x)) if weighted else None
        options = {"epochs": 2, "batch_size": self.n, "sample_weight": weight, "clip_norm": 0.1, "l2": 0.01}
        assert_both_are_the_same(lambda: make(made, dtype=dtype), x, y, **options)

    @pytest.mark.parametrize("wave", [1, 2, 7])
    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_chunks_and_threads(self, threads, wave, monkeypatch):
        """One wave of chunks after another, after each of which the call comes back."""
        monkeypatch.setattr(fused, "SMALL_CHUNK", 130)
        monkeypatch.setattr(matrices, "SECONDS", 0.0)
        alone = make().fit(*self.draw(), epochs=2, batch_size=self.n)
        monkeypatch.setattr(narrow, "wave_chunks", lambda shape, samples: wave)
        new_net = lambda: make(threads=threads)  # noqa: E731
        assert_both_are_the_same(new_net, *self.draw(), epochs=2, batch_size=self.n)
        history = new_net().fit(*self.draw(), epochs=2, batch_size=self.n)
        assert [epoch.loss for epoch in history.epochs] == [epoch.loss for epoch in alone.epochs]

    @pytest.mark.parametrize("layout", ["strided", "by columns", "reversed", "one target"])
    def test_layouts(self, layout):
        sizes = (5, 9, 1) if layout == "one target" else (5, 9, 3)
        x, y = self.draw(sizes=sizes)
        wide = np.zeros((2 * len(x), 10))
        wide[::2, ::2] = x
        x = {"strided": wide[::2, ::2], "by columns": np.asfortranarray(x), "reversed": x[::-1, ::-1]}.get(layout, x)
        y = {"by columns": np.asfortranarray(y), "one target": y[:, 0]}.get(layout, y)
        assert_both_are_the_same(lambda: make(sizes=sizes), x, y, epochs=2, batch_size=self.n)

    def test_biases_of_some_layers(self):
        def new_net():
            nodes = {"x": Input(5), "a": (Linear(9, bias=False), "x"), "b": ("tanh", "a"), "c": (Linear(9), "b"),
                     "d": (Linear(3, bias=False), "c")}  # fmt: skip
            return GraphNet(nodes, loss="mse", rng=0, backend="numpy", init="glorot_normal")

        assert_both_are_the_same(new_net, *self.draw(), epochs=2, batch_size=self.n)

    def test_a_batch_that_python_makes_gives_other_bits_without_it(self):
        """So that the others here compare what they say."""
        x, y = self.draw()
        found = [make(), make()]
        for net, wide in zip(found, (False, True)):
            token = fused.any_widths.set(wide)
            net.fit(x, y, batch_size=self.n)
            fused.any_widths.reset(token)
        assert not np.array_equal(found[0].weights[0].data, found[1].weights[0].data)

    def test_any_widths_from_a_step_on(self):
        """What holds while a run's next steps are prepared counts, in C as in Python."""

        def run():
            net = make()
            options = Options(4, "adam", None, None, 0.0, 0.0, True)
            loop = Loop(net, as_batches(net, *self.draw(), None, self.n, True, 0), options)
            token = None
            for step in compiled.Calls(loop).steps(every=1):
                if step.number == 2:
                    token = fused.any_widths.set(True)
            fused.any_widths.reset(token)
            return [p.data.tobytes() for p in net.parameters]

        found = run()
        with python_alone():
            assert run() == found

    def test_a_net_that_can_not_be_compiled(self, monkeypatch):
        """Python says so, and goes on."""

        def fails(shape):
            raise compiler.CompileError("the test's compiler")

        monkeypatch.setattr(narrow, "program", fails)
        monkeypatch.setattr(engines, "_failures", {})
        engines.warn_uncompiled.cache_clear()
        with pytest.warns(UserWarning, match="running without compiled kernels.*the test's compiler"):
            make().fit(*self.draw(), batch_size=self.n)

    def test_a_class_that_is_none_in_the_second_batch(self):
        x, y = self.draw("classes")
        y[self.n + 3] = 3
        found = []
        for context in loops().values():
            net = make("softmax_cross_entropy")
            with context, pytest.raises(ValueError, match="class indices must be from 0 to 2, got 3"):
                net.fit(x, y, batch_size=self.n, shuffle=False)
            found.append([p.data.tobytes() for p in net.parameters])
        assert found[0] == found[1]


def test_more_steps_than_one_call_is_prepared_for():
    assert_both_are_the_same(make, *draw(2100), epochs=2, batch_size=1, schedule="cosine")


@pytest.mark.parametrize("columns", ["strided", "reversed", "transposed", "repeated", "lists", "one target"])
def test_arrays_in_any_layout(columns):
    x, y = draw(40)
    wide = np.zeros((80, 10))
    wide[::2, ::2] = x
    sizes = (5, 9, 1) if columns == "one target" else (5, 9, 3)
    x, y = {
        "strided": (wide[::2, ::2], y),
        "reversed": (x[::-1, ::-1], y[::-1]),
        "transposed": (np.asfortranarray(x), np.asfortranarray(y)),
        "repeated": (np.broadcast_to(x[0], (40, 5)), np.broadcast_to(y[0], (40, 3))),
        "lists": (x.tolist(), y.tolist()),
        "one target": (x, y[:, 0]),
    }[columns]
    for shuffle in (False, True):
        assert_both_are_the_same(lambda: make(sizes=sizes), x, y, epochs=2, batch_size=16, shuffle=shuffle)


@pytest.mark.parametrize("bias", [False, True])
def test_a_graph_that_is_a_chain(bias):
    def made():
        graph = Graph()
        hidden = graph.apply("tanh", graph.linear(graph.input(5), 9, bias))
        output = graph.linear(graph.apply("relu", graph.linear(hidden, 7, bias)), 3, bias)
        return graph.net(output, loss="mse", reduction="mean", rng=0, backend="numpy")

    assert_both_are_the_same(made, *draw(), epochs=3, batch_size=8, clip_norm=0.5, l2=0.01)


def test_biases_of_some_layers():
    assert_both_are_the_same(lambda: make(bias=(False, True)), *draw(), epochs=3, batch_size=8)
    assert_both_are_the_same(lambda: make(bias=(True, False)), *draw(), epochs=3, batch_size=8)


class TestCallbacks:
    def run(self, callback, wanted=None, **options):
        options = {"epochs": 4, "batch_size": 8} | options
        assert_both_are_the_same(make, *draw(40), wanted=wanted, callbacks=lambda: [callback], **options)

    def test_weights_changed_in_place(self):
        def double(net, epoch):
            net.weights[0].data *= 2

        self.run(double)

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_other_arrays_for_weights(self, dtype):
        def put(net, epoch):
            net.weights[1].data = np.full((3, 9), 0.25 * epoch.number, dtype)
            net.biases[0].data = net.biases[0].data[::-1]

        self.run(put)

    def test_the_net_is_another(self):
        def change(net, epoch):
            net.activations[0] = [ReLU(), Sigmoid()][epoch.number % 2]
            net.reduction = "sum" if epoch.number % 2 else "mean"
            net.loss = Huber(delta=epoch.number / 4)

        self.run(change)

    def test_early_stopping_and_an_end(self):
        self.run(lambda net, epoch: epoch.number == 3, early_stopping=EarlyStopping(1), validation=draw(30))

    def test_gradients_that_were_kept_stay(self):
        kept = []

        def keep(net, epoch):
            kept.append([p.grad for p in net.parameters])
            kept.append([p.grad.copy() for p in net.parameters])

        make().fit(*draw(40), epochs=4, batch_size=8, callbacks=[keep])
        for grads, copies in zip(kept[::2], kept[1::2]):
            for grad, copy in zip(grads, copies):
                np.testing.assert_array_equal(grad, copy)
        assert (kept[0][0] != kept[2][0]).any()

    def test_options_of_the_optimiser(self):
        optimiser = Adam(lr=0.02)

        def change(net, epoch):
            optimiser.lr = 0.02 / epoch.number
            optimiser.weight_decay = 0.1 * (epoch.number % 2)
            optimiser.amsgrad = epoch.number > 1

        def fresh():
            nonlocal optimiser
            optimiser = Adam(lr=0.02)
            return optimiser

        self.run(change, optimiser=fresh)

    def test_rows_changed_in_place(self):
        x, y = draw(40)
        first = x.copy()

        def scale(net, epoch):
            x[...] = first * (1 + epoch.number)

        def run():
            x[...] = first
            net = make()
            return everything(net, net.fit(x, y, epochs=3, batch_size=8, callbacks=[scale]))

        found = run()
        with python_alone():
            assert found == run()


class TestResumed:
    """A checkpoint of either loop is one of the other's."""

    @pytest.mark.parametrize("every", [1, 3, 7])
    @pytest.mark.parametrize("first, then", [("C", "C"), ("C", "Python"), ("Python", "C")])
    def test_across_the_loops(self, first, then, every, tmp_path):
        options = {
            "batch_size": 8, "seed": 3, "clip_norm": 0.5, "l2": 0.01, "schedule": WarmUp(3) * Cosine(40),
            "sample_weight": np.random.default_rng(0).uniform(size=53),
        }  # fmt: skip
        x, y = draw()
        whole = make()
        with python_alone():
            expected = whole.fit(x, y, epochs=4, optimiser=Adam(lr=0.02), **options)

        def stop(net, epoch):
            raise InterruptedError

        made, optimiser = make(), Adam(lr=0.02)
        options |= {"checkpoint": tmp_path / "run", "checkpoint_every": every}
        with loops()[first], pytest.raises(InterruptedError):
            made.fit(x, y, epochs=4, optimiser=optimiser, callbacks=[stop], **options)
        assert optimiser.count == 7
        again = make()
        with loops()[then]:
            history = again.fit(x, y, epochs=4, optimiser=Adam(lr=0.02), resume=True, **options)
        assert everything(again, history) == everything(whole, expected)

    def test_every_checkpoint_is_the_same(self, tmp_path):
        for name, context in loops().items():
            with context:
                make().fit(*draw(), batch_size=8, epochs=2, checkpoint=tmp_path / name, checkpoint_every=3)
        ours, theirs = (Folder(tmp_path / name).files() for name in loops())
        assert [path.name for path in ours] == [path.name for path in theirs] and ours
        for one, other in zip(map(read, ours), map(read, theirs)):
            assert {name: a.tobytes() for name, a in one.arrays.items()} == {
                name: a.tobytes() for name, a in other.arrays.items()
            }
            for state in (one.state, other.state):
                for epoch in state["history"]["epochs"]:
                    epoch["seconds"] = 0.0
            assert one.state == other.state


class TestPythonMakesTheStep:
    def test_that_diverges(self):
        errors = []
        for context in loops().values():
            made, optimiser = make(dtype="float32"), SGD(lr=300.0)
            with context, pytest.raises(DivergedError) as error:
                made.fit(*draw(), epochs=50, batch_size=8, optimiser=optimiser)
            errors.append((str(error.value), error.value.step, error.value.layer, optimiser.count))
            errors[-1] += tuple(a.tobytes() for p in made.parameters for a in (p.data, p.grad))
        assert errors[0] == errors[1]
        assert errors[0][3] == errors[0][1] - 1

    def test_whose_class_is_none(self):
        x, y = draw(kind="classes")
        y[30] = 3
        results = []
        for context in loops().values():
            made, optimiser = make("softmax_cross_entropy"), Adam()
            with context, pytest.raises(ValueError, match="class indices must be from 0 to 2, got 3"):
                made.fit(x, y, batch_size=4, shuffle=False, optimiser=optimiser)
            results.append((optimiser.count, *(p.data.tobytes() for p in made.parameters)))
        assert results[0] == results[1]
        assert results[0][0] == 7

    @pytest.mark.parametrize("fails", [0, 5])
    def test_where_the_schedule_raises_an_exception(self, fails):
        def schedule(step):
            if step == fails:
                raise LookupError("no factor")
            return 1.0

        results = []
        for context in loops().values():
            made, optimiser = make(), Adam()
            with context, pytest.raises(LookupError, match="no factor"):
                made.fit(*draw(), batch_size=4, optimiser=optimiser, schedule=schedule)
            results.append((optimiser.count, *(a.tobytes() for p in made.parameters for a in (p.data, p.grad))))
        assert results[0] == results[1]
        assert results[0][0] == fails

    @pytest.mark.parametrize("fails", [0, 5, 40])
    def test_that_raises_an_exception_once_and_not_when_asked_again(self, fails):
        """As the handler of a signal does, whenever it comes."""
        results = []
        for context in loops().values():
            made, optimiser, schedule = make(), Adam(), RaisesOnce(fails)
            with context, pytest.raises(TimeoutError, match="time is up"):
                made.fit(*draw(), batch_size=4, epochs=5, optimiser=optimiser, schedule=schedule)
            results.append((optimiser.count, *(a.tobytes() for p in made.parameters for a in (p.data, p.grad))))
        assert results[0] == results[1]
        assert results[0][0] == fails

    def test_of_which_a_factor_is_no_number(self):
        with pytest.raises(ValueError, match="the factor of the learning rate must be a number, got nan"):
            make().fit(*draw(), batch_size=4, schedule=lambda step: float("nan") if step == 3 else 1.0)


class Interrupted(BaseException):
    pass


class RaisesOnce:
    """A schedule that raises an exception when it is first asked for a step."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step):
        if step == self.step:
            self.step = None
            raise TimeoutError("time is up")
        return 1.0


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("returns", [0, 1, 7, 31, 60])
def test_an_interrupt_leaves_whole_steps(returns, clip_norm):
    """C comes back after every step of the pass, and a handler raises an exception after so many of these."""
    count = 0

    class Core:
        def bpx_train(self, pointer):
            nonlocal count
            if count == returns:
                raise Interrupted
            count += 1
            return core.bpx_train(pointer)

    core, run = matrices.core("float64"), compiled._Ready.run

    def interrupted(self, *args):
        self._pass.core = Core()
        run(self, *args)

    made, optimiser = make(), Adam()
    options = {"epochs": 9, "batch_size": 8, "clip_norm": clip_norm}
    after_every_step = mock.patch.object(matrices, "SECONDS", 0.0)
    with after_every_step, mock.patch.object(compiled._Ready, "run", interrupted), pytest.raises(Interrupted) as error:
        made.fit(*draw(), optimiser=optimiser, **options)
    other, same = make(), Adam()
    for step in steps(other, *draw(), optimiser=same, **options) if optimiser.count else ():
        if step.number == optimiser.count:
            break
    assert [p.data.tobytes() for p in made.parameters] == [p.data.tobytes() for p in other.parameters]
    assert all(p.grad is None or (p.grad == q.grad).all() for p, q in zip(made.parameters, other.parameters))
    assert len(error.value.history.epochs) == optimiser.count // 7
    # the optimiser goes on from there
    made.fit(*draw(), optimiser=optimiser)


def test_ctrl_c():
    """It ends a run in the middle of an epoch that would take minutes."""
    program = """
        import os, signal, threading, time
        import numpy as np
        from backprop_xp import Net
        from backprop_xp.training import Adam, compiled
        net = Net((64, 64, 64, 8), loss="mse", rng=0, backend="numpy", init="glorot_normal")
        x, y = np.ones((1 << 20, 64)), np.ones((1 << 20, 8))
        optimiser = Adam()
        net.fit(x[:8], y[:8])  # what is compiled is compiled
        run = compiled._Ready.run
        def started(*args):
            compiled._Ready.run = run
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            run(*args)
        compiled._Ready.run = started
        try:
            net.fit(x, y, batch_size=1, epochs=100, optimiser=optimiser)
        except KeyboardInterrupt as error:
            print(error.history.stopped, len(error.history.epochs), 0 < optimiser.count < 1 << 20)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.strip() == "KeyboardInterrupt 0 True", result.stderr


class TestWhyNot:
    def reason(self, net=None, x=None, y=None, optimiser="adam", batch_size=8, **options):
        net = net or make()
        given = draw()
        batches = as_batches(net, given[0] if x is None else x, given[1] if y is None else y, **{
            "weight": None, "batch_size": batch_size, "shuffle": True, "seed": 0} | options)  # fmt: skip
        return compiled.why_not(Loop(net, batches, Options(1, optimiser, None, None, 0.0, 0.0, True)))

    def test_it_can(self):
        assert self.reason() == ""

    def test_a_graph(self):
        graph = Graph()
        x = graph.input(5)
        made = graph.net(graph.linear(x + graph.apply("tanh", graph.linear(x, 5)), 3), loss="mse", backend="numpy")
        assert self.reason(made) == "the graph is no chain"

    def test_a_net_of_another_kind(self):
        class Other(Net):
            def loss_and_grad(self, *args, **options):
                return super().loss_and_grad(*args, **options)

        patched = make()
        patched.loss_and_grad = lambda *args, **options: 0.0
        for net in (Other((5, 3), loss="mse"), patched):
            assert self.reason(net) == "the net has a loss_and_grad of its own"

    def test_an_engine_that_was_asked_for(self):
        assert self.reason(make(engine="layered")) == "the engine layered was asked for"
        assert self.reason(make(engine="fused")) == ""

    def test_an_optimiser_of_the_users_own(self):
        class Own(SGD):
            pass

        patched = SGD()
        patched.step = lambda *args, **options: None
        for optimiser in (Own(), patched):
            assert self.reason(optimiser=optimiser) == "the optimiser is none of the built-in ones"

    def test_a_file(self, tmp_path):
        x, _ = draw()
        np.save(tmp_path / "x.npy", x)
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        assert self.reason(x=mapped) == "x, y or sample_weight are not arrays in memory"

    def test_a_loss_that_changes_its_targets(self):
        made = make(SoftmaxCrossEntropy(label_smoothing=0.1))
        assert self.reason(made, y=draw(kind="classes")[1]) == "the loss changes its targets"

    def test_shapes_that_do_not_fit(self):
        x, y = draw()
        assert self.reason(x=x[:, :4]) == "x has another shape or dtype than the net takes"
        assert self.reason(y=y[:, :2]) == "y has another shape or dtype than the loss takes"
        assert self.reason(weight=np.ones((53, 1))) == "sample_weight is not one number a sample"
        assert self.reason(make("half_sum_sq")) == "the loss needs a target, or takes none"

    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("CXX", "/nonexistent")
        monkeypatch.setattr(cache, "_loaded", {})
        assert "no C++ compiler was found" in self.reason()

    def test_layers_that_share_a_tensor(self):
        made = make(sizes=(5, 5, 5, 3))
        made.weights[1] = made.weights[0]
        assert self.reason(made) == "layers share a Tensor"

    def test_what_the_loop_refuses_it_refuses(self):
        made, optimiser = make(), Adam()
        make().fit(*draw(), optimiser=optimiser)
        assert self.reason(made, optimiser=optimiser) == "this Adam has trained other parameters: make a new optimiser"
        with pytest.raises(ValueError, match="has trained other parameters"):
            fit(made, *draw(), optimiser=optimiser)


def test_iterables_and_the_generator_stay_pythons():
    x, y = draw(40)
    counting, made = steps_in_c()
    with counting:
        one, other, third = make(), make(), make()
        one.fit([(x[:20], y[:20]), (x[20:], y[20:])])
        for _ in steps(other, x, y, batch_size=20, shuffle=False):
            pass
        assert not made
        third.fit(x, y, batch_size=20, shuffle=False)
    assert made == [2]
    for p, q, r in zip(one.parameters, other.parameters, third.parameters):
        assert p.data.tobytes() == q.data.tobytes() == r.data.tobytes()
