"""Nets that look at the whole batch in training, as batch normalisation does: all parts go through it step by step.

At a node that needs sums over the batch, all parts of all ranks wait for each other; elsewhere each is for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import scope
from ..backend import Array, module_of
from ..engines import layered
from ..losses import weighted
from ..operations import Operation, WholeBatch
from ..passes import steps
from ..plan.call import Call, Result, Values
from ..sums.tree import ChunkTree
from .adding import Sums, added_up
from .share import Share


def why_not(call: Call) -> str:
    """A clause about what needs the whole batch at once, "" if nothing does but in sums."""
    others = [(f"node {n.name!r}", n.operation) for n in call.plan.nodes if not _waits(n.operation)]
    return (scope.first_that_does(others, call.training) or scope.of_loss(call.loss)) if call.needs_whole_batch else ""


def loss_and_grad(share: Share, call: Call) -> list[Result]:
    """The results of this rank's parts, in their order; ``call`` has its rows, and gets the new buffers."""
    batch = Summed(share)
    parts = [call.rows(share.rows_of_part(part)) for part in share.parts()]
    nothing = call.rows(slice(0, 0))  # which has new buffers on a rank without parts too
    calls = [*parts, nothing]
    values = [Values(dict(each.inputs)) for each in calls]
    with np.errstate(all="ignore"), layered.sharing_products(call):
        for step in call.plan.steps:
            given = None
            if step.node is not None and call.training and _waits(step.node.operation):
                inputs = [steps.inputs_of(each, step)[0] for each in values[:-1]]
                given = step.node.operation.from_parts(steps.context_of(nothing, step.node), inputs, batch)
            for each, own in zip(calls, values):
                steps.forward_step(each, own, step, given)
        call.new_buffers |= nothing.new_buffers
        return _backward(parts, values[:-1], values[-1].given, call)


def _backward(
    parts: Sequence[Call], values: Sequence[Values], given: Mapping[str, Mapping[str, Any]], call: Call
) -> list[Result]:
    losses: list[Any] = []
    gradients: list[steps.Gradients] = [{} for _ in parts]
    top = call.plan.output.name
    for part, own in zip(parts, values):
        loss, own.grads[top] = weighted(part.loss, own.data[top], part.y, part.weight, part.scale)
        losses.append(loss)
    for step in reversed(call.plan.steps):
        answers: Sequence[object] = [None] * len(parts)
        node = step.node
        if node is not None and call.training and _waits(node.operation):
            grads = [own.grads[step.output] for own in values]
            inputs = [steps.inputs_of(own, step)[0] for own in values]
            own_arrays = call.parameters.get(node.owner, {})
            answers = node.operation.backward_of_parts(grads, inputs, **own_arrays, **given[node.name])
        for part, own, found, answer in zip(parts, values, gradients, answers):
            steps.backward_step(part, own, step, found, answer)
    return [Result(steps.in_order(part, found), {}, loss) for part, found, loss in zip(parts, gradients, losses)]


class Summed(WholeBatch):
    """A batch whose parts are everywhere: sums over it are added up by all ranks together."""

    def __init__(self, share: Share) -> None:
        super().__init__(share.samples)
        self._share = share

    def total(self, parts: Sequence[Array], like: Array) -> Array:
        tree: ChunkTree[Sums] = ChunkTree()
        ready = self._share.world.ready
        for number, array in zip(self._share.parts(), parts):
            tree.add(number, Sums(0.0, ready(array).reshape(-1).copy()))
        total = added_up(self._share.world, tree, like.size, ready(like.reshape(-1)[:0]))
        return module_of(like).asarray(total.values).reshape(like.shape)


def _waits(operation: Operation) -> bool:
    """Whether an operation says which sums over the batch it needs."""
    return scope.scope_of(operation) == "batch in training" and operation.has("from_parts", "backward_of_parts")
