"""Ranks of one machine, one thread each: `python -m backprop_xp.bench.ranks [--results FILE]`, or `make bench-ranks`.

Steps of training (loss, gradients, SGD) of a batch that ranks share out, beside the plain loop on one thread and
PyTorch's DistributedDataParallel over gloo on the same ranks; each in processes of its own, in turn, the best of
several rounds. Strong scaling keeps the batch, weak scaling gives each rank as many samples. What a rank sends in a
step, and how long its exchanges take from when all ranks are ready for them, the world itself counts in more steps.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from backprop_xp.bench.report import as_json

from backprop_xp import Net, distributed
from backprop_xp.distributed.world import World
from backprop_xp.environment import PMI_RANK, passed_on
from backprop_xp.training import SGD

#: Widths and samples of a batch.
CASES = (((5, 10, 4, 12), 65536), ((64, 64, 64, 64, 10), 65536), ((784, 512, 512, 10), 4096))
ROUNDS, SECONDS = 2, 1.0  # of every kind of run, and of the steps that a round measures, about
OURS, INEXACT, DDP, PLAIN = "ranks", "ranks, exact=False", "DistributedDataParallel", "plain loop"


def rounds(step: Callable[[], Any], together: Callable[[float], float]) -> tuple[float, int]:
    """The least seconds of a step, and how many were measured a round; ``together`` is the first rank's number."""
    step(), step()
    started = time.perf_counter()
    step()
    count = max(2, int(together(SECONDS / 5 / (time.perf_counter() - started))))
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(count):
            step()
        best = min(best, (time.perf_counter() - started) / count)
    return best, count


class Counting(World):
    """A world that can count what this rank sends, and seconds from when all are ready until it has what they sent."""

    counts, messages, bytes, seconds = False, 0, 0, 0.0

    def gather(self, task: int, data: np.ndarray) -> list[np.ndarray]:
        return self._timed(lambda: World.gather(self, task, data), data.nbytes)

    def deal(self, task: int, data: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._timed(lambda: World.deal(self, task, data), sum(each.nbytes for each in data))

    def reduce(self, task: int, data: np.ndarray, bounds: Sequence[int] | None = None) -> np.ndarray:
        return self._timed(lambda: World.reduce(self, task, data, bounds), data.nbytes)

    def _timed(self, exchange: Callable[[], Any], size: int) -> Any:
        if not self.counts:
            return exchange()
        if self._comm is not None:
            self._comm.Barrier()
        started = time.perf_counter()
        found = exchange()
        self.seconds += time.perf_counter() - started
        self.messages += 1
        self.bytes += size
        return found


def ours(sizes: tuple[int, ...], batch: int, kind: str) -> dict[str, Any]:
    """What a step takes on the ranks of this process, or in the plain loop."""
    x, y = data(sizes, batch)
    net = Net(sizes, loss="mse", bias=True, reduction="mean", init="glorot_uniform", dtype="float32", rng=0)
    optimiser = SGD(lr=1e-3)

    def step(**options: Any) -> None:
        net.loss_and_grad(x, y, **options)
        optimiser.step(net.parameters)

    if kind == PLAIN:
        return {"seconds": rounds(step, lambda count: count)[0]}
    made = distributed.world(exact=kind == OURS)
    with Counting(made._all, made.parts, exact=made.exact) as world:
        world.checks = False
        seconds, count = rounds(lambda: step(world=world), lambda count: float(world.hear(str(count))))
        world.counts, least = True, np.inf
        for _ in range(count):
            world.messages, world.bytes, world.seconds = 0, 0, 0.0
            step(world=world)
            least = min(least, world.seconds)
        world.counts = False
        return {"seconds": seconds, "exchanging": least, "messages": world.messages, "bytes": world.bytes}


def ddp(sizes: tuple[int, ...], batch: int, port: int) -> dict[str, Any]:
    """What a step takes PyTorch's ranks, each of which has a part of the batch."""
    import torch

    torch.set_num_threads(1)
    rank, size = PMI_RANK.read() or 0, distributed.launched()
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    layers: list[Any] = []
    for a, b in pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers[:-1]))
    optimiser, own = (
        torch.optim.SGD(model.parameters(), lr=1e-3),
        slice(batch * rank // size, batch * (rank + 1) // size),
    )
    x, y = (torch.from_numpy(array[own]) for array in data(sizes, batch))

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimiser.step()

    def together(count: float) -> float:
        number = torch.tensor(count)
        torch.distributed.broadcast(number, 0)
        return float(number)

    return {"seconds": rounds(step, together)[0]}


def data(sizes: tuple[int, ...], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, float32."""
    random = np.random.default_rng(0)
    x, y = (random.normal(size=(batch, width)).astype(np.float32) for width in (sizes[0], sizes[-1]))
    return x, y


def launch(ranks: int, sizes: tuple[int, ...], batch: int, kind: str) -> dict[str, Any]:
    """A run of this kind in processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    work = ["-m", "backprop_xp.bench.ranks", "--work", kind, json.dumps([sizes, batch, port])]
    library = _installed("libmpi.so.12")
    variables = {} if library is None else {"MPI4PY_LIBMPI": library}
    environment = passed_on({"BACKPROP_XP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | variables)
    command = [_mpiexec(), "-n", str(ranks), sys.executable, *work]
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, timeout=300
    )
    if run.returncode:
        raise RuntimeError(f"{kind} on {ranks} ranks failed: {run.stderr.strip()}")
    return json.loads(run.stdout.splitlines()[-1])


def _installed(name: str) -> str | None:
    """A file of the wheel mpich."""
    try:
        files = importlib.metadata.distribution("mpich").files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(Path(str(file.locate())).resolve()) for file in files if file.name == name), None)


def _mpiexec() -> str:
    found = _installed("mpiexec") or shutil.which("mpiexec")
    if found is None:
        raise SystemExit("there is no mpiexec: pip install 'backprop-xp[ranks]'")
    return found


def measure(most: int) -> list[dict[str, Any]]:
    """Every case on one rank and on ``most``, by all kinds in turn."""
    found = []
    for sizes, batch in CASES:
        runs = [(PLAIN, 1, batch), *((kind, 1, batch) for kind in (OURS, INEXACT, DDP))]
        for size in (batch, batch * most):
            runs += [(kind, most, size) for kind in (OURS, INEXACT, DDP)]
        best: dict[Any, dict[str, Any]] = {}
        for _ in range(ROUNDS):
            for run in runs:
                now = launch(run[1], sizes, run[2], run[0])
                if run not in best or now["seconds"] < best[run]["seconds"]:
                    best[run] = now
        for (kind, ranks, size), result in best.items():
            found.append({"net": list(sizes), "batch": size, "ranks": ranks, "kind": kind} | result)
            print(line(found[-1]), flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    """A row of the table in bench/scaling.md."""
    net = "-".join(map(str, row["net"]))
    told = (
        [f"{row['bytes']:,.0f}", f"{row['messages']:.0f}", f"{1e6 * row['exchanging']:,.0f}"]
        if "bytes" in row
        else [""] * 3
    )
    cells = [net, f"{row['batch']:,}", str(row["ranks"]), row["kind"], f"{1 / row['seconds']:,.1f}"]
    milliseconds = f"{1e3 * row['seconds']:,.2f}"
    return f"| {' | '.join([*cells, milliseconds, *told])} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="backprop_xp.bench.ranks", description=__doc__, allow_abbrev=False)
    parser.add_argument("--ranks", type=int, default=max(2, min(4, os.cpu_count() or 2)), help="at most, two at least")
    parser.add_argument("--results", type=Path, help="a JSON file for what was measured")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        kind, (sizes, batch, port) = options.work[0], json.loads(options.work[1])
        result = ddp(tuple(sizes), batch, port) if kind == DDP else ours(tuple(sizes), batch, kind)
        if not PMI_RANK.read():
            print(json.dumps(result), flush=True)
        if kind == DDP:
            os._exit(0)  # threads of gloo may abort a process that ends as others do
        return
    print("| net | batch | ranks | kind | steps a second | ms a step | bytes sent | exchanges | us in exchanges |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    found = measure(options.ranks)
    if options.results:
        options.results.write_text(f"{as_json(found)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
