"""A net whose nodes form a graph, and backpropagation through it in topological order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import inputs
from ..backend import Array, Backend
from ..initialisers import Draw, as_random, get_initialiser
from ..losses import Loss
from ..model import Model
from ..operations import Input, Linear, draws
from ..plan.call import Call, Parameters
from ..plan.plan import Plan
from ..tensor import Tensor
from .description import as_nodes


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
        tensors: parameters by name, "h.weight", "h.bias"; those of nodes made with ``share`` are there once. Two names
            of one shape may also be given the same Tensor.
        parameters: all of them, each Tensor once.
        buffers: arrays that are kept and moved with the net but not trained, by name: "n.running_mean".
        signals: a Tensor for each node, of the last call that kept its signals.
        seed, draws: what dropout draws depend on; ``draws`` counts the calls in training.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        output: str | None = None,
        loss: str | Loss = "half_sum_sq",
        dtype: Any = "float64",
        rng: Any = None,
        backend: str | Backend | None = None,
        init: str | Draw = "normal",
        reduction: str = "sum",
        engine: str = "auto",
        threads: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__(loss, dtype, backend, reduction, engine, threads, precision)
        self.nodes = as_nodes(description, output)
        self._planned = Plan(self.nodes)
        self.inputs = self._planned.inputs
        self.tensors: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self._names: dict[str, dict[str, str]] = {}  # node -> its parameter -> name of the tensor
        self._buffer_names: dict[str, dict[str, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        random, draw = as_random(rng), get_initialiser(init)
        widths = self._planned.widths
        for node in self.nodes:
            if node.owner != node.name:
                continue
            own = tuple(widths[i] for i in node.inputs)
            made = node.operation.initial(own, lambda shape: draw(random, shape))
            for name, data in made.items():
                full = f"{node.name}.{name}"
                array = self.backend.asarray(data, self.dtype, f"the initial {full}")
                if isinstance(node.operation, Linear) and name == "weight" and array.shape != (node.width, *own):
                    raise ValueError(f"the initialiser must return shape {(node.width, *own)}, got {array.shape}")
                self.tensors[full], self._shapes[full] = Tensor(array, full), array.shape
                self._names.setdefault(node.name, {})[name] = full
            for name, data in node.operation.initial_buffers(own).items():
                full = f"{node.name}.{name}"
                if full in self.tensors:
                    raise ValueError(f"node {node.name!r} has a parameter and a buffer called {name!r}")
                array = self.backend.asarray(data, self.dtype, f"the initial {full}")
                self.buffers[full], self._shapes[full] = Tensor(array, full), array.shape
                self._buffer_names.setdefault(node.name, {})[name] = full
        #: Samples that a batch in training must have, unless it is empty.
        self.fewest_samples = max(node.form.fewest_samples for node in self.nodes)
        self._activated = [node.form for node in self.nodes if node.form.functions]
        others = [node.operation for node in self.nodes if not node.form.functions]
        self._settings = [operation for operation in others if not isinstance(operation, (Input, Linear))]
        self._drawing = [node for node in self.nodes if node.operation.needs_key]
        self.seed = int(random.uniform() * 2**53) if self._drawing else 0
        self.draws = 0
        self.signals = {node.name: Tensor(None, node.name) for node in self.nodes}

    def _plan(self) -> Plan:
        return self._planned

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {node: {name: self.tensors[full] for name, full in names.items()} for node, names in self._names.items()}

    def tensors_of(self, node: str) -> dict[str, Tensor]:
        """Parameters and buffers of a node, its own or shared, by their names there: "weight", "running_mean"."""
        owner = next(each.owner for each in self.nodes if each.name == node)
        own = {name: self.tensors[full] for name, full in self._names.get(owner, {}).items()}
        return own | {name: self.buffers[full] for name, full in self._buffer_names.get(owner, {}).items()}

    def _arrays(self) -> Parameters:
        return self._checked("tensors", self._names)

    def _buffers(self) -> Parameters:
        return self._checked("buffers", self._buffer_names)

    def _checked(self, kind: str, names: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Array]]:
        """Every node's parameters, or its buffers, as arrays of the net's dtype and backend."""
        tensors: Mapping[str, Tensor] = getattr(self, kind)
        return {
            node: {
                name: inputs.as_parameter(
                    tensors[full].data, self._shapes[full], self.backend, self.dtype, f"{kind}[{full!r}].data"
                )
                for name, full in own.items()
            }
            for node, own in names.items()
        }

    def _change_buffers(self, call: Call) -> None:
        for node, arrays in call.new_buffers.items():
            for name, array in arrays.items():
                self.buffers[self._buffer_names[node][name]].data = array

    def _signals(self) -> dict[str, Tensor]:
        return self.signals

    def _now(self) -> tuple[list[Any], list[Any], list[Any], str]:
        functions = [*(function for form in self._activated for function in form.functions), *self._settings, self.loss]
        return [*self.tensors.values()], [*self.signals.values()], functions, self.reduction

    def _keys(self) -> dict[str, int]:
        keys = {node.name: draws.key(self.seed, self.draws, i) for i, node in enumerate(self._drawing)}
        self.draws += bool(keys)
        return keys

    def _inputs(self, x: Any, whole: bool) -> tuple[dict[str, Array], bool]:
        """Every input as a batch, and whether it is one sample."""
        if not isinstance(x, Mapping):
            if len(self.inputs) != 1:
                raise TypeError(f"the inputs are {', '.join(map(repr, self.inputs))}: x must map their names to arrays")
            x = dict.fromkeys(self.inputs, x)
        if x.keys() != self.inputs.keys():
            expected, got = (", ".join(map(repr, names)) for names in (self.inputs, x))
            raise ValueError(f"x must hold the inputs {expected}, got {got}")
        arrays = {
            name: inputs.as_batch(x[name], width, self.backend, self.dtype, f"input {name!r}", whole)
            for name, width in self.inputs.items()
        }
        if len(shapes := {array.shape[:-1] for array in arrays.values()}) != 1:
            found = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"the inputs must hold equally many samples, got {found}")
        single = shapes == {()}
        return ({name: array[None] for name, array in arrays.items()} if single else arrays), single

    def __repr__(self) -> str:
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        ins = ", ".join(f"{name} {width}" for name, width in self.inputs.items())
        last = self.nodes[-1]
        shape = f"{ins} -> {last.name} {last.width}"
        return f"GraphNet({shape}, {len(self.nodes)} nodes, {loss}, {self.dtype.name}, {self.backend.name})"
