"""Derivatives of a net's outputs in its inputs: Jacobians, Hessians, Laplacians, and any other by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

from .. import inputs as checks
from ..backend import Array, module_of
from ..messages import unknown
from .chain_rule import Along, Rules, rules
from .differentiable import Differentiable
from .loops import stack_of_x
from .names import Names, names


class Wanted(NamedTuple):
    """What is pushed forward, and how the result is taken from the stack of outputs (signals, samples, outputs)."""

    along: Sequence[Along]
    take: Callable[[Rules, Array], Array]


def derivatives(
    net: Differentiable,
    x: Any,
    wanted: Sequence[str],
    inputs: str | Sequence[str] | None,
    outputs: str | Sequence[str] | None,
    direction: Any,
    cotangent: Any,
) -> Any:
    """See :meth:`backprop_xp.Net.derivatives`."""
    if not wanted:
        raise ValueError('say which derivatives: net.derivatives(x, "jacobian")')
    features = net.inputs
    x = checks.as_batch(x, features, net.backend, net.dtype)
    batch = x if x.ndim == 2 else x[None]
    called = names(inputs, outputs, (features, net.outputs))
    with net.backend.activate():
        given = _like(net, direction, "direction", features, batch)
        found = {name: _one(net, batch, name, called, given, cotangent) for name in wanted}
    results = [found[name] if x.ndim == 2 else found[name][0] for name in wanted]
    return results[0] if len(wanted) == 1 else dict(zip(wanted, results))


def _one(net: Differentiable, x: Array, name: str, called: Names, direction: Array | None, cotangent: Any) -> Array:
    if name == "vjp":
        return _vector_jacobian(net, x, cotangent)
    if name in ("directional", "hvp") and direction is None:
        raise ValueError(f"{name!r} needs a direction: net.derivatives(x, {name!r}, direction=v)")
    asked = _wanted(name, called)
    rule = rules(asked.along)
    axes = module_of(x).eye(x.shape[1], dtype=x.dtype)
    parts = []
    for rows in net.tiles(len(x), rule):
        z = stack_of_x(x[rows], [*axes, None if direction is None else direction[rows]], rule)
        parts.append(asked.take(rule, net.push(z, rule, rows.start)[0]))
    return module_of(x).concatenate(parts)


def _wanted(name: str, called: Names) -> Wanted:
    features = len(called.inputs)
    axes = range(features)
    if name == "value":
        return Wanted([()], lambda rule, u: u[0])
    if name == "jacobian":
        return Wanted([(a,) for a in axes], lambda rule, u: _stacked(rule, u, [(a,) for a in axes]))
    if name == "hessian":
        pairs = list(combinations_with_replacement(axes, 2))
        every = [(min(a, b), max(a, b)) for a in axes for b in axes]
        return Wanted(pairs, lambda rule, u: _stacked(rule, u, every).reshape(*u.shape[1:], features, features))
    if name == "hessian_diagonal":
        return Wanted([(a, a) for a in axes], lambda rule, u: _stacked(rule, u, [(a, a) for a in axes]))
    if name == "laplacian":
        every_axis = frozenset(axes)
        return Wanted([every_axis], lambda rule, u: u[rule.place(every_axis)])
    if name == "directional":
        return Wanted([(features,)], lambda rule, u: u[rule.place((features,))])
    if name == "hvp":
        with_it = [(a, features) for a in axes]
        return Wanted(with_it, lambda rule, u: _stacked(rule, u, with_it))
    one = called.find(name)
    if one is None:
        words = ("value", "jacobian", "directional", "hessian", "hessian_diagonal", "laplacian", "hvp", "vjp")
        example = f"{called.outputs[0]}_{called.inputs[0]}"
        raise ValueError(f"{unknown('derivative', name, words)}, or one by its name, such as {example}")
    return Wanted([one.along], lambda rule, u: u[rule.place(one.along)][:, one.output])


def _stacked(rule: Rules, u: Array, along: Sequence[Along]) -> Array:
    """(samples, outputs, derivatives)"""
    return module_of(u).stack([u[rule.place(each)] for each in along], axis=-1)


def _vector_jacobian(net: Differentiable, x: Array, cotangent: Any) -> Array:
    if cotangent is None:
        raise ValueError("'vjp' needs a cotangent: net.derivatives(x, 'vjp', cotangent=g)")
    grad = _like(net, cotangent, "cotangent", net.outputs, x)
    assert grad is not None
    _, pull = net.pullback(x)
    return pull(grad)


def _like(net: Differentiable, given: Any, what: str, features: int, x: Array) -> Array | None:
    """A vector for every sample, (n, features); one (features,) is everybody's."""
    if given is None:
        return None
    array = net.backend.asarray(given, net.dtype, what)
    if array.shape not in ((features,), (len(x), features)):
        raise ValueError(f"{what} must be ({features},) or ({len(x)}, {features}), got {array.shape}")
    return module_of(x).broadcast_to(array, (len(x), features))
