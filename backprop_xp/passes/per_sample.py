"""Gradients of every sample for itself, read off the signals and their gradients that a backward pass leaves behind.

The gradient of sample i in a weight is the outer product of its grad t and z; ``passes/article.py`` adds up those of
all samples. Its Euclidean norm needs no such product, |outer(a, z)| = |a| |z|; where layers share a weight,

    |sum over p of outer(a_p, z_p)|^2 = sum over p and q of (a_p . a_q) (z_p . z_q)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import scope
from ..backend import Array
from ..losses import weighted
from ..operations.base import called
from ..plan.call import Call, Values
from . import steps

#: Numbers in a signal, at most, of the samples that are computed at once. Calculated, not measured.
AT_ONCE = 1 << 18
#: A parameter's place: the node that owns it, and its name there.
Place = tuple[str, str]


class Outer(NamedTuple):
    """Of every sample the outer product of ``grad`` (n, out) and ``z`` (n, in)."""

    grad: Array
    z: Array


def gradients(call: Call, parameters: Sequence[Sequence[Place]]) -> Array:
    """The gradients (n, numbers of all parameters), one parameter after another, each flattened.

    Args:
        call: of a batch, with a loss and its target; scale and weight are those of samples alone.
        parameters: for each parameter the places where it stands, several if it is shared.

    Raises:
        ValueError: something looks at other samples of the batch. TypeError: an operation doesn't say how.
    """
    xp = call.backend.xp
    parts = [xp.concatenate([_dense(_of(found, places)) for places in parameters], axis=1) for found in _in_tiles(call)]
    return xp.concatenate(parts)


def norms(call: Call, parameters: Sequence[Sequence[Place]]) -> Array:
    """The Euclidean norms (n,) of the samples' :func:`gradients`, which are not stored."""
    xp = call.backend.xp
    squares = [sum(_square(_of(found, places)) for places in parameters) for found in _in_tiles(call)]
    return xp.sqrt(xp.concatenate(squares)).astype(call.dtype)


def _in_tiles(call: Call) -> Iterator[dict[Place, list[Outer | Array]]]:
    """What the samples' gradients in every parameter are the sums of, of some samples after the others."""
    if clause := scope.of_plan(call.plan, call.loss, call.training):
        hint = "; with training=False they are" if clause.endswith(" in training") else ""
        raise ValueError(f"gradients of single samples are not defined where {clause}{hint}")
    at_once = max(1, AT_ONCE // max(call.plan.widths.values()))
    for first in range(0, max(1, call.samples), at_once):
        tile = call.rows(slice(first, first + at_once))
        with np.errstate(all="ignore"):
            values = steps.forward_pass(tile)
            output = values.data[call.plan.output.name]
            _, grad_output = weighted(tile.loss, output, tile.y, tile.weight, tile.scale)
            steps.backward_pass(tile, values, grad_output)
            yield _read_off(tile, values)


def _read_off(call: Call, values: Values) -> dict[Place, list[Outer | Array]]:
    found: dict[Place, list[Outer | Array]] = {}
    for step in call.plan.steps:
        for linear, _ in step.chain:
            grad_t = values.grads[linear.name]
            found.setdefault((linear.owner, "weight"), []).append(Outer(grad_t, values.data[linear.inputs[0]]))
            found.setdefault((linear.owner, "bias"), []).append(grad_t)
        if step.node is None or not (own := call.parameters.get(step.node.owner)):
            continue
        node, operation = step.node, step.node.operation
        if not operation.has("per_sample"):
            what = f"node {node.name!r} ({called(operation)})"
            raise TypeError(f"{what} gives no gradients sample by sample: define per_sample")
        inputs = [values.data[name] for name in step.inputs]
        result = operation.per_sample(values.grads[step.output], *inputs, **own, **values.given[node.name])
        result = result if isinstance(result, (tuple, list)) else (result,)
        for name, gradient in zip(own, result, strict=True):
            found.setdefault((node.owner, name), []).append(gradient)
    return found


def _of(found: dict[Place, list[Outer | Array]], places: Sequence[Place]) -> list[Outer | Array]:
    return [each for place in places for each in found[place]]


def _dense(parts: Sequence[Outer | Array]) -> Array:
    """Their sum, (n, numbers)."""
    total: Any = 0
    for part in parts:
        if isinstance(part, Outer):
            part = part.grad[:, :, None] * part.z[:, None, :]
        total = total + part.reshape(len(part), math.prod(part.shape[1:]))
    return total


def _square(parts: Sequence[Outer | Array]) -> Array:
    """The square of their sum's norm, (n,) in float64."""
    outer = [(part.grad.astype(np.float64), part.z.astype(np.float64)) for part in parts if isinstance(part, Outer)]
    if len(outer) < len(parts):
        dense = _dense(parts).astype(np.float64)
        return (dense * dense).sum(axis=1)
    return sum((a * b).sum(axis=1) * (y * z).sum(axis=1) for a, y in outer for b, z in outer)
