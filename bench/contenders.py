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
from backprop_xp.bench import equations, graphs
from backprop_xp.bench.cases import Case

from backprop_xp.activations import get_activation
from backprop_xp.environment import unless_set
from backprop_xp.exchange.torch_modules import to_module
from backprop_xp.messages import unknown

EAGER, COMPILED, GRAPH = "PyTorch eager", "torch.compile", "PyTorch CUDA graph"
#: PyTorch eager in a half format, and the formats that it has.
AUTOCAST, HALVES = "PyTorch autocast", ("bfloat16", "float16")
#: Forms of PyTorch for equations, beside gradients of gradients: by torch.func, and pushed forward.
FUNCTIONAL, BY_HAND = "torch.func", "forward by hand"
#: Forms of torch.compile, and what it calls them.
MODES = {"nn": None, "nn, CUDA graphs": "reduce-overhead"}
#: Samples up to which a step on a GPU takes no longer than launching it, about, so that CUDA graphs may pay in
#: torch.compile, whose compilations take longest. Calculated.
FEW_SAMPLES = 1 << 18
WARM_UP = 3  # steps before a capture, in which libraries take what they need


@dataclass
class Contender:
    """One way to compute a case.

    Attributes:
        name: for the table; several forms of one rival share it, and the fastest counts.
        form: which of them this is.
        step: compute loss and gradients once, and wait for them.
        results: after a step, the loss and the gradients (weights, then biases) as float64 NumPy arrays.
        timer: seconds of a number of steps by the device's own clock; None on the host, where the wall clock is used.
        precision: what its products are rounded to, "" if they are the case's dtype's.
    """

    name: str
    form: str
    step: Callable[[], Any]
    results: Callable[[], list[np.ndarray]]
    timer: Callable[[int], float] | None = None
    precision: str = ""


def ours(
    case: Case,
    engine: str = "auto",
    threads: int | None = None,
    backend: str | None = None,
    repeated: bool = False,
    precision: str = "",
) -> Contender:
    """backprop_xp, by this engine; as a user calls it, or as ``net.repeated`` with everything in its place.

    Raises:
        RuntimeError: it was to be of a precision that it doesn't have here.
    """
    net = case.net(engine=engine, threads=threads, backend=backend, precision=precision or "auto")
    x, y = case.arrays()
    if net.backend.on_gpu:  # PyTorch's batch is on the device too
        x, y = net.backend.asarray(x, None, "x"), None if y is None else net.backend.asarray(y, None, "y")
    loss = equations.ours(case.equation, case.sizes[0]) if case.equation else None
    compute = net.repeated(x, y) if repeated else lambda: net.loss_and_grad(x, y, loss=loss)
    last: list[Any] = []

    def step() -> None:
        last[:] = [compute()]
        _wait(net)

    def results() -> list[np.ndarray]:
        weights, biases = case.parameters(net)
        return [_host(a) for a in (last[0], *(p.grad for p in (*weights, *biases)))]

    chosen = net.plan(x, loss)
    if precision and chosen.precision != precision:
        _, _, why = chosen.reason.partition(f"products in float32, not {precision}: ")
        raise RuntimeError(f"it is computed in {chosen.precision}" + (f": {why}" if why else ""))
    name = " ".join(["backprop_xp", *(word for word in (engine, precision) if word not in ("auto", ""))])
    name = "backprop_xp repeated" if repeated else name
    timer = _cupy_timer(net, step) if net.backend.on_gpu else None
    return Contender(name, chosen.engine, step, results, timer, precision)


def torch_eager(case: Case, form: str, device: str = "cpu") -> Contender:
    """PyTorch with nn.Linear modules (form "nn") or plain matrix products (form "matmul")."""
    loss_of, x, parameters = _torch_model(case, form, device)
    return _torch_contender(EAGER, form, loss_of, x, parameters, device)


def torch_autocast(case: Case, form: str, device: str, precision: str) -> Contender:
    """PyTorch eager with autocast to one of HALVES."""
    import torch

    loss_of, x, parameters = _torch_model(case, form, device)

    def rounded(x: Any) -> Any:
        with torch.autocast(torch.device(device).type, getattr(torch, precision)):
            return loss_of(x)

    contender = _torch_contender(AUTOCAST, form, rounded, x, parameters, device)
    contender.precision = precision
    return contender


def torch_compiled(case: Case, form: str, device: str = "cpu") -> Contender:
    """torch.compile of nn.Linear modules, or of an equation; ``form`` is one of compiled_forms."""
    import torch

    loss_of, x, parameters = _torch_model(case, form if case.equation else "nn", device)
    if form == compiled_forms(case, False)[0]:  # the first of a case: or the shapes of earlier cases count against it
        torch._dynamo.reset()
    compiled = torch.compile(loss_of, dynamic=False, mode=MODES.get(form))

    def begin(x: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # results of the step before may be overwritten
        return compiled(x)

    return _torch_contender(COMPILED, form, begin, x, parameters, device)


def torch_graph(case: Case, form: str, device: str) -> Contender:
    """The step of PyTorch eager captured as a CUDA graph, as PyTorch's manual has it for whole networks."""
    import torch

    loss_of, x, parameters = _torch_model(case, form, device)

    def forget() -> None:
        for parameter in parameters:
            parameter.grad = None

    with torch.cuda.device(device):
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                forget()
                loss_of(x).backward()
        torch.cuda.current_stream().wait_stream(aside)
        forget()  # so that the gradients are the graph's own memory
        with torch.cuda.graph(graph):
            loss = loss_of(x)
            loss.backward()

    def step() -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    return Contender(GRAPH, form, step, lambda: _torch_results(loss, parameters), _torch_timer(step, device))


def eager_forms(case: Case) -> tuple[str, ...]:
    """The forms of PyTorch without torch.compile."""
    return ("nn", "matmul", *([BY_HAND] if case.equation else []))


def compiled_forms(case: Case, on_gpu: bool) -> tuple[str, ...]:
    """The forms of torch.compile that are worth their compilation for this case."""
    if case.equation:  # it can't follow gradients of gradients
        return FUNCTIONAL, BY_HAND
    return tuple(MODES)[: 2 if on_gpu and case.samples <= FEW_SAMPLES else 1]


def _torch_model(case: Case, form: str, device: str) -> tuple[Callable[[Any], Any], Any, list[Any]]:
    """The loss as a function of the batch, the batch, and the parameters: weights, then biases."""
    import torch

    net = case.net(backend="numpy")
    x_host, y_host = case.arrays()
    x = torch.from_numpy(x_host).to(device)
    y = None if y_host is None else torch.from_numpy(y_host).to(device)
    weights, biases = (
        [torch.from_numpy(p.data.copy()).to(device).requires_grad_() for p in kind] for kind in case.parameters(net)
    )
    functions = [partial(to_module, get_activation(name)) for name in case.activations]
    plain = torch_loss(case.loss)
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
        if case.equation and form == BY_HAND:
            return equations.torch_by_hand(case.equation, list(zip(weights, biases, case.activations)), x)
        if case.equation:
            loss = equations.torch_functional if form == FUNCTIONAL else equations.torch_nested
            return loss(case.equation, lambda x: graphs.connect(case.form, layers, x, None), x)
        z = graphs.connect(case.form, layers, x, lambda seen: torch.cat(seen, 1))
        return plain(z.to(x.dtype), y)

    return loss_of, x, parameters


def torch_loss(name: str, reduction: str = "sum") -> Callable[[Any, Any], Any]:
    """PyTorch's loss of a batch, in the form that is fastest there, of (outputs, target). Raises ValueError."""
    import torch
    from torch.nn import functional

    theirs = {
        "bce_with_logits": functional.binary_cross_entropy_with_logits,
        "huber": functional.huber_loss,
        "mae": functional.l1_loss,
        "mse": functional.mse_loss,
        "softmax_cross_entropy": functional.cross_entropy,
    }
    if name in theirs:
        return partial(theirs[name], reduction=reduction)
    formulas: dict[str, Callable[[Any, Any], torch.Tensor]] = {
        "half_sum_sq": lambda z, y: 0.5 * (z * z).sum(),
        "half_squared_error": lambda z, y: 0.5 * ((z - y) ** 2).sum(),
    }
    if name not in formulas:
        raise ValueError(unknown("loss of PyTorch's", name, [*theirs, *formulas]))
    total = formulas[name]
    return total if reduction == "sum" else lambda z, y: total(z, y) / len(z)


def _torch_contender(
    name: str, form: str, loss_of: Callable[[Any], Any], x: Any, parameters: list[Any], device: str
) -> Contender:
    import torch

    last: list[Any] = []

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of(x)
        loss.backward(inputs=parameters)
        last[:] = [loss.detach()]
        if device != "cpu":
            torch.cuda.synchronize(device)

    timer = None if device == "cpu" else _torch_timer(step, device)
    return Contender(name, form, step, lambda: _torch_results(last[0], parameters), timer)


def _torch_results(loss: Any, parameters: list[Any]) -> list[np.ndarray]:
    import torch

    # a bias that no derivative depends on has none
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return [a.detach().cpu().double().numpy() for a in (loss, *grads)]


def jax_forms(case: Case) -> tuple[str, ...]:
    """The forms of JAX for this case."""
    return equations.JAX_FORMS if case.equation else ("jit",)


def jax_jit(case: Case, device: int | None = None, form: str = "jit") -> Contender:
    """JAX: jit of value_and_grad, on the CUDA device of this number or on the CPU; ``form`` is one of jax_forms.

    By default JAX would take most of a device's memory, where the others' arrays are as well, and round float32
    products to TF32.
    """
    unless_set("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_default_device", jax.devices("cpu")[0] if device is None else jax.devices("gpu")[device])
    import jax.numpy as jnp

    net = case.net(backend="numpy")
    x_host, y_host = case.arrays()
    x, y = jnp.asarray(x_host), None if y_host is None else jnp.asarray(y_host)
    parameters = tuple([jnp.asarray(p.data) for p in kind] for kind in case.parameters(net))
    functions = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu, "identity": lambda t: t,
                 "gelu": lambda t: jax.nn.gelu(t, approximate=False)}  # fmt: skip
    losses = ("half_sum_sq", "softmax_cross_entropy")
    for name in (*case.activations, case.loss):
        if name not in functions and name not in losses:
            raise RuntimeError(f"{name} isn't written for it here")

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        weights, biases = parameters

        def layer(i: int, name: str, z: Any) -> Any:
            z = z @ weights[i].T
            return functions[name](z + biases[i] if biases else z)

        layers = [partial(layer, i, name) for i, name in enumerate(case.activations)]
        if case.equation:
            parts = list(zip(weights, biases, map(functions.get, case.activations)))
            outputs = partial(graphs.connect, case.form, layers, concatenate=None)
            return equations.jax_loss(case.equation, form, outputs, parts, x)
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

    return Contender("JAX", form, step, results)


def available(name: str) -> bool:
    """Whether this Python package is installed."""
    return importlib.util.find_spec(name) is not None


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
