"""A whole net as one CUDA kernel: source around kernels/net_cuda.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..activations import ACTIVATIONS
from ..dtypes import C_NAMES
from ..kernels import source as kernel_source
from ..losses import KernelLoss
from .fused import Shape, declarations
from .structs import BATCHES, assertions


class Variant(NamedTuple):
    """One way to compile a net.

    Attributes:
        sums: where the gradients' sums are, a type of kernels/net_cuda.h.
        blocks: for how many blocks a multiprocessor must have registers. 0 leaves that to the compiler, some versions
            of which put numbers into local memory to make room for more blocks.
    """

    sums: str
    blocks: int = 0

    @property
    def shares_out(self) -> bool:
        """Whether a warp's threads share the sums, as no thread has registers for all of them."""
        return self.sums == SHARED_OUT


SHARED_OUT = "SharedOut"
#: The fastest first.
VARIANTS = Variant("ReadingAhead"), Variant("InRegisters"), Variant(SHARED_OUT), Variant(SHARED_OUT, 1)
#: Registers of 4 bytes for a thread's sums, up to which the variants that hold them all are tried; a thread has 255.
#: Calculated: whether they fit is found by compiling.
MOST_SUM_REGISTERS = 200
WRITTEN_OUT = {cls.text: f"bpx::{cls.cuda_kernel}" for cls in ACTIVATIONS.values() if cls.cuda_kernel}


def variants(shape: Shape) -> tuple[Variant, ...]:
    """The variants that may fit, the fastest first; "bpx_forward" has no sums."""
    last = tuple(variant for variant in VARIANTS if variant.shares_out)
    if shape.loss is None:
        return last
    parameters = sum(_counts(shape))
    worth_trying = parameters * (2 if shape.dtype == "float64" else 1) <= MOST_SUM_REGISTERS
    return VARIANTS if worth_trying else last


def source(
    shape: Shape,
    activations: Sequence[Any],
    variant: Variant = VARIANTS[0],
    dense: bool = True,
    side_by_side: bool = False,
) -> str:
    """CUDA source of the kernel ``bpx_backprop``, or ``bpx_forward`` where ``shape`` has no loss.

    Its arguments are ``bpx::Batch``, then a pointer to each weight and bias, layer by layer, then the activations' and
    the loss's parameters.

    Args:
        variant: one of VARIANTS.
        dense: whether the features of a sample in x and y are adjacent.
        side_by_side: ``bpx_backprop_nets`` instead, for many nets, in a grid as of_net of kernels/net_cuda.h has it. In
            place of the pointers it takes one to all parameters, net by net, and of each net all weights, then all
            biases, as gradients are given; how many numbers of x and y each net has to itself; and int64 numbers, of
            which those that aren't 0 are of nets that are left alone.
    """
    sizes = _counts(shape)
    scalars = sum(len(f.parameters) for f in activations)
    if isinstance(shape.loss, KernelLoss):
        scalars += shape.loss.parameters(shape.sizes[-1])
    batch, order, first = "batch", "bpx::InOrder", []
    pointers = [f"const S* __restrict__ w{k}" for k in range(len(sizes))]
    from_ = [f"w{k}" for k in range(len(sizes))]
    if side_by_side:
        pointers = ["const S* parameters", "bpx::i64 x_net", "bpx::i64 y_net", "const bpx::i64* ended"]
        from_ = [f"parameters + {at}" for at in _matrices_first(shape)]
        first = ["  if (ended[blockIdx.y]) return;", f"  parameters += bpx::i64(blockIdx.y) * {sum(sizes)};"]
        batch, order = "bpx::of_net<Net>(batch, x_net, y_net)", "MatricesFirst"
    arguments = ", ".join(["const bpx::Batch<S> batch", *pointers, *(f"S s{k}" for k in range(scalars))])
    copies = [
        f"  bpx::copy_parameters<{n}>({at}, params + {sum(sizes[:k])});" for k, (n, at) in enumerate(zip(sizes, from_))
    ]
    if shape.loss is None:
        name, run = "bpx_forward", "bpx::run_forward<Net, S>(batch, params, scalars)"
    else:
        name = "bpx_backprop_nets" if side_by_side else "bpx_backprop"
        run = f"bpx::run_backprop<bpx::{variant.sums}<Net>, S, {order}>({batch}, params, scalars)"
    bounds = f"bpx::threads, {variant.blocks}" if variant.blocks else "bpx::threads"
    code = [
        kernel_source("net_cuda.h"),
        declarations(shape, activations, WRITTEN_OUT, dense=dense),
        f"using S = {C_NAMES[shape.dtype]};",
        *([_order(shape)] if side_by_side else []),
        *assertions(BATCHES[shape.dtype]),
        f"BPX_ENTRY void __launch_bounds__({bounds}) {name}({arguments}) {{",
        *first,
        f"  __shared__ __align__(16) S params[{sum(sizes)}];",
        *copies,
        "  __syncthreads();",
        f"  const S scalars[] = {{{', '.join(f's{k}' for k in range(scalars)) or 'S(0)'}}};",
        f"  {run};",
        "}",
        "",
    ]
    return "\n".join(code)


def _counts(shape: Shape) -> list[int]:
    """How many numbers each weight and each bias holds, layer by layer."""
    layers = zip(shape.sizes, shape.sizes[1:], shape.bias)
    return [n for a, b, has in layers for n in (a * b, *([b] if has else []))]


def _matrices_first(shape: Shape) -> list[int]:
    """Where each weight and each bias begins, layer by layer, if all weights stand before all biases."""
    layers = [*zip(shape.sizes, shape.sizes[1:], shape.bias)]
    weight, bias = 0, sum(a * b for a, b, _ in layers)
    found = []
    for a, b, has in layers:
        found += [weight, *([bias] if has else [])]
        weight, bias = weight + a * b, bias + b * has
    return found


def _order(shape: Shape) -> str:
    """``struct MatricesFirst``, an order of kernels/net_cuda.h."""
    text, end = "", 0
    for n, at in zip(_counts(shape), _matrices_first(shape)):
        text += f"p < {end + n} ? p + {at - end} : "
        end += n
    return f"struct MatricesFirst {{ BPX_FN static int at(int p) {{ return {text}p; }} }};"
