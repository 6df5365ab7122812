"""What a GPU could do at most, worked out from instructions and bytes: a model, not a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from backprop_xp.bench.cases import Case

from backprop_xp.backend import Backend
from backprop_xp.plan.devices import A100, H100, Device, device

#: What is counted beside instructions.
MEASURES = ("global bytes", "shared wavefronts", "cache bytes")
DEVICES = (A100, H100)


def instructions(counts: Mapping[str, float]) -> float:
    """All of them, as opposed to bytes and wavefronts."""
    return sum(number for kind, number in counts.items() if kind not in MEASURES)


def here(backend: Backend, memory: float) -> Device:
    """The device of this backend, at its highest clock; ``memory`` is what a copy reaches."""
    assert backend.device is not None
    return replace(device(backend.device), memory=memory)


def bound(on: Device, dtype: str, counts: Mapping[str, float], bytes_moved: float) -> tuple[float, str]:
    """Samples/s if nothing ever waits, and what limits them.

    Args:
        counts: instructions a sample, by kind as in machine_code.py.
        bytes_moved: of global memory, a sample.
    """
    floats = counts.get("fma", 0) + counts.get("add or multiply", 0)
    memory = sum(counts.get(kind, 0) for kind in ("shared wavefronts", "global load", "global store"))
    clocks = {
        "float arithmetic": floats / (on.float32 if dtype == "float32" else on.float64),
        "other arithmetic": counts.get("other arithmetic", 0) / on.others,
        "transcendentals": counts.get("mufu", 0) / on.mufu,
        "loads and stores": (memory + counts.get("local", 0)) / on.lanes,
        "instructions issued": instructions(counts) / on.issued,
    }
    seconds = {what: clock / (on.multiprocessors * on.clock) for what, clock in clocks.items()}
    seconds["global memory"] = bytes_moved / on.memory
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
