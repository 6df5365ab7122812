"""Where a compiled graph's parameters and their gradients lie, and packing and unpacking them.

A linear node reads W^T in panels of outputs, W in panels of inputs, and writes its gradient in panels of inputs, see
kernels/panels.h; where its input is a concatenation, each piece has panels of its own. Offsets hold for the widest
registers, whatever the machine has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..plan.plan import Node

#: Bytes of the widest vector register: AVX-512.
REGISTER = 64
#: Rows, the most that ``bpx::weight_rows`` of kernels/panel_products.h is.
MOST_WEIGHT_ROWS = 8

Parameters = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Piece:
    """A part of a linear node's input: how wide it is, and where the W^T that is read for it, its W and dW begin."""

    width: int
    transposed: int
    weight: int
    grad: int


@dataclass(frozen=True)
class Place:
    """Where one node's numbers begin: of a linear node's pieces, and of vectors, as (parameter, gradient).

    Attributes:
        node: its position in the graph.
        vectors: a linear node's bias, a normalisation's gain and bias.
        constants: where buffers begin, which have no gradient.
    """

    node: int
    pieces: tuple[Piece, ...]
    vectors: dict[str, tuple[int, int]]
    constants: dict[str, int]


class Packing:
    """The places of all nodes.

    Attributes:
        params, grads: how many numbers all parameters, and all gradients, take.
        places: by the name of the node.
    """

    def __init__(self, itemsize: int) -> None:
        self.params = self.grads = 0
        self.places: dict[str, Place] = {}
        self._multiple = REGISTER // itemsize

    def padded(self, features: int) -> int:
        """Numbers that ``features`` take for each sample: whole panels of the widest registers."""
        return -(-features // self._multiple) * self._multiple

    def add(self, node: Node, index: int, pieces: Sequence[int] = ()) -> Place:
        """Find room for a node's parameters and buffers; a linear node's input consists of pieces of these widths."""
        found = self._matrix(node.width, pieces)
        size = self.padded(node.width)
        vectors = {name: (self._params(size), self._grads(self._summed(node.width))) for name in node.form.vectors}
        constants = {name: self._params(size) for name in node.form.constants}
        self.places[node.name] = Place(index, found, vectors, constants)
        return self.places[node.name]

    def pack(self, nodes: Sequence[Node], parameters: Parameters, dtype: np.dtype, panel: int) -> np.ndarray:
        """All parameters and buffers in one array, for panels of ``panel`` numbers."""
        packed = np.zeros(self.params, dtype)
        for place in self.places.values():
            own = parameters[nodes[place.node].owner]
            if place.pieces:
                self._lay(own["weight"].T, packed[place.pieces[0].transposed :], panel)
            column = 0
            for piece in place.pieces:
                self._lay(own["weight"][:, column : column + piece.width], packed[piece.weight :], panel)
                column += piece.width
            for name, (at, _) in place.vectors.items():
                packed[at : at + own[name].size] = own[name]
            for name, at in place.constants.items():
                packed[at : at + own[name].size] = own[name]
        return packed

    def unpack(
        self, nodes: Sequence[Node], parameters: Parameters, packed: np.ndarray, panel: int, weight_rows: int
    ) -> list[np.ndarray]:
        """The gradients of all parameters in their order; those of shared ones are summed."""
        found: dict[tuple[str, str], np.ndarray] = {}
        for key, gradient in self.unpack_each(nodes, packed, panel, weight_rows):
            found[key] = found[key] + gradient if key in found else gradient
        return [found[owner, name] for owner, names in parameters.items() for name in names]

    def unpack_each(
        self, nodes: Sequence[Node], packed: np.ndarray, panel: int, weight_rows: int
    ) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        """The gradient in each node's parameters, with their owner and name; shared ones come several times."""
        for place in self.places.values():
            node = nodes[place.node]
            if place.pieces:
                rows = -(-node.width // weight_rows) * weight_rows
                parts = [_from_panels(packed[p.grad :], rows, p.width, panel)[: node.width] for p in place.pieces]
                yield (node.owner, "weight"), np.concatenate(parts, axis=1)
            for name, (_, at) in place.vectors.items():
                yield (node.owner, name), packed[at : at + node.width].copy()

    def _matrix(self, out: int, pieces: Sequence[int]) -> tuple[Piece, ...]:
        """The pieces of a linear node, which share one W^T."""
        transposed = self._params(self.padded(out) * sum(pieces))
        rows = -(-out // MOST_WEIGHT_ROWS) * MOST_WEIGHT_ROWS
        return tuple(
            Piece(width, transposed, self._params(self.padded(width) * out), self._grads(self.padded(width) * rows))
            for width in pieces
        )

    def _summed(self, width: int) -> int:
        """Numbers that the gradient of a vector takes."""
        return self.padded(width)

    def _lay(self, matrix: np.ndarray, room: np.ndarray, panel: int) -> None:
        """A matrix at the beginning of ``room``, in the form in which products read it."""
        _to_panels(matrix, room, panel)

    def _params(self, count: int) -> int:
        self.params += count
        return self.params - count

    def _grads(self, count: int) -> int:
        self.grads += count
        return self.grads - count


class RowPacking(Packing):
    """The places of all nodes in a pass over one sample: matrices stand row by row, as their owner has them."""

    def _matrix(self, out: int, pieces: Sequence[int]) -> tuple[Piece, ...]:
        if not pieces:
            return ()
        (width,) = pieces
        at = self._params(out * width)
        return (Piece(width, at, at, self._grads(out * width)),)

    def places_of(self, place: Place) -> Iterator[tuple[str, int, int | None]]:
        """Every parameter and buffer of a node by name: where it begins, and where its gradient does."""
        for piece in place.pieces:
            yield "weight", piece.weight, piece.grad
        for name, (at, grad) in place.vectors.items():
            yield name, at, grad
        for name, at in place.constants.items():
            yield name, at, None


def _to_panels(matrix: np.ndarray, room: np.ndarray, panel: int) -> None:
    """The columns of a matrix in panels, (columns / panel, rows, panel), at the beginning of ``room``."""
    rows, columns = matrix.shape
    whole, rest = divmod(columns, panel)
    panels = room[: (whole + (rest > 0)) * rows * panel].reshape(-1, rows, panel)
    panels[:whole] = matrix[:, : whole * panel].reshape(rows, whole, panel).transpose(1, 0, 2)
    if rest:
        panels[whole, :, :rest] = matrix[:, whole * panel :]


def _from_panels(room: np.ndarray, rows: int, columns: int, panel: int) -> np.ndarray:
    count = -(-columns // panel)
    panels = room[: count * rows * panel].reshape(count, rows, panel)
    return panels.transpose(1, 0, 2).reshape(rows, count * panel)[:, :columns]
