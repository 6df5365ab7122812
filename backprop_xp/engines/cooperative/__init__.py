"""The cooperative engine: wide nets on a CUDA device, a block of threads for a tile of samples (kernels/block_cuda.h).

Chains are here, other graphs in graph.py.

Nothing but x, the parameters and the gradients is in the device's main memory. The batch is cut into fixed logical
chunks, a block of threads each, whose sums are added in a fixed tree: the same bits whatever runs where and when, and
on every stream. Nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ... import precision
from ...backend import Array
from ...plan import cost
from ...plan.call import Call, Result, Values
from ...plan.devices import device
from ...programs import arguments, block, block_graph, fused
from ...programs.arguments import Written
from ...programs.pieces import Added, BatchLaunch, Pieces, whole
from ...sums import rounds
from ...sums.chunk_sums import ROWS
from ...toolchain import cuda
from .. import layered
from . import graph

#: Bytes of the partial sums of one wave of chunks, about; a wave is whole groups of the tree. Chosen, not measured.
WAVE_BYTES = 256 << 20
#: Samples of which a chunk has a multiple, whole tiles of any size; how many times it has them at most; how many of
#: them a chunk's sums, which are written and read once, take as long as (calculated: 0.15 for 64-64-64-64-10 on an
#: H100, 0.26 for 784-128-128-10); and how many blocks a multiprocessor has room for.
TILES, MOST_TILES, WRITING, RESIDENT = 64, 16, 0.25, (1, 2)
#: Blocks, and threads of each, that pack the parameters. Chosen, not measured: any number is right.
PACK_BLOCKS, PACK_THREADS = 64, 256
#: Samples from which on "auto" compiles a graph that is no chain, which takes seconds and more. Chosen, not measured.
FEWEST_OF_GRAPHS = 2048


def why_not(call: Call) -> str:
    """What is no formula, or that the signals of eight samples don't fit a block's shared memory."""
    if call.backend.on_gpu and not call.plan.chain:
        return graph.why_not(call)
    if reason := arguments.why_no_kernel(call):
        return reason
    limit = block.shared_limit(call.backend.device)
    if not block.tilings(shape(call), limit):
        return f"the signals of a few samples don't fit the {limit >> 10} KiB of shared memory that a block may have"
    return ""


def yields(call: Call) -> str:
    """That the layered engine is estimated to be faster, or that a batch isn't worth compiling a whole graph."""
    if not call.plan.chain and call.samples < FEWEST_OF_GRAPHS:
        return f"a graph is worth its compilation from {FEWEST_OF_GRAPHS:,} samples on"
    if layered.seconds(call) < seconds(call):
        return "so wide a net, or so small a batch, is estimated to be faster in whole matrix products"
    return ""


def seconds(call: Call) -> float:
    """What a call that it doesn't refuse is estimated to take."""
    if not call.plan.chain:
        return graph.seconds(call, chunk_samples(call), products(call)[0])
    found = shape(call)
    rows = block.tilings(found, block.shared_limit(call.backend.device))[0].rows
    return cost.cooperative(call, device(call.backend.device), rows, chunk_samples(call), found.precision)


def products(call: Call) -> tuple[str, str]:
    """The precision of the products, and of float32 why it is no other."""
    architecture, widths = device(call.backend.device).architecture, call.plan.products
    wanted = cost.precision(widths, architecture) if call.precision == "auto" else call.precision
    lacking = precision.why_not_on(architecture)
    reason = precision.why_not(widths, call.dtype, lacking) or (wanted == "float32" and "float32 is wanted")
    if not reason:
        if _fits(call, wanted):
            return wanted, ""
        reason = "in whole tiles of tensor cores the signals don't fit"
    return "float32", reason


def _fits(call: Call, precision: str) -> bool:
    """Whether the signals of a few samples fit a block's shared memory if products are of this precision."""
    if not call.plan.chain:
        return graph.fits(call, precision)
    found = replace(arguments.shape(call), precision=precision)
    return bool(block.tilings(found, block.shared_limit(call.backend.device)))


def shape(call: Call) -> fused.Shape:
    """What the kernel of a chain is compiled for."""
    return replace(arguments.shape(call), precision=products(call)[0])


def chunk_samples(call: Call) -> int:
    """Samples in a chunk, whole tiles: a function of the number of samples alone."""
    return rounds.chunk_samples(call.samples, TILES, MOST_TILES, WRITING, RESIDENT)


def intermediate_bytes(call: Call) -> int:
    """The packed parameters, the sums of one wave of chunks and of the tree's levels, and what launches keep."""
    rows = min(wave_chunks(call.numbers, call.dtype), -(-call.samples // chunk_samples(call))) + ROWS
    kept = 0 if call.plan.chain else call.samples * graph.kept(call)
    return ((2 + rows) * call.numbers + kept) * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    output = call.backend.xp.empty(call.output_shape, call.dtype)
    pieces(call).add(call, {}, output)
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return whole(call, pieces(call))


def pieces(call: Call) -> Pieces:
    """The loss and the gradients of a batch, of which pieces of whole chunks come one after another."""
    return Pieces(call, Pass(call))


class Pass:
    """The kernels for a call, with its parameters packed for them; see :class:`backprop_xp.programs.pieces.Kernel`.

    Attributes:
        pack: the launch that packs the parameters, to the array that is its last argument; it was made once.
        packed: that array, the second argument of the kernels.
        names: of a graph, node and name of each array that is packed.
        kept: what they leave each other of every sample.
    """

    def __init__(self, call: Call) -> None:
        xp = call.backend.xp
        self.chunk, self.wave = chunk_samples(call), wave_chunks(call.numbers, call.dtype)
        self._first = call.first
        compiled = _compiled(call) if call.plan.chain else graph.compiled(call, products(call)[0])
        self._programs, self.stages, self.numbers = compiled.programs, compiled.stages, compiled.numbers
        self.places, self.changed, self.names = compiled.places, compiled.changed, compiled.names
        self.kept = xp.empty(compiled.kept * call.samples, call.dtype)
        self._samples = call.samples
        self.packed = xp.empty(self._programs[0].packed, call.dtype)
        arguments_of_pack = [*compiled.arrays, self.packed]
        self.pack = cuda.Launch(self._programs[0].pack, (PACK_BLOCKS,), (PACK_THREADS,), arguments_of_pack)
        self.pack(xp.cuda.get_current_stream().ptr)

    def launch(self, stage: int, call: Call, written: Written, totals: Array | None = None) -> BatchLaunch:
        """The launch of a stage for the chunks of these samples, a block each."""
        program, batch = self._programs[stage], arguments.batch(call, self.chunk, written)
        inputs, own, keys, between = [batch], list[Any](), list[Any](), None
        if not call.plan.chain:
            inputs, keys = graph.inputs(call, written.grads), graph.keys(call)
            between = graph.between(self.kept, call.first - self._first, totals, self._samples)
            own = [*inputs, between]
        given = [batch, self.packed, *own, *keys, *(call.dtype.type(a) for a in arguments.scalars(call))]
        blocks, at = -(-call.samples // self.chunk), 2 + len(own)
        launch = cuda.Launch(program.run, (blocks,), (program.threads,), given, program.shared_bytes)
        return BatchLaunch(launch, batch, inputs, slice(at, at + len(keys)), between)


def _compiled(call: Call) -> block_graph.Compiled:
    """The kernel of a chain."""
    program = block.program(shape(call), [layer.activation for layer in call.layers])
    stages, places = [Added(0, call.numbers, outputs=call.loss is None)], [[at] for at in arguments.places(call)]
    return block_graph.Compiled([program], stages, arguments.parameters(call), [], call.numbers, places, {}, 0)


def wave_chunks(numbers: int, dtype: np.dtype) -> int:
    """How many chunks' sums, so many ``numbers`` each, are held at a time."""
    return ROWS * max(1, WAVE_BYTES // (ROWS * max(1, numbers) * dtype.itemsize))
