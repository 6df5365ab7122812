"""Nets that are trained side by side get the bits of training each alone, and what goes wrong is told."""

import re
import signal
import threading
import time

import fitting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import needs_mpi, output

from backprop_xp import BatchNorm, Dropout, Net
from backprop_xp import threads as pool
from backprop_xp.graph import Add, GraphNet, Input, Linear
from backprop_xp.losses import SoftmaxCrossEntropy
from backprop_xp.training import SGD, DivergedError, EarlyStopping, ensemble, fit

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(300, 3)), RANDOM.normal(size=(300, 2))


def nets(count=5, **options):
    return [fitting.net(rng=seed, **options) for seed in range(count)]


def assert_alike(those, these):
    for a, b in zip(those, these, strict=True):
        fitting.assert_same(fitting.parameters(a), fitting.parameters(b))


@settings(deadline=None, max_examples=10)
@given(
    engine=st.sampled_from(["auto", "layered"]),
    threads=st.sampled_from([None, 1, 2, 7]),
    options=st.sampled_from(
        [
            {"optimiser": SGD(lr=0.1, momentum=0.9)},
            {"batch_size": 7, "clip_norm": 1.0, "schedule": "cosine", "l2": 0.01},
            {"early_stopping": EarlyStopping(2), "validation": (X[:50], Y[:50])},
        ]
    ),
)
def test_the_bits_of_training_each_alone(engine, threads, options):
    alone, together = nets(engine=engine), nets(engine=engine)
    told = []
    for net in alone:
        fresh = {name: (SGD(lr=0.1, momentum=0.9) if name == "optimiser" else value) for name, value in options.items()}
        told.append(net.fit(X, Y, epochs=3, **fresh))
    histories = ensemble(together).fit(X, Y, epochs=3, threads=threads, **options)
    assert_alike(alone, together)
    for a, b in zip(told, histories, strict=True):
        assert (a.losses == b.losses).all() and a.stopped == b.stopped and a.best == b.best


def test_nets_of_several_shapes_and_kinds_with_options_of_their_own():
    def made():
        return [
            Net((3, 4, 2), loss="mse", rng=0, init="glorot_uniform"),
            Net((3, 50, 60, 2), ["relu", "relu", None], "mse", True, rng=1, init="he_normal", dtype="float32"),
            Net((3, 8, 2), [[BatchNorm(), "tanh", Dropout(0.2)], None], "mse", rng=2, init="glorot_uniform"),
        ]

    each = [{"seed": 3}, {"optimiser": "sgd", "epochs": 1}, {"shuffle": False}]
    alone, together = made(), made()
    for net, own in zip(alone, each):
        net.fit(X, Y, **{"epochs": 2} | own)
    histories = ensemble(together).fit(X, Y, epochs=2, each=each)
    assert_alike(alone, together)
    for a, b in zip(alone, together):
        assert all((p.data == q.data).all() for p, q in zip(a.buffers.values(), b.buffers.values()))
    assert [len(history.epochs) for history in histories] == [2, 1, 2]
    assert histories[0].seed == 3


def test_outputs_of_all():
    found = ensemble(nets(4))(X)
    assert found.shape == (4, 300, 2)
    for net, z in zip(nets(4), found):
        np.testing.assert_array_equal(net(X), z)
    with pytest.raises(ValueError, match=r"^net 0 has 2 outputs, net 1 has 3: call each by itself$"):
        ensemble([Net((3, 2), rng=0), Net((3, 3), rng=0)])(X)
    with pytest.raises(ValueError, match=r"^net 1: x must have 4 features"):
        ensemble([Net((3, 2), rng=0), Net((4, 2), rng=0)])(X)


def test_a_net_that_diverges_leaves_the_others():
    alone, together = nets(4), nets(4)
    each = [{}, {"optimiser": SGD(lr=1e200)}, {}, {}]
    with pytest.raises(DivergedError):
        alone[1].fit(X, Y, epochs=4, optimiser=SGD(lr=1e200))
    for net in (alone[0], *alone[2:]):
        net.fit(X, Y, epochs=4)
    with pytest.warns(RuntimeWarning, match=r"^1 of 4 nets diverged: 1; see the stopped of each history$"):
        histories = ensemble(together).fit(X, Y, epochs=4, each=each)
    assert_alike(alone, together)
    assert histories[1].stopped.startswith("DivergedError: ") and not histories[2].stopped


def test_any_other_exception_ends_all_soon():
    def spoil(net, epoch):
        raise OSError("no more")

    each = [{"callbacks": [spoil], "epochs": 1}] + [{"epochs": 10**9}] * 2
    began = time.perf_counter()
    with pytest.raises(OSError, match="no more"):
        ensemble(nets(3)).fit(X, Y, each=each)
    assert time.perf_counter() - began < 30
    assert not [thread for thread in threading.enumerate() if thread.name == "backprop_xp" and not thread.daemon]


def test_options_by_a_generator_and_by_their_other_spelling():
    alone, together = nets(2), nets(2)
    for net, rate in zip(alone, (0.1, 0.2)):
        net.fit(X, Y, optimiser=SGD(lr=rate))
    ensemble(together).fit(X, Y, optimiser="adam", each=({"optimizer": SGD(lr=rate)} for rate in (0.1, 0.2)))
    assert_alike(alone, together)


def test_an_optimiser_is_left_as_it_was():
    optimiser, stopping = SGD(lr=0.1, momentum=0.9), EarlyStopping(3)
    ensemble(nets(2)).fit(X, Y, optimiser=optimiser, early_stopping=stopping)
    assert optimiser.count == 0 and not optimiser.state and stopping.epoch == 0


def test_data_that_are_no_arrays_yet_are_converted_once():
    class Given:
        converted = 0

        def __array__(self, dtype=None, copy=None):
            Given.converted += 1
            return X.astype(dtype or X.dtype)

        shape = X.shape

    alone, together = nets(3), nets(3)
    for net in alone:
        net.fit(X, Y)
    ensemble(together).fit(Given(), Y)
    assert Given.converted == 1
    assert_alike(alone, together)


def test_a_signal_ends_all_soon():
    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    began = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Interrupted):
            ensemble(nets(3)).fit(X, Y, epochs=10**9, threads=2)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - began < 30


def test_a_net_in_the_ensemble_takes_one_thread():
    seen = set()
    ensemble(nets(3)).fit(X, Y, threads=2, callbacks=[lambda net, epoch: seen.add(pool.count(8))])
    assert seen == {1} and pool.count(8) == 8


def test_checkpoints_are_of_each_net(tmp_path):
    folder, whole, parts = tmp_path / "runs", nets(11), nets(11)
    ensemble(whole).fit(X, Y, epochs=4)
    ensemble(parts).fit(X, Y, epochs=4, checkpoint=folder, callbacks=[lambda net, epoch: epoch.number == 2])
    assert sorted(path.name for path in folder.iterdir()) == [f"net-{k:02d}" for k in range(11)]
    parts = nets(11)
    with pytest.raises(Exception, match=r"net-\d\d holds .* of another run"):
        ensemble(parts).fit(X, Y, epochs=4, checkpoint=folder)
    ensemble(parts).fit(X, Y, epochs=2, checkpoint=folder, resume=True)
    ensemble(whole := nets(11)).fit(X, Y, epochs=2)
    assert_alike(whole, parts)


class Own:
    """A net that somebody wrote: what fit asks for, and nothing else."""

    def __init__(self, seed):
        self._net = fitting.net(rng=seed)
        self.backend, self.dtype, self.loss = self._net.backend, self._net.dtype, self._net.loss
        self.parameters, self.loss_and_grad, self.forward = (
            self._net.parameters, self._net.loss_and_grad, self._net.forward,
        )  # fmt: skip


def test_nets_that_somebody_wrote():
    alone, together = [Own(k) for k in range(3)], [Own(k) for k in range(3)]
    for net in alone:
        fit(net, X, Y, epochs=2)
    ensemble(together).fit(X, Y, epochs=2)
    assert_alike(alone, together)


def test_graphs_with_several_inputs():
    def made():
        nodes = {"a": Input(3), "b": Input(2), "h": (Linear(2), "a"), "k": (Linear(2), "b"), "y": (Add(), "h", "k")}
        return [GraphNet(nodes, loss="mse", rng=k, init="glorot_uniform", engine="layered") for k in range(3)]

    x = {"a": X, "b": X[:, :2] ** 2}
    alone, together = made(), made()
    for net in alone:
        net.fit(x, Y, epochs=2, validation=(x, Y))
    ensemble(together).fit(x, Y, epochs=2, validation=(x, Y))
    assert_alike(alone, together)
    with pytest.raises(ValueError, match=r"^net 0: .*2 features"):
        ensemble(together).fit({"a": X, "b": X}, Y)


def test_sparse_rows():
    x = pytest.importorskip("scipy.sparse").random_array((300, 3), density=0.5, rng=np.random.default_rng(0))
    alone, together = nets(3), nets(3)
    for net in alone:
        net.fit(x, Y, epochs=2)
    ensemble(together).fit(x, Y, epochs=2)
    assert_alike(alone, together)


def test_a_list_of_batches_and_point_sets():
    for x in ([(X[:9], Y[:9]), (X[9:20], Y[9:20])], {"inside": (X, Y), "wall": (X[:30], "half_sum_sq", 0.5)}):
        alone, together = nets(3), nets(3)
        for net in alone:
            net.fit(x, epochs=2)
        ensemble(together).fit(x, epochs=2, threads=3)
        assert_alike(alone, together)


def test_an_iterator_of_batches():
    message = r"^every net goes through x, and an iterator can be used once: give a list or a DataLoader$"
    with pytest.raises(ValueError, match=message):
        ensemble(nets(2)).fit(iter([(X, Y)]))
    alone, together = nets(1), nets(1)
    alone[0].fit(iter([(X, Y)]))
    ensemble(together).fit(iter([(X, Y)]))
    assert_alike(alone, together)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_weights_of_samples_and_of_classes(threads):
    y, weight = RANDOM.integers(0, 2, 300), RANDOM.uniform(size=300)

    def made():
        losses = [SoftmaxCrossEntropy(), SoftmaxCrossEntropy(weight=[1.0, 3.0]), SoftmaxCrossEntropy()]
        return [
            fitting.net(rng=k, loss=loss, dtype=dtype)
            for dtype in ("float32", "float64")
            for k, loss in enumerate(losses)
        ]

    options = {"epochs": 3, "sample_weight": weight, "validation": (X[:40], y[:40])}
    each = [{}, {}, {"sample_weight": None, "early_stopping": 1}] * 2
    alone, together = made(), made()
    told = [net.fit(X, y, **options | own) for net, own in zip(alone, each)]
    histories = ensemble(together).fit(X, y, threads=threads, each=each, **options)
    assert_alike(alone, together)
    for a, b in zip(told, histories):
        assert (a.losses == b.losses).all() and (a.validation_losses == b.validation_losses).all() and a.best == b.best


def test_an_error_says_in_which_net():
    y = np.zeros(300, int)
    y[250] = 2
    made = [fitting.net(rng=0), *(fitting.net(rng=k, loss="softmax_cross_entropy") for k in (1, 2))]
    with pytest.raises(ValueError, match="class") as error:
        ensemble(made[1:]).fit(X, y, threads=1)
    assert error.value.__notes__ == ["in the training of net 0"]


def test_what_nets_share_since():
    made = nets(3)
    those = ensemble(made)
    made[2].biases[0] = made[0].biases[0]
    with pytest.raises(ValueError, match=r"^net 0 and net 2 share b0$"):
        those.fit(X, Y)
    those.nets.clear()
    with pytest.raises(ValueError, match=r"^an ensemble needs at least one net, got none$"):
        those.fit(X, Y)


def shared():
    a, b = nets(2)
    b.weights[0] = a.weights[0]
    return [a, b]


@pytest.mark.parametrize(
    "made, error, message",
    [
        (list, ValueError, "an ensemble needs at least one net, got none"),
        (lambda: [1], TypeError, "an ensemble is made of nets, got int at 0"),
        (shared, ValueError, "net 0 and net 1 share W0"),
        (lambda: [nets(1)[0]] * 2, ValueError, "net 0 and net 1 are one net"),
        (lambda: nets(1)[0], TypeError, "an ensemble is made of several nets, got one Net: put it into a list"),
    ],
)
def test_what_is_no_ensemble(made, error, message):
    with pytest.raises(error, match=f"^{message}"):
        ensemble(made())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"each": [{}]}, "each must hold options for every net, 2, got 1"),
        ({"each": [{}, {"epoch": 3}]}, r"net 1: unknown option of fit 'epoch'; did you mean 'epochs'\?"),
        ({"each": [{}, {"y": 3}]}, "y is the ensemble's, not an option of its nets"),
        ({"progress": True}, "progress is the ensemble's, not an option of its nets"),
        ({"each": {"seed": 1}}, "each must be a list of options by name, a dictionary a net"),
        ({"each": [1, 2]}, "each must be a list of options by name, a dictionary a net"),
        ({"lr": 0.1}, "net 0: lr is no option of fit but of its optimiser"),
        ({"each": [{}, {"optimiser": "adam", "optimizer": "sgd"}]}, "net 1: optimiser and optimizer are one option"),
        ({"each": [{}, {"batch_size": 0}]}, "net 1: batch_size must be"),
        ({"each": [{}, {"optimiser": "adan"}]}, "net 1: unknown optimiser 'adan'; did you mean 'adam'"),
        ({"sample_weight": [1.0]}, "net 0: x, y and sample_weight must have the same number of rows"),
    ],
)
def test_what_is_no_option(options, message):
    before = nets(2)
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        ensemble(before).fit(X, Y, **options)
    assert_alike(before, nets(2))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((300, 5)), Y, r"x must have 3 features, got 5 (shape (300, 5))"),
        (np.zeros((300, 3, 1)), Y, r"x must be (n, 3) or (3,), got 3 dimensions (300, 3, 1)"),
        (X, np.zeros((300, 7)), r"y must have the shape (300, 2) of the outputs, got (300, 7)"),
    ],
)
def test_what_does_not_fit_is_told_with_its_own_shape(x, y, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'net 0: {message}')}$"):
        ensemble(nets(2)).fit(x, y)


PROGRAM = """
import sys
import numpy as np
from backprop_xp import BatchNorm, Dropout, Net, distributed
from backprop_xp.training import SGD, ensemble

random = np.random.default_rng(0)
x, y = random.normal(size=(300, 3)), random.normal(size=(300, 2))
def made():
    return [Net((3, 8, 2), [[BatchNorm(), "tanh", Dropout(0.2)], None], "mse", rng=k, init="glorot_uniform") for k in range(5)]
alone, together = made(), made()
for net in alone:
    net.fit(x, y, epochs=2)
with distributed.world() as world:
    histories = ensemble(together).fit(x, y, epochs=2, world=world)
for a, b in zip(alone, together):
    for p, q in zip((*a.parameters, *a.buffers.values()), (*b.parameters, *b.buffers.values())):
        assert p.data.tobytes() == q.data.tobytes()
    assert a.draws == b.draws
sys.stdout.write(str([len(history.epochs) for history in histories]) + chr(10))
"""


@needs_mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_share_out_the_nets(ranks):
    assert output(ranks, PROGRAM) == "[2, 2, 2, 2, 2]\n" * ranks


THOUSAND = """
import hashlib, sys
import numpy as np
from backprop_xp import Net, distributed
from backprop_xp.training import ensemble

random = np.random.default_rng(0)
x, y = random.normal(size=(32, 2)), random.normal(size=(32, 1))
nets = [Net((2, 3, 1), loss="mse", dtype="float32", rng=k, backend="numpy") for k in range(1000)]
with distributed.world() as world:
    histories = ensemble(nets).fit(x, y, each=[{"seed": k} for k in range(1000)], epochs=1, batch_size=16, world=world)
found = hashlib.sha256(b"".join(p.data.tobytes() for net in nets for p in net.parameters))
found.update(str([epoch.loss for history in histories for epoch in history.epochs]).encode())
sys.stdout.write(found.hexdigest() + chr(10))
"""


@needs_mpi
def test_a_thousand_nets_on_ranks_have_the_bits_of_one():
    assert output(2, THOUSAND) == 2 * output(1, THOUSAND)
