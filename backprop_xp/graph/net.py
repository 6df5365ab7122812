"""A net whose nodes form a graph, and backpropagation through it in topological order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from ..backend import Backend
from ..initialisers import Draw, as_random, get_initialiser
from ..keywords import known_options
from ..literals import Dtype, EngineName, InitName, LossName, PrecisionName, Reduction
from ..losses import Loss
from ..model import Model
from ..plan.plan import Plan
from ..tensor import Tensor
from .description import as_nodes


class Options(TypedDict, total=False):
    """What :class:`GraphNet` takes by name besides its nodes, for type checkers."""

    loss: LossName | Loss
    dtype: Dtype
    rng: Any
    backend: str | Backend | None
    init: InitName | Draw | None
    reduction: Reduction
    engine: EngineName
    threads: int | None
    precision: PrecisionName


class GraphNet(Model):
    """A directed acyclic graph of named nodes.

        GraphNet({
            "x": Input(64),
            "h": (Linear(64), "x"),
            "a": ("tanh", "h"),
            "s": ("add", "a", "x"),
            "y": (Linear(10), "s"),
        })

    Args:
        description: the name of every node -> (operation, name of an input, ...), in any order; see
            :mod:`backprop_xp.operations`. An activation, or the name of one, is an operation.
        output: the node whose value is the net's; by default the only one that no other uses.
        loss, dtype, rng, backend, init, reduction, engine, threads, precision: as in :class:`backprop_xp.Net`.

    Attributes:
        nodes: the checked nodes in topological order.
        tensors, buffers, seed, draws: see :class:`backprop_xp.state.State`.
        parameters: all of ``tensors``, each Tensor once.
        signals: a Tensor for each node, of the last call that kept its signals.
    """

    @known_options
    def __init__(
        self,
        description: Mapping[str, Any],
        output: str | None = None,
        loss: LossName | Loss = "half_sum_sq",
        dtype: Dtype = "float64",
        rng: Any = None,
        backend: str | Backend | None = None,
        init: InitName | Draw | None = None,
        reduction: Reduction = "sum",
        engine: EngineName = "auto",
        threads: int | None = None,
        precision: PrecisionName = "auto",
    ) -> None:
        super().__init__(loss, dtype, backend, reduction, engine, threads, precision)
        self.nodes = as_nodes(description, output)
        self._planned = Plan(self.nodes)
        self.inputs = self._planned.inputs
        self._make_state(self.nodes, as_random(rng), get_initialiser(init))
        self._drawn_unasked = init is None
        self.signals = {node.name: Tensor(None, node.name) for node in self.nodes}

    def _plan(self) -> Plan:
        return self._planned

    def _signals(self) -> dict[str, Tensor]:
        return self.signals

    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]:
        functions = [*self._planned.functions(), self.loss]
        return [*self.tensors.values()], [*self.signals.values()], functions, self.reduction

    def __repr__(self) -> str:
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        ins = ", ".join(f"{name} {width}" for name, width in self.inputs.items())
        last = self.nodes[-1]
        shape = f"{ins} -> {last.name} {last.width}"
        return f"GraphNet({shape}, {len(self.nodes)} nodes, {loss}, {self.dtype.name}, {self.backend.name})"
