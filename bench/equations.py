"""Losses that contain derivatives of the outputs in x, ours and everybody's: Case.equation names one.

Each is half the sum of the squares of a residual. PyTorch and JAX differentiate nested, and both also
push derivatives forward by hand, JAX by its jet as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backprop_xp import Equation

INPUTS = "xyz"


@dataclass(frozen=True)
class Residual:
    """What must be zero, of a net with one output.

    Attributes:
        text: ours, of the names of the inputs.
        second: of the number of inputs, in which of them u is derived twice.
        of: the residual of u, its derivatives in every input, and its second derivatives by input.
    """

    text: Callable[[str], str]
    second: Callable[[int], Sequence[int]]
    of: Callable[[Any, Sequence[Any], dict[int, Any]], Any]


RESIDUALS = {
    "Laplacian": Residual(
        lambda names: " + ".join(f"u_{a}{a}" for a in names), range, lambda u, d, dd: sum(dd.values())
    ),
    "eikonal": Residual(
        lambda names: " + ".join(f"u_{a} ** 2" for a in names) + " - 1",
        lambda count: (),
        lambda u, d, dd: sum(each * each for each in d) - 1,
    ),
    "Burgers": Residual(
        lambda names: "u_y + u * u_x - 0.0031830988618379067 * u_xx",
        lambda count: (0,),
        lambda u, d, dd: d[1] + u * d[0] - 0.0031830988618379067 * dd[0],
    ),
}


def ours(name: str, inputs: int) -> Any:
    """Our equation for a net of ``inputs`` inputs."""
    return Equation(RESIDUALS[name].text(INPUTS[:inputs]), inputs=" ".join(INPUTS[:inputs]))


def torch_nested(name: str, net: Callable[[Any], Any], x: Any) -> Any:
    """The loss in PyTorch, by gradients of gradients."""
    import torch

    def gradient(of: Any) -> Any:
        return torch.autograd.grad(of.sum(), x, create_graph=True)[0]

    residual, x = RESIDUALS[name], x.detach().requires_grad_()
    u = net(x)[:, 0]
    first = gradient(u).unbind(1)
    second = {k: gradient(first[k])[:, k] for k in residual.second(len(first))}
    return 0.5 * residual.of(u, first, second).square().sum()


def torch_functional(name: str, net: Callable[[Any], Any], x: Any) -> Any:
    """The loss in PyTorch by torch.func, which torch.compile can follow: tangents of the gradient of one sample."""
    import torch
    from torch.func import grad, jvp, vmap

    residual, axes = RESIDUALS[name], torch.eye(x.shape[1], dtype=x.dtype)

    def at(point: Any) -> Any:
        def u(point: Any) -> Any:
            return net(point[None])[0, 0]

        first = grad(u)(point)
        second = {k: jvp(grad(u), (point,), (axes[k],))[1][k] for k in residual.second(len(axes))}
        return residual.of(u(point), first.unbind(0), second)

    return 0.5 * vmap(at)(x).square().sum()


def torch_by_hand(name: str, layers: Sequence[tuple[Any, Any, Any]], x: Any) -> Any:
    """The loss in PyTorch with derivatives pushed forward, of (weight, bias, name of the activation) of each layer.

    Raises:
        RuntimeError: an activation's derivatives aren't written here.
    """
    import torch

    def derivatives(f: str, t: Any) -> tuple[Any, Any, Any]:
        if f == "identity":
            return t, 1.0, 0.0
        if f != "tanh":
            raise RuntimeError(f"the derivatives of {f} aren't written for it here")
        z = torch.tanh(t)
        slope = 1 - z * z
        return z, slope, -2 * z * slope

    groups = _groups(name, x.shape[1])
    first = [axis.expand_as(x) for axis in torch.eye(x.shape[1], dtype=x.dtype, device=x.device)]
    pushed = _pushed(layers, x, first, [torch.zeros_like(x) for _ in groups], groups, derivatives)
    return 0.5 * RESIDUALS[name].of(*pushed).square().sum()


#: Forms of JAX: nested, by jax.experimental.jet, and Taylor coefficients by hand, with the Laplacian as one of them.
JAX_FORMS = ("jit, nested", "jit, jet", "jit, forward by hand")


def jax_loss(name: str, form: str, net: Callable[[Any], Any], layers: Sequence[tuple[Any, Any, Any]], x: Any) -> Any:
    """The loss in JAX.

    Args:
        net: the outputs of a batch.
        layers: the same net as (weight, bias, activation).
    """
    import jax
    import jax.numpy as jnp
    from jax.experimental import jet

    def derivatives(f: Any, t: Any) -> tuple[Any, Any, Any]:
        def slope(t: Any) -> Any:
            return jax.jvp(f, (t,), (jnp.ones_like(t),))[1]

        return f(t), *jax.jvp(slope, (t,), (jnp.ones_like(t),))

    residual, axes = RESIDUALS[name], jnp.eye(x.shape[1], dtype=x.dtype)
    seconds = residual.second(len(axes))
    if form == "jit, forward by hand":
        groups, first = _groups(name, len(axes)), [jnp.broadcast_to(axis, x.shape) for axis in axes]
        second = [jnp.zeros_like(x) for _ in groups]
        return 0.5 * (residual.of(*_pushed(layers, x, first, second, groups, derivatives)) ** 2).sum()

    def u(point: Any) -> Any:
        return net(point[None])[0, 0]

    def nested(point: Any) -> Any:
        first = jax.grad(u)(point)
        second = {k: jax.jvp(jax.grad(u), (point,), (axes[k],))[1][k] for k in seconds}
        return residual.of(u(point), first, second)

    def by_jet(point: Any) -> Any:
        first, second = {}, {}
        for k, axis in enumerate(axes):
            if k in seconds:
                _, (first[k], second[k]) = jet.jet(u, (point,), ((axis, jnp.zeros_like(axis)),))
            else:
                first[k] = jax.jvp(u, (point,), (axis,))[1]
        return residual.of(u(point), [first[k] for k in range(len(axes))], second)

    return 0.5 * (jax.vmap(nested if form == "jit, nested" else by_jet)(x) ** 2).sum()


def _pushed(
    layers: Sequence[tuple[Any, Any, Any]],
    x: Any,
    axes: Sequence[Any],
    second: Sequence[Any],
    groups: Sequence[tuple[int, ...]],
    derivatives: Callable[[Any, Any], tuple[Any, Any, Any]],
) -> tuple[Any, list[Any], dict[int, Any]]:
    """u, its first derivatives and its second ones, pushed layer by layer; a Laplacian as one sum.

    Args:
        layers: (weight, bias, activation) of each.
        axes: the first derivatives of x in every input; ``second`` its second ones, zeros.
        groups: of each of the latter, the inputs that it is the sum over.
        derivatives: of an activation and t, f(t), f'(t) and f''(t).
    """
    z, first = x, axes
    for weight, bias, f in layers:
        t, first, second = z @ weight.T + bias, [d @ weight.T for d in first], [d @ weight.T for d in second]
        z, f1, f2 = derivatives(f, t)
        second = [f1 * d + f2 * sum(first[k] ** 2 for k in group) for d, group in zip(second, groups)]
        first = [f1 * d for d in first]
    return z[:, 0], [d[:, 0] for d in first], {group[0]: d[:, 0] for d, group in zip(second, groups)}


def _groups(name: str, inputs: int) -> list[tuple[int, ...]]:
    """The inputs whose second derivatives are pushed as one sum."""
    seconds = RESIDUALS[name].second(inputs)
    return [tuple(seconds)] if name == "Laplacian" else [(k,) for k in seconds]
