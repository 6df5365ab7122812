"""The article's example, step by step, for `backprop-xp demo`."""

from __future__ import annotations

import importlib.util

import numpy as np

from .net import Net

FLOW = "x -> t_0 -> z_0 -> t_1 -> z_1 -> t_2 -> z_2 -> loss"


def run() -> int:
    """Print the walk through one call of ``loss_and_grad``; returns 1 if PyTorch disagrees."""
    np.random.seed(100)  # noqa: NPY002  as in the article
    net, x = Net(), np.ones(5)
    loss = net.loss_and_grad(x)
    print(f"The net: 5-10-4-12, tanh, sigmoid, identity; the loss is half the sum of squares of its outputs.\n{FLOW}\n")
    print(f"Forward, from x = {_short(x)}")
    names = [type(f).__name__.lower() for f in net.activations]
    for i, (t, z, name) in enumerate(zip(net.linear_outputs, net.nonlinear_outputs, names)):
        before = f"z_{i - 1}" if i else "x"
        print(f"  t_{i} = W_{i} {before:4}     = {_short(t.data)}")
        print(f"  z_{i} = {name}(t_{i}) = {_short(z.data)}"[:100])
    print(f"  loss          = {loss:.6f}\n")
    print("Backward, each gradient from the one before it")
    for i in reversed(range(3)):
        t, z, w = net.linear_outputs[i], net.nonlinear_outputs[i], net.weights[i]
        why = f"W_{i + 1}^T grad t_{i + 1}" if i < 2 else "z_2, the derivative of half its square"
        print(f"  grad z_{i} = {why}\n           = {_short(z.grad)}")
        print(f"  grad t_{i} = grad z_{i} * {names[i]}'(t_{i})\n           = {_short(t.grad)}")
        print(f"  grad W_{i} = outer(grad t_{i}, {f'z_{i - 1}' if i else 'x'}), {w.grad.shape[0]} x {w.grad.shape[1]}, "
              f"first row {_short(w.grad[0])}")  # fmt: skip
    return _verdict(net, x, loss)


def _verdict(net: Net, x: np.ndarray, loss: float) -> int:
    if importlib.util.find_spec("torch") is None:
        print("\nPyTorch is not installed, so it can't be asked: pip install 'backprop-xp[bench]'")
        return 0
    import torch

    model = torch.nn.Sequential()
    kinds = (torch.nn.Tanh, torch.nn.Sigmoid, torch.nn.Identity)
    for w, kind in zip(net.weights, kinds):
        linear = torch.nn.Linear(w.data.shape[1], w.data.shape[0], bias=False, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(w.data.copy())
        model.extend([linear, kind()])
    theirs = 0.5 * torch.sum(model(torch.from_numpy(x)) ** 2)
    theirs.backward()  # the article forgets this line
    print(f"\nPyTorch: loss = {theirs.item():.6f}, equal: {np.isclose(loss, theirs.item())}")
    agree = bool(np.isclose(loss, theirs.item()))
    for i, (w, parameter) in enumerate(zip(net.weights, model.parameters())):
        equal = parameter.grad is not None and np.allclose(w.grad, parameter.grad.numpy())
        agree &= equal
        print(f"  W_{i} gradients match? {equal}")
    return 0 if agree else 1


def _short(values: np.ndarray) -> str:
    shown = " ".join(f"{value:.4g}" for value in values[:5])
    return f"[{shown}{' ...' if len(values) > 5 else ''}]"
