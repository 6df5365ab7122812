"""The loss and the gradients of a batch whose parts are shared out to ranks: the same bits for any number of ranks.

A batch is cut into parts, 2^k of them: how many depends on its samples alone. They are the leaves of a binary tree. A
rank computes those of a range, and adds up the subtrees that lie within it. What travels are their sums, from all ranks
to all; above them, every rank adds up the same numbers in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import engines
from ..backend import Array, on_host
from ..plan.call import Call, Result
from ..sums.tree import ChunkTree
from .alike import described
from .world import ADD_UP, World

#: Samples of a part, at least, unless it is the only one. Computing a smaller one takes no less time.
LEAST = 16


class Sums:
    """Sums over some samples: of the loss, in double, and of all gradients in one array (parameters,)."""

    def __init__(self, loss: float, grads: np.ndarray) -> None:
        self.loss, self.grads = loss, grads

    def __iadd__(self, other: Sums) -> Sums:
        self.loss += other.loss
        self.grads += other.grads
        return self


def parts_of(samples: int, most: int) -> int:
    """Into how many parts a batch is cut: a power of two up to ``most``, which is one."""
    count = most
    while count > 1 and samples < count * LEAST:
        count //= 2
    return count


def of_rank(rank: int, size: int, parts: int) -> range:
    """The parts that a rank computes."""
    return range(parts * rank // size, parts * (rank + 1) // size)


def loss_and_grad(world: World, engine: str, call: Call) -> Result:
    """What :func:`backprop_xp.engines.loss_and_grad` gives, computed by all ranks together.

    Raises:
        ValueError: the call can't be cut. RankError: the ranks were given different ones.
    """
    _refuse(call)
    if world.checks:
        world.agree(_facts(engine, call))
    parts = parts_of(call.samples, world.parts)
    own: ChunkTree[Sums] = ChunkTree()
    for part in of_rank(world.rank, world.size, parts):
        rows = slice(call.samples * part // parts, call.samples * (part + 1) // parts)
        own.add(part, _sums(engines.loss_and_grad(engine, call.rows(rows)), call))
    total = _total(world, own, parts, call)
    return Result(_as_parameters(total.grads, call), {}, _as_loss(total.loss, call))


def _refuse(call: Call) -> None:
    if call.single:
        raise ValueError("ranks share batches (n, features), got one sample (features,)")
    if call.keep_signals:
        raise ValueError("ranks keep no signals: each computes those of some samples alone")
    if call.input_grad:
        raise ValueError("ranks give no gradient in x: each computes that of some samples alone")
    if reason := call.needs_whole_batch:
        raise ValueError(f"ranks get parts of a batch, and {reason}")


def _facts(engine: str, call: Call) -> dict[str, str]:
    parameters = {f"{node}.{name}": a for node, own in call.parameters.items() for name, a in own.items()}
    buffers = {f"{node}.{name}": a for node, own in call.buffers.items() for name, a in own.items()}
    data = {"x": call.x if len(call.inputs) == 1 else dict(call.inputs), "y": call.y, "sample_weight": call.weight}
    return {
        "the engine": engine,
        "the loss": type(call.loss).__name__,
        "training": str(call.training),
        "what dropout draws from": str(dict(call.keys)),
        "the scale of the loss": repr(call.scale),
    } | described(data | parameters | buffers)


def _sums(result: Result, call: Call) -> Sums:
    grads = [on_host(grad).reshape(-1) for grad in result.parameters]
    return Sums(float(result.loss), np.concatenate([*grads, np.empty(0, call.dtype)]))


def _total(world: World, own: ChunkTree[Sums], parts: int, call: Call) -> Sums:
    """The sum of all ranks' parts. A subtree travels as its level, its number there, the loss and the gradients."""
    size = call.numbers * call.dtype.itemsize
    record = np.dtype([("level", "<i4"), ("index", "<i4"), ("loss", "<f8"), ("grads", np.uint8, (size,))])
    subtrees = own.subtrees()
    sent = np.zeros(len(subtrees), record)
    for row, ((level, index), sums) in zip(sent, subtrees):
        row["level"], row["index"], row["loss"] = level, index, sums.loss
        row["grads"] = sums.grads.view(np.uint8)
    tree: ChunkTree[Sums] = ChunkTree()
    for data in world.gather(ADD_UP, sent.view(np.uint8)):
        for row in data.view(record):
            grads = np.array(row["grads"]).view(call.dtype)
            tree.add(int(row["index"]), Sums(float(row["loss"]), grads), int(row["level"]))
    total = tree.total()
    assert total is not None
    return total


def _as_parameters(grads: np.ndarray, call: Call) -> list[Array]:
    found, at = [], 0
    with call.backend.activate():
        there = call.backend.xp.asarray(grads)
        for own in call.parameters.values():
            for array in own.values():
                found.append(there[at : at + array.size].reshape(array.shape))
                at += array.size
    return found


def _as_loss(loss: float, call: Call) -> Any:
    with np.errstate(over="ignore"):
        value = call.dtype.type(loss)
    with call.backend.activate():
        return call.backend.xp.asarray(value) if call.backend.on_gpu else value
