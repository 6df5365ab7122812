"""One sample through the article's net, every signal and gradient kept: `python -m backprop_xp.bench.latency`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from backprop_xp.bench import contenders

from backprop_xp import Net


def seconds(step: Callable[[], Any], turns: int = 7, count: int = 1000) -> float:
    """The least time of a step, over some turns of many."""
    best = float("inf")
    for _ in range(turns):
        start = time.perf_counter()
        for _ in range(count):
            step()
        best = min(best, (time.perf_counter() - start) / count)
    return best


def pytorch() -> Callable[[], Any]:
    """The same net in PyTorch: forward, loss, backward."""
    import torch

    linears = [torch.nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in ((5, 10), (10, 4), (4, 12))]
    model = torch.nn.Sequential(linears[0], torch.nn.Tanh(), linears[1], torch.nn.Sigmoid(), linears[2])
    x = torch.ones(5, dtype=torch.float64)

    def step() -> None:
        for linear in linears:
            linear.weight.grad = None
        (0.5 * torch.sum(model(x) ** 2)).backward()

    return step


def main() -> None:
    net, x = Net(), np.ones(5)
    ours = seconds(lambda: net.loss_and_grad(x))
    print(f"backprop_xp    {1e6 * ours:7.1f} us a call")
    if contenders.available("torch"):
        theirs = seconds(pytorch(), count=200)
        print(f"PyTorch eager  {1e6 * theirs:7.1f} us a call, {theirs / ours:.0f} times as long")


if __name__ == "__main__":
    main()
