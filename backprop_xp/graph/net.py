"""A net whose nodes form a graph, and backpropagation through it in topological order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import engines, inputs, scope
from ..backend import Array, Backend
from ..initialisers import Draw, as_random, get_initialiser
from ..losses import Loss, get_loss, resolved
from ..model import Model
from ..tensor import Tensor
from . import dropout
from .call import GraphCall
from .description import as_nodes
from .drawing import Drawing, draw
from .operations import Dropout, Input, Linear
from .passes import Values, as_steps


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
            :mod:`backprop_xp.graph.operations`. An activation, or the name of one, is an operation.
        output: the node whose value is the net's; by default the only one that no other uses.
        loss, dtype, rng, backend, init, reduction, engine, threads: as in :class:`backprop_xp.Net`.

    Attributes:
        nodes: the checked nodes in topological order.
        tensors: parameters by name, "h.weight", "h.bias"; those of nodes made with ``share`` are there once. Two names
            of one shape may also be given the same Tensor.
        parameters: all of them, each Tensor once.
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
    ) -> None:
        super().__init__(loss, dtype, backend, reduction, engine, threads)
        self.nodes = as_nodes(description, output)
        self._steps = as_steps(self.nodes)
        self.inputs = {node.name: node.width for node in self.nodes if isinstance(node.operation, Input)}
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[str, dict[str, str]] = {}  # node -> its parameter -> name of the tensor
        self._shapes: dict[str, tuple[int, ...]] = {}
        random, draw = as_random(rng), get_initialiser(init)
        widths = {node.name: node.width for node in self.nodes}
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
        self._dropouts = [node for node in self.nodes if isinstance(node.operation, Dropout)]
        self.seed = int(random.uniform() * 2**53) if self._dropouts else 0
        self.draws = 0
        self.signals = {node.name: Tensor(None, node.name) for node in self.nodes}
        self._kept: tuple[GraphCall, Values] | None = None

    def _places(self) -> list[Tensor]:
        return [self.tensors[full] for names in self._names.values() for full in names.values()]

    def loss_and_grad(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        input_grad: bool = False,
        accumulate: bool = False,
        keep_signals: bool | None = None,
        training: bool = True,
    ) -> Any:
        """The loss of one sample or a batch; fills ``.grad`` of every parameter.

        Args:
            x: (n, features) or (features,); for several inputs a mapping of their names to such arrays.
            input_grad: also compute the gradient in the input, and return (loss, gradient); of several by name.
            training: whether dropout drops anything. Each such call draws anew.
            y, sample_weight, accumulate, keep_signals: as in :meth:`backprop_xp.Net.loss_and_grad`.
        """
        call = self._call(x, keep_signals, training)
        call.input_grad = input_grad
        batch = () if call.single else (call.samples,)
        self._aim(call, y, sample_weight, (*batch, call.output_width))
        if call.single:
            call.y, call.weight = (None if a is None else a[None] for a in (call.y, call.weight))
        with self.backend.activate():
            gradients: Any = engines.loss_and_grad(self.engine, call)
            self._store(gradients.parameters, accumulate)
        self._keep(call, gradients.values)
        return (gradients.loss, self._answer(call, gradients.inputs)) if input_grad else gradients.loss

    def forward(self, x: Any, *, keep_signals: bool | None = None, training: bool = False) -> Array:
        """The outputs, (n, out) or (out,), without gradients. Kept signals are what :meth:`backward` starts from."""
        call = self._call(x, keep_signals, training)
        with self.backend.activate():
            output, values = engines.forward(self.engine, call)
        self._keep(call, values)
        return output[0] if call.single else output

    __call__ = forward

    def backward(self, grad_output: Any, *, input_grad: bool = False, accumulate: bool = False) -> Any:
        """Backpropagate a gradient in the outputs through the signals that the last call kept.

        Fills ``.grad`` of parameters and signals as :meth:`loss_and_grad` does; with ``input_grad`` returns the
        gradient in the input, of several inputs by name. What may have changed since that call, and what must not, is
        as in :meth:`backprop_xp.Net.backward`.
        """
        if self._kept is None:
            raise RuntimeError("no signals are kept: call net.forward(x, keep_signals=True) before net.backward")
        call, values = self._kept
        call.input_grad = input_grad
        shape = (call.output_width,) if call.single else (call.samples, call.output_width)
        grad_output = self.backend.asarray(grad_output, self.dtype, "grad_output")
        if grad_output.shape != shape:
            raise ValueError(f"grad_output must have the shape {shape} of the outputs, got {grad_output.shape}")
        from ..engines import graph_layered  # it imports the loops of net.py

        with self.backend.activate():
            gradients = graph_layered.backward(call, values, grad_output[None] if call.single else grad_output)
            self._store(gradients.parameters, accumulate)
        self._keep(call, gradients.values)
        return self._answer(call, gradients.inputs) if input_grad else None

    def plan(self, x: Any) -> engines.Plan:
        """Which engine ``loss_and_grad(x)`` would run on, why, and its estimated flop and bytes."""
        call = self._call(x, None, training=False)
        call.loss = resolved(get_loss(self.loss), None, (), self.dtype).loss
        return engines.plan(self.engine, call)

    def draw(self) -> Drawing:
        """The graph as text, for ``print``, and as SVG, ``.svg``."""
        counts, drawn = {}, set[Tensor]()
        for node, own in self._names.items():
            tensors = {self.tensors[full] for full in own.values()} - drawn  # a shared one counts where it comes first
            counts[node] = sum(tensor.data.size for tensor in tensors)
            drawn |= tensors
        return draw(self.nodes, counts)

    def to(self, backend: str | Backend) -> GraphNet:
        """Move all parameters, and their gradients, to this backend; returns the net itself."""
        self._move(backend)
        self._keep(None, None)
        return self

    def _needs_whole_batch(self) -> str:
        return scope.of_graph(self.nodes, get_loss(self.loss))

    def _call(self, x: Any, keep_signals: bool | None, training: bool) -> GraphCall:
        arrays, single = self._inputs(x)
        keep = single if keep_signals is None else keep_signals
        if keep:  # until a backward pass, when the caller's may hold other numbers
            with self.backend.activate():
                arrays = {name: array.copy() for name, array in arrays.items()}
        parameters, keys = self._arrays(), self._drawn() if training else {}
        return GraphCall(
            self.backend, self.dtype, self.nodes, self._steps, parameters, arrays, keys, single=single,
            keep_signals=keep, threads=self.threads,
        )  # fmt: skip

    def _arrays(self) -> dict[str, dict[str, Array]]:
        """The parameters of every node that has its own, as they are now, whatever the user did to its tensors."""
        return {
            node: {
                name: inputs.as_parameter(
                    self.tensors[full].data, self._shapes[full], self.backend, self.dtype, f"tensors[{full!r}].data"
                )
                for name, full in names.items()
            }
            for node, names in self._names.items()
        }

    def _drawn(self) -> dict[str, int]:
        """The dropout nodes' keys of the next call in training."""
        if not self._dropouts:
            return {}
        keys = {node.name: dropout.key(self.seed, self.draws, i) for i, node in enumerate(self._dropouts)}
        self.draws += 1
        return keys

    def _inputs(self, x: Any) -> tuple[dict[str, Array], bool]:
        """Every input as a batch, and whether it is one sample."""
        if not isinstance(x, Mapping):
            if len(self.inputs) != 1:
                raise TypeError(f"the inputs are {', '.join(map(repr, self.inputs))}: x must map their names to arrays")
            x = dict.fromkeys(self.inputs, x)
        if x.keys() != self.inputs.keys():
            expected, got = (", ".join(map(repr, names)) for names in (self.inputs, x))
            raise ValueError(f"x must hold the inputs {expected}, got {got}")
        arrays = {
            name: inputs.as_batch(x[name], width, self.backend, self.dtype, f"input {name!r}")
            for name, width in self.inputs.items()
        }
        if len(shapes := {array.shape[:-1] for array in arrays.values()}) != 1:
            found = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"the inputs must hold equally many samples, got {found}")
        single = shapes == {()}
        return ({name: array[None] for name, array in arrays.items()} if single else arrays), single

    def _answer(self, call: GraphCall, gradients: dict[str, Array]) -> Any:
        """Gradients in the inputs as the user gets them."""
        found = {name: grad[0] if call.single else grad for name, grad in gradients.items()}
        return next(iter(found.values())) if len(found) == 1 else found

    def _keep(self, call: GraphCall | None, values: Values | None) -> None:
        self._kept = None if call is None or values is None else (call, values)
        for name, tensor in self.signals.items():
            tensor.data = tensor.grad = None
            if call is not None and values is not None:
                data, grad = values.data[name], values.grads.get(name)
                tensor.data = data[0] if call.single else data
                tensor.grad = grad[0] if call.single and grad is not None else grad

    def __repr__(self) -> str:
        loss = getattr(self.loss, "name", type(self.loss).__name__)
        ins = ", ".join(f"{name} {width}" for name, width in self.inputs.items())
        last = self.nodes[-1]
        shape = f"{ins} -> {last.name} {last.width}"
        return f"GraphNet({shape}, {len(self.nodes)} nodes, {loss}, {self.dtype.name}, {self.backend.name})"
