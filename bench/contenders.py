"""Who is measured. A contender is given the same arrays and weights, and computes the loss and every gradient.

``step()`` is what the clock sees: it starts from the batch in the contender's own array type and ends when loss and
all parameter gradients are there. Nothing is kept from one step to the next but memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from backprop_xp.bench import graphs
from backprop_xp.bench.cases import Case

EAGER = "PyTorch eager"


@dataclass
class Contender:
    """One way to compute a case.

    Attributes:
        name: for the table; several forms of one rival share it, and the fastest counts.
        form: which of them this is.
        step: compute loss and gradients once, and wait for them.
        results: after a step, the loss and the gradients (weights, then biases) as float64 NumPy arrays.
        timer: seconds of so many steps by the device's own clock; None on the host, where the wall clock is used.
    """

    name: str
    form: str
    step: Callable[[], Any]
    results: Callable[[], list[np.ndarray]]
    timer: Callable[[int], float] | None = None


def ours(
    case: Case, engine: str = "auto", threads: int | None = None, backend: str | None = None, repeated: bool = False
) -> Contender:
    """backprop_xp, by this engine; as a user calls it, or as ``net.repeated`` with everything in its place."""
    net = case.net(engine=engine, threads=threads, backend=backend)
    x, y = case.arrays()
    if net.backend.on_gpu:  # PyTorch's batch is on the device too
        x, y = net.backend.asarray(x, None, "x"), None if y is None else net.backend.asarray(y, None, "y")
    compute = net.repeated(x, y) if repeated else lambda: net.loss_and_grad(x, y)
    last: list[Any] = []

    def step() -> None:
        last[:] = [compute()]
        _wait(net)

    def results() -> list[np.ndarray]:
        weights, biases = case.parameters(net)
        return [_host(a) for a in (last[0], *(p.grad for p in (*weights, *biases)))]

    chosen = net.plan(x).engine
    name = "backprop_xp repeated" if repeated else "backprop_xp" if engine == "auto" else f"backprop_xp {engine}"
    return Contender(name, chosen, step, results, _cupy_timer(net, step) if net.backend.on_gpu else None)


def torch_eager(case: Case, form: str, compiled: bool = False, device: str = "cpu") -> Contender:
    """PyTorch with nn.Linear modules (form "nn") or plain matrix products (form "matmul")."""
    import torch

    net = case.net(backend="numpy")
    x_host, y_host = case.arrays()
    x = torch.from_numpy(x_host).to(device)
    y = None if y_host is None else torch.from_numpy(y_host).to(device)
    weights, biases = (
        [torch.from_numpy(p.data.copy()).to(device).requires_grad_() for p in kind] for kind in case.parameters(net)
    )
    functions = [_torch_activation(name) for name in case.activations]
    parameters = [*weights, *biases]

    if form == "nn":
        layers: list[Any] = []
        for i, weight in enumerate(weights):
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=case.bias, dtype=x.dtype, device=device)
            linear.weight = torch.nn.Parameter(weight.detach())
            if case.bias:
                linear.bias = torch.nn.Parameter(biases[i].detach())
            layers.append(torch.nn.Sequential(linear, functions[i]()))
        parameters = [m[0].weight for m in layers] + [m[0].bias for m in layers if case.bias]
    else:

        def layer(i: int, f: Any, z: Any) -> Any:
            z = z @ weights[i].T
            return f(z + biases[i] if case.bias else z)

        layers = [partial(layer, i, f()) for i, f in enumerate(functions)]

    def loss_of(x: Any) -> Any:
        z = graphs.connect(case.form, layers, x, lambda seen: torch.cat(seen, 1))
        if case.loss == "softmax_cross_entropy":
            return torch.nn.functional.cross_entropy(z, y, reduction="sum")
        return 0.5 * (z * z).sum()

    if compiled:
        torch._dynamo.reset()  # or the shapes of earlier cases count against it
        loss_of = torch.compile(loss_of, dynamic=False)
    last: list[Any] = []

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of(x)
        loss.backward()
        last[:] = [loss.detach()]
        if device != "cpu":
            torch.cuda.synchronize(device)

    def results() -> list[np.ndarray]:
        return [a.detach().cpu().double().numpy() for a in (last[0], *(p.grad for p in parameters))]

    timer = None if device == "cpu" else _torch_timer(step, device)
    return Contender("torch.compile" if compiled else EAGER, form, step, results, timer)


def jax_jit(case: Case) -> Contender:
    """JAX: jit of value_and_grad."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    net = case.net(backend="numpy")
    x_host, y_host = case.arrays()
    x, y = jnp.asarray(x_host), None if y_host is None else jnp.asarray(y_host)
    parameters = tuple([jnp.asarray(p.data) for p in kind] for kind in case.parameters(net))
    functions = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "identity": lambda t: t,
                 "gelu": lambda t: jax.nn.gelu(t, approximate=False)}  # fmt: skip

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        weights, biases = parameters

        def layer(i: int, name: str, z: Any) -> Any:
            z = z @ weights[i].T
            return functions[name](z + biases[i] if biases else z)

        layers = [partial(layer, i, name) for i, name in enumerate(case.activations)]
        z = graphs.connect(case.form, layers, x, lambda seen: jnp.concatenate(seen, 1))
        if case.loss == "softmax_cross_entropy":
            return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1).sum()
        return 0.5 * (z * z).sum()

    gradient = jax.jit(jax.value_and_grad(loss_of))
    last: list[Any] = []

    def step() -> None:
        last[:] = [jax.block_until_ready(gradient(parameters, x, y))]

    def results() -> list[np.ndarray]:
        loss, (weights, biases) = last[0]
        return [np.asarray(a, np.float64) for a in (loss, *weights, *biases)]

    return Contender("JAX", "jit", step, results)


def available(name: str) -> bool:
    """Whether this Python package is installed."""
    return importlib.util.find_spec(name) is not None


def _torch_activation(name: str) -> Any:
    import torch

    table = {"tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU,
             "identity": torch.nn.Identity, "gelu": torch.nn.GELU}  # fmt: skip
    return table[name]


def _cupy_timer(net: Any, step: Callable[[], Any]) -> Callable[[int], float]:
    cuda = net.backend.xp.cuda

    def seconds(count: int) -> float:
        with net.backend.activate():
            begin, end = cuda.Event(), cuda.Event()
            cuda.get_current_stream().synchronize()
            begin.record()
            for _ in range(count):
                step()
            end.record()
            end.synchronize()
            return cuda.get_elapsed_time(begin, end) / 1000

    return seconds


def _torch_timer(step: Callable[[], Any], device: str) -> Callable[[int], float]:
    import torch

    def seconds(count: int) -> float:
        with torch.cuda.device(device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for _ in range(count):
                step()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000

    return seconds


def _wait(net: Any) -> None:
    if net.backend.on_gpu:
        with net.backend.activate():
            net.backend.xp.cuda.get_current_stream().synchronize()


def _host(array: Any) -> np.ndarray:
    return np.asarray(array.get() if hasattr(array, "get") else array, np.float64)
