"""What nets do with derivatives of their outputs in x: methods of nets, and losses of theirs that are equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from . import equations
from .backend import Array
from .derivatives import of_outputs
from .derivatives.differentiable import Differentiable
from .derivatives.equation import Equation
from .derivatives.graph import Steps
from .derivatives.loops import Chain
from .engines import Choice
from .inputs import as_inputs
from .plan.call import Call, as_layers


def derivatives(
    self: Any,
    x: Any,
    *wanted: str,
    inputs: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    direction: Any = None,
    cotangent: Any = None,
) -> Any:
    """Derivatives of the outputs in ``x``, for one sample or a batch, as the net is in use: nothing is dropped.

    ``net.derivatives(x, "jacobian")``, ``net.derivatives(x, "u_xx", "u_t", inputs="x t")``. They are pushed forward
    through the net together with its signals, see :mod:`backprop_xp.derivatives.loops`; parameters keep their
    gradients. Where an activation has a kink, its derivatives of higher order are those of the piece to the right.

    Args:
        x: (n, in), or (in,) for one sample, of which the results have no n; of several inputs a mapping of their
            names to such arrays, whose features then stand side by side, in the order of ``net.inputs``.
        wanted: "value" (n, out), "jacobian" (n, out, in), "hessian" (n, out, in, in), "hessian_diagonal"
            (n, out, in), "laplacian" (n, out), "directional" (n, out), the derivative along ``direction``; "hvp"
            (n, out, in), the Hessian times ``direction``; "vjp" (n, in), ``cotangent`` times the Jacobian; or the
            name of one output's derivative, such as "u_xxt" (n,).
        inputs, outputs: names in order, "x y t"; by default x0 x1 ... and u0 u1 ..., or x and u where there is one.
        direction: (in,), or (n, in).
        cotangent: (out,), or (n, out).

    Returns:
        An array, or where several are wanted a dictionary of arrays by what they are called in ``wanted``.

    Raises:
        ValueError: an unknown name, or shapes that don't fit. TypeError: an activation that is no formula, or an
            operation that can't be derived.
    """
    net = differentiable(self, training=False)
    return of_outputs.derivatives(net, _side_by_side(self, x), wanted, inputs, outputs, direction, cotangent)


def residuals(self: Any, equation: Equation, x: Any, y: Any = None) -> Array:
    """An equation's residuals (n, residuals) at the points ``x`` with targets ``y``, as the net is in use."""
    return equation.values(differentiable(self, training=False), _side_by_side(self, x), y)


def plan(net: Any, x: Any, equation: Equation) -> Choice:
    """Which engine would run an equation's loss, and why."""
    made = differentiable(net, training=False)
    return equations.choice(net.engine, made, equation, len(equation.points_in(made, _side_by_side(net, x))))


def loss_and_grad(
    net: Any,
    equation: Equation,
    x: Any,
    y: Any,
    sample_weight: Any,
    input_grad: bool,
    accumulate: bool,
    keep_signals: bool | None,
    training: bool,
) -> Any:
    """What ``net.loss_and_grad`` does with an equation for a loss."""
    if keep_signals:
        raise ValueError("an equation keeps no signals: it pushes derivatives beside them")
    x, made = _side_by_side(net, x), differentiable(net, training)
    points = equation.points(made, x, y, sample_weight, net.reduction == "mean")
    if isinstance(made, Steps):
        net._draw(made.call)
    loss, gradients, grad_x = equations.loss_and_grad(net.engine, made, equation, points, input_grad, net.threads)
    with net.backend.activate():
        net._store(gradients, accumulate)
    net._keep(None, None)
    return loss if grad_x is None else (loss, _apart(net, grad_x if np.ndim(x) == 2 else grad_x[0]))


def differentiable(net: Any, training: bool) -> Differentiable:
    """The net as it is now, with arrays that are checked."""
    plan, parameters = net._plan(), net._arrays()
    if plan.chain is not None:
        return Chain(as_layers(plan.chain, parameters), net.backend, net.dtype)
    return Steps(Call(net.backend, net.dtype, plan, parameters, {}, training=training, buffers=net._buffers()))


def _side_by_side(net: Any, x: Any) -> Any:
    """The features of several inputs in one array, (n, in) or (in,); of one input x as it is."""
    if len(net._plan().inputs) == 1 and not isinstance(x, Mapping):
        return x
    arrays, single = as_inputs(x, net._plan(), net.backend, net.dtype)
    with net.backend.activate():
        batch = net.backend.xp.concatenate(list(arrays.values()), axis=-1)
    return batch[0] if single and batch.ndim == 2 else batch


def _apart(net: Any, x: Array) -> Any:
    """A gradient in the features side by side, for several inputs by name."""
    widths = net._plan().inputs
    if len(widths) == 1:
        return x
    return {name: x[..., end - width : end] for (name, width), end in zip(widths.items(), accumulate(widths.values()))}
