"""What a call costs on a CUDA device by one engine and another: the rule by which "auto" chooses among them.

It is a model on paper, from flops, bytes and the device's own facts (devices.py). It has not been measured on hardware
yet: when it is, these constants are what to correct.

- Layered: matrix products near the peak if they are large, but every signal goes through main memory. Of each layer,
  the forward pass reads its inputs and writes t, reads t and writes z; the backward pass reads grad_z and t and writes
  grad_t, reads grad_t and the inputs for the weights, and reads grad_t again to write the inputs' gradient. In all,
  eight times its outputs and three times its inputs. Seven launches a layer. Other nodes of a graph read and write
  their inputs and outputs once in each pass, and are taken for as many launches.
- Cooperative: products further from the peak, and of each tile of samples the second-level cache is asked for all
  weights twice and for all sums of its chunk, to be read and written. Main memory sees x, the targets, and once every
  chunk its sums, written and read. A chunk is one block's work: a multiprocessor that has one more than others is what
  all wait for.
- Fused: one sample a thread has neither of the two traffics, and no barriers. It refuses nets with more parameters
  than a thread or a warp has room for the sums of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .call import Call
from .devices import Device
from .plan import Plan

#: How many times faster than main memory the second-level cache is: 5.5 TB/s on an H100, as microbenchmarks of others
#: report.
CACHE_SPEEDUP = 1.7
#: Widths of a product (the lesser one), and the shares of the peak in float32 that are reached there: by cuBLAS as it
#: is commonly reported for products of a batch with so narrow a matrix, and by kernels/block_cuda.h as the instructions
#: and loads of its inner loops were counted: two thirds of the bounds, where these were (32 and 64 wide).
WIDTHS, CUBLAS, BLOCKS = (32, 64, 128), (0.3, 0.5, 0.75), (0.4, 0.45, 0.48)
#: Of the peak, where a thread has sums for all parameters (the article's net: 364 multiply-adds in 635 instructions,
#: 60 % of which find a slot in time), and where a warp's threads share them, bound by loads of shared memory. Both
#: counted in machine code, but for the 60 %.
IN_REGISTERS, SHARED_OUT = 0.34, 0.3
#: How many times faster than in float32 the products of kernels/tensor_cuda.h are: the ratio of the bounds of
#: 64-64-64-64-10 on an H100 (bench/README.md). On an A100 the bounds are 2.3, 4.5 and 5.9 times float32's.
BY_TENSOR_CORES = {"float32": 1.0, "tf32x3": 1.4, "tf32": 2.7, "bfloat16": 3.6, "float16": 3.6}
#: The least width of the widest product, and the architectures, where three products in TF32 are calculated to be
#: faster than float32. The ratio of the bounds on an H100 is 1.2 at a width of 32 and 1.4 at 64.
#: Elsewhere nothing was counted; on consumer cards TF32 is no faster than float32 (NVIDIA's architecture papers).
THREE_PRODUCTS_FROM, THREE_PRODUCTS_ON = 32, (80, 90)
#: How many times faster than in float32 cuBLAS's products are in TF32: half of what the peaks say (A100: 156 to 19.5
#: Tflop/s, H100: 495 to 67).
CUBLAS_ROUNDED = 4.0
#: Seconds of a launch, as commonly reported, and how many of them there are, for layered of each layer; at last, for
#: every time that a pass waits for sums over the batch. A batch that takes less is bound by Python, which is the same
#: for all engines, about.
LAUNCH, LAYERED_LAUNCHES, COOPERATIVE_LAUNCHES, FUSED_LAUNCHES, STAGE_LAUNCHES = 4.5e-6, 7, 4, 2, 2


def layered(call: Call, device: Device, rounded: bool = False) -> float:
    """Seconds of the layered engine; ``rounded`` if cuBLAS may use tensor cores for float32."""
    layers, others = call.plan.products, _other_nodes(call.plan)
    numbers = call.samples * (sum(8 * outputs + 3 * inputs for inputs, outputs in layers) + sum(others))
    time = _products(call, CUBLAS) / device.flops(call.dtype.name, products=True)
    if rounded:
        time /= CUBLAS_ROUNDED
    return time + _moved(call, device, numbers) + LAYERED_LAUNCHES * (len(layers) + len(others)) * LAUNCH


def precision(products: Sequence[tuple[int, int]], architecture: int) -> str:
    """The faster one of those that are as precise as float32, for products of these inputs and outputs: calculated."""
    wide = max(map(min, products), default=0) >= THREE_PRODUCTS_FROM
    return "tf32x3" if wide and architecture in THREE_PRODUCTS_ON else "float32"


def cooperative(call: Call, device: Device, rows: int, chunk: int, precision: str = "float32") -> float:
    """Seconds of the cooperative engine, with tiles of ``rows`` samples and chunks of ``chunk``."""
    chunks = -(-call.samples // chunk)
    products = _products(call, BLOCKS) / device.flops(call.dtype.name) / busy(chunks, device.multiprocessors)
    products /= BY_TENSOR_CORES[precision]
    cached = 4 * call.numbers * call.samples / rows / CACHE_SPEEDUP
    return products + _moved(call, device, cached + _main_memory(call, chunks)) + COOPERATIVE_LAUNCHES * LAUNCH


def between_launches(call: Call, device: Device, stages: int, kept: int) -> float:
    """Seconds more where a pass waits for sums over the batch: ``kept`` numbers a sample are written, read twice."""
    return _moved(call, device, 3 * kept * call.samples) + (stages - 1) * STAGE_LAUNCHES * LAUNCH


def fused(call: Call, device: Device, chunk: int, shared_out: bool) -> float:
    """Seconds of the fused engine with chunks of ``chunk`` samples; ``shared_out`` as in kernels/net_cuda.h."""
    chunks = -(-call.samples // chunk)
    peak = device.flops(call.dtype.name) * (SHARED_OUT if shared_out else IN_REGISTERS)
    time = 2 * call.samples * call.multiply_adds / peak / busy(chunks, device.multiprocessors)
    return time + _moved(call, device, _main_memory(call, chunks)) + FUSED_LAUNCHES * LAUNCH


def busy(chunks: int, multiprocessors: int) -> float:
    """The share of the time in which a multiprocessor has work, where each chunk is as much as any other."""
    return chunks / (math.ceil(chunks / multiprocessors) * multiprocessors) if chunks else 1.0


def _products(call: Call, shares: Sequence[float]) -> float:
    """Operations of the matrix products, each divided by the share of the peak that is reached at its width."""
    total = 0.0
    for i, (inputs, outputs) in enumerate(call.plan.products):
        products = 2 if i == 0 and not call.input_grad else 3
        share = np.interp(math.log2(min(inputs, outputs)), np.log2(WIDTHS), shares)
        total += 2 * products * inputs * outputs / float(share)
    return call.samples * total


def _other_nodes(plan: Plan) -> list[int]:
    """Numbers that each node which is no layer's part moves for a sample: what it reads and writes, up and down."""
    return [
        2 * (node.width + sum(plan.widths[name] for name in node.inputs))
        for step in plan.steps
        if (node := step.node) is not None
    ]


def _main_memory(call: Call, chunks: int) -> float:
    """Numbers that go through main memory where signals don't: x, outputs or targets, and the sums of all chunks."""
    features = sum(call.plan.inputs.values()) + call.plan.output.width
    return call.samples * features + 2 * call.numbers * chunks


def _moved(call: Call, device: Device, numbers: float) -> float:
    return numbers * call.dtype.itemsize / device.memory
