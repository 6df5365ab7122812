"""A whole net as one compiled pass: what is known of it, and the C++ types of its layers, activations and loss."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ..activations import ACTIVATIONS, Identity
from ..dtypes import C_NAMES
from ..formulas import emit
from ..losses import KernelLoss
from ..toolchain.compiler import CompileError
from .structs import INT

#: Parameters from which products blocked for the caches beat a tile in registers. Measured on a 2-core EPYC (Zen 4).
WIDE_PARAMETERS = 3000
#: Samples from which on a net with fewer parameters is worth a pass of its own, which has to be compiled first: with
#: gradients for at most FEW_PARAMETERS, for more, and for outputs alone, of which there is seldom more than one call.
#: Measured on a 2-core EPYC (Zen 4), one thread: for 512 samples the pass for any widths takes 1.2 to 2.2 times as
#: long, for 1,024 1.4 to 3.4 times; for 256 1.1 to 1.6 times, 3 to 12 us, of which a compilation takes 20,000.
NARROW_SAMPLES, MORE_SAMPLES, NARROW_OUTPUTS = 512, 2048, 1 << 17
FEW_PARAMETERS = 1000
#: Layers of a net that is compiled, at most. One compilation takes 0.05 s for each layer of a size that no other has,
#: measured on one processor of a 2-core EPYC (Zen 4): beyond, a user waits for 3 s and more.
MOST_LAYERS = 64
#: Samples in a chunk of the narrow form, and in one of a net of at most SMALL_NET parameters: adding a chunk's sums
#: takes a small net long beside its samples, and a large one not. No figures were kept.
CHUNK, SMALL_CHUNK, SMALL_NET = 1024, 4096, 256


#: Operations that an activation and its derivative cost, within a factor of three.
ACTIVATION_FLOPS = 20


@dataclass(frozen=True)
class Shape:
    """All that is known about a net, and about a kind of call of it, when it is compiled.

    Attributes:
        bias: whether each layer has one.
        activations: a formula's text a layer.
        loss: what :func:`backprop_xp.losses.kernel_of` says, None for forward only.
        factors: whether gradients are multiplied by sample weights or a scale.
        precision: of the products in engines that have tensor cores at hand, see :mod:`backprop_xp.precision`.
    """

    sizes: tuple[int, ...]
    bias: tuple[bool, ...]
    dtype: str
    activations: tuple[Any, ...]
    loss: Any
    factors: bool = False
    input_grad: bool = False
    precision: str = "float32"

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return 4 if self.dtype == "float32" else 8

    @property
    def parameters(self) -> int:
        """How many numbers the weights and biases hold."""
        return sum((a + has) * b for a, has, b in zip(self.sizes, self.bias, self.sizes[1:]))

    @property
    def flops(self) -> int:
        """Operations for one sample, about: those of the matrix products, and some for each activation."""
        return 6 * self.parameters + ACTIVATION_FLOPS * sum(self.sizes)

    @property
    def name(self) -> str:
        """For people: of the net's pass for many samples."""
        kind = "outputs" if self.loss is None else "loss and gradients"
        more = [self.loss] if isinstance(self.loss, str) else []
        more += ["weighted"] * self.factors + ["with the input's"] * self.input_grad
        net = f"the net {'-'.join(map(str, self.sizes))} in {self.dtype}"
        return f"{kind} of {net}" + (f" ({', '.join(more)})" if more else "")

    def narrow(self, samples: int) -> bool:
        """Whether a batch is worth a pass that is compiled for this net alone (kernels/narrow_cpu.h), in registers.

        Others go through the pass for nets of any widths (kernels/matrices.h).
        """
        return samples >= narrow_from(self.parameters, len(self.bias), self.loss is None)

    @property
    def narrow_chunk(self) -> int:
        """Samples in a logical chunk of the narrow form."""
        return SMALL_CHUNK if self.parameters <= SMALL_NET else CHUNK


#: Whether batches of any size go through the pass for nets of any widths, as where many nets are trained for a short
#: time each, none of which is worth a compilation. To be set and reset around whole runs.
any_widths: ContextVar[bool] = ContextVar("any_widths", default=False)


def narrow_from(parameters: int, layers: int, outputs_alone: bool = False) -> int:
    """Samples from which on the narrow form is used here and now, more than any batch has where it isn't."""
    if any_widths.get() or why_not_narrow(parameters, layers):
        return sys.maxsize
    if outputs_alone:
        return NARROW_OUTPUTS
    return NARROW_SAMPLES if parameters <= FEW_PARAMETERS else max(NARROW_SAMPLES, MORE_SAMPLES)


#: By a formula's text, the struct of kernels/activations.h that computes it faster.
WRITTEN_OUT = {cls.text: f"bpx::{cls.kernel}" for cls in ACTIVATIONS.values() if cls.kernel}


def why_not_narrow(parameters: int, layers: int) -> str:
    """Why a net has no narrow form, "" if it has one."""
    return "it has many parameters" * (parameters >= WIDE_PARAMETERS) or too_deep(layers)


def too_deep(layers: int) -> str:
    """Why a net of this many layers gets no pass of its own, "" if it gets one."""
    return f"it has {layers} layers, and compiling more than {MOST_LAYERS} takes too long" * (layers > MOST_LAYERS)


def same_registers(library: Any, other: Any, what: str) -> None:
    """Raise CompileError if two libraries that work together are compiled for registers of different widths."""
    for one in (library, other):
        one.bpx_vector_bytes.restype = INT
    if library.bpx_vector_bytes() != other.bpx_vector_bytes():
        raise CompileError(f"{what} and what it works with are compiled for registers of different widths")


def declarations(shape: Shape, activations: Sequence[Any], written_out: Mapping[Any, str], **facts: bool) -> str:
    """C++ source of ``struct Net`` and of what it is made of; equal activations are one struct.

    Args:
        written_out: names of structs in kernels/activations.h, which stand for formulas of these texts.
        facts: further constants of the net.
    """
    names, code = activation_source(activations, written_out)
    layers = ", ".join(
        f"bpx::Layer<{inputs}, {outputs}, {names[f.text]}, {str(has).lower()}>"
        for inputs, outputs, f, has in zip(shape.sizes, shape.sizes[1:], activations, shape.bias)
    )
    loss, loss_code = loss_source(shape.loss)
    code += loss_code
    facts |= {"backward": shape.loss is not None, "factors": shape.factors, "input_grad": shape.input_grad}
    flags = ", ".join(f"{name} = {str(fact).lower()}" for name, fact in facts.items())
    code += [
        "struct Net {",
        f"  using S = {C_NAMES[shape.dtype]};",
        f"  using Layers = bpx::Layers<{layers}>;",
        f"  using Loss = {loss};",
        f"  static constexpr bool {flags};",
        f"  static constexpr bpx::i64 chunk = {shape.narrow_chunk};",
        "};",
    ]
    return "\n".join(code)


def activation_source(activations: Sequence[Any], written_out: Mapping[Any, str]) -> tuple[dict[Any, str], list[str]]:
    """The C++ types of activations by their texts, and the structs these need; equal activations are one struct."""
    names = {Identity.text: "bpx::identity", **written_out}
    structs: list[str] = []
    for f in activations:
        if f.text not in names:
            names[f.text] = f"Activation{len(structs)}"
            structs.append(emit.struct(f.formula, names[f.text], ("t",)))
    return names, structs


def loss_source(loss: Any) -> tuple[str, list[str]]:
    """The C++ type of ``Shape.loss``, and the structs it needs."""
    if not isinstance(loss, KernelLoss):
        return f"bpx::SoftmaxCrossEntropy<{str(loss == 'classes').lower()}>", []
    variables = ("z", "y") if loss.needs_target else ("z",)
    struct = emit.struct(loss.formula, "LossFormula", variables, loss.needs_target, loss.per_output)
    return "bpx::ElementwiseLoss<LossFormula>", [struct]
