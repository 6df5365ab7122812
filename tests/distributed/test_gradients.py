"""The bits of loss, gradients and runs don't depend on the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import needs_mpi, output

from backprop_xp import BatchNorm, Dropout, ElementwiseLoss, Equation, Net, distributed
from backprop_xp.distributed.gradients import LEAST, of_rank, parts_of
from backprop_xp.sums.tree import ChunkTree

PROGRAM = """
import hashlib, os, sys
import numpy as np
from backprop_xp import Dropout, Graph, LayerNorm, Net, SoftmaxCrossEntropy, distributed
from backprop_xp.training import Adam

def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

def layers(dtype="float32", **options):
    functions = [[LayerNorm(), "relu", Dropout(0.2)], None]
    options = {"loss": "softmax_cross_entropy", "reduction": "mean"} | options
    return Net((6, 9, 3), functions, bias=True, dtype=dtype, rng=0, backend="numpy", **options)

def chain(engine, dtype, loss="mse"):
    return Net((6, 17, 3), loss=loss, bias=True, dtype=dtype, rng=0, backend="numpy", engine=engine)

def graph():
    g = Graph()
    h = x = g.input(6)
    h = g.apply("tanh", g.linear(h, 6)) + x
    return g.net(g.linear(h, 3), loss="mse", dtype="float32", rng=0, backend="numpy")

random = np.random.default_rng(0)
x, y, weight = random.normal(size=(1003, 6)), random.integers(0, 3, 1003), random.uniform(size=1003)
z = random.normal(size=(1003, 3))
"""

CALLS = """
with distributed.world() as world:
    for n in (0, 1, 33, 1003):
        for net, target in [
            (layers(), y), (layers(loss=SoftmaxCrossEntropy(weight=[1, 2, 3], ignore_index=1)), y), (graph(), z),
            *((chain(engine, dtype), z) for engine in ("fused", "tiled", "layered") for dtype in ("float32", "float64")),
        ]:
            for w in (None, weight[:n]):
                loss = net.loss_and_grad(x[:n], target[:n], sample_weight=w, world=world)
                print(n, net, digest(loss, *(p.grad for p in net.parameters))) if world.rank == world.size - 1 else None
"""

RUNS = """
folder, epochs = sys.argv[1:]
with distributed.world() as world:
    net = layers()
    history = net.fit(
        x[:800], y[:800], sample_weight=weight[:800], validation=(x[800:], y[800:]), batch_size=130,
        epochs=int(epochs), optimiser=Adam(lr=0.03), early_stopping=2, clip_norm=1.0, l2=1e-3,
        checkpoint=folder, checkpoint_every=3, resume=True, world=world,
    )
    losses = [(epoch.loss, epoch.validation_loss) for epoch in history.epochs]
    if world.rank == world.size - 1:
        print(digest(*(p.data for p in net.parameters)), net.draws, losses, history.best, history.stopped)
"""


@needs_mpi
def test_losses_and_gradients_have_the_bits_of_one_rank():
    one = output(1, PROGRAM + CALLS)
    assert len(one.splitlines()) == 4 * 9 * 2
    for ranks in (2, 3, 4):
        assert output(ranks, PROGRAM + CALLS) == one


@needs_mpi
def test_runs_have_the_bits_of_one_rank_also_resumed_on_others(tmp_path):
    one = output(1, PROGRAM + RUNS, tmp_path / "one", 30)
    assert "no better for 2 epochs" in one
    assert output(3, PROGRAM + RUNS, tmp_path / "three", 30) == one
    output(4, PROGRAM + RUNS, tmp_path / "two", 2)
    assert output(2, PROGRAM + RUNS, tmp_path / "two", 30) == one


@needs_mpi
def test_ranks_without_a_part_of_a_batch_add_nothing():
    code = PROGRAM + "with distributed.world() as world:\n"
    code += "    net = chain('auto', 'float64'); net.loss_and_grad(x[:20], z[:20], world=world)\n"
    code += "    print(digest(*(p.grad for p in net.parameters)))"
    digests = "".join(output(7, code).split())  # lines of several ranks may meet in one
    assert digests == digests[:64] * 7


@given(st.integers(0, 6), st.integers(1, 64))
def test_subtrees_add_up_to_the_tree(levels, ranks):
    parts = 1 << levels
    values = np.random.default_rng(parts).normal(size=parts) * 10.0 ** np.arange(parts)
    alone, together = ChunkTree(), ChunkTree()
    for k in range(parts):
        alone.add(k, values[k])
    seen = []
    for rank in range(ranks):
        own = ChunkTree()
        for k in of_rank(rank, ranks, parts):
            seen.append(k)
            own.add(k, values[k])
        assert len(own.subtrees()) <= 2 * levels + 1
        for (level, index), value in own.subtrees():
            together.add(index, value, level)
    assert seen == list(range(parts)) and together.total() == alone.total()


@given(st.integers(0, 10**9), st.integers(0, 12))
def test_parts_depend_on_the_batch_alone(samples, levels):
    parts = parts_of(samples, 1 << levels)
    assert parts == 1 or samples >= parts * LEAST
    assert parts == 1 << levels or samples < 2 * parts * LEAST


def net(*activations, **options):
    return Net((3, 4, 2), activations or None, rng=0, backend="numpy", **options)


def test_a_batch_of_one_part_has_the_bits_without_a_world(random):
    x = random.normal(size=(2 * LEAST - 1, 3))
    with distributed.world() as world:
        for function in ("tanh", [Dropout(0.5), "tanh"]):
            alone, shared = net(function, None, dtype="float32"), net(function, None, dtype="float32")
            assert alone.loss_and_grad(x) == shared.loss_and_grad(x, world=world)
            for a, b in zip(alone.parameters, shared.parameters, strict=True):
                np.testing.assert_array_equal(a.grad, b.grad)


def test_larger_batches_agree_with_those_without_a_world(random):
    x = random.normal(size=(500, 3))
    alone, shared = net(), net()
    with distributed.world() as world:
        for accumulate in (False, True):
            loss = shared.loss_and_grad(x, world=world, accumulate=accumulate)
            np.testing.assert_allclose(loss, alone.loss_and_grad(x, accumulate=accumulate), rtol=1e-12)
            for a, b in zip(alone.parameters, shared.parameters, strict=True):
                np.testing.assert_allclose(a.grad, b.grad, rtol=1e-10)


@pytest.mark.parametrize(
    "made, options, message",
    [
        (net(), {"x": np.ones(3)}, r"ranks share batches \(n, features\), got one sample"),
        (net(), {"keep_signals": True}, "ranks keep no signals"),
        (net(), {"input_grad": True}, "ranks give no gradient in x"),
        (net([BatchNorm(), "tanh"], None), {}, "ranks get parts of a batch, and node 'z0.0' needs the whole batch"),
        (net(), {"loss": Equation("u_x", inputs="x y z", outputs="u v")}, "ranks don't share equations"),
    ],
)
def test_what_cannot_be_shared_is_refused(made, options, message):
    with distributed.world() as world, pytest.raises(ValueError, match=message):
        made.loss_and_grad(**{"x": np.ones((40, 3)), "world": world} | options)


def test_another_loss_than_the_nets(random):
    x, loss = random.normal(size=(40, 3)), ElementwiseLoss("cubes", value="z ** 3")
    with distributed.world() as world:
        np.testing.assert_allclose(net().loss_and_grad(x, loss=loss, world=world), net().loss_and_grad(x, loss=loss))
