"""A graph that is no chain as a pass of blocks of threads over tiles in shared memory (kernels/graph_cuda.h).

Operations write the same steps as for the CPU (graph_source.py). Here is what differs: where the numbers lie, and the
barriers between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..backend import Array, cupy
from ..kernels import source as kernel_source
from ..operations.built_in import flag
from ..plan.plan import Node
from . import block, stages, structs, tensor_tiling, tiling
from .buffers import Tape
from .fused import loss_source
from .graph_source import Shape, Writer
from .packing import Packing, Piece
from .pieces import Added
from .stages import Stage
from .tensor_tiling import Form
from .tiling import Tiling

#: Nodes of a graph that is compiled, at most: beyond, NVRTC may take a minute. Measured on a busy 2-core EPYC (Zen 4),
#: one to two and a half seconds a linear node.
MOST_NODES = 64
#: A whole row of weights begins at a multiple of as many numbers (``bpx::padded``).
UNIT = 8


class BlockPacking(Packing):
    """The places of all nodes: matrices row by row, those of parameters with rows of whole UNITs."""

    def padded(self, features: int) -> int:
        return -(-features // UNIT) * UNIT

    def _matrix(self, out: int, pieces: Sequence[int]) -> tuple[Piece, ...]:
        total = sum(pieces)
        transposed, grad = self._params(self.padded(out) * total), self._grads(total * out)
        starts = itertools.accumulate(pieces, initial=0)
        return tuple(
            Piece(width, transposed, self._params(self.padded(width) * out), grad + start)
            for width, start in zip(pieces, starts)
        )

    def _summed(self, width: int) -> int:
        return width

    def source(self, nodes: Sequence[Node]) -> list[str]:
        """The kernel that packs what :meth:`names` names, in that order."""
        lines: list[str] = []
        arrays = itertools.count()
        for place in self.places.values():
            out, total = nodes[place.node].width, sum(piece.width for piece in place.pieces)
            if place.pieces:
                lines += self._matrix_source(f"a{next(arrays)}", out, total, place.pieces)
            for at in (*(at for at, _ in place.vectors.values()), *place.constants.values()):
                lines.append(f"bpx::pack_rows(1, {out}, a{next(arrays)}, 0, 1, packed + {at});")
        given = ", ".join([*(f"const S* a{k}" for k in range(next(arrays))), "S* packed"])
        return [f"BPX_ENTRY void {block.PACK}({given}) {{", *(f"  {line}" for line in lines), "}"]

    def _matrix_source(self, a: str, out: int, total: int, pieces: Sequence[Piece]) -> Iterator[str]:
        """What packs a weight of ``out`` rows of ``total`` numbers."""
        yield f"bpx::pack_rows({total}, {out}, {a}, 1, {total}, packed + {pieces[0].transposed});"
        column = 0
        for piece in pieces:
            yield f"bpx::pack_rows({out}, {piece.width}, {a} + {column}, {total}, 1, packed + {piece.weight});"
            column += piece.width

    def names(self, nodes: Sequence[Node]) -> list[tuple[str, str]]:
        """Owner and name of the parameters and buffers of all nodes, as the kernel that packs them takes them."""
        return [
            (nodes[place.node].owner, name)
            for place in self.places.values()
            for name in (*(["weight"] if place.pieces else []), *place.vectors, *place.constants)
        ]

    def gradients(self, nodes: Sequence[Node]) -> Iterator[tuple[tuple[str, str], slice]]:
        """Where each node's gradients lie among all, with the owner and the name of the parameter."""
        for place in self.places.values():
            node = nodes[place.node]
            if place.pieces:
                first = place.pieces[0].grad
                total = sum(piece.width for piece in place.pieces)
                yield (node.owner, "weight"), slice(first, first + total * node.width)
            for name, (_, at) in place.vectors.items():
                yield (node.owner, name), slice(at, at + node.width)


class TensorPacking(BlockPacking):
    """Parameters and gradients of a graph's pieces as kernels/graph_tensor.h, for tensor cores, reads them."""

    def __init__(self, form: Form, itemsize: int) -> None:
        super().__init__(itemsize)
        self._form = form

    def _matrix(self, out: int, pieces: Sequence[int]) -> tuple[Piece, ...]:
        found, grad = [], self._grads(sum(pieces) * out)
        for width in pieces:
            words = self._form.words(out, width)
            found.append(Piece(width, self._params(words), self._params(words), grad))
            grad += width
        return tuple(found)

    def _matrix_source(self, a: str, out: int, total: int, pieces: Sequence[Piece]) -> Iterator[str]:
        pack, column = f"bpx::pack_words<bpx::{self._form.name}>", 0
        for piece in pieces:
            width = piece.width
            yield f"{pack}({out}, {width}, {a} + {column}, {total}, 1, packed + {piece.transposed});"
            yield f"{pack}({width}, {out}, {a} + {column}, 1, {total}, packed + {piece.weight});"
            column += width


class BlockWriter(Writer):
    """Writes the pass of a block of threads over one tile, cut where it waits for sums over the batch.

    Attributes:
        stages: what is launched one after another.
        between: features of every sample that are kept between them.
        changed: where among all sums new buffers lie, by node and name.
    """

    packing: BlockPacking

    def __init__(self, shape: Shape, nodes: Sequence[Node]) -> None:
        self.tensor = tensor_tiling.FORMS.get(shape.precision)
        self._packing = partial(TensorPacking, self.tensor) if self.tensor else BlockPacking
        super().__init__(shape, nodes)
        self.tape = Tape(lambda features: features)
        self.itemsize = np.dtype(shape.dtype).itemsize
        self._ends: list[int] = []
        self._added: list[Added] = []
        self._has_loss = False
        self._places_of_batch: dict[str, int] = {}
        self.gap = tensor_tiling.GAP if self.tensor else 16 // self.itemsize
        at = 0
        for node in nodes if shape.whole_batch else ():  # behind these numbers come the gradients
            self._places_of_batch[node.name] = at
            at += node.form.of_batch * node.width
        self.packing.grads = at
        self._write()
        if self.backward:
            self.wait(at)
        else:
            self._end_stage(Added(0, 0, loss=False, outputs=True))
        self.stages, self.between = stages.cut(self.tape, self._ends, self._added)

    def _result(self, out: str) -> None:
        buffer = self.values[out]
        self.emit(f"return b{buffer}", [buffer], [])

    def _loss(self, out: str) -> None:
        super()._loss(out)
        self._has_loss, self._gradients_end = True, self.packing.grads

    def of_batch(self, node: Node) -> int:
        return self._places_of_batch[node.name]

    def wait(self, first: int, numbers: int = 0) -> None:
        if not numbers:
            first, numbers, self._gradients_end = first, self._gradients_end - first, first
        self._end_stage(Added(first, numbers, self._has_loss))
        self._has_loss = False

    def _end_stage(self, added: Added) -> None:
        self._ends.append(len(self.tape.instructions))
        self._added.append(added)

    @property
    def changed(self) -> dict[str, dict[str, slice]]:
        found: dict[str, dict[str, slice]] = {}
        for node in self.nodes if self.shape.whole_batch else ():
            if form := node.form if node.form.of_batch else None:
                names, width = form.constants, node.width
                at = self.of_batch(node) + (form.of_batch - len(names)) * width
                found[node.name] = {name: slice(at + k * width, at + (k + 1) * width) for k, name in enumerate(names)}
        return found

    def shared_numbers(self, stage: Stage, way: Tiling) -> int:
        """Numbers in a block's shared memory."""
        return stage.features * (way.rows + self.gap) + way.threads

    def tilings(self, stage: Stage, limit: int) -> tuple[Tiling, ...]:
        """Ways to cut a stage where a block may have ``limit`` bytes of shared memory, best first."""
        for rows in tensor_tiling.ROWS if self.tensor else tiling.ROWS:
            way = Tiling(rows, self._threads, 1, tiling.SUMS, 0)
            fit = (limit + tiling.RESERVED) // (self.shared_numbers(stage, way) * self.itemsize + tiling.RESERVED)
            if fit and self._threads // rows <= 32:
                return tuple(self._blockings(replace(way, resident=fit)))
        return ()

    @property
    def _threads(self) -> int:
        if self.tensor:
            return tensor_tiling.THREADS_ALONE
        return tiling.FEW_THREADS if max(node.width for node in self.nodes) <= tiling.NARROW else tiling.THREADS

    def _blockings(self, way: Tiling) -> Iterator[Tiling]:
        """From many sums a thread to few, which surely fit its registers."""
        if self.tensor:
            threads = tensor_tiling.THREADS if way.resident > 1 else tensor_tiling.THREADS_ALONE
            way = replace(way, threads=threads, resident=min(way.resident, tensor_tiling.RESIDENT))
            yield from (replace(way, sums=sums) for sums in tensor_tiling.SUMS)
            return
        most = tiling.SUMS if self.itemsize == 4 else tiling.SUMS // 2
        way = replace(way, resident=min(way.resident, 2 * tiling.THREADS // way.threads))
        yield from (replace(way, sums=sums) for sums in (most, most // 2, 8))

    def source_for(self, stage: Stage, way: Tiling) -> str:
        """The unit with the kernels ``bpx_block_pack`` and ``bpx_block`` of a stage.

        Its arguments are ``bpx::Batch``, whose x is not used, the packed parameters, a ``bpx::GraphInput`` for each
        input, ``bpx::Between``, the keys of dropouts, and the scalars.
        """
        loss, loss_code = loss_source(self.shape.loss)
        constants = {
            "rows": way.rows, "threads": way.threads, "resident": way.resident, "sums": way.sums,
            "gap": self.gap, "features": stage.features, "shared": self.shared_numbers(stage, way),
            "packed": self.packing.params, "first": stage.added.first, "params": stage.added.numbers,
            "out": self.nodes[-1].width,
        }  # fmt: skip
        flags = {
            "backward": not stage.added.outputs,
            "factors": self.shape.factors,
            "input_grad": self.shape.input_grad,
        }
        return "\n".join(
            [
                kernel_source("graph_tensor.h" if self.tensor else "graph_products.h"),
                *self.structs,
                *loss_code,
                "using bpx::i64;",
                f"using S = {self.number};",
                *structs.assertions(structs.BATCHES[self.shape.dtype], structs.GraphInput, structs.Between),
                "struct Graph {",
                "  using S = ::S;",
                f"  using Loss = {loss};",
                "  using R = Graph;",
                *([f"  using Precision = bpx::{self.tensor.name};"] if self.tensor else []),
                f"  static constexpr bool {', '.join(f'{name} = {flag(on)}' for name, on in flags.items())};",
                f"  static constexpr int {', '.join(f'{name} = {n}' for name, n in constants.items())};",
                "  using Args = bpx::GraphArgs<S>;",
                "  BPX_FN static const S* tile(const Args& args, const bpx::GraphTile<S>& tile, S* memory, S* grads) {",
                "    const S *const params = args.params, *const scalars = args.scalars;",
                *[f"    S* const b{i} = memory + {at} * bpx::stride<R>;" for i, at in stage.places.items()],
                *[f"    {line}" for line in self._lines(stage)],
                "    return nullptr;",
                "  }",
                "};",
                *self._entry(),
                *self.packing.source(self.nodes),
                "",
            ]
        )

    def _entry(self) -> list[str]:
        """The kernel, which hands its arguments to the pass."""
        inputs = [f"x{k}" for k in range(len(self.inputs))]
        keys = [f"key{k}" for k in range(len(self.random) if self.shape.dropping else 0)]
        scalars = [f"s{k}" for k in range(self.scalar + block.loss_scalars(self.shape.loss, self.nodes[-1].width))]
        arguments = [
            *block.FIRST_ARGUMENTS,
            *[f"const bpx::GraphInput<S> {x}" for x in inputs],
            "const bpx::Between<S> between",
            *[f"bpx::u64 {key}" for key in keys],
            *[f"S {scalar}" for scalar in scalars],
        ]
        return [
            "BPX_ENTRY void __launch_bounds__(Graph::threads, Graph::resident)",
            f"{block.ENTRY}({', '.join(arguments)}) {{",
            "  extern __shared__ __align__(16) unsigned char memory[];",
            f"  const S scalars[] = {{{', '.join([*scalars, 'S(0)'])}}};",
            f"  const bpx::GraphInput<S> inputs[] = {{{', '.join(inputs)}}};",
            f"  S* const x_grad[] = {{{', '.join(f'{x}.grad' for x in inputs)}}};",
            f"  const bpx::u64 keys[] = {{{', '.join([*keys, '0'])}}};",
            "  const bpx::GraphArgs<S> args = {{batch, packed, scalars}, inputs, x_grad, keys, between};",
            "  bpx::run_block<bpx::GraphPass<Graph>>(args, (S*)memory);",
            "}",
        ]

    def _lines(self, stage: Stage) -> list[str]:
        """The instructions, with barriers before those that touch what others wrote, or write what others read."""

        def touched(buffers: Sequence[int]) -> set[int]:
            """Where in a tile's memory buffers lie, feature by feature."""
            return {at for b in buffers for at in range(stage.places[b], stage.places[b] + self.tape.sizes[b])}

        lines: list[str] = []
        read: set[int] = set()
        written: set[int] = set()
        for instruction in stage.instructions:
            reads, writes = touched(instruction.reads), touched(instruction.writes)
            if reads & written or writes & (read | written):
                lines.append("__syncthreads();")
                read, written = set(), set()
            lines.append(f"{instruction.text};")
            read, written = read | reads, written | writes
        # the next tile, or whoever reads the outputs, begins behind a barrier
        at = len(lines) - 1 if stage.added.outputs else len(lines)
        return [*lines[:at], "__syncthreads();", *lines[at:]]


@dataclass(frozen=True)
class Ways:
    """How each stage of a pass may be cut, best first, and features of every sample that are kept between them."""

    stages: tuple[tuple[Tiling, ...], ...]
    kept: int


@dataclass(frozen=True)
class Program:
    """The kernels of a graph's stages on a device, and where what lies; as :class:`Compiled`, for any call."""

    programs: Sequence[block.Program]
    stages: Sequence[Added]
    packing: BlockPacking
    changed: Mapping[str, Mapping[str, slice]]
    kept: int


@dataclass(frozen=True)
class Compiled:
    """What is launched for a call, see :class:`backprop_xp.programs.pieces.Kernel`.

    Attributes:
        programs: of each stage; the first one's kernel packs the parameters.
        arrays: which it packs; names: of a graph, their nodes and own names.
        kept: features of every sample that are kept between stages.
    """

    programs: Sequence[block.Program]
    stages: Sequence[Added]
    arrays: Sequence[Array]
    names: Sequence[tuple[str, str]]
    numbers: int
    places: list[list[slice]]
    changed: Mapping[str, Mapping[str, slice]]
    kept: int


_programs: dict[tuple[int, Shape], Program] = {}
_ways: dict[tuple[Shape, int], Ways] = {}


def tilings(shape: Shape, nodes: Sequence[Node], limit: int) -> Ways:
    """Ways to cut a graph's pass where a block may have ``limit`` bytes of shared memory."""
    if (shape, limit) not in _ways:
        writer = BlockWriter(shape, nodes)
        fits = writer.packing.params <= block.MOST_PARAMETERS
        ways = tuple(writer.tilings(stage, limit) if fits else () for stage in writer.stages)
        _ways[shape, limit] = Ways(ways, writer.between)
    return _ways[shape, limit]


def program(shape: Shape, nodes: Sequence[Node]) -> Program:
    """Of each stage the first tiling whose kernel spills nothing on the current device. Raises CompileError."""
    device = cupy().cuda.runtime.getDevice()
    if (device, shape) not in _programs:
        writer = BlockWriter(shape, nodes)
        found = []
        for stage in writer.stages:
            ways = writer.tilings(stage, block.shared_limit(device))
            sources = [writer.source_for(stage, way) for way in ways]
            shared = [writer.shared_numbers(stage, way) * writer.itemsize for way in ways]
            found.append(block.first_fitting(ways, sources, shared, writer.packing.params))
        added = [stage.added for stage in writer.stages]
        _programs[device, shape] = Program(found, added, writer.packing, writer.changed, writer.between)
    return _programs[device, shape]
