"""One sample through the article's net, every signal and gradient kept: `python -m backprop_xp.bench.latency`."""

from __future__ import annotations

from typing import Any

import numpy as np
from backprop_xp.bench import allocator, contenders, measure, standing
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.measure import Rounds
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY
from backprop_xp.bench.standing import OURS, Point

from backprop_xp import Net, threads

BUDGET = 5.0  # seconds


def ours(net: Net) -> Contender:
    """loss_and_grad of one sample."""
    x, loss = np.ones(5), [0.0]

    def step() -> None:
        loss[0] = net.loss_and_grad(x)

    return Contender(OURS, "one sample", step, lambda: [np.array(loss[0]), *(w.grad for w in net.weights)])


def pytorch(net: Net) -> Contender:
    """The same net in PyTorch: forward, loss, backward."""
    import torch

    linears = [torch.nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in ((5, 10), (10, 4), (4, 12))]
    for linear, weight in zip(linears, net.weights):
        linear.weight = torch.nn.Parameter(torch.from_numpy(weight.data.copy()))
    model = torch.nn.Sequential(linears[0], torch.nn.Tanh(), linears[1], torch.nn.Sigmoid(), linears[2])
    x, last = torch.ones(5, dtype=torch.float64), []

    def step() -> None:
        for linear in linears:
            linear.weight.grad = None
        loss: Any = 0.5 * torch.sum(model(x) ** 2)
        loss.backward()
        last[:] = [loss.detach()]

    return Contender(EAGER, "nn", step, lambda: [a.numpy() for a in (last[0], *(m.weight.grad for m in linears))])


def run(budget: float = BUDGET, machine: Machine | None = None) -> Rounds:
    """Both in turn, after a proof of equal gradients; ``machine`` tells whether others computed meanwhile."""
    net = Net(rng=0)
    everybody = [ours(net)]
    if contenders.available("torch"):
        everybody.append(pytorch(net))
        measure.prove_equal(everybody[1], everybody[:1], "float64")
    else:
        everybody[0].step()
    return measure.alternate([measure.here(c) for c in everybody], budget, machine or Machine(threads.count()))


def table(rounds: Rounds, memory: str) -> str:
    """Text: medians over the rounds, whether they may be quoted, and who was faster."""
    seconds = {timing.entrant.name: timing.seconds for timing in rounds.timings}
    lines = [f"memory: {memory}"]
    for timing in rounds.timings:
        times = f", {1 / timing.speedup_over(rounds.timings[0]):.0f} times as long" if len(lines) > 1 else ""
        lines.append(f"{timing.entrant.name:14} {1e6 * timing.median:7.1f} us a call +-{timing.spread:.0%}{times}")
    lines += [rounds.note] if rounds.note else []
    lines += [f"{BUSY}: {rounds.busy}"] if rounds.busy else []
    point = Point("one sample", seconds.pop(OURS), seconds, bool(rounds.busy))
    return "\n".join([*lines, standing.sentence([point], "cases")])


if __name__ == "__main__":
    trouble = allocator.keep()
    print(table(run(), f"not kept, {trouble}" if trouble else "kept"))
