"""Nets that are trained together on a CUDA device get the bits of training each alone, in a few launches a step."""

from unittest import mock

import numpy as np
import pytest
from arrays import host

from backprop_xp import BatchNorm, Dropout, Net
from backprop_xp.formulas import device
from backprop_xp.toolchain import cuda
from backprop_xp.training import SGD, Adagrad, Adam, AdamW, DivergedError, EarlyStopping, RMSprop, ensemble

pytestmark = pytest.mark.gpu

RANDOM = np.random.default_rng(0)
X, Y, CLASSES = RANDOM.normal(size=(45, 3)), RANDOM.normal(size=(45, 2)), RANDOM.integers(0, 2, 45)


def nets(count=3, sizes=(3, 4, 2), loss="mse", **options):
    options = {"reduction": "mean", "bias": True, "init": "glorot_uniform", "backend": "cupy"} | options
    return [Net(sizes, loss=loss, rng=seed, **options) for seed in range(count)]


def everything(net, history):
    """All that a run leaves behind; but no gradients after one that diverged, which a run alone notices a step later."""
    epochs = [(epoch.number, epoch.step, epoch.loss, epoch.validation_loss) for epoch in history.epochs]
    kinds = ("data",) if history.stopped.startswith("DivergedError") else ("data", "grad")
    tensors = [host(getattr(p, kind)).tobytes() for p in net.parameters for kind in kinds]
    return epochs, history.stopped, history.best, history.seed, *tensors


def assert_the_bits_of_each_alone(made, x=X, y=Y, each=None, alone=None, **options):
    """... of nets that a function makes. ``options`` are functions where they are of a state.

    Args:
        alone: why some were trained alone, by number.
    """

    def fresh(given):
        return {name: value() if callable(value) else value for name, value in given.items()}

    expected = []
    for k, net in enumerate(made()):
        try:
            history = net.fit(x, y, **fresh(options) | fresh(each[k] if each else {}))
        except DivergedError as error:
            history = error.history
        expected.append(everything(net, history))
    those = ensemble(made())
    own = None if each is None else [fresh(one) for one in each]
    histories = those.fit(x, y, each=own, **fresh(options))
    assert those.alone == (alone or {})
    assert [everything(net, history) for net, history in zip(those.nets, histories, strict=True)] == expected
    return histories


@pytest.mark.parametrize(
    "optimiser, dtype",
    [
        (lambda: SGD(lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1), "float32"),
        (lambda: Adam(lr=0.02, weight_decay=0.1), "float32"),
        (lambda: AdamW(lr=0.02, amsgrad=True), "float64"),
        (lambda: RMSprop(momentum=0.5, centered=True, maximize=True), "float32"),
        (lambda: Adagrad(lr_decay=0.1, initial_accumulator_value=0.1), "float64"),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop", "adagrad"],
)
def test_every_optimiser(optimiser, dtype):
    assert_the_bits_of_each_alone(
        lambda: nets(dtype=dtype), optimiser=optimiser, epochs=2, batch_size=20, schedule="cosine"
    )


@pytest.mark.parametrize(
    "loss, y, reduction",
    [("mse", Y, "sum"), ("huber", Y[:, :1].ravel(), "mean"), ("softmax_cross_entropy", CLASSES, "mean")],
)
def test_every_kind_of_target(loss, y, reduction):
    sizes = (3, 5, 1 if y.shape == (45,) and y.dtype.kind == "f" else 2)
    assert_the_bits_of_each_alone(lambda: nets(2, sizes, loss, reduction=reduction), y=y, batch_size=17)


def test_a_grid_of_learning_rates_seeds_and_widths():
    each = [
        {"optimiser": lambda: SGD(lr=0.1), "seed": 3},
        {"optimiser": lambda: SGD(lr=0.3), "epochs": 1},
        {"optimiser": lambda: SGD(lr=0.2), "schedule": "cosine", "shuffle": False},
        {"optimiser": lambda: Adam(lr=0.1)},
        {"optimiser": lambda: SGD(lr=0.1)},
    ]
    assert_the_bits_of_each_alone(
        lambda: [*nets(4), *nets(1, (3, 9, 2))], each=each, epochs=2, batch_size=20, validation=(X[:7], Y[:7])
    )


def test_batches_of_several_chunks():
    x, y = RANDOM.normal(size=(700, 2)), RANDOM.normal(size=(700, 1))
    assert_the_bits_of_each_alone(
        lambda: nets(2, (2, 3, 1)), x, y, each=[{"seed": 1}, {"seed": 2}], batch_size=400, epochs=2
    )


def test_early_stopping_and_the_end_of_a_net_leave_the_others():
    each = [{"early_stopping": lambda d=d: EarlyStopping(1, min_delta=d)} for d in (9.0, 0.0, 0.3)]
    histories = assert_the_bits_of_each_alone(nets, each=each, epochs=4, optimiser=lambda: SGD(lr=0.1), batch_size=20)
    assert len({len(history.epochs) for history in histories}) > 1


@pytest.mark.filterwarnings("ignore:1 of 3 nets diverged")
@pytest.mark.parametrize("rate", [1e38, 1e20])
def test_a_net_that_diverges_leaves_the_others(rate):
    each = [{}, {"optimiser": lambda: SGD(lr=rate), "early_stopping": lambda: EarlyStopping(5)}, {}]
    histories = assert_the_bits_of_each_alone(
        lambda: nets(dtype="float32"), each=each, epochs=3, batch_size=20, optimiser=lambda: SGD(lr=0.1)
    )
    assert histories[1].stopped.startswith("DivergedError: ") and len(histories[2].epochs) == 3


def layers_share():
    (net,) = nets(1, (3, 3, 3))
    net.weights[1] = net.weights[0]
    return net


@pytest.mark.parametrize(
    "made, options, reason",
    [
        (lambda: nets(1)[0], {"clip_norm": 1.0}, "gradients are clipped or penalised"),
        (lambda: nets(1)[0], {"l2": 0.1}, "gradients are clipped or penalised"),
        (lambda: nets(1)[0], {"stop_on_nan": False}, "stop_on_nan is off"),
        (lambda: nets(1)[0], {"sample_weight": np.linspace(0, 1, 45)}, "samples have weights"),
        (lambda: nets(1)[0], {"optimiser": "lbfgs"}, "the optimiser evaluates the loss itself"),
        (lambda: nets(1, (3, 3, 2), engine="layered")[0], {}, "it runs by the layered engine: it was asked for"),
        (
            lambda: Net((3, 4, 2), [[BatchNorm(), "tanh", Dropout(0.2)], None], "mse", rng=0, init="normal", backend="cupy"),
            {},
            "it runs by the layered engine: not fused: the graph is no chain",
        ),
        (layers_share, {}, "layers share a Tensor"),
    ],
)  # fmt: skip
def test_those_that_cant_be_trained_together_are_trained_alone(made, options, reason):
    y = X if made is layers_share else Y
    one, other = made(), made()
    history = one.fit(X, y, **options)
    those = ensemble([other, *nets(1)]) if y is Y else ensemble([other])
    histories = those.fit(X, y, each=[options, {}][: len(those)])
    assert those.alone.keys() == {0} and those.alone[0].startswith(reason)
    assert everything(other, histories[0]) == everything(one, history)


def test_callbacks_and_checkpoints_are_of_nets_alone(tmp_path):
    called = []
    those = ensemble(nets(2))
    each = [{"callbacks": [lambda net, epoch: called.append(epoch.number)]}, {"checkpoint": tmp_path}]
    those.fit(X, Y, each=each)
    assert those.alone == {0: "callbacks may change the net", 1: "it writes checkpoints"}
    assert called == [1] and (tmp_path / "net-1").is_dir()


def test_a_net_goes_on_after_the_ensemble():
    (one,), those = nets(1), nets(3)
    one.fit(X, Y, epochs=2, batch_size=20)
    ensemble(those).fit(X, Y, epochs=2, batch_size=20)
    histories = [net.fit(X, Y, epochs=2, batch_size=20) for net in (one, those[0])]
    assert everything(one, histories[0]) == everything(those[0], histories[1])


def launches():
    """A context that counts launches by the package's kernels."""
    counted = []
    launch, of_formula = cuda.Launch.__call__, device.launch

    def one(self, stream):
        counted.append("net")
        launch(self, stream)

    def formula(kernel, *given):
        counted.append("update")
        of_formula(kernel, *given)

    return counted, mock.patch.object(cuda.Launch, "__call__", one), mock.patch.object(device, "launch", formula)


def test_no_launch_is_of_one_net():
    counts = []
    for count in (2, 5):
        counted, nets_launch, update = launches()
        with nets_launch, update:
            ensemble(nets(count)).fit(X, Y, batch_size=20)
        counts.append(sorted(counted))
    assert counts[0] == counts[1] == ["net"] * 6 + ["update"] * 3


def test_an_exception_ends_all():
    def spoiled(step):
        if step == 3:
            raise OSError("no more")
        return 1.0

    those = nets(2)
    with pytest.raises(OSError, match="no more"):
        ensemble(those).fit(X, Y, each=[{}, {"schedule": spoiled}], epochs=4, batch_size=20)
    assert all(np.isfinite(host(p.data)).all() for net in those for p in net.parameters)
