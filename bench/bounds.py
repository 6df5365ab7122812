"""What a GPU could do at most, worked out from instructions and bytes: a model, not a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from backprop_xp.bench.cases import Case

from backprop_xp.backend import Backend


@dataclass(frozen=True)
class Device:
    """A GPU on paper.

    Multiprocessors, clock and memory are from NVIDIA's architecture papers ("NVIDIA A100 Tensor Core GPU
    Architecture", 2020; "NVIDIA H100 Tensor Core GPU Architecture", 2022; SXM modules of 80 GB, and the clock
    at which their peak rates are given). Results per clock and multiprocessor are from the table of arithmetic
    throughput in the CUDA C++ Programming Guide; loads and stores take a lane each of the 32 that reach memory.

    Attributes:
        architecture: the 80 of sm_80.
        clock: Hz.
        memory: bytes/s.
        float32, float64: additions, products or multiply-adds per clock and multiprocessor.
        others: integer and logical operations, comparisons and moves.
        mufu: reciprocals, exponentials and the like.
        lanes: loads and stores.
        issued: instructions of any kind.
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


#: Results per clock and multiprocessor, float32 and float64, where they aren't 128 and 2.
RATES = {70: (64, 32), 75: (64, 2), 80: (64, 32), 90: (128, 64), 100: (128, 64)}

A100 = Device("A100", 80, 108, 1.410e9, 2.039e12, 64, 32)
H100 = Device("H100", 90, 132, 1.980e9, 3.352e12, 128, 64)
DEVICES = (A100, H100)


def here(backend: Backend, memory: float) -> Device:
    """The device of this backend, at its highest clock; ``memory`` is what a copy reaches."""
    device = backend.xp.cuda.Device(backend.device)
    facts, architecture = device.attributes, int(device.compute_capability)
    rates = RATES.get(architecture, (128, 2))
    clock = 1000.0 * facts["ClockRate"]
    return Device("this", architecture, facts["MultiProcessorCount"], clock, memory, *rates)


def bound(device: Device, dtype: str, counts: Mapping[str, float], bytes_moved: float) -> tuple[float, str]:
    """Samples/s if nothing ever waits, and what limits them.

    Args:
        counts: instructions a sample, by kind as in machine_code.py.
        bytes_moved: of global memory, a sample.
    """
    floats = counts.get("fma", 0) + counts.get("add or multiply", 0)
    memory = sum(counts.get(f"{where} {what}", 0) for where in ("shared", "global") for what in ("load", "store"))
    clocks = {
        "float arithmetic": floats / (device.float32 if dtype == "float32" else device.float64),
        "other arithmetic": counts.get("other arithmetic", 0) / device.others,
        "transcendentals": counts.get("mufu", 0) / device.mufu,
        "loads and stores": (memory + counts.get("local", 0)) / device.lanes,
        "instructions issued": sum(number for kind, number in counts.items() if kind != "global bytes") / device.issued,
    }
    seconds = {what: clock / (device.multiprocessors * device.clock) for what, clock in clocks.items()}
    seconds["global memory"] = bytes_moved / device.memory
    limit = max(seconds, key=lambda what: seconds[what])
    return 1 / seconds[limit], limit


def minimum(case: Case) -> tuple[dict[str, float], int]:
    """The multiply-adds of the matrix products, and the bytes of the input."""
    return {"fma": case.multiply_adds}, case.sizes[0] * np.dtype(case.dtype).itemsize


def eager(case: Case) -> tuple[int, int]:
    """The kernels that PyTorch eager launches for a net without biases and half the sum of squares, and the bytes that
    they move, a sample: each reads its operands from global memory and writes its result there.
    """
    launches = numbers = 0

    def kernel(*widths: int) -> None:
        nonlocal launches, numbers
        launches, numbers = launches + 1, numbers + sum(widths)

    layers = list(zip(case.sizes, case.sizes[1:], case.activations))
    for inputs, outputs, activation in layers:
        kernel(inputs, outputs)  # z @ W.T
        if activation != "identity":
            kernel(outputs, outputs)
    out = case.sizes[-1]
    kernel(out, out)  # z * z
    kernel(out)  # its sum
    kernel()  # times 0.5
    kernel()  # and back
    for _ in range(2):
        kernel(out, out)  # either factor's gradient, from the other and one number
    kernel(out, out, out)  # their sum
    for i, (inputs, outputs, activation) in reversed(list(enumerate(layers))):
        if activation != "identity":
            kernel(outputs, outputs, outputs)
        kernel(outputs, inputs)  # the weight's gradient
        if i > 0:
            kernel(outputs, inputs)  # the gradient in z
    return launches, numbers * np.dtype(case.dtype).itemsize
