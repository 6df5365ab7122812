"""What the nodes of a net own: parameters, buffers, and the seed of what they draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from . import inputs
from .backend import Array, Backend
from .initialisers import Draw
from .operations import draws
from .plan.call import Call, Parameters
from .plan.plan import Node, Plan
from .tensor import Tensor


class State:
    """The Tensors of nodes, by name: "h.weight" is the weight of node "h".

    Attributes:
        tensors: parameters, which are trained; those of nodes made with ``share`` are there once. Two names of one
            shape may also be given the same Tensor.
        buffers: arrays that are kept and moved with the net but not trained: "n.running_mean".
        seed, draws: what dropout draws depend on; ``draws`` counts the calls in training.
    """

    backend: Backend
    dtype: np.dtype
    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    seed = 0
    draws = 0

    def _make_state(self, nodes: Iterable[Node], random: Any, draw: Draw) -> None:
        """Draw all parameters, node by node, and then the seed where something draws from it."""
        self.tensors, self.buffers = {}, {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        #: a node's parameter, and buffer -> the name of the tensor
        self._names: dict[str, dict[str, str]] = {}
        self._buffer_names: dict[str, dict[str, str]] = {}

        def drawn(shape: tuple[int, int]) -> Any:
            array = draw(random, shape)
            if np.shape(array) != shape:
                raise ValueError(f"the initialiser must return shape {shape}, got {np.shape(array)}")
            return array

        widths, drawing = {}, False
        for node in nodes:
            widths[node.name] = node.width
            drawing |= node.operation.needs_key
            if node.owner == node.name:
                own = tuple(widths[name] for name in node.inputs)
                self._add(node.name, node.operation.initial(own, drawn), self.tensors, self._names)
                self._add(node.name, node.operation.initial_buffers(own), self.buffers, self._buffer_names)
        if drawing:
            self.seed = int(random.uniform() * 2**53)

    def _take_out(self, node: str) -> dict[str, Tensor]:
        """The parameters of a node by their names there, which the net has in lists of its own from now on."""
        names = self._names.pop(node)
        for full in names.values():
            del self._shapes[full]
        return {name: self.tensors.pop(full) for name, full in names.items()}

    def _check_state(self, nodes: Iterable[Node]) -> None:
        """That nodes own what the net's Tensors are for. Raises ValueError."""
        found: dict[str, tuple[int, ...]] = {}
        for node in nodes:
            made = {**node.operation.initial((node.width,), np.zeros), **node.operation.initial_buffers((node.width,))}
            found |= {f"{node.name}.{name}": np.shape(array) for name, array in made.items()}
        if found != self._shapes:
            odd = min(found.items() ^ self._shapes.items())[0]
            raise ValueError(
                f"{odd!r} is {'new' if odd in found else 'not there any more'}: what the activations of a net have "
                "to train or keep is made with the net"
            )

    def _add(
        self, node: str, arrays: Mapping[str, Any], tensors: dict[str, Tensor], names: dict[str, dict[str, str]]
    ) -> None:
        for name, data in arrays.items():
            full = f"{node}.{name}"
            if full in self._shapes:
                raise ValueError(f"node {node!r} has a parameter and a buffer called {name!r}")
            array = self.backend.asarray(data, self.dtype, f"the initial {full}")
            tensors[full], self._shapes[full] = Tensor(array, full), array.shape
            names.setdefault(node, {})[name] = full

    def _plan(self) -> Plan:
        """What the net computes, as it is now."""
        raise NotImplementedError

    @property
    def fewest_samples(self) -> int:
        """Samples that a batch in training must have, unless it is empty."""
        return max(node.form.fewest_samples for node in self._plan().nodes)

    def tensors_of(self, node: str) -> dict[str, Tensor]:
        """Parameters and buffers of a node, its own or shared, by their names there: "weight", "running_mean"."""
        owner = next(each.owner for each in self._plan().nodes if each.name == node)
        return {**self._tensors().get(owner, {}), **self._of("buffers", self._buffer_names).get(owner, {})}

    def _places(self) -> list[Tensor]:
        """The tensor of every place that has one, in the order of engines' gradients."""
        return [tensor for own in self._tensors().values() for tensor in own.values()]

    def _named(self) -> Mapping[str, Tensor]:
        """The parameter of every place, by what it is called for people."""
        return self.tensors

    def _by_place(self) -> dict[str, Tensor]:
        """Each parameter under the name of its first place, whatever the Tensor is called."""
        first = {tensor: name for name, tensor in reversed([*self._named().items()])}
        return {name: tensor for name, tensor in self._named().items() if first[tensor] == name}

    def _tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The parameters by the node that owns them and their name there, in the order of ``Call.parameters``."""
        return self._of("tensors", self._names)

    def _of(self, kind: str, names: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Tensor]]:
        tensors = getattr(self, kind)
        return {node: {name: tensors[full] for name, full in own.items()} for node, own in names.items()}

    def _arrays(self) -> Parameters:
        """The arrays of :meth:`_tensors`, checked: the user may have bound others to them."""
        return self._checked("tensors", self._names)

    def _kept_arrays(self) -> dict[Tensor, Array]:
        """The array of every parameter and buffer, checked."""
        buffers = self._of("buffers", self._buffer_names)
        pairs = ((self._tensors(), self._arrays()), (buffers, self._buffers()))
        return {
            tensor: arrays[node][name]
            for tensors, arrays in pairs
            for node, own in tensors.items()
            for name, tensor in own.items()
        }

    def _take_in(self, tensors: dict[str, Tensor]) -> None:
        """Other Tensors, by name, for all places that have one."""
        self.tensors |= tensors

    def _buffers(self) -> Parameters:
        """The arrays of buffers by the node that has them and their name there, checked."""
        return self._checked("buffers", self._buffer_names)

    def _checked(self, kind: str, names: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Array]]:
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
        """Take over what a call in training made of the buffers: new arrays, as gradients are."""
        for node, arrays in call.new_buffers.items():
            for name, array in arrays.items():
                self.buffers[self._buffer_names[node][name]].data = array

    def _keys(self) -> dict[str, int]:
        """The next keys of nodes that draw."""
        keys = {name: draws.key(self.seed, self.draws, i) for i, name in enumerate(self._plan().drawing)}
        self.draws += bool(keys)
        return keys
