"""A whole graph as C++: the steps of kernels/graph.h strung together.

Each operation writes its own steps, see :mod:`backprop_xp.operations`; here is what they share: the order, which values
and gradients lie in which buffers, and which are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..dtypes import C_NAMES
from ..kernels import source as kernel_source
from ..operations.built_in import flag
from ..plan.plan import Node
from .buffers import Tape
from .fused import WRITTEN_OUT, activation_source, loss_source
from .packing import Packing, Place

#: Bytes of a tile's buffers, about: a second-level cache holds one to two megabytes. Calculated.
TILE_BYTES = 1 << 20
#: Samples in a tile, at least and at most, multiples of ROWS, which is whole blocks of the products for every register
#: width (kernels/panel_products.h). The bounds are chosen, not measured.
FEWEST_ROWS, MOST_ROWS, ROWS = 96, 480, 48


@dataclass(frozen=True)
class Shape:
    """All that is known about a graph, and about a kind of call of it, when it is compiled.

    Attributes:
        nodes: what its operation's code depends on, width and inputs' positions of every node, see :func:`shape_of`.
        loss, factors, input_grad: as in :class:`backprop_xp.programs.fused.Shape`.
        dropping: whether dropout drops.
        one_sample: whether it is a pass over one sample, which keeps all values and gradients.
        precision: of the products where there are tensor cores, see :mod:`backprop_xp.precision`.
        whole_batch: whether batch normalisation takes the batch's mean and variance.
    """

    nodes: tuple[Any, ...]
    dtype: str
    loss: Any
    factors: bool
    input_grad: bool
    dropping: bool
    one_sample: bool = False
    whole_batch: bool = False
    precision: str = "float32"


def shape_of(
    nodes: Sequence[Node],
    dtype: str,
    loss: Any,
    factors: bool,
    input_grad: bool,
    dropping: bool,
    one_sample: bool = False,
) -> Shape:
    """The key of a compiled program: two graphs with the same differ in names and numbers alone."""
    at = {node.name: i for i, node in enumerate(nodes)}
    facts = tuple((node.form.facts(), node.width, *[at[i] for i in node.inputs]) for node in nodes)
    return Shape(facts, dtype, loss, factors, input_grad, dropping, one_sample)


class Writer:
    """Writes the pass over one tile: forward node by node, the loss, backward in reverse.

    Nodes that compute nothing have no buffer: an identity is its input, and a concatenation that only linear nodes
    read is the list of its pieces. ``self.pieces`` says for every node whose buffers its value is in.

    Attributes:
        named: every node by its name.
        values: the buffer of a node's value; gradients: of the gradient in it; both by the node's name.
        kept: buffers that a node's forward pass leaves to its backward pass.
        inputs, random: names of the inputs, and of the nodes that draw, in order.
        backward, whole_batch: whether there is a backward pass, and whether it takes sums over the batch on the way.
        wanted: names of the nodes whose gradients are computed.
    """

    _packing: Callable[[int], Packing] = Packing

    def __init__(self, shape: Shape, nodes: Sequence[Node]) -> None:
        self.shape, self.nodes = shape, nodes
        self.number = C_NAMES[shape.dtype]
        self.packing = self._packing(np.dtype(shape.dtype).itemsize)
        self.tape = Tape(self.packing.padded)
        self.named = {node.name: node for node in nodes}
        self.pieces: dict[str, tuple[str, ...]] = {}
        self.values: dict[str, int] = {}
        self.kept: dict[str, list[int]] = {}
        self.gradients: dict[str, int] = {}
        self.holders: dict[int, set[str]] = {}  # buffer -> nodes whose gradient it is
        self.inputs = [node.name for node in nodes if node.form.is_input]
        self.random = [node.name for node in nodes if node.operation.needs_key]
        self.backward, self.whole_batch = shape.loss is not None, shape.whole_batch
        self.wanted = self._wanted()
        functions = [function for node in nodes for function in node.form.functions]
        self.types, self.structs = activation_source(functions, WRITTEN_OUT)
        self.scalar = 0

    def source(self) -> tuple[str, int, int]:
        """The translation unit, samples in a tile, and how many features the buffers of a tile take."""
        self._write()
        places, features = self.tape.placed()
        fit = TILE_BYTES // (features * np.dtype(self.shape.dtype).itemsize) // ROWS * ROWS
        rows = min(max(fit, FEWEST_ROWS), MOST_ROWS)
        return self._unit("graph.h", places, rows, "; if (tile.stopped()) return", "BPX_GRAPH(Graph)"), rows, features

    def _write(self) -> None:
        """All instructions."""
        lists = self._lists()
        for node in self.nodes:
            self._forward(node, lists)
        out = self.pieces[self.nodes[-1].name][0]
        if not self.backward:
            self._result(out)
            return
        self._loss(out)
        for node in reversed(self.nodes):
            if self.pieces[node.name] == (node.name,) and node.name in self.wanted:
                self._backward(node)

    def _unit(self, header: str, places: Mapping[int, int], rows: int, after: str, entry: str) -> str:
        """The translation unit, with the buffers at these places, and ``after`` behind each instruction."""
        loss, loss_code = loss_source(self.shape.loss)
        code = [
            kernel_source(header),
            *self.structs,
            *loss_code,
            "using bpx::i64;",
            "struct Graph {",
            f"  using S = {self.number};",
            f"  using Loss = {loss};",
            f"  static constexpr bool factors = {str(self.shape.factors).lower()};",
            f"  static constexpr int rows = {rows}, R = rows;",
            "  static void tile(const bpx::GraphArgs& args, const bpx::WideTile<S>& tile, S* memory, S* grads) {",
            "    const S *const params = (const S*)args.wide.params, *const scalars = tile.scalars;",
            *[f"    S* const b{i} = memory + i64({at}) * R;" for i, at in places.items()],
            *[f"    {instruction.text}{after};" for instruction in self.tape.instructions],
            "  }",
            "};",
            entry,
            "",
        ]
        return "\n".join(code)

    def _forward(self, node: Node, lists: set[str]) -> None:
        inputs = self._sources(node)
        if node.name in lists or node.form.passes_on(len(node.inputs), self.shape.dropping):
            self.pieces[node.name] = inputs
            return
        self.pieces[node.name] = (node.name,)
        to = self.values[node.name] = self.tape.buffer(node.width)
        node.form.write(self, node, inputs, to)

    def _backward(self, node: Node) -> None:
        grad = self.gradients[node.name]
        node.form.write_below(self, node, self._sources(node), grad)
        self.holders[grad].discard(node.name)

    def _result(self, out: str) -> None:
        """The outputs, to where the caller wants them."""
        buffer, width = self.values[out], self.nodes[-1].width
        place = f"({self.number}*)args.wide.output + tile.first * {width}"
        self.emit(f"bpx::from_panels<R>(b{buffer}, {width}, tile.valid, {place})", [buffer], [])

    def _loss(self, out: str) -> None:
        """The outputs become the gradient in them, in place."""
        self._loss_in(self.values[out], out)

    def _loss_in(self, buffer: int, out: str) -> None:
        width = self.nodes[-1].width
        text = f"bpx::wide_loss<Graph, {width}, {self.scalar}, R>(tile, b{buffer})"
        self.emit(text, [buffer], [buffer])
        self.gradients[out], self.holders[buffer] = buffer, {out}

    # ---- what operations write with ---------------------------------------------------------------------------------

    def emit(
        self, text: str, reads: Sequence[int], writes: Sequence[int], over: dict[int, tuple[int, ...]] | None = None
    ) -> None:
        """An instruction, see :meth:`backprop_xp.programs.buffers.Tape.emit`."""
        self.tape.emit(text, reads, writes, over)

    def place(self, node: Node, pieces: Sequence[int] = ()) -> Place:
        """Room for a node's parameters and buffers; a linear node's input consists of pieces of these widths."""
        return self.packing.add(node, self.nodes.index(node), pieces)

    def placed(self, node: Node) -> Place:
        """Where these are, once there is room for them."""
        return self.packing.places[node.name]

    def width(self, piece: str) -> int:
        """Features of a node's value, by its name."""
        return self.named[piece].width

    def keep(self, node: Node, features: int) -> int:
        """A new buffer that the node's forward pass leaves to its backward pass."""
        self.kept.setdefault(node.name, []).append(self.tape.buffer(features))
        return self.kept[node.name][-1]

    def function(self, activation: Any) -> tuple[str, int]:
        """The C++ type of the next node's function, and where its scalars begin."""
        at = self.scalar
        self.scalar += len(activation.parameters)
        return self.types[activation.text], at

    def target(self, piece: str) -> tuple[int, bool]:
        """The buffer for a gradient in ``piece``, and whether it holds one to add to."""
        if piece not in self.gradients:
            buffer = self.gradients[piece] = self.tape.buffer(self.width(piece))
            self.holders[buffer] = {piece}
            return buffer, False
        shared = self.gradients[piece]
        if self.holders[shared] != {piece}:
            self.holders[shared].discard(piece)
            buffer = self.gradients[piece] = self.tape.buffer(self.width(piece))
            self.holders[buffer] = {piece}
            self.copy(self.width(piece), shared, buffer)
        return self.gradients[piece], True

    def pass_on(self, piece: str, grad: int) -> None:
        """A gradient as it is: at first the buffer itself, which is not written while others hold it."""
        if piece not in self.wanted:
            return
        if piece not in self.gradients:
            self.gradients[piece] = grad
            self.holders[grad].add(piece)
            return
        to, _ = self.target(piece)
        self.emit(self._sum(self.width(piece), to, grad, to), [to, grad], [to])

    def add_product(self, piece: str, grad: int, factors: Sequence[int]) -> None:
        """A gradient times buffers, for the gradient in ``piece``."""
        if piece in self.wanted:
            to, add = self.target(piece)
            self.product(self.width(piece), [grad, *factors], to, add)

    def sum(self, width: int, sources: Sequence[int], to: int) -> None:
        """The sum of buffers, from left to right, in ``to``."""
        first, *others = sources
        for other in others:
            self.emit(self._sum(width, first, other, to), [first, other], [to], {to: (first, other)})
            first = to

    def product(self, width: int, sources: Sequence[int], to: int, add: bool = False) -> None:
        """The product of buffers, from left to right, in ``to`` or added to it."""
        first, *others = sources
        for i, other in enumerate(others):
            target = to if i == len(others) - 1 or not add else self.tape.buffer(width)
            adds = add and target == to
            text = f"bpx::graph_multiply<R, S>({width}, b{first}, b{other}, b{target}, tile.used, {flag(adds)})"
            reads = [first, other, target] if adds else [first, other]
            self.emit(text, reads, [target], {target: (first, other)})
            first = target

    def copy(self, width: int, source: int, to: int) -> None:
        """A buffer as it is, in another."""
        self.emit(f"bpx::graph_copy<R, S>({width}, b{source}, b{to}, tile.used)", [source], [to])

    def column_sums(self, width: int, grad: int, other: int | None, at: int) -> None:
        """The sum over the samples of a gradient, or of its product with another buffer."""
        factor = "(const S*)nullptr" if other is None else f"b{other}"
        call = f"{width}, b{grad}, {factor}, grads + {at}, tile.valid, tile.add"
        self.emit(f"bpx::graph_column_sums<R, S>({call})", [grad] if other is None else [grad, other], [])

    def of_batch(self, node: Node) -> int:
        """Where among all sums a node's numbers of the whole batch begin."""
        raise NotImplementedError("a pass over tiles knows nothing of the batch")

    def wait(self, first: int, numbers: int = 0) -> None:
        """What comes needs sums over the batch: ``numbers`` from ``first`` on, by default all not waited for yet."""
        raise NotImplementedError("a pass over tiles knows nothing of the batch")

    def _sum(self, width: int, a: int, b: int, to: int) -> str:
        return f"bpx::graph_add<R, S>({width}, b{a}, b{b}, b{to}, tile.used)"

    # ---- what stands where ------------------------------------------------------------------------------------------

    def _sources(self, node: Node) -> tuple[str, ...]:
        """The nodes in whose buffers the values of a node's inputs are."""
        return tuple(piece for name in node.inputs for piece in self.pieces[name])

    def _lists(self) -> set[str]:
        """Concatenations that only linear nodes, or such concatenations, read."""
        users: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        found: set[str] = set()
        for node in reversed(self.nodes):
            for name in node.inputs:
                users[name].append(node)
            readers = users[node.name]
            fine = all(user.form.reads_pieces or user.name in found for user in readers)
            if node.form.joins and readers and fine:
                found.add(node.name)
        return found

    def _wanted(self) -> set[str]:
        """Nodes whose gradients are computed: parameters, or inputs whose gradients are asked for, are below them."""
        found: set[str] = set()
        for node in self.nodes:
            asked = node.form.is_input and self.shape.input_grad
            if asked or node.form.has_parameters or found & set(node.inputs):
                found.add(node.name)
        return found
