"""Few samples, for which a call must be over soon: `python -m backprop_xp.bench.latency`.

One sample through the article's net, every signal and gradient kept, beside PyTorch; and one sample and a small batch
through a chain and through a residual net of as many multiply-adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from backprop_xp.bench import allocator, contenders, measure, standing
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.measure import Rounds
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY
from backprop_xp.bench.standing import OURS, Point

from backprop_xp import Graph, GraphNet, Net, threads

BUDGET = 5.0  # seconds
WIDTH, LAYERS, FEW = 16, 5, 32  # of the chain and the residual net, and samples of a small batch


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


def chain() -> Net:
    """WIDTH-WIDTH-...-WIDTH, tanh."""
    return Net((WIDTH,) * (LAYERS + 1), bias=True, rng=0, backend="numpy", init="glorot_normal")


def residual(engine: str = "auto") -> GraphNet:
    """The same layers, all but the last with the identity beside them."""
    graph = Graph()
    h = graph.input(WIDTH)
    for _ in range(LAYERS - 1):
        h = graph.apply("tanh", graph.linear(h, WIDTH)) + h
    return graph.net(graph.linear(h, WIDTH), rng=0, backend="numpy", init="glorot_normal", engine=engine)


def called(name: str, net: Net | GraphNet, samples: int | None) -> Contender:
    """loss_and_grad of ``samples`` samples; None: of one that is no batch."""
    x, loss = np.random.default_rng(0).normal(size=WIDTH if samples is None else (samples, WIDTH)), [0.0]

    def step() -> None:
        loss[0] = net.loss_and_grad(x)

    gradients = lambda: [np.array(loss[0]), *(tensor.grad for tensor in net.parameters)]  # noqa: E731
    return Contender(name, "one sample" if samples is None else f"{samples} samples", step, gradients)


def run_graphs(budget: float = BUDGET, machine: Machine | None = None) -> Rounds:
    """The chain and the residual net in turn, for one sample and for FEW, after a proof of the latter's gradients."""
    everybody = []
    for samples in (None, FEW):
        everybody += [called("chain", chain(), samples), called("residual net", residual(), samples)]
        measure.prove_equal(called("layered", residual("layered"), samples), everybody[-1:], "float64")
        everybody[-2].step()
    return measure.alternate([measure.here(c) for c in everybody], budget, machine or Machine(threads.count()))


def table_of_graphs(rounds: Rounds) -> str:
    """Text: medians over the rounds, and how many times the chain's the residual net's is."""
    lines = [f"{LAYERS} layers of width {WIDTH}"]
    for before, timing in zip([None, *rounds.timings], rounds.timings):
        name = f"{timing.entrant.name}, {timing.entrant.form}"
        same = before is not None and before.entrant.form == timing.entrant.form
        times = f", {1 / timing.speedup_over(before):.2f} times as long" if same else ""
        lines.append(f"{name:25} {1e6 * timing.median:7.1f} us a call +-{timing.spread:.0%}{times}")
    lines += [f"{BUSY}: {rounds.busy}"] if rounds.busy else []
    return "\n".join(lines)


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
    print(table_of_graphs(run_graphs()))
