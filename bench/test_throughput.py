"""The cases of `backprop-xp bench` as a pytest-benchmark suite: `pytest bench/`.

BACKPROP_XP_BENCH_SAMPLES sets the batch of every case, for a quick look. Memory is kept for everybody alike where that
is possible; the extra information of each benchmark says whether it was, and whether others computed meanwhile.
"""

from __future__ import annotations

import pytest
from backprop_xp.bench import allocator, contenders, measure
from backprop_xp.bench.cases import DEFAULT, Case
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY

from backprop_xp import environment, threads


def makers(case: Case) -> dict[str, object]:
    made = {"backprop_xp": lambda: contenders.ours(case, threads=threads.count(), backend="numpy")}
    if contenders.available("torch"):
        made["torch-nn"] = lambda: contenders.torch_eager(case, "nn")
        made["torch-matmul"] = lambda: contenders.torch_eager(case, "matmul")
    return made


@pytest.fixture(scope="session")
def memory():
    return allocator.keep() or allocator.KEPT


@pytest.mark.parametrize("who", ["backprop_xp", "torch-nn", "torch-matmul"])
@pytest.mark.parametrize("case", DEFAULT, ids=lambda case: f"{case.name}-{case.dtype}")
def test_loss_and_grad(benchmark, memory, case, who):
    if samples := environment.BENCH_SAMPLES.read():
        case = case.with_samples(samples)
    made = makers(case)
    if who not in made:
        pytest.skip("PyTorch is not installed")
    contender = made[who]()
    if who != "torch-nn" and "torch-nn" in made:
        measure.prove_equal(made["torch-nn"](), [contender], case.dtype)
    benchmark.group = f"{case.name} {case.samples:,} x {case.dtype}"
    benchmark.extra_info["flop per sample"] = case.flops
    benchmark.extra_info["memory"] = memory
    machine = Machine(threads.count())
    before = measure.rested_look(machine)
    benchmark(contender.step)
    busy = machine.between(before, measure.rested_look(machine)).busy
    benchmark.extra_info["busy"] = f"{BUSY}: {busy}" if busy else ""
