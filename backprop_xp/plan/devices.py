"""What a CUDA device can do at most, on paper: what the choice among engines and the benchmark reckon with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..backend import cupy


@dataclass(frozen=True)
class Device:
    """A GPU on paper.

    Attributes:
        architecture: the 80 of sm_80.
        clock: Hz.
        memory: bytes/s.
        float32, float64: additions, products or multiply-adds per clock and multiprocessor.
        others: integer and logical operations, comparisons and moves.
        mufu: reciprocals, exponentials and the like.
        lanes: loads and stores.
        issued: instructions of any kind.
        tensor: of a warp, 16 x 8 x 8 multiply-adds of TF32, or 16 x 8 x 16 of half formats; 0 where it isn't known.

    Results per clock and multiprocessor are from the table of arithmetic throughput in the CUDA C++ Programming Guide;
    loads and stores take a lane each of the 32 that reach memory, and those of shared memory its 32 lanes for every
    wavefront.
    """

    name: str
    architecture: int
    multiprocessors: int
    clock: float
    memory: float
    float32: int
    float64: int
    others: int = 64
    mufu: int = 16
    lanes: int = 32
    issued: int = 128
    tensor: float = 0.0

    def flops(self, dtype: str, products: bool = False) -> float:
        """Operations a second, two a multiply-add; with ``products`` of whole matrix products, by tensor cores in
        float64 where these do any.
        """
        rate = self.float32 if dtype == "float32" else self.float64
        if products and dtype == "float64":
            rate *= FLOAT64_TENSOR_CORES.get(self.architecture, 1)
        return 2.0 * rate * self.multiprocessors * self.clock


#: Results per clock and multiprocessor, float32 and float64, where they aren't 128 and 2.
RATES = {70: (64, 32), 75: (64, 2), 80: (64, 32), 90: (128, 64), 100: (128, 64)}
#: How many times faster float64 products are on tensor cores (data sheets: 19.5 to 9.7, and 67 to 34 Tflop/s).
FLOAT64_TENSOR_CORES = {80: 2, 90: 2}

#: Multiprocessors, clock and memory are from NVIDIA's architecture papers ("NVIDIA A100 Tensor Core GPU Architecture",
#: 2020; "NVIDIA H100 Tensor Core GPU Architecture", 2022; SXM modules of 80 GB, and the clock at which their peak rates
#: are given). Tensor cores as well; on an H100 instructions of a warp, which are all that kernels/mma.h has, reach some
#: 60 % of the rate, as microbenchmarks of others report: the rest takes those of four warps.
A100 = Device("A100", 80, 108, 1.410e9, 2.039e12, 64, 32, tensor=0.5)
H100 = Device("H100", 90, 132, 1.980e9, 3.352e12, 128, 64, tensor=0.6)


@cache
def device(number: int) -> Device:
    """The CUDA device of this number, by what it says of itself, at its highest clocks."""
    asked = cupy().cuda.Device(number)
    facts, architecture = asked.attributes, int(asked.compute_capability)
    float32, float64 = RATES.get(architecture, (128, 2))
    processors = facts["MultiProcessorCount"]
    # kHz and bits; two transfers a clock. Some devices don't tell: then it is an H100's share for each multiprocessor
    memory = 2 * 1000.0 * facts.get("MemoryClockRate", 0) * facts.get("GlobalMemoryBusWidth", 0) / 8
    return Device(
        "this",
        architecture,
        processors,
        1000.0 * facts.get("ClockRate", 0) or H100.clock,
        memory or H100.memory / H100.multiprocessors * processors,
        float32,
        float64,
    )
