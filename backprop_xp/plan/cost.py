"""What a call costs on a CUDA device by one engine and another: the rule by which "auto" chooses among them.

It is a model of an H100, worked out on paper from flops and bytes. It has not been measured on hardware yet: when it
is, these constants are what to correct.

- Layered: matrix products near the peak, but every signal goes through main memory. Of each layer, the forward pass
  reads its inputs and writes t, reads t and writes z; the backward pass reads grad_z and t and writes grad_t, reads
  grad_t and the inputs for the weights, and reads grad_t again to write the inputs' gradient. In all, eight times its
  outputs and three times its inputs. Seven launches a layer.
- Cooperative: products further from the peak, and of each tile of samples the second-level cache is asked for all
  weights twice and for all sums of its chunk, to be read and written. Main memory sees x, the targets, and once every
  chunk its sums, written and read. A chunk is one block's work, so that few chunks leave most of the device idle.
- Fused: it is taken whenever it doesn't refuse. One sample a thread has neither of the two traffics, and no barriers;
  it refuses nets with so many parameters that the sums of a thread or a warp find no room.
"""

from __future__ import annotations

from .call import Call

# All of them are calculated, from an H100's data sheet; none is measured.
#: Operations in the time in which main memory moves a byte, and how many times faster the second-level cache is.
FLOP_PER_BYTE, CACHE_SPEEDUP = {"float32": 20.0, "float64": 10.0}, 3.0
#: Shares of the peak that the matrix products of cuBLAS and of a block of threads reach.
LAYERED_PEAK, COOPERATIVE_PEAK = 0.9, 0.6
#: Operations in the time of a launch (about five microseconds), and how many of them there are.
LAUNCH_FLOP, LAYERED_LAUNCHES, COOPERATIVE_LAUNCHES = {"float32": 3e8, "float64": 1.5e8}, 7, 4
#: Multiprocessors.
PROCESSORS = 132


def layered(call: Call) -> float:
    """The cost in floating-point operations that the device could do in that time."""
    moved = sum(8 * outputs + 3 * inputs for inputs, outputs in zip(call.sizes, call.sizes[1:]))
    time = _flops(call) / LAYERED_PEAK + call.samples * moved * _flop_per_number(call)
    return time + LAYERED_LAUNCHES * len(call.layers) * LAUNCH_FLOP[call.dtype.name]


def cooperative(call: Call, rows: int, chunk: int) -> float:
    """The cost of the cooperative engine, in the same unit, with tiles of ``rows`` and chunks of ``chunk`` samples."""
    chunks = -(-call.samples // chunk)
    products = _flops(call) / COOPERATIVE_PEAK * max(1.0, PROCESSORS / max(1, chunks))
    cached = 4 * call.numbers * call.samples / rows / CACHE_SPEEDUP
    moved = call.samples * (call.sizes[0] + call.sizes[-1]) + 2 * call.numbers * chunks
    time = products + (cached + moved) * _flop_per_number(call)
    return time + COOPERATIVE_LAUNCHES * LAUNCH_FLOP[call.dtype.name]


def _flop_per_number(call: Call) -> float:
    return call.dtype.itemsize * FLOP_PER_BYTE[call.dtype.name]


def _flops(call: Call) -> int:
    return 2 * call.samples * call.multiply_adds
