"""The cooperative engine: wide nets on a CUDA device, a block of threads for a tile of samples (kernels/block_cuda.h).

Chains are here, other graphs in graph.py.

Nothing but x, the parameters and the gradients is in the device's main memory. The batch is cut into fixed logical
chunks, a block of threads each, whose sums are added in a fixed tree: the same bits whatever runs where and when, and
on every stream. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ... import precision
from ...backend import Array
from ...plan import cost
from ...plan.call import Call, Result, Values
from ...plan.devices import device
from ...programs import arguments, block, block_graph, fused
from ...programs.pieces import BatchLaunch, Pieces, whole
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
        return graph.seconds(call, chunk_samples(call))
    found = shape(call)
    rows = block.tilings(found, block.shared_limit(call.backend.device))[0].rows
    return cost.cooperative(call, device(call.backend.device), rows, chunk_samples(call), found.precision)


def products(call: Call) -> tuple[str, str]:
    """The precision of the products, and of float32 why it is no other."""
    if not call.plan.chain:
        return "float32", "graphs that are no chains don't go through tensor cores"
    architecture = device(call.backend.device).architecture
    wanted = cost.precision(call.sizes, architecture) if call.precision == "auto" else call.precision
    lacking = precision.why_not_on(architecture)
    reason = precision.why_not(call.sizes, call.dtype, lacking) or (wanted == "float32" and "float32 is wanted")
    if not reason:
        found = replace(arguments.shape(call), precision=wanted)
        if block.tilings(found, block.shared_limit(call.backend.device)):
            return wanted, ""
        reason = "in whole tiles of tensor cores the signals don't fit"
    return "float32", reason


def shape(call: Call) -> fused.Shape:
    """What the kernel is compiled for."""
    return replace(arguments.shape(call), precision=products(call)[0])


def chunk_samples(call: Call) -> int:
    """Samples in a chunk, whole tiles: a function of the number of samples alone."""
    return rounds.chunk_samples(call.samples, TILES, MOST_TILES, WRITING, RESIDENT)


def intermediate_bytes(call: Call) -> int:
    """The packed parameters, and the sums of one wave of chunks and of the tree's levels."""
    rows = min(wave_chunks(call), -(-call.samples // chunk_samples(call))) + ROWS
    return (2 + rows) * call.numbers * call.dtype.itemsize


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    xp, compiled = call.backend.xp, Pass(call)  # which holds the packed parameters until the launch is made
    output = xp.empty(call.output_shape, call.dtype)
    compiled.launch(call, chunk_samples(call), {}, output=output).launch(xp.cuda.get_current_stream().ptr)
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return whole(call, pieces(call))


def pieces(call: Call) -> Pieces:
    """The loss and the gradients of a batch, of which pieces of whole chunks come one after another."""
    return Pieces(call, Pass(call), chunk_samples(call))


class Pass:
    """The kernel for a call, with its parameters packed for it; see :class:`backprop_xp.programs.pieces.Kernel`.

    Attributes:
        pack: the launch that packs the parameters, to the array that is its last argument; it was made once.
        packed: that array, the second argument of the kernel.
    """

    def __init__(self, call: Call) -> None:
        xp = call.backend.xp
        self.wave, self.places = wave_chunks(call), [[at] for at in arguments.places(call)]
        if call.plan.chain:
            self._program = block.program(shape(call), [layer.activation for layer in call.layers])
            arrays, self.numbers = arguments.parameters(call), call.numbers
        else:
            self._program, packing = block_graph.program(arguments.graph_shape(call), call.plan.nodes)
            own = packing.arrays(call.plan.nodes, call.parameters, call.buffers)
            arrays, self.numbers = [*map(xp.ascontiguousarray, own)], packing.grads
            self.places = graph.places(call, packing)
        self.packed = xp.empty(self._program.packed, call.dtype)
        self.pack = cuda.Launch(self._program.pack, (PACK_BLOCKS,), (PACK_THREADS,), [*arrays, self.packed])
        self.pack(xp.cuda.get_current_stream().ptr)

    def launch(
        self,
        call: Call,
        chunk: int,
        grads: Mapping[str, Array],
        sums: Array | None = None,
        losses: Array | None = None,
        output: Array | None = None,
    ) -> BatchLaunch:
        """The launch for the chunks of these samples, a block each."""
        written = {"sums": sums, "losses": losses, "output": output}
        if call.plan.chain:
            batch = arguments.batch(call, chunk, written | {"x_grad": next(iter(grads.values()), None)})
            inputs, own = [batch], []
        else:
            batch, inputs = arguments.batch(call, chunk, written), graph.inputs(call, grads)
            own = [*inputs, *graph.keys(call)]
        given = [batch, self.packed, *own, *(call.dtype.type(a) for a in arguments.scalars(call))]
        blocks, threads = -(-call.samples // chunk), self._program.threads
        launch = cuda.Launch(self._program.run, (blocks,), (threads,), given, self._program.shared_bytes)
        return BatchLaunch(launch, batch, inputs, slice(2 + len(inputs), 2 + len(own)))


def wave_chunks(call: Call) -> int:
    """How many chunks' sums are held at a time."""
    return ROWS * max(1, WAVE_BYTES // (ROWS * max(1, call.numbers) * call.dtype.itemsize))
