"""A graph that is no chain as a pass of blocks of threads over tiles in shared memory (kernels/graph_cuda.h).

Operations write the same steps as for the CPU (graph_source.py). Here is what differs: where the numbers lie, and the
barriers between steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..backend import Array, cupy
from ..kernels import source as kernel_source
from ..operations.built_in import flag
from ..plan.plan import Node
from . import block, structs, tiling
from .buffers import Tape
from .fused import loss_source
from .graph_source import Shape, Writer
from .packing import Packing, Parameters, Piece
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

    def _matrix(self, out: int, pieces: Sequence[int]) -> tuple[int, tuple[Piece, ...]]:
        total = sum(pieces)
        transposed, grad = self._params(self.padded(out) * total), self._grads(total * out)
        starts = itertools.accumulate(pieces, initial=0)
        return transposed, tuple(
            Piece(width, self._params(self.padded(width) * out), grad + start) for width, start in zip(pieces, starts)
        )

    def _summed(self, width: int) -> int:
        return width

    def source(self, nodes: Sequence[Node]) -> list[str]:
        """The kernel that packs what :meth:`arrays` gives, in that order."""
        lines: list[str] = []
        arrays = itertools.count()
        for place in self.places.values():
            out, total = nodes[place.node].width, sum(piece.width for piece in place.pieces)
            if place.pieces:
                a, column = f"a{next(arrays)}", 0
                lines.append(f"bpx::pack_rows({total}, {out}, {a}, 1, {total}, packed + {place.transposed});")
                for piece in place.pieces:
                    part = f"{out}, {piece.width}, {a} + {column}, {total}, 1, packed + {piece.weight}"
                    lines.append(f"bpx::pack_rows({part});")
                    column += piece.width
            for at in (*(at for at, _ in place.vectors.values()), *place.constants.values()):
                lines.append(f"bpx::pack_rows(1, {out}, a{next(arrays)}, 0, 1, packed + {at});")
        given = ", ".join([*(f"const S* a{k}" for k in range(next(arrays))), "S* packed"])
        return [f"BPX_ENTRY void {block.PACK}({given}) {{", *(f"  {line}" for line in lines), "}"]

    def arrays(self, nodes: Sequence[Node], *given: Parameters) -> Iterator[Array]:
        """The parameters and the buffers of all nodes as the kernel that packs them takes them."""
        for place in self.places.values():
            own = {name: array for arrays in given for name, array in arrays.get(nodes[place.node].owner, {}).items()}
            names = [*place.vectors, *place.constants]
            yield from (own[name] for name in (["weight", *names] if place.pieces else names))

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


class BlockWriter(Writer):
    """Writes the pass of a block of threads over one tile."""

    _packing = BlockPacking
    packing: BlockPacking

    def __init__(self, shape: Shape, nodes: Sequence[Node]) -> None:
        super().__init__(shape, nodes)
        self.tape = Tape(lambda features: features)
        self._write()
        self.places, self.features = self.tape.placed()
        self.itemsize = np.dtype(shape.dtype).itemsize

    def _result(self, out: str) -> None:
        buffer = self.values[out]
        self.emit(f"return b{buffer}", [buffer], [])

    def shared_numbers(self, way: Tiling) -> int:
        """Numbers in a block's shared memory."""
        return self.features * (way.rows + 16 // self.itemsize) + way.threads

    def tilings(self, limit: int) -> list[Tiling]:
        """Ways to cut the pass where a block may have ``limit`` bytes of shared memory, best first."""
        widest = max(node.width for node in self.nodes)
        threads = tiling.FEW_THREADS if widest <= tiling.NARROW else tiling.THREADS
        for rows in tiling.ROWS:
            way = Tiling(rows, threads, 1, tiling.SUMS, 0)
            fit = (limit + tiling.RESERVED) // (self.shared_numbers(way) * self.itemsize + tiling.RESERVED)
            if fit and threads // rows <= 32:
                way = replace(way, resident=min(fit, 2 * tiling.THREADS // threads))
                most = tiling.SUMS if self.itemsize == 4 else tiling.SUMS // 2
                return [replace(way, sums=sums) for sums in (most, most // 2, 8)]
        return []

    def source_for(self, way: Tiling) -> str:
        """The unit with the kernels ``bpx_block_pack`` and ``bpx_block``.

        Its arguments are ``bpx::Batch``, whose x is not used, the packed parameters, a ``bpx::GraphInput`` for each
        input, the keys of dropouts, and the scalars.
        """
        loss, loss_code = loss_source(self.shape.loss)
        constants = {
            "rows": way.rows, "threads": way.threads, "resident": way.resident, "sums": way.sums,
            "features": self.features, "shared": self.shared_numbers(way), "packed": self.packing.params,
            "params": self.packing.grads, "out": self.nodes[-1].width,
        }  # fmt: skip
        flags = {"backward": self.backward, "factors": self.shape.factors, "input_grad": self.shape.input_grad}
        return "\n".join(
            [
                kernel_source("graph_cuda.h"),
                *self.structs,
                *loss_code,
                "using bpx::i64;",
                f"using S = {self.number};",
                *structs.assertions(structs.BATCHES[self.shape.dtype], structs.GraphInput),
                "struct Graph {",
                "  using S = ::S;",
                f"  using Loss = {loss};",
                "  using R = Graph;",
                f"  static constexpr bool {', '.join(f'{name} = {flag(on)}' for name, on in flags.items())};",
                f"  static constexpr int {', '.join(f'{name} = {n}' for name, n in constants.items())};",
                "  using Args = bpx::GraphArgs<S>;",
                "  BPX_FN static const S* tile(const Args& args, const bpx::GraphTile<S>& tile, S* memory, S* grads) {",
                "    const S *const params = args.params, *const scalars = args.scalars;",
                *[f"    S* const b{i} = memory + {at} * bpx::stride<R>;" for i, at in enumerate(self.places)],
                *[f"    {line}" for line in self._lines()],
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
            "  const bpx::GraphArgs<S> args = {{batch, packed, scalars}, inputs, x_grad, keys};",
            "  bpx::run_block<bpx::GraphPass<Graph>>(args, (S*)memory);",
            "}",
        ]

    def _lines(self) -> list[str]:
        """The instructions, with barriers before those that touch what others wrote, or write what others read."""
        lines: list[str] = []
        read: set[int] = set()
        written: set[int] = set()
        for instruction in self.tape.instructions:
            reads, writes = self._touched(instruction.reads), self._touched(instruction.writes)
            if reads & written or writes & (read | written):
                lines.append("__syncthreads();")
                read, written = set(), set()
            lines.append(f"{instruction.text};")
            read, written = read | reads, written | writes
        # the next tile, or whoever reads the outputs, begins behind a barrier
        at = len(lines) if self.backward else len(lines) - 1
        return [*lines[:at], "__syncthreads();", *lines[at:]]

    def _touched(self, buffers: Sequence[int]) -> set[int]:
        """Where in a tile's memory buffers lie, feature by feature."""
        return {at for b in buffers for at in range(self.places[b], self.places[b] + self.tape.sizes[b])}


_programs: dict[tuple[int, Shape], tuple[block.Program, BlockPacking]] = {}
_ways: dict[tuple[Shape, int], tuple[Tiling, ...]] = {}


def tilings(shape: Shape, nodes: Sequence[Node], limit: int) -> tuple[Tiling, ...]:
    """Ways to cut a graph's pass where a block may have ``limit`` bytes of shared memory, best first."""
    if (shape, limit) not in _ways:
        writer = BlockWriter(shape, nodes)
        fits = writer.packing.params <= block.MOST_PARAMETERS
        _ways[shape, limit] = tuple(writer.tilings(limit) if fits else ())
    return _ways[shape, limit]


def program(shape: Shape, nodes: Sequence[Node]) -> tuple[block.Program, BlockPacking]:
    """The first tiling whose kernel spills nothing on the current device, and where what lies. Raises CompileError."""
    device = cupy().cuda.runtime.getDevice()
    if (device, shape) not in _programs:
        writer = BlockWriter(shape, nodes)
        ways = writer.tilings(block.shared_limit(device))
        sources = [writer.source_for(way) for way in ways]
        shared = [writer.shared_numbers(way) * writer.itemsize for way in ways]
        found = block.first_fitting(ways, sources, shared, writer.packing.params)
        _programs[device, shape] = found, writer.packing
    return _programs[device, shape]
