"""The fused engine on CuPy: forward, loss and backward of the whole net in one kernel, one sample a thread.

Signals stay in registers, weights in shared memory (kernels/net_cuda.h); what is written are the sums of each chunk of
samples, which a second pass adds in a fixed tree (chunk_sums.py). Everything happens on the current stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..backend import Array
from ..plan import cost
from ..plan.call import Call, Result, Values
from ..plan.devices import device
from ..programs import arguments, fused_cuda
from ..programs.arguments import Written
from ..programs.pieces import Added, BatchLaunch, Pieces, whole
from ..sums import rounds
from ..toolchain import cuda
from . import cooperative, layered

#: Threads of a block: ``bpx::threads`` of kernels/net_cuda.h.
THREADS = 128
#: Samples a thread of a chunk, at most; samples a thread that a chunk's sums take as long as: the folding of the
#: article's net has as many instructions as one, counted; and how many blocks a multiprocessor has registers for, where
#: a thread has sums of all parameters and where it doesn't: counted for some nets.
MOST_A_THREAD, FOLDING, RESIDENT, RESIDENT_SHARED_OUT = 64, 1.0, (2,), (3, 4)
#: Registers of 4 bytes, of a thread's 255, that signals and sums may take beside weights, addresses and temporary
#: results. Calculated; what really fits is found by compiling (toolchain/cuda.py).
MOST_REGISTERS = 150


class Program(NamedTuple):
    """A compiled kernel for the current device, and how many blocks are at work at a time."""

    kernel: Any
    blocks: int


def why_not(call: Call) -> str:
    """What is no chain or no formula, or too large for a thread's registers."""
    if reason := arguments.why_no_kernel(call):
        return reason
    if _registers(call) > MOST_REGISTERS:
        return "a sample's signals and a thread's sums need too many registers"
    return "the parameters and signals need too much shared memory" if _shared_bytes(call) > cuda.UNASKED else ""


def yields(call: Call) -> str:
    """That an engine behind it is estimated to be faster."""
    if call.loss is None:
        return ""
    on = device(call.backend.device)
    mine = cost.fused(call, on, chunk_samples(call), _shares_out(call))
    others = {"in tiles of samples": math.inf if cooperative.why_not(call) else cooperative.seconds(call)}
    others["in whole matrix products"] = layered.seconds(call)
    faster = min(others, key=lambda how: others[how])
    return f"such a batch of this net is estimated to be faster {faster}" if others[faster] < mine else ""


def _registers(call: Call) -> int:
    """About what SharedOut of kernels/net_cuda.h needs: values, derivatives and targets, and sums of a thread."""
    signals = call.sizes[0] + 2 * sum(call.sizes[1:])
    return (signals + call.numbers * 3 // 64) * call.dtype.itemsize // 4


def _shared_bytes(call: Call) -> int:
    """The parameters, their sums, and a layer's inputs and gradients for a block's samples."""
    exchanged = max(a + b for a, b in zip(call.sizes, call.sizes[1:])) + 1
    return (2 * call.numbers + exchanged * (THREADS + THREADS // 8)) * call.dtype.itemsize + 64


def chunk_samples(call: Call) -> int:
    """Samples in a chunk: a function of their number and of the net alone."""
    resident = RESIDENT_SHARED_OUT if _shares_out(call) else RESIDENT
    return rounds.chunk_samples(call.samples, THREADS, MOST_A_THREAD, FOLDING, resident)


def _shares_out(call: Call) -> bool:
    """Whether the net has so many parameters that no variant with sums of all of them in a thread is tried."""
    return fused_cuda.variants(arguments.shape(call))[0].shares_out


def intermediate_bytes(call: Call) -> int:
    """The sums of all chunks."""
    chunks = -(-call.samples // chunk_samples(call))
    return chunks * (call.numbers * call.dtype.itemsize + 8)


def forward(call: Call) -> tuple[Array, Values | None]:
    """The net's outputs."""
    output = call.backend.xp.empty((call.samples, call.sizes[-1]), call.dtype)
    program = _program(call, _dense(call.x))
    blocks = min(-(-call.samples // THREADS), program.blocks)
    batch = arguments.batch(call, 0, Written(output=output))
    cuda.launch(program.kernel, (blocks,), (THREADS,), [batch, *_net(call)])
    return output, None


def loss_and_grad(call: Call) -> Result:
    """The loss and the gradients of all parameters."""
    return whole(call, pieces(call))


def pieces(call: Call) -> Pieces:
    """The loss and the gradients of a batch, of which pieces of whole chunks come one after another."""
    return Pieces(call, Pass(call))


class Pass:
    """The kernel for a call, of one launch; see :class:`backprop_xp.programs.pieces.Kernel`."""

    pack = None
    changed: Mapping[str, Mapping[str, slice]] = {}

    def __init__(self, call: Call) -> None:
        self._net, self.places = _net(call), [[at] for at in arguments.places(call)]
        self.numbers, self.chunk, self.wave = call.numbers, chunk_samples(call), max(1, call.samples)
        self.stages: Sequence[Added] = [Added(0, self.numbers)]

    def launch(self, stage: int, call: Call, written: Written, totals: Array | None = None) -> BatchLaunch:
        """The launch for the chunks of these samples."""
        program = _program(call, _dense(call.x) and _dense(call.y))
        blocks = min(-(-call.samples // self.chunk), program.blocks)
        batch = arguments.batch(call, self.chunk, written)
        launch = cuda.Launch(program.kernel, (blocks,), (THREADS,), [batch, *self._net])
        return BatchLaunch(launch, batch, [batch], slice(0))


def _net(call: Call) -> list[Any]:
    """The parameters, contiguous, and the scalars."""
    return [*arguments.parameters(call), *(call.dtype.type(a) for a in arguments.scalars(call))]


_programs: dict[Any, Program] = {}


def _program(call: Call, dense: bool) -> Program:
    key = (call.backend.device, arguments.shape(call), dense)
    if key not in _programs:
        name = "bpx_forward" if call.loss is None else "bpx_backprop"
        kernel = cuda.kernel(_source(call, _variant(call, dense), dense), name)
        processors = call.backend.xp.cuda.Device().attributes["MultiProcessorCount"]
        _programs[key] = Program(kernel, processors * cuda.resources(kernel).blocks(THREADS))
    return _programs[key]


def of_nets(call: Call) -> Any:
    """The kernel ``bpx_backprop_nets`` for nets like this call's, whose sums are those of the kernel for one."""
    return cuda.kernel(_source(call, _variant(call, True), True, True), "bpx_backprop_nets")


def _variant(call: Call, dense: bool) -> fused_cuda.Variant:
    """The one that fits the current device."""
    variants = fused_cuda.variants(arguments.shape(call))
    name = "bpx_forward" if call.loss is None else "bpx_backprop"
    sources = [_source(call, each, dense) for each in variants]
    return variants[cuda.first_fitting(sources, name, [THREADS] * len(sources))]


def _source(call: Call, variant: fused_cuda.Variant, dense: bool, side_by_side: bool = False) -> str:
    activations = [layer.activation for layer in call.layers]
    return fused_cuda.source(arguments.shape(call), activations, variant, dense, side_by_side)


def _dense(array: Array | None) -> bool:
    """Whether the features of a sample are adjacent."""
    return array is None or array.ndim == 1 or array.strides[1] == array.itemsize
