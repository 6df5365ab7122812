"""What steps of training take on many ranks: a model, and a simulation of the real schedule over links of a model.

`python -m backprop_xp.bench.scaling [RESULTS]` prints the tables of bench/scaling.md; RESULTS are what
`python -m backprop_xp.bench.ranks --results` measured, to which the links of this machine are then fitted.

The schedule is the one that runs: parts by :mod:`backprop_xp.distributed.share`, and the subtrees that a rank is left
with. Links all have one latency and one bandwidth, and nobody else uses them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backprop_xp.distributed.adding import MANY
from backprop_xp.distributed.share import of_rank, parts_of

#: Bytes of all ranks together up to which MPICH's allgather takes log2(ranks) rounds, and a ring beyond.
SHORT = 512 << 10
HEAD, NUMBER = 16, 4  # bytes of a subtree beside its numbers, and of a number


@dataclass(frozen=True)
class Machine:
    """A rank and its links.

    Attributes:
        rate: multiply-adds a second of loss and gradients.
        part: seconds that a part takes beside its arithmetic.
        memory: bytes a second of adding up arrays.
        latency, bandwidth: of a message, in seconds, and bytes a second.
    """

    name: str
    ranks: int
    rate: float
    part: float
    memory: float
    latency: float
    bandwidth: float


MACHINES = (
    Machine("8 GPUs on NVLink", 8, 1e13, 2e-5, 1e12, 5e-6, 3e11),
    Machine("1,024 nodes on 400 Gb/s", 1024, 1e12, 1e-4, 5e10, 3e-6, 5e10),
    Machine("100,000 ranks over regions", 100_000, 1e12, 1e-4, 5e10, 1e-2, 1e9),
)
NETS = ((5, 10, 4, 12), (64, 64, 64, 64, 10), (784, 512, 512, 10), (4096, 4096, 4096, 1000))
BATCHES = (1 << 16, 1 << 20, 1 << 24)


def numbers_of(net: Sequence[int]) -> int:
    """Weights and biases."""
    return sum((a + 1) * b for a, b in pairwise(net))


def subtrees(parts: range) -> int:
    """How many sums a rank is left with that has added up these parts, as ChunkTree adds them."""
    count, start = 0, parts.start
    while start < parts.stop:
        step = start & -start if start else 1 << 62
        while step > parts.stop - start:
            step >>= 1
        count, start = count + 1, start + step
    return count


def work(machine: Machine, net: Sequence[int], batch: int, ranks: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds until each rank has its sums, and how many these are."""
    numbers = numbers_of(net)
    count = parts_of(batch, most, numbers)
    edges = np.arange(ranks + 1) * count // ranks
    rows = np.diff(edges) * (batch / count)
    seconds = 3 * numbers * rows / machine.rate + np.diff(edges) * (
        machine.part + 3 * NUMBER * numbers / machine.memory
    )
    return seconds, np.array([subtrees(of_rank(rank, ranks, count)) for rank in range(ranks)])


def simulated(machine: Machine, net: Sequence[int], batch: int, ranks: int, most: int) -> float:
    """Seconds of a step: every message of every rank, each of which waits for the one before it."""
    at, sums = work(machine, net, batch, ranks, most)
    numbers = numbers_of(net)
    adding = 3 * NUMBER * numbers * float(sums.sum()) / machine.memory
    at = _gathered(machine, at, np.full(ranks, float(HEAD)))
    if ranks <= 2 or numbers < MANY:
        return float(_gathered(machine, at, sums * float(HEAD + NUMBER * numbers)).max()) + adding
    share = HEAD + NUMBER * numbers / ranks
    for step in range(1, ranks):  # each sends its sums of a share to the rank that adds it up
        at = np.maximum(at, np.roll(at, step)) + machine.latency + np.roll(sums, step) * share / machine.bandwidth
    at = _gathered(machine, at + adding / ranks, np.full(ranks, float(HEAD)))
    return float(_gathered(machine, at, np.full(ranks, NUMBER * numbers / ranks)).max())


def _gathered(machine: Machine, at: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """When each rank has what all have, from when each is ready with its bytes, whose numbers ``sizes`` are."""
    ranks = len(at)
    if ranks == 1:
        return at
    if sizes.sum() <= SHORT:
        held, distance = sizes.copy(), 1
        while distance < ranks:
            at = np.maximum(at, np.roll(at, -distance)) + machine.latency + np.roll(held, -distance) / machine.bandwidth
            held = held + np.roll(held, -distance)
            distance *= 2
        return at
    for step in range(ranks - 1):
        at = np.maximum(at, np.roll(at, 1)) + machine.latency + np.roll(sizes, 1 + step) / machine.bandwidth
    return at


def modelled(machine: Machine, net: Sequence[int], batch: int, ranks: int, most: int, exact: bool = True) -> float:
    """Seconds of a step, by formulas; without ``exact`` of an allreduce instead."""
    numbers, depth = numbers_of(net), math.ceil(math.log2(ranks)) if ranks > 1 else 0
    if not exact:
        rows = math.ceil(batch / ranks)
        moved = 2 * (ranks - 1) / ranks * NUMBER * numbers
        return 3 * numbers * rows / machine.rate + 3 * depth * machine.latency + moved / machine.bandwidth
    count = parts_of(batch, most, numbers)
    own = math.ceil(count / ranks)
    compute = own * (3 * numbers * batch / count / machine.rate + machine.part + 3 * NUMBER * numbers / machine.memory)
    sums = count if count <= ranks else sum(subtrees(of_rank(rank, ranks, count)) for rank in range(min(ranks, count)))
    total, adding = sums * (HEAD + NUMBER * numbers), 3 * NUMBER * numbers * sums / machine.memory
    others = (ranks - 1) / ranks / machine.bandwidth
    if ranks <= 2 or numbers < MANY:
        rounds = depth + (depth if total <= SHORT else ranks - 1)
        return compute + rounds * machine.latency + total * others + adding
    rounds = 2 * depth + ranks - 1 + (depth if NUMBER * numbers <= SHORT else ranks - 1)
    moved = (total / min(ranks, count) + NUMBER * numbers) * others
    return compute + rounds * machine.latency + moved + adding / ranks


def overlapped(machine: Machine, net: Sequence[int], batch: int, ranks: int) -> float:
    """Seconds of a step, at least, in which each layer's gradients are reduced while those below are computed."""
    rows, depth = math.ceil(batch / ranks), math.ceil(math.log2(ranks)) if ranks > 1 else 0
    computed, sent = numbers_of(net) * rows / machine.rate, 0.0
    for layer in reversed(list(pairwise(net))):
        computed += 2 * numbers_of(layer) * rows / machine.rate
        moved = 2 * (ranks - 1) / ranks * NUMBER * numbers_of(layer)
        sent = max(sent, computed) + 3 * depth * machine.latency + moved / machine.bandwidth
    return sent


def fitted(results: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Latency and bandwidth of an exchange, in seconds and bytes a second, of what the ranks of a machine measured."""
    found = [(row["bytes"], row["exchanging"]) for row in results if row["kind"] == "ranks" and row["ranks"] > 1]
    sizes, seconds = np.array(found).T
    slope, start = np.polyfit(sizes, seconds, 1)
    return max(float(start) / 2, 0.0), 1 / float(slope)


def main(paths: Sequence[str]) -> None:
    for path in paths:
        latency, bandwidth = fitted(json.loads(Path(path).read_text(encoding="utf-8")))
        print(f"fitted: {1e6 * latency:.0f} us an exchange, {bandwidth / 1e9:.2f} GB/s\n")
    print(
        "| machine | net | batch | parts | ms a step | by the model | efficiency | ms with exact=False | overlapped |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for machine in MACHINES:
        most = max(64, 1 << math.ceil(math.log2(machine.ranks)))
        for net in NETS:
            for batch in BATCHES:
                print(_line(machine, net, batch, most))


def _line(machine: Machine, net: Sequence[int], batch: int, most: int) -> str:
    alone = 3 * numbers_of(net) * batch / machine.rate
    many = simulated(machine, net, batch, machine.ranks, most) if machine.ranks <= 1024 else math.nan
    model, other = (modelled(machine, net, batch, machine.ranks, most, exact) for exact in (True, False))
    efficiency = alone / (machine.ranks * (model if math.isnan(many) else many))
    parts = parts_of(batch, most, numbers_of(net))
    times = [f"{1e3 * many:,.3f}" if many == many else "", f"{1e3 * model:,.3f}", f"{100 * efficiency:.1f} %"]
    times += [f"{1e3 * seconds:,.3f}" for seconds in (other, overlapped(machine, net, batch, machine.ranks))]
    cells = [machine.name, "-".join(map(str, net)), f"{batch:,}", str(parts), *times]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(sys.argv[1:])
