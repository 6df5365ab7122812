"""The loss and the gradients of a batch whose parts are shared out to ranks: the same bits for any number of ranks.

A batch is cut into parts, 2^k of them: how many depends on its samples alone. They are the leaves of a binary tree. A
rank computes those of a range, and adds up the subtrees that lie within it. What travels are their sums, from all ranks
to all; above them, every rank adds up the same numbers in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .. import engines
from ..backend import Array, module_of
from ..plan.call import Call, Result
from ..sums.tree import ChunkTree
from . import lockstep
from .adding import Sums, added_up
from .alike import described
from .share import Share
from .world import World


def loss_and_grad(world: World | Share, engine: str, call: Call) -> Result:
    """What :func:`backprop_xp.engines.loss_and_grad` gives, computed by all ranks together.

    Args:
        world: all ranks, each of which has the whole batch, or its share of one.
        call: with the whole batch, or with the rows of this share.

    Raises:
        ValueError: the call can't be cut. RankError: the ranks were given different ones.
    """
    _refuse(call)
    whole = isinstance(world, World)
    share = Share(world, call.samples, call.numbers) if isinstance(world, World) else world
    world = share.world
    if world.checks:
        world.agree(_facts(engine, call, whole))
    own = call.rows(share.rows()) if whole else replace(call, first=share.rows().start)
    sums: ChunkTree[Sums] = ChunkTree()
    if call.needs_whole_batch:
        for part, result in zip(share.parts(), lockstep.loss_and_grad(share, own)):
            sums.add(part, _sums(result, call, world))
        call.new_buffers = own.new_buffers
    else:
        rows = [share.rows_of_part(part) for part in share.parts()]
        for part, result in zip(share.parts(), engines.in_parts(engine, own, rows, share.samples)):
            sums.add(part, _sums(result, call, world))
    with call.backend.activate():
        total = added_up(world, sums, call.numbers, world.ready(call.backend.xp.empty(0, call.dtype)), world.bounds)
    return Result(_as_parameters(total.values, call, world.order), {}, _as_loss(total.loss, call))


def _refuse(call: Call) -> None:
    if call.single:
        raise ValueError("ranks share batches (n, features), got one sample (features,)")
    if call.keep_signals:
        raise ValueError("ranks keep no signals: each computes those of some samples alone")
    if call.input_grad:
        raise ValueError("ranks give no gradient in x: each computes that of some samples alone")
    if reason := lockstep.why_not(call):
        raise ValueError(f"ranks get parts of a batch, and {reason}")


def _facts(engine: str, call: Call, whole: bool) -> dict[str, str]:
    parameters = {f"{node}.{name}": a for node, own in call.parameters.items() for name, a in own.items()}
    buffers = {f"{node}.{name}": a for node, own in call.buffers.items() for name, a in own.items()}
    facts = {
        "the engine": engine,
        "the loss": type(call.loss).__name__,
        "training": str(call.training),
        "what dropout draws from": str(dict(call.keys)),
    }
    if whole:
        x = call.x if len(call.inputs) == 1 else dict(call.inputs)
        facts |= {"the scale of the loss": repr(call.scale)}
        facts |= described({"x": x, "y": call.y, "sample_weight": call.weight})
    return facts | described(parameters | buffers)


def _sums(result: Result, call: Call, world: World) -> Sums:
    """A part's sums, with all gradients in one array, in the order of the world."""
    order = world.order
    if order is None and result.total is not None:
        return Sums(float(result.loss), world.ready(result.total))
    arrays = result.parameters if order is None else [result.parameters[place] for place in order]
    grads = [world.ready(array).reshape(-1) for array in [*arrays, call.backend.xp.empty(0, call.dtype)]]
    return Sums(float(result.loss), module_of(grads[-1]).concatenate(grads))


def _as_parameters(grads: Array, call: Call, order: Sequence[int] | None) -> list[Array]:
    arrays = [array for own in call.parameters.values() for array in own.values()]
    found, at = dict[int, Array](), 0
    with call.backend.activate():
        there = call.backend.xp.asarray(grads)
        for place in range(len(arrays)) if order is None else order:
            array = arrays[place]
            found[place] = there[at : at + array.size].reshape(array.shape)
            at += array.size
    return [found[place] for place in range(len(arrays))]


def _as_loss(loss: float, call: Call) -> Any:
    with np.errstate(over="ignore"):
        value = call.dtype.type(loss)
    with call.backend.activate():
        return call.backend.xp.asarray(value) if call.backend.on_gpu else value
