"""A whole graph as C++: the steps of kernels/graph.h strung together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations import Identity
from ..dtypes import C_NAMES
from ..graph import dropout
from ..graph.description import Node
from ..graph.operations import Activate, Add, Concatenate, Dropout, Input, LayerNorm, Linear, Multiply
from ..kernels import source as kernel_source
from .buffers import Tape
from .fused import WRITTEN_OUT, activation_source, loss_source
from .packing import Packing

#: Bytes of a tile's buffers, about: a second-level cache holds one to two megabytes. Calculated.
TILE_BYTES = 1 << 20
#: Samples in a tile, at least and at most, multiples of ROWS, which is whole blocks of the products for every register
#: width (kernels/panel_products.h). The bounds are chosen, not measured.
FEWEST_ROWS, MOST_ROWS, ROWS = 96, 480, 48


#: The operations that a :class:`Writer` has code for.
COMPILED = frozenset([Input, Linear, Activate, Add, Multiply, Concatenate, Dropout, LayerNorm])


@dataclass(frozen=True)
class Shape:
    """All that is known about a graph, and about a kind of call of it, when it is compiled.

    Attributes:
        nodes: kind, numbers, width and inputs' positions of every node, see :func:`shape_of`.
        loss, factors, input_grad: as in :class:`backprop_xp.programs.fused.Shape`.
        dropping: whether dropout drops.
    """

    nodes: tuple[Any, ...]
    dtype: str
    loss: Any
    factors: bool
    input_grad: bool
    dropping: bool


def shape_of(nodes: Sequence[Node], dtype: str, loss: Any, factors: bool, input_grad: bool, dropping: bool) -> Shape:
    """The key of a compiled program: two graphs with the same differ in names and numbers alone."""
    at = {node.name: i for i, node in enumerate(nodes)}
    facts = tuple((_facts(node.operation), node.width, *[at[i] for i in node.inputs]) for node in nodes)
    return Shape(facts, dtype, loss, factors, input_grad, dropping)


class Writer:
    """Writes the pass over one tile: forward node by node, the loss, backward in reverse.

    Nodes that compute nothing have no buffer: an identity is its input, and a concatenation that only linear nodes
    read is the list of its pieces. ``self.pieces`` says for every node whose buffers its value is in.
    """

    def __init__(self, shape: Shape, nodes: Sequence[Node]) -> None:
        self.shape, self.nodes = shape, nodes
        self.number = C_NAMES[shape.dtype]
        self.packing = Packing(np.dtype(shape.dtype).itemsize)
        self.tape = Tape(self.packing.padded)
        self.named = {node.name: node for node in nodes}
        self.pieces: dict[str, tuple[str, ...]] = {}
        self.values: dict[str, int] = {}  # node -> buffer
        self.slopes: dict[str, int] = {}  # activation -> f'
        self.normals: dict[str, tuple[int, int]] = {}  # normalisation -> normal values, scales
        self.gradients: dict[str, int] = {}  # node -> buffer
        self.holders: dict[int, set[str]] = {}  # buffer -> nodes whose gradient it is
        self.inputs = [node.name for node in nodes if isinstance(node.operation, Input)]
        self.dropouts = [node.name for node in nodes if isinstance(node.operation, Dropout)]
        self.backward = shape.loss is not None
        self.wanted = self._wanted()
        activations = [node.operation.activation for node in nodes if isinstance(node.operation, Activate)]
        self.types, self.structs = activation_source(activations, WRITTEN_OUT)
        self.scalar = 0

    def source(self) -> tuple[str, int, int]:
        """The translation unit, samples in a tile, and how many features the buffers of a tile take."""
        lists = self._lists()
        for node in self.nodes:
            self._forward(node, lists)
        out = self.pieces[self.nodes[-1].name][0]
        if self.backward:
            self._loss(out)
            for node in reversed(self.nodes):
                if self.pieces[node.name] == (node.name,) and node.name in self.wanted:
                    self._backward(node)
                    self.holders[self.gradients[node.name]].discard(node.name)
        else:
            last = self.nodes[-1].width
            result = f"({self.number}*)args.wide.output + tile.first * {last}"
            self._emit(
                f"bpx::from_panels<R>(b{self.values[out]}, {last}, tile.valid, {result})", [self.values[out]], []
            )
        places, features = self.tape.placed()
        fit = TILE_BYTES // (features * np.dtype(self.shape.dtype).itemsize) // ROWS * ROWS
        rows = min(max(fit, FEWEST_ROWS), MOST_ROWS)
        code = [kernel_source("graph.h"), *self.structs]
        loss, loss_code = loss_source(self.shape.loss)
        code += loss_code
        buffers = [f"    S* const b{i} = memory + i64({at}) * R;" for i, at in enumerate(places)]
        code += [
            "using bpx::i64;",
            "struct Graph {",
            f"  using S = {self.number};",
            f"  using Loss = {loss};",
            f"  static constexpr bool factors = {str(self.shape.factors).lower()};",
            f"  static constexpr int rows = {rows}, R = rows;",
            "  static void tile(const bpx::GraphArgs& args, const bpx::WideTile<S>& tile, S* memory, S* grads) {",
            "    const S *const params = (const S*)args.wide.params, *const scalars = tile.scalars;",
            *buffers,
            *[f"    {instruction.text}; if (tile.stopped()) return;" for instruction in self.tape.instructions],
            "  }",
            "};",
            "BPX_GRAPH(Graph)",
            "",
        ]
        return "\n".join(code), rows, features

    # ---- forward --------------------------------------------------------------------------------------------------

    def _forward(self, node: Node, lists: set[str]) -> None:
        operation = node.operation
        inputs = tuple(piece for name in node.inputs for piece in self.pieces[name])
        if node.name in lists or self._passes_on(node):
            self.pieces[node.name] = inputs
            return
        self.pieces[node.name] = (node.name,)
        to = self.values[node.name] = self.tape.buffer(node.width)
        sources = [self.values[piece] for piece in inputs]
        if isinstance(operation, Input):
            k = self.inputs.index(node.name)
            self._emit(f"bpx::graph_input<R>(args, {k}, tile.first, {node.width}, tile.valid, b{to})", [], [to])
        elif isinstance(operation, Linear):
            self._linear(node, inputs, to)
        elif isinstance(operation, Activate):
            self._activate(node, sources[0], to)
        elif isinstance(operation, Concatenate):
            at = 0
            for piece, source in zip(inputs, sources):
                width = self.named[piece].width
                self._emit(f"bpx::graph_join<R>({width}, b{source}, {at}, b{to}, tile.used)", [source, to], [to])
                at += width
        elif isinstance(operation, LayerNorm):
            self._normalise(node, sources[0], to)
        elif isinstance(operation, Dropout):
            self._drop(node, sources[0], to, add=False)
        else:
            self._fold(operation, node.width, sources, to)

    def _linear(self, node: Node, inputs: tuple[str, ...], to: int) -> None:
        place = self.packing.add(node, self.nodes.index(node), [self.named[piece].width for piece in inputs])
        bias = f"params + {place.vectors['bias'][0]}" if "bias" in place.vectors else "(const S*)nullptr"
        at, size = 0, sum(piece.width for piece in place.pieces)
        for name, piece in zip(inputs, place.pieces):
            source = self.values[name]
            call = f"{size}, {at}, {piece.width}, {node.width}, params + {place.transposed}, {bias}, b{source}, b{to}"
            self._emit(f"bpx::graph_linear<R, S>({call}, tile.used)", [source, *([to] if at else [])], [to])
            at += piece.width

    def _activate(self, node: Node, source: int, to: int) -> None:
        activation: Any = node.operation.activation  # type: ignore[attr-defined]
        slope = "nullptr"
        writes, over = [to], {to: (source,)}
        if self.backward and node.name in self.wanted:
            self.slopes[node.name] = self.tape.buffer(node.width)
            slope, writes = f"b{self.slopes[node.name]}", [self.slopes[node.name], to]
            over = {self.slopes[node.name]: (source,)}
        kind = self.types[activation.text]
        call = f"{node.width}, scalars + {self.scalar}, b{source}, b{to}, (S*){slope}, tile.used"
        self._emit(f"bpx::graph_activate<{kind}, R, S>({call})", [source], writes, over)
        self.scalar += len(activation.parameters)

    def _normalise(self, node: Node, source: int, to: int) -> None:
        place = self.packing.add(node, self.nodes.index(node))
        normal, scale = self.normals[node.name] = self.tape.buffer(node.width), self.tape.buffer(1)
        eps = float(node.operation.eps)  # type: ignore[attr-defined]
        gain, bias = (f"params + {place.vectors[name][0]}" for name in ("gain", "bias"))
        call = f"{node.width}, S({eps!r}), {gain}, {bias}, b{source}, b{normal}, b{scale}, b{to}, tile.used"
        self._emit(f"bpx::graph_normalise<R, S>({call})", [source], [normal, scale, to], {normal: (source,)})

    def _drop(self, node: Node, source: int, to: int, add: bool) -> None:
        operation: Any = node.operation
        key = f"args.keys[{self.dropouts.index(node.name)}]"
        call = f"{node.width}, tile.first, {key}, {dropout.threshold(operation.p)}, S({operation.factor!r}), b{source}"
        reads = [source, to] if add else [source]
        self._emit(f"bpx::graph_drop<R, S>({call}, b{to}, tile.used, {_flag(add)})", reads, [to], {to: (source,)})

    def _fold(self, operation: Any, width: int, sources: list[int], to: int, add: bool = False) -> None:
        """The sum or product of buffers, from left to right, in ``to``."""
        first, *others = sources
        for i, other in enumerate(others):
            target = to if i == len(others) - 1 or not add else self.tape.buffer(width)
            if isinstance(operation, Add):
                text = f"bpx::graph_add<R, S>({width}, b{first}, b{other}, b{target}, tile.used)"
            else:
                flag = _flag(add and target == to)
                text = f"bpx::graph_multiply<R, S>({width}, b{first}, b{other}, b{target}, tile.used, {flag})"
            reads = [first, other, target] if add and target == to else [first, other]
            self._emit(text, reads, [target], {target: (first, other)})
            first = target

    def _loss(self, out: str) -> None:
        """The outputs become the gradient in them, in place."""
        buffer = self.values[out]
        width = self.nodes[-1].width
        text = f"bpx::wide_loss<Graph, {width}, {self.scalar}, R>(tile, b{buffer})"
        self._emit(text, [buffer], [buffer])
        self.gradients[out], self.holders[buffer] = buffer, {out}

    # ---- backward -------------------------------------------------------------------------------------------------

    def _backward(self, node: Node) -> None:
        operation, grad = node.operation, self.gradients[node.name]
        inputs = [piece for name in node.inputs for piece in self.pieces[name]]
        if isinstance(operation, Input):
            k, width = self.inputs.index(node.name), node.width
            place = f"(S*)args.x_grad[{k}] + tile.first * {width}"
            self._emit(f"bpx::from_panels<R>(b{grad}, {width}, tile.valid, {place})", [grad], [])
        elif isinstance(operation, Linear):
            self._linear_below(node, grad, inputs)
        elif isinstance(operation, LayerNorm):
            self._normalise_below(node, grad, inputs[0])
        elif isinstance(operation, Activate):
            self._times(inputs[0], grad, [self.slopes[node.name]])
        elif isinstance(operation, Dropout):
            if inputs[0] in self.wanted:
                to, add = self._target(inputs[0])
                self._drop(node, grad, to, add)
        elif isinstance(operation, Add):
            for piece in inputs:
                self._pass_on(piece, grad)
        elif isinstance(operation, Multiply):
            for i, piece in enumerate(inputs):
                self._times(piece, grad, [self.values[other] for k, other in enumerate(inputs) if k != i])
        else:
            self._split(inputs, grad)

    def _linear_below(self, node: Node, grad: int, inputs: list[str]) -> None:
        place, out = self.packing.places[node.name], node.width
        if "bias" in place.vectors:
            self._column_sums(out, grad, None, place.vectors["bias"][1])
        for name, piece in zip(inputs, place.pieces):
            value = self.values[name]
            call = f"{piece.width}, {out}, b{grad}, b{value}, grads + {piece.grad}, tile.valid, tile.add"
            self._emit(f"bpx::graph_outer<R, S>({call})", [grad, value], [])
        for name, piece in zip(inputs, place.pieces):
            if name in self.wanted:
                to, add = self._target(name)
                call = f"{piece.width}, {out}, params + {piece.weight}, b{grad}, b{to}, tile.used, {_flag(add)}"
                self._emit(f"bpx::graph_linear_below<R, S>({call})", [grad, *([to] if add else [])], [to])

    def _normalise_below(self, node: Node, grad: int, piece: str) -> None:
        vectors, width = self.packing.places[node.name].vectors, node.width
        normal, scale = self.normals[node.name]
        self._column_sums(width, grad, normal, vectors["gain"][1])
        self._column_sums(width, grad, None, vectors["bias"][1])
        if piece in self.wanted:
            to, add = self._target(piece)
            gain = f"params + {vectors['gain'][0]}"
            call = f"{width}, {gain}, b{normal}, b{scale}, b{grad}, b{to}, tile.used, {_flag(add)}"
            reads = [normal, scale, grad, *([to] if add else [])]
            self._emit(f"bpx::graph_normalise_below<R, S>({call})", reads, [to])

    def _column_sums(self, width: int, grad: int, other: int | None, at: int) -> None:
        """The sum over the samples of a gradient, or of its product with another buffer."""
        factor = "(const S*)nullptr" if other is None else f"b{other}"
        call = f"{width}, b{grad}, {factor}, grads + {at}, tile.valid, tile.add"
        self._emit(f"bpx::graph_column_sums<R, S>({call})", [grad] if other is None else [grad, other], [])

    def _times(self, piece: str, grad: int, factors: list[int]) -> None:
        """A gradient times buffers, for the gradient in ``piece``."""
        if piece in self.wanted:
            to, add = self._target(piece)
            self._fold(Multiply(), self.named[piece].width, [grad, *factors], to, add)

    def _pass_on(self, piece: str, grad: int) -> None:
        """A gradient as it is: at first the buffer itself, which is not written while others hold it."""
        if piece not in self.wanted:
            return
        if piece not in self.gradients:
            self.gradients[piece] = grad
            self.holders[grad].add(piece)
            return
        to, _ = self._target(piece)
        text = f"bpx::graph_add<R, S>({self.named[piece].width}, b{to}, b{grad}, b{to}, tile.used)"
        self._emit(text, [to, grad], [to])

    def _split(self, inputs: list[str], grad: int) -> None:
        at = 0
        for piece in inputs:
            width = self.named[piece].width
            if piece in self.wanted:
                to, add = self._target(piece)
                call = f"{width}, b{grad}, {at}, b{to}, tile.used, {_flag(add)}"
                self._emit(f"bpx::graph_split<R, S>({call})", [grad, *([to] if add else [])], [to])
            at += width

    def _target(self, piece: str) -> tuple[int, bool]:
        """The buffer for a gradient in ``piece``, and whether it holds one to add to."""
        if piece not in self.gradients:
            buffer = self.gradients[piece] = self.tape.buffer(self.named[piece].width)
            self.holders[buffer] = {piece}
            return buffer, False
        shared = self.gradients[piece]
        if self.holders[shared] != {piece}:
            self.holders[shared].discard(piece)
            buffer = self.gradients[piece] = self.tape.buffer(self.named[piece].width)
            self.holders[buffer] = {piece}
            text = f"bpx::graph_copy<R, S>({self.named[piece].width}, b{shared}, b{buffer}, tile.used)"
            self._emit(text, [shared], [buffer])
        return self.gradients[piece], True

    # ---- what stands where ------------------------------------------------------------------------------------------

    def _passes_on(self, node: Node) -> bool:
        """Whether the value is the input's."""
        operation = node.operation
        if isinstance(operation, Activate):
            return _text(operation) == Identity.text
        if isinstance(operation, Dropout):
            return not self.shape.dropping
        return isinstance(operation, (Add, Multiply)) and len(node.inputs) == 1

    def _lists(self) -> set[str]:
        """Concatenations that only linear nodes, or such concatenations, read."""
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        found: set[str] = set()
        for node in reversed(self.nodes):
            for name in node.inputs:
                users[name].append(node)
            readers = users[node.name]
            fine = all(isinstance(user.operation, Linear) or user.name in found for user in readers)
            if isinstance(node.operation, Concatenate) and readers and fine:
                found.add(node.name)
        return found

    def _wanted(self) -> set[str]:
        """Nodes whose gradients are computed: parameters, or inputs whose gradients are asked for, are below them."""
        found: set[str] = set()
        for node in self.nodes:
            asked = isinstance(node.operation, Input) and self.shape.input_grad
            if asked or isinstance(node.operation, (Linear, LayerNorm)) or found & set(node.inputs):
                found.add(node.name)
        return found

    def _emit(self, *instruction: Any) -> None:
        self.tape.emit(*instruction)


def _text(operation: Activate) -> Any:
    """The formula, of the activation's class."""
    activation: Any = operation.activation
    return activation.text


def _facts(operation: Any) -> tuple[Any, ...]:
    """What the code for a node depends on."""
    if isinstance(operation, Activate):
        return Activate, _text(operation)
    if isinstance(operation, Linear):
        return Linear, operation.bias
    if isinstance(operation, Dropout):
        return Dropout, operation.p
    return (LayerNorm, operation.eps) if isinstance(operation, LayerNorm) else (type(operation),)


def _flag(value: bool) -> str:
    return str(value).lower()
