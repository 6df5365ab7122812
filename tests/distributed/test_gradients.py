"""The bits of loss, gradients and runs don't depend on the number of ranks."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import ends, needs_mpi, output

from backprop_xp import BatchNorm, Dropout, ElementwiseLoss, Equation, Net, Operation, distributed, engines
from backprop_xp.distributed import share
from backprop_xp.distributed.share import FEW, LEAST, MANY, Share, least_of, of_rank, parts_of
from backprop_xp.engines.fused import matrices
from backprop_xp.programs.matrices import Pass
from backprop_xp.sums.tree import ChunkTree

PROGRAM = """
import hashlib, os, sys
import numpy as np
from backprop_xp import BatchNorm, Dropout, Graph, LayerNorm, Net, SoftmaxCrossEntropy, distributed
from backprop_xp.distributed import adding, share
from backprop_xp.training import Adam

share.WORTH, share.MANY = 1, 16  # many parts of small batches too
adding.MANY = 100  # some of these nets are smaller, and some larger

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

def normalised(dtype="float32", engine="auto"):
    functions = [[BatchNorm(), "relu", Dropout(0.2)], [BatchNorm(momentum=0.3), "tanh"], None]
    return Net((6, 9, 7, 3), functions, bias=True, loss="mse", dtype=dtype, rng=0, backend="numpy", engine=engine)

def mine(world, *arrays):
    "Some rows for each rank: more for later ones, and none for the last but one."
    ends = [round(len(arrays[0]) * (rank * rank) / world.size**2) for rank in range(world.size + 1)]
    if world.size > 2: ends[-3] = ends[-2]
    return [a[ends[world.rank] : ends[world.rank + 1]] for a in arrays]

random = np.random.default_rng(0)
x, y, weight = random.normal(size=(1003, 6)), random.integers(0, 3, 1003), random.uniform(size=1003)
z = random.normal(size=(1003, 3))
"""

CALLS = """
with distributed.world() as world:
    for n in map(int, sys.argv[1:]):
        for net, target in [
            (layers(), y), *((normalised(dtype), z) for dtype in ("float32", "float64") if n != 1),
            (layers(loss=SoftmaxCrossEntropy(weight=[1, 2, 3], ignore_index=1)), y), (graph(), z),
            *((chain(engine, dtype), z) for engine in ("fused", "tiled", "layered") for dtype in ("float32", "float64")),
        ]:
            for w in (None, weight[:n]):
                loss = net.loss_and_grad(x[:n], target[:n], sample_weight=w, world=world)
                grads = [p.grad for p in net.parameters]
                found = digest(loss, *(p.grad for p in net.parameters), *(b.data for b in net.buffers.values()))
                print(n, net, found) if world.rank == world.size - 1 else None
                if n:
                    draws = {"draws": net.draws - 1} if hasattr(net, "draws") else {}
                    for name, value in draws.items(): setattr(net, name, value)
                    own = mine(world, x[:n], target[:n], *(() if w is None else (w,)))
                    again = net.loss_and_grad(*own[:2], sample_weight=None if w is None else own[2], world=world, shards=True)
                    assert digest(again, *(p.grad for p in net.parameters)) == digest(loss, *grads), (n, net)
"""

RUNS = """
folder, epochs, *chosen = sys.argv[1:]
with distributed.world() as whole, distributed.world(shard_state=True) as parts:
    for world, shards, made in [
        (whole, False, layers), (whole, True, layers), (parts, False, layers), (parts, True, layers),
        (whole, False, normalised), (parts, True, normalised),
    ][slice(*map(int, chosen))]:
        net, target = made(), y if made is layers else z
        cut = (lambda *arrays: mine(world, *arrays)) if shards else (lambda *arrays: arrays)
        (a, b, w), held_out = cut(x[:800], target[:800], weight[:800]), cut(x[800:], target[800:])
        history = net.fit(
            a, b, sample_weight=w, validation=held_out, batch_size=130, epochs=int(epochs), optimiser=Adam(lr=0.03),
            early_stopping=2, clip_norm=1.0, l2=1e-3, l1=1e-4, checkpoint=f"{folder}/{made.__name__}-{world.shard_state}-{shards}",
            checkpoint_every=3, resume=True, world=world, shards=shards,
        )
        losses = [(epoch.loss, epoch.validation_loss) for epoch in history.epochs]
        if world.rank == world.size - 1:
            arrays = [p.data for p in net.parameters] + [b.data for b in net.buffers.values()]
            print(made.__name__, digest(*arrays), net.draws, losses, history.best, history.stopped)
"""


@needs_mpi
def test_losses_and_gradients_have_the_bits_of_one_rank():
    one = output(1, PROGRAM + CALLS, 0, 1, 33, 1003)
    assert len(one.splitlines()) == (4 * 11 - 2) * 2
    assert output(2, PROGRAM + CALLS, 0, 1, 33, 1003) == output(3, PROGRAM + CALLS, 0, 1, 33, 1003) == one
    last = "".join(line for line in one.splitlines(keepends=True) if line.startswith("1003 "))
    assert output(4, PROGRAM + CALLS, 1003) == output(7, PROGRAM + CALLS, 1003) == last


@needs_mpi
def test_runs_have_the_bits_of_one_rank_also_resumed_on_others(tmp_path):
    one = output(1, PROGRAM + RUNS, tmp_path / "one", 30, 0, 6)
    assert one.count("no better for 2 epochs") == 6
    digests = [line.split()[1] for line in one.splitlines()]
    assert len({*digests[:4]}) == len({*digests[4:]}) == 1  # whatever ranks share out
    assert output(2, PROGRAM + RUNS, tmp_path / "two", 30, 0, 6) == one
    last = one[one.rindex("normalised") :]
    assert output(7, PROGRAM + RUNS, tmp_path / "seven", 30, 5, 6) == last
    output(4, PROGRAM + RUNS, tmp_path / "four", 2, 0, 6, 5)
    assert output(3, PROGRAM + RUNS, tmp_path / "four", 30, 0, 6, 5) == one[: one.index("\n") + 1] + last


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


NARROW = """
x, z = np.random.default_rng(0).normal(size=(40000, 5)), np.random.default_rng(0).normal(size=(40000, 12))
share.WORTH = 1 << 20
with distributed.world() as world:
    for n in (40000, 8191, 8192):
        net = Net((5, 10, 4, 12), loss="mse", bias=True, dtype="float32", rng=0, backend="numpy")
        for shards in (False, True):
            own = mine(world, x[:n], z[:n]) if shards else (x[:n], z[:n])
            loss = net.loss_and_grad(*own, world=world, shards=shards)
            print(digest(loss, *(p.grad for p in net.parameters))) if world.rank == world.size - 1 else None
"""


@needs_mpi
def test_the_narrow_form_computes_many_parts_in_one_call():
    one = output(1, PROGRAM + NARROW)
    assert len(set(one.split())) == 3
    assert output(2, PROGRAM + NARROW) == output(3, PROGRAM + NARROW) == one


def test_parts_of_the_narrow_form_are_those_of_calls_of_their_own(random):
    x = random.normal(size=(3 * 4096 + 5, 3)).astype(np.float32)
    made = net(dtype="float32", reduction="mean")
    call = made._loss_call(x, None, None, False, True)
    parts = [slice(0, 8192), slice(8192, len(x))]
    for rows, result in zip(parts, engines.in_parts("fused", call, parts, len(x)), strict=True):
        alone = engines.loss_and_grad("fused", call.rows(rows))
        assert result.loss == alone.loss
        for a, b in zip(result.parameters, alone.parameters, strict=True):
            np.testing.assert_array_equal(a, b)


def test_parts_of_wide_nets_have_one_preparation(random, monkeypatch):
    """And the bits of calls of their own."""
    made = Net((20, 64, 3), loss="mse", bias=True, dtype="float32", rng=0, backend="numpy")
    x, y = random.normal(size=(777, 20)), random.normal(size=(777, 3))
    call = made._loss_call(x, y, None, False, True)
    parts = [slice(0, 300), slice(300, 301), slice(301, 777)]
    alone = [engines.loss_and_grad("fused", call.rows(rows)) for rows in parts]
    prepared = []
    monkeypatch.setattr(matrices, "Pass", lambda *arguments: prepared.append(Pass(*arguments)) or prepared[-1])
    for one, other in zip(engines.in_parts("fused", call, parts, 777), alone, strict=True):
        assert one.loss == other.loss
        for a, b in zip(one.parameters, other.parameters, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(prepared) == 1


@given(st.integers(0, 10**9), st.integers(0, 12), st.integers(1, 10**7))
def test_parts_depend_on_the_batch_and_the_net_alone(samples, levels, numbers):
    most = 1 << levels
    parts = parts_of(samples, most, numbers)
    assert parts == 1 or samples >= parts * least_of(numbers, parts > FEW)
    assert parts == most or samples < 2 * parts * least_of(numbers, 2 * parts > FEW)
    assert least_of(numbers) % LEAST == 0 and least_of(numbers, many=True) >= max(MANY, least_of(numbers))


@given(st.integers(0, 100_000), st.integers(1, 9), st.integers(1, 10**5), st.booleans())
def test_shares_are_all_rows_once(samples, size, numbers, exact):
    shares = [Share(SimpleNamespace(rank=k, size=size, parts=64, exact=exact), samples, numbers) for k in range(size)]
    rows = [each.rows() for each in shares]
    assert (rows[0].start, rows[-1].stop) == (0, samples)
    assert all(a.stop == b.start for a, b in pairwise(rows))
    for each, own in zip(shares, rows, strict=True):
        parts = [each.rows_of_part(part) for part in each.parts()]
        ends = [0, *(part.stop for part in parts)] if parts else [0]
        assert [part.start for part in parts] == ends[:-1] and ends[-1] == own.stop - own.start
        assert each.rows(each.world.rank) == own


class Centred(Operation):
    """Looks at the whole batch, and doesn't say which sums it needs."""

    scope = "batch in training"

    def forward(self, z):
        return z - z.mean(axis=0)

    def backward(self, grad, z):
        return grad - grad.mean(axis=0)


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


@pytest.mark.parametrize("function", ["tanh", [Dropout(0.4), "tanh"], [BatchNorm(), Dropout(0.4), "relu"]])
def test_larger_batches_agree_with_those_without_a_world(random, function, monkeypatch):
    monkeypatch.setattr(share, "WORTH", 1)
    x = random.normal(size=(500, 3))
    alone, shared = net(function, None), net(function, None)
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
        (net([Centred(), "tanh"], None), {}, "ranks get parts of a batch, and node 'z0.0' needs the whole batch"),
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


INEXACT = """
with distributed.world(exact=False) as world, distributed.world(exact=False, shard_state=True) as parts:
    for made in (layers, normalised):
        target = y if made is layers else z
        alone, shared, sharded = made("float64"), made("float64"), made("float64")
        alone.loss_and_grad(x, target), shared.loss_and_grad(x, target, world=world)
        for a, b in zip(alone.parameters, shared.parameters):
            np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-9)
        alone, shared = made("float64"), made("float64")
        for net, options in ((alone, {}), (shared, {"world": world}), (sharded, {"world": parts})):
            net.fit(x, target, epochs=2, **options)
        for a, b, c in zip(alone.parameters, shared.parameters, sharded.parameters):
            np.testing.assert_allclose(a.data, b.data, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(a.data, c.data, rtol=1e-6, atol=1e-6)
"""


@needs_mpi
def test_sums_by_mpi_differ_in_last_bits_alone():
    output(3, PROGRAM + INEXACT)


def test_rows_of_shards_are_refused_without_a_world(random):
    x = random.normal(size=(40, 3))
    for call in (lambda: net().loss_and_grad(x, shards=True), lambda: net().fit(x, shards=True)):
        with pytest.raises(ValueError, match="shards=True is for the ranks of a world: give world="):
            call()
    with distributed.world() as world:
        for given in ([(x,)], {"a": (x, "mse")}):
            with pytest.raises(ValueError, match="ranks have some rows each of arrays"):
                net().fit(given, world=world, shards=True)
        with pytest.raises(ValueError, match="no rank has any rows"):
            net().fit(x[:0], world=world, shards=True)


@needs_mpi
def test_shards_of_another_kind_are_refused():
    code = PROGRAM + "with distributed.world() as world:\n"
    code += "    target = z if world.rank else z[:, :1]\n"
    code += "    chain('auto', 'float32').fit(x, target, world=world, shards=True)"
    assert "ranks differ in the kind of array 1: float32 (1,) on rank 0, float32 (3,) on rank 1" in ends(2, code)


ON_GPU = """
with distributed.world() as world:
    for functions in ([["tanh", Dropout(0.3)], None], [[BatchNorm(), "relu"], None]):
        options = {"bias": True, "loss": "mse", "dtype": "float32", "rng": 0, "backend": "cupy"}
        net, trained = Net((6, 9, 3), functions, **options), Net((6, 9, 3), functions, **options)
        loss = net.loss_and_grad(x[:100], z[:100], world=world)
        own, target = mine(world, x[:100], z[:100])
        trained.fit(own, target, epochs=2, batch_size=50, world=world, shards=True)
        arrays = [p.grad.get() for p in net.parameters] + [p.data.get() for p in trained.parameters]
        print(digest(loss.get(), *arrays)) if world.rank == world.size - 1 else None
"""


#: Does what CuPy's NCCL does, between ranks that may have one GPU together.
NCCL = """
import cupy
from mpi4py import MPI

class Copies:
    NCCL_UINT8, NCCL_FLOAT32, NCCL_SUM, kept, groups = np.uint8, np.float32, MPI.SUM, [], 0
    def at(self, address, count, kind):
        memory = cupy.cuda.UnownedMemory(address, count * np.dtype(kind).itemsize, self)
        return cupy.ndarray(count, kind, cupy.cuda.MemoryPointer(memory, 0))
    def get_unique_id(self): return tuple(range(128))
    def NcclCommunicator(self, size, name, rank):
        assert (size, name, rank) == (MPI.COMM_WORLD.size, tuple(range(128)), MPI.COMM_WORLD.rank)
        return self
    def groupStart(self): self.kept.clear()
    def send(self, address, count, kind, peer, stream):
        data = self.at(address, count, kind).get()
        self.kept.append((MPI.COMM_WORLD.Isend(data, peer), data, None))
    def recv(self, address, count, kind, peer, stream):
        data = np.empty(count, kind)
        self.kept.append((MPI.COMM_WORLD.Irecv(data, peer), data, self.at(address, count, kind)))
    def groupEnd(self):
        for request, data, to in self.kept:
            request.Wait()
            to is None or to.set(data)
        self.groups += 1
    def allReduce(self, address, to, count, kind, operation, stream):
        data = self.at(address, count, kind).get()
        MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, data, operation)
        self.at(to, count, kind).set(data)
        self.groups += 1

copies = Copies()
sys.modules["backprop_xp.backend"].nccl = lambda: copies
"""


@needs_mpi
@pytest.mark.gpu
def test_ranks_on_a_gpu_have_the_bits_of_one():
    one = output(1, PROGRAM + ON_GPU)
    assert output(2, PROGRAM + ON_GPU) == one
    code = PROGRAM + NCCL + ON_GPU.replace("world()", "world(nccl=True)")
    assert output(3, code + INEXACT_ON_GPU) == one


INEXACT_ON_GPU = """
    assert copies.groups and world._gpus
copies.groups, options = 0, {"exact": False, "nccl": True}
with distributed.world(**options) as world, distributed.world(shard_state=True, **options) as sharded:
    made = lambda: Net((6, 17, 3), loss="mse", bias=True, dtype="float32", rng=0, backend="cupy")
    alone, shared, parted = made(), made(), made()
    for net, options in ((alone, {}), (shared, {"world": world}), (parted, {"world": sharded})):
        net.fit(x, z, epochs=1, batch_size=500, **options)
    for a, b, c in zip(alone.parameters, shared.parameters, parted.parameters):
        np.testing.assert_allclose(a.data.get(), b.data.get(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a.data.get(), c.data.get(), rtol=1e-5, atol=1e-6)
    assert copies.groups
"""


def test_nccl_that_is_not_there_is_named(monkeypatch):
    module = SimpleNamespace(available=False)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(nccl=module)))
    monkeypatch.setitem(sys.modules, "cupy.cuda", SimpleNamespace(nccl=module))
    with pytest.raises(ImportError, match="nccl=True needs NCCL for CuPy: pip install nvidia-nccl-cu13"):
        distributed.world(nccl=True)
