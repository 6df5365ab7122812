"""Several point sets in one step: what a step is, runs that are resumed, what is said of each term, and messages."""

import numpy as np
import pytest
from fitting import assert_same, parameters
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import ArrayEquation, Equation, GraphNet, Input, Linear, Net
from backprop_xp.training import SGD, CheckpointError, DivergedError, PointSet, steps
from backprop_xp.training.point_sets import PointSets, as_sets, is_point_sets

HEAT = Equation("u_t - nu * u_xx", inputs="x t", params={"nu": 0.1})


def make(reduction="mean", dtype="float64", **options):
    given = {"loss": "mse", "bias": True, "rng": 0, "backend": "numpy", "init": "glorot_normal"} | options
    return Net((2, 8, 1), dtype=dtype, reduction=reduction, **given)


def sets_of(random, inside=20, wall=7, weight=3.0):
    x, xw, yw = random.normal(size=(inside, 2)), random.normal(size=(wall, 2)), random.normal(size=(wall, 1))
    return {"inside": (x, HEAT), "wall": (xw, yw, "huber", weight)}


@settings(deadline=None, max_examples=25)
@given(
    inside=st.integers(1, 20),
    wall=st.integers(1, 20),
    batch=st.one_of(st.none(), st.integers(1, 9)),
    reduction=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 100),
)
def test_a_step_is_the_weighted_sum_of_batches_that_go_round(inside, wall, batch, reduction, seed):
    """As the docstring of PointSets says, step by step."""
    random = np.random.default_rng(seed)
    sets = sets_of(random, inside, wall)
    net, own = make(reduction), make(reduction)
    source = PointSets(net, as_sets(sets), batch, True, seed)
    optimiser, own_optimiser = SGD(lr=0.01), SGD(lr=0.01)
    made = list(steps(net, sets, batch_size=batch, epochs=2, optimiser=optimiser, seed=seed))
    at_once = {name: batch or len(sets[name][0]) for name in sets}
    each = {name: -(-len(sets[name][0]) // at_once[name]) for name in sets}
    assert len(made) == 2 * max(each.values()) and [step.last for step in made].count(True) == 2
    for number, step in enumerate(made):
        total, sums = 0.0, [0.0] * len(own.parameters)
        for name, weight in (("inside", 1.0), ("wall", 3.0)):
            turn, place = divmod(number, each[name])
            rows = source.rows[name].order(turn)[place * at_once[name] : (place + 1) * at_once[name]]
            x = sets[name][0][rows]
            if name == "inside":
                loss = own.loss_and_grad(x, loss=HEAT)
            else:
                loss = own.loss_and_grad(x, sets[name][1][rows], loss="huber")
            grads = [weight * tensor.grad for tensor in own.parameters]
            assert step.terms[name] == (pytest.approx(loss), len(rows))
            total += weight * loss
            sums = [a + b for a, b in zip(sums, grads)]
        for tensor, grad in zip(own.parameters, sums):
            tensor.grad = grad
        own_optimiser.step(own.parameters)
        assert step.loss == pytest.approx(total)
    for p, q in zip(parameters(net), parameters(own)):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)


def test_every_row_is_taken_once_a_pass(random):
    net, sets = make(), sets_of(random, 23, 9)
    source = PointSets(net, as_sets(sets), {"inside": 5, "wall": 4}, True, 7)
    assert source.steps == 5
    taken = [parts.batches for epoch in range(3) for parts in source.epoch(epoch, 0)]
    for name, each in (("inside", 5), ("wall", 3)):
        for first in range(0, 15, each):
            rows = np.concatenate([batches[name].x for batches in taken[first : first + each]])
            assert sorted(map(tuple, rows)) == sorted(map(tuple, sets[name][0]))
    again = [parts.batches for parts in source.epoch(1, 2)]
    for one, other in zip(again, taken[7:10], strict=True):
        assert all((one[name].x == other[name].x).all() for name in one)


def test_the_same_seed_gives_the_same_bits_for_any_number_of_threads(random):
    sets, found = sets_of(random, 300, 90), []
    for threads, seed in ((1, 3), (2, 3), (2, 4)):
        net = make(threads=threads, dtype="float32")
        net.fit(sets, epochs=2, batch_size=64, seed=seed)
        found.append(parameters(net))
    assert_same(found[0], found[1])
    assert any((a != b).any() for a, b in zip(found[0], found[2]))


@pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(tmp_path, random, optimiser):
    sets = sets_of(random, 23, 9)
    options = {"epochs": 4, "batch_size": 6, "optimiser": optimiser, "seed": None, "checkpoint_every": 1}
    if optimiser == "lbfgs":
        options |= {"batch_size": None}
    whole = make()
    history = whole.fit(sets, **options | {"checkpoint": tmp_path / "whole"})

    def stop(net, epoch):
        if epoch.number == 2:
            raise KeyboardInterrupt

    net = make()
    options |= {"checkpoint": tmp_path / "run", "seed": history.seed}
    with pytest.raises(KeyboardInterrupt):
        net.fit(sets, callbacks=[stop], **options)
    other = make(rng=5)
    resumed = other.fit(sets, resume=True, **options)
    assert_same(parameters(whole), parameters(other))
    assert [epoch.terms for epoch in resumed.epochs] == [epoch.terms for epoch in history.epochs]
    assert [epoch.loss for epoch in resumed.epochs] == [epoch.loss for epoch in history.epochs]
    for changed in (
        sets | {"wall": (*sets["wall"][:3], 4.0)},
        sets | {"wall": (*sets["wall"][:2], "mse", 3.0)},
        {"inside": sets["inside"]},
        dict(reversed(sets.items())),  # the seed of a set's order goes by its place
    ):
        with pytest.raises(CheckpointError, match="is of another run: its sets is"):
            make().fit(changed, resume=True, **options)


def test_in_the_middle_of_an_epoch_too(tmp_path, random):
    sets, options = sets_of(random, 40, 9), {"epochs": 2, "batch_size": 4, "checkpoint_every": 3}
    whole = make()
    expected = whole.fit(sets, **options)
    net, count = make(), 0
    loss_and_grad = net.loss_and_grad

    def counting(*args, **kwargs):
        nonlocal count
        count += 1
        if count > 2 * 8:  # in the ninth step, after the checkpoint of the sixth
            raise KeyboardInterrupt
        return loss_and_grad(*args, **kwargs)

    net.loss_and_grad = counting
    with pytest.raises(KeyboardInterrupt):
        net.fit(sets, checkpoint=tmp_path, **options)
    other = make(rng=5)
    history = other.fit(sets, checkpoint=tmp_path, resume=True, **options)
    assert_same(parameters(whole), parameters(other))
    assert [epoch.terms for epoch in history.epochs] == [epoch.terms for epoch in expected.epochs]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_epochs_loss_is_the_weighted_sum_of_its_terms(random, reduction):
    net, sets = make(reduction), sets_of(random)
    seen = []
    history = net.fit(
        sets, epochs=3, batch_size=None, optimiser=SGD(lr=0.0), callbacks=[lambda _, epoch: seen.append(epoch)],
        validation=sets,
    )  # fmt: skip
    assert history.epochs == seen
    net.reduction = "mean"
    inside = net.loss_and_grad(sets["inside"][0], loss=HEAT)
    wall = net.loss_and_grad(*sets["wall"][:2], loss="huber")
    for epoch in seen:
        assert epoch.terms == {"inside": pytest.approx(inside), "wall": pytest.approx(wall)}
        assert epoch.loss == pytest.approx(inside + 3 * wall)
        assert epoch.validation_loss == pytest.approx(inside + 3 * wall)
    assert make().fit(np.ones((4, 2)), np.ones((4, 1))).epochs[0].terms is None


def test_early_stopping_puts_back_the_best(random):
    net, sets = make(), sets_of(random)
    history = net.fit(
        sets, epochs=50, batch_size=None, optimiser=SGD(lr=30.0), early_stopping=3, stop_on_nan=False
    )  # fmt: skip
    assert history.stopped and history.best < len(history.epochs)
    history = net.fit(sets, epochs=1, optimiser=SGD(lr=0.0), batch_size=None, validation={"wall": sets["wall"]})
    wall = net.loss_and_grad(*sets["wall"][:2], loss="huber")
    assert history.epochs[0].validation_loss == pytest.approx(3 * wall)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_of_points_and_classes_as_in_one_set(random, reduction):
    """One set is what a fit without names is."""
    x, y, w = random.normal(size=(30, 3)), random.integers(0, 4, 30), random.uniform(size=30)
    nets = [
        Net((3, 6, 4), loss="softmax_cross_entropy", rng=0, backend="numpy", reduction=reduction) for _ in range(2)
    ]  # fmt: skip
    one = nets[0].fit(x, y, sample_weight=w, epochs=3, batch_size=8)
    named = nets[1].fit({"all": PointSet(x, y, sample_weight=w)}, epochs=3, batch_size=8)
    for p, q in zip(parameters(nets[0]), parameters(nets[1])):
        np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-12)
    assert [e.loss for e in named.epochs] == [pytest.approx(e.loss) for e in one.epochs]


def test_of_a_graph_with_several_inputs(random):
    nodes = {"a": Input(1), "b": Input(1), "ab": ("concatenate", "a", "b"), "h": (Linear(6), "ab"), "f": ("tanh", "h")}
    net = GraphNet(nodes | {"u": (Linear(1), "f")}, rng=0, backend="numpy", loss="mse", reduction="mean")
    a, b = random.normal(size=(12, 1)), random.normal(size=(12, 1))
    sets = {"inside": ({"a": a, "b": b}, HEAT), "wall": ({"a": a[:5], "b": b[:5]}, np.zeros((5, 1)))}
    history = net.fit(sets, epochs=60, batch_size=4, optimiser="adam")
    assert history.epochs[-1].loss < history.epochs[0].loss / 2
    assert not is_point_sets({"a": a, "b": b}) and not is_point_sets({"a": [[1.0], [2.0]]}) and not is_point_sets(a)
    assert is_point_sets({"a": [a, "mse"]})


def plain(nu=0.1):
    """HEAT as array code."""
    return ArrayEquation(
        lambda u_t, u_xx: u_t - nu * u_xx, grad=lambda u_t, u_xx: {"u_t": 1.0, "u_xx": -nu}, inputs="x t"
    )


def test_an_equation_as_array_code_is_the_formula(random):
    net, x, w = make(engine="auto"), random.normal(size=(9, 2)), random.uniform(size=9)
    net.loss_and_grad(x, loss=HEAT, sample_weight=w)
    expected = [tensor.grad for tensor in net.parameters]
    loss = net.loss_and_grad(x, loss=HEAT)
    assert net.loss_and_grad(x, loss=plain()) == pytest.approx(loss)
    net.loss_and_grad(x, loss=plain(), sample_weight=w)
    for tensor, grad in zip(net.parameters, expected):
        np.testing.assert_allclose(tensor.grad, grad, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(net.residuals(plain(), x), net.residuals(HEAT, x), rtol=1e-9, atol=1e-12)
    assert str(net.plan(x, loss=plain())).startswith("layered: not fused: ArrayEquation is written in Python")
    texts = Equation("u_t * u - f * x", "u_xx + t ** 2 * u", inputs="x t", targets="f")
    arrays = ArrayEquation(
        lambda u, u_t, u_xx, x, t, f: (u_t * u - f * x, u_xx + t**2 * u),
        grad=lambda u, u_t, u_xx, x, t, f: (
            {"u": u_t, "u_t": u, "u_xx": 0.0, "x": -f, "t": 0.0},
            {"u": t**2, "u_t": 0.0, "u_xx": 1.0, "x": 0.0, "t": 2 * t * u},
        ),
        inputs="x t",
        targets="f",
    )
    y = random.normal(size=9)
    loss, grad_x = net.loss_and_grad(x, y, loss=texts, input_grad=True)
    expected = [tensor.grad for tensor in net.parameters]
    found, found_x = net.loss_and_grad(x, y, loss=arrays, input_grad=True)
    assert found == pytest.approx(loss)
    np.testing.assert_allclose(found_x, grad_x, rtol=1e-8, atol=1e-10)
    for tensor, grad in zip(net.parameters, expected):
        np.testing.assert_allclose(tensor.grad, grad, rtol=1e-8, atol=1e-10)
    history = net.fit({"inside": (x, plain()), "source": (x, y, arrays)}, epochs=2)
    assert set(history.epochs[0].terms) == {"inside", "source"}


@pytest.mark.parametrize(
    ("residual", "grad", "message"),
    [
        (lambda u_q: u_q, lambda u_q: {}, "'u_q' is no derivative of 'u' in the inputs x t"),
        (lambda q: q, lambda q: {}, "unknown name 'q'"),
        (lambda x: x, lambda x: {}, "the residual takes no output of the net"),
        (lambda u: u, lambda u, x: {}, "grad must take what residual takes, u"),
        (lambda *a: a, lambda u: {}, "residual must name its parameters one by one"),
        ("u", lambda u: {}, "residual must be a function of named arrays, got str"),
    ],
)
def test_array_code_that_cant_be_is_named_at_once(residual, grad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ArrayEquation(residual, grad, inputs="x t")


@pytest.mark.parametrize(
    ("residual", "grad", "message"),
    [
        (
            lambda u: u[:, None],
            lambda u: {"u": 1.0},
            r"the residual must be \(3,\), a number for each point, got \(3, 1\)",
        ),
        (lambda u: u, lambda u: {}, "a derivative in each of u; got $"),
        (lambda u: u, lambda u: 1.0, "a derivative in each of u; got float"),
        (lambda u: u, lambda u: {"u": np.ones(2)}, r"grad in u must be \(3,\), a number for each point, got \(2,\)"),
        (lambda u: (u, u), lambda u: {"u": 1.0}, "there are 2 residuals, and grad has returned derivatives of 1"),
    ],
)
def test_array_code_that_returns_something_else(residual, grad, message):
    with pytest.raises(ValueError, match=message):
        make().loss_and_grad(np.ones((3, 2)), loss=ArrayEquation(residual, grad, inputs="x t"))


X, Y = np.ones((4, 2)), np.ones((4, 1))


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ({"a": (X, HEAT), "b": X}, {}, r"point set 'b': it must be \(x, loss\), .* got ndarray"),
        ({"a": (X,)}, {}, r"point set 'a': it must be .* got 1 parts: ndarray\(4, 2\)"),
        ({"a": (X, Y, "mse", 1.0, 2)}, {}, "point set 'a': it must be .* got 5 parts"),
        ({"a": (X, 2.0)}, {}, "point set 'a': it must be .* got 2 parts"),
        ({"a": (X, Y, "mse", -1.0)}, {}, "the weight of 'a'"),
        ({"a": (X, "mse")}, {}, "point set 'a': the loss mse needs a target"),
        ({"a": (X, Y, "mze")}, {}, "point set 'a': .*unknown loss 'mze'"),
        ({"a": (X, Y, HEAT)}, {}, "point set 'a': the equation takes no targets, got y"),
        ({"a": (X, Y[:2], "mse")}, {}, "point set 'a': .* the same number of rows"),
        ({"a": (np.ones((4, 3)), HEAT)}, {}, "point set 'a': x must have 2 features, got 3"),
        ({"a": (X[:0], HEAT)}, {}, "point set 'a': .* at least one"),
        ({1: (X, HEAT)}, {}, "a point set's name must be a printable string, got 1"),
        ({"a": (X, HEAT)}, {"y": Y}, "point sets hold targets and weights themselves"),
        ({"a": (X, HEAT)}, {"batch_size": 0}, "point set 'a': batch_size must be"),
        ({"a": (X, HEAT)}, {"batch_size": {"b": 2}}, "batch_size names no point set: unknown point set 'b'"),
        ({"a": (X, HEAT), "b": (X, HEAT)}, {"batch_size": {"a": 2}}, "batch_size must name every point set, and 'b'"),
        (
            {"a": (X, HEAT)},
            {"validation": {"a": PointSet(X, loss=HEAT, sample_weight=Y[:, 0])}},
            "takes no sample_weight",
        ),
    ],
)
def test_mistakes_are_named(sets, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make().fit(sets, **options)


def test_a_batch_that_is_too_small_for_batch_normalisation_is_refused_before_the_first_step():
    nodes = {"x": Input(2), "h": (Linear(3), "x"), "n": ("batch_norm", "h"), "y": (Linear(1), "n")}
    net = GraphNet(nodes, rng=0, backend="numpy", loss="mse")
    with pytest.raises(ValueError, match="point set 'wall': 5 samples in batches of 4 leave a last batch of 1"):
        net.fit({"inside": (X, Y), "wall": (np.ones((5, 2)), np.ones((5, 1)))}, batch_size=4)


def test_batch_sizes_by_name_are_for_point_sets_alone():
    with pytest.raises(TypeError, match="batch_size can be a mapping for point sets by name alone"):
        make().fit(X, Y, batch_size={"a": 3})


def test_a_loss_that_is_no_number_says_in_which_set(random):
    sets = sets_of(random)
    sets["wall"][1][3] = np.nan
    with pytest.raises(DivergedError, match="the target y of its batch of 'wall' isn't finite") as raised:
        make().fit(sets, batch_size=None)
    assert raised.value.step == 1


@pytest.mark.gpu
def test_on_a_gpu(cupy, random):
    sets = sets_of(random)
    nets = [make(backend=backend) for backend in ("numpy", "cupy")]
    histories = [net.fit(sets, epochs=3, batch_size=6) for net in nets]
    for p, q in zip(nets[0].parameters, nets[1].parameters):
        np.testing.assert_allclose(cupy.asnumpy(q.data), p.data, rtol=1e-7, atol=1e-9)
    for one, other in zip(*(history.epochs for history in histories)):
        assert other.terms == {name: pytest.approx(loss) for name, loss in one.terms.items()}
