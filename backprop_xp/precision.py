"""How many bits of their factors a net's products keep: what the hardware is allowed to do.

Sums, losses, activations, parameters and gradients stay float32 in every precision; the factors of each product,
signals, weights and the gradients that go backward, are rounded to the nearest, ties to even (a CPU's bfloat16 rounds
what it adds up to the gradients of biases, too). A precision is what is
allowed, not what must be: products that no hardware computes so (on devices before sm_80, on processors without AVX-512
BF16, of nets no layer of which has 16 inputs and outputs, and whatever an engine without it runs) are float32.
``net.plan(x)`` says which it is. A CPU knows "bfloat16" alone, for 25 samples of a chain and more, in the pass for nets
of any widths (:mod:`backprop_xp.programs.matrices`).

The errors below are about those of losses, outputs and gradients of nets of two layers, 33-48-17 and 300-40-17, against
float64 and relative to the largest element of each array, as tests/engines/test_tensor_cores.py finds them where the
instructions are executed on a CPU; it allows twice as much. Deeper nets add up the errors of their layers. Factors are
rounded there as on a device, but a device may round the sum of one instruction's products in other ways, which it
doesn't say: by calculation up to some 1e-6 more. None of this was measured on a device. For "bfloat16" of a CPU
tests/engines/fused/test_bfloat16.py finds the same error. With relu rounding decides the slope of some units: gradients
of 784-128-10 are then 3e-2 of their norm away.

============ ========= ==================================== =====================================================
precision    error     bits of a factor                     range
============ ========= ==================================== =====================================================
"float32"    5e-7      24                                   float32's; no tensor core computes so
"tf32x3"     5e-7      22, in three products of 11          float32's, with fewer bits below 1e-34
"tf32"       1e-3      11                                   float32's
"bfloat16"   1e-2      8                                    float32's; on a CPU numbers below 1.2e-38 become zero
"float16"    1e-3      11                                   to 65504: larger signals and weights become infinite
============ ========= ==================================== =====================================================

In float16 the gradients at the outputs are multiplied by a power of two, for each tile of samples by itself and by its
largest gradient, and everything that is computed from them is divided by it in float32 (kernels/tensor_cuda.h): loss
scaling, with no number to choose and no state. Gradients of less than 2^-32 of their tile's largest one become zero.
Graphs that are no chains have values and gradients in float32 between their nodes, and a power of two for each product
(kernels/graph_tensor.h); the errors above hold for them too, of a graph of three layers with both normalisations.
The layered engine leaves products to cuBLAS: TF32 for "tf32" and "float16", bfloat16 for "bfloat16", else float32.

"auto" is "tf32x3" where that is calculated to be faster than float32, which has not been measured (plan/cost.py), and
"float32" everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import inputs
from .literals import PrecisionName

#: The names of all, beside "auto".
PRECISIONS: tuple[PrecisionName, ...] = ("float32", "tf32x3", "tf32", "bfloat16", "float16")
#: Those in which gradients are 1e-3 or more of their size away from what they would be: a wrong one looks no worse.
ROUGH = ("tf32", "bfloat16", "float16")
#: The first architecture whose tensor cores know them all, the 80 of sm_80.
FIRST_ARCHITECTURE = 80
#: A product of matrices that are less wide on one side is not worth tensor cores, which compute 16 by 8 at a time.
LEAST_WIDTH = 16


def as_precision(name: Any, dtype: np.dtype) -> PrecisionName:
    """A precision that a net of this dtype may have. Raises ValueError."""
    name = inputs.one_of("precision", name, ("auto", *PRECISIONS))
    if dtype != np.float32 and name not in ("auto", "float32"):
        raise ValueError(f"precision {name!r} is for nets of dtype float32, this one is of {dtype.name}")
    return name


def why_not(products: Sequence[tuple[int, int]], dtype: np.dtype, lacking: str) -> str:
    """Why none of these products, given as (inputs, outputs), is rounded, "" if they may be.

    Args:
        lacking: why the hardware rounds nothing, "" if it does.
    """
    if dtype != np.float32:
        return f"its dtype is {dtype.name}"
    if lacking:
        return lacking
    if all(min(pair) < LEAST_WIDTH for pair in products):
        return f"no layer has {LEAST_WIDTH} inputs and as many outputs"
    return ""


def why_not_on(architecture: int) -> str:
    """Why no tensor core of a device rounds float32, "" if they do."""
    if architecture < FIRST_ARCHITECTURE:
        return f"the device is an sm_{architecture}, and tensor cores for float32 came with sm_{FIRST_ARCHITECTURE}"
    return ""
