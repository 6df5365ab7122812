"""One's own case, in one call: a net, or a module of PyTorch, on one's own data."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from backprop_xp.bench import environment, measure
from backprop_xp.bench.contenders import EAGER, Contender, torch_loss
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import BUSY, Row, spread
from backprop_xp.bench.run import rows
from backprop_xp.bench.standing import OURS

from backprop_xp import exchange, threads
from backprop_xp.keywords import known_options
from backprop_xp.losses import get_loss
from backprop_xp.model import Model


@dataclass(frozen=True)
class Comparison:
    """Who was how fast; ``print`` it.

    Attributes:
        about: what was measured, where, with how many threads, and when.
        rows: ours, then PyTorch, in default memory; ``speedup`` is over PyTorch.
        difference: the largest relative difference of a loss or gradient from PyTorch's.
        busy: why the figures are not to be quoted, "" if they may be.
    """

    about: str
    rows: list[Row]
    difference: float
    busy: str

    def __str__(self) -> str:
        lines = [self.about, f"{'':24}{'samples/s':>12}{'spread':>9}{'x PyTorch':>11}"]
        for row in self.rows:
            name = f"{row.contender} ({row.form})"
            lines.append(f"{name:24}{row.samples_per_second:12,.0f}{spread(row.spread):>9}{row.speedup:11.2f}")
        lines.append(f"gradients equal PyTorch's: within {self.difference:.1e} of their norms")
        return "\n".join([*lines, *([f"{BUSY}: {self.busy}"] if self.busy else [])])


@known_options
def compare(
    net: Any, x: Any, y: Any = None, *, loss: str | None = None, seconds: float = 5.0, machine: Machine | None = None
) -> Comparison:
    """Loss and all gradients of one's own net on one's own batch, here and in PyTorch, on the CPU.

    The gradients are proven equal first. ``python -m backprop_xp bench`` measures more: rivals in their best form,
    memory kept between steps, torch.compile and JAX.

    Args:
        net: a net, or a torch.nn.Module that :func:`backprop_xp.exchange.from_torch` takes, which stays as it is.
        x: (n, features).
        y: the target, if the loss takes one.
        loss: of a module, a name such as "softmax_cross_entropy", whose mean over the batch is taken. A net has one.
        seconds: of timing.
        machine: tells whether others computed meanwhile; by default the real one.

    Raises:
        TypeError: something that is neither, or a loss too many or too few. ValueError: a net on a GPU, an empty batch,
            or a loss that PyTorch lacks. WrongGradient: the gradients differ, with dropout for one.
    """
    import torch

    net, module = _both(net, loss, torch)
    x = np.asarray(x, net.dtype)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x must be a batch, (n, features), got the shape {x.shape}")
    count = threads.count(net.threads)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        rivals = [_ours(net, x, y), _theirs(net, module, x, y, torch)]
        difference = measure.prove_equal(rivals[1], rivals[:1], net.dtype.name, len(x))
        rounds = measure.alternate([measure.here(rival) for rival in rivals], seconds, machine or Machine(count))
    finally:
        torch.set_num_threads(before)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    about = f"{net!r}, {len(x):,} samples\n{environment.processor()}, {count} threads, {net.dtype.name}, {date}"
    return Comparison(about, rows(len(x), rounds), difference, rounds.busy)


def _both(net: Any, loss: str | None, torch: Any) -> tuple[Model, Any]:
    """The net and the module, whichever was given."""
    if isinstance(net, torch.nn.Module):
        if loss is None:
            raise TypeError('a module doesn\'t say its loss: compare(module, x, y, loss="softmax_cross_entropy")')
        return exchange.from_torch(net, loss=loss, reduction="mean", backend="numpy"), net
    if not isinstance(net, Model):
        raise TypeError(f"compare takes a net or a torch.nn.Module, got {type(net).__name__}")
    if loss is not None:
        raise TypeError(f"a net has a loss of its own, {net.loss!r}: set net.loss")
    if net.backend.on_gpu:
        raise ValueError(f'compare measures on the CPU, and the net is on {net.backend.name}: net.to("numpy")')
    return net, exchange.to_torch(net)


def _ours(net: Model, x: np.ndarray, y: Any) -> Contender:
    last: list[Any] = []

    def step() -> None:
        last[:] = [net.loss_and_grad(x, y)]

    def results() -> list[np.ndarray]:
        return _in_order(last[0], [tensor.grad for tensor in net.parameters])

    return Contender(OURS, net.plan(x).engine, step, results)


def _theirs(net: Model, module: Any, x: np.ndarray, y: Any, torch: Any) -> Contender:
    batch = torch.from_numpy(x)
    target = None if y is None else torch.as_tensor(np.asarray(y))
    if target is not None and get_loss(net.loss).name != "softmax_cross_entropy":
        target = target.to(batch.dtype)
    loss_of: Callable[[Any, Any], Any] = torch_loss(get_loss(net.loss).name, net.reduction)
    parameters = list(module.parameters())
    last: list[Any] = []

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of(module(batch), target)
        loss.backward()
        last[:] = [loss.detach()]

    def results() -> list[np.ndarray]:
        return _in_order(last[0], [parameter.grad.numpy() for parameter in parameters])

    return Contender(EAGER, "module", step, results)


def _in_order(loss: Any, gradients: list[Any]) -> list[np.ndarray]:
    """The loss, and all numbers of all gradients by size: whose parameter is whose need not be known."""
    numbers = np.concatenate([np.ravel(gradient) for gradient in gradients])
    return [np.asarray(loss, np.float64), np.sort(numbers.astype(np.float64))]
