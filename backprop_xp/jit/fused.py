"""A whole net as one compiled pass: C++ source around kernels/net_cpu.h, and the functions it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..activations import ACTIVATIONS, Identity
from ..formulas import emit
from ..kernels import source as kernel_source
from ..losses import KernelLoss
from . import cache as kernel_cache
from . import structs
from .elementwise import NUMBERS
from .structs import DOUBLE, INT, POINTER

#: Parameters from which products blocked for the caches beat a tile in registers. Measured when the wide form was
#: written, on a two-core machine with AVX-512; the figures were not kept.
WIDE_PARAMETERS = 3000
#: Features of the widest layer. Calculated: the signals of a tile of 96 samples must fit a second-level cache.
MOST_WIDTH = 4096
#: Layers of a net that is compiled, at most. One compilation takes 0.1 s a layer of the wide form, 0.13 s a layer of
#: the narrow one, measured on one processor of a 2-core EPYC (Zen 4): beyond, a user waits for 8 s and more.
MOST_LAYERS = 64
#: Samples in a chunk of the narrow form, and in one of a net of at most SMALL_NET parameters: adding a chunk's sums
#: takes a small net long beside its samples, and a large one not. No figures were kept.
CHUNK, SMALL_CHUNK, SMALL_NET = 1024, 4096, 256
#: Samples in a chunk of the wide form, at least and at most; between them it is an eighth of the batch. A chunk costs
#: memory traffic for each parameter, but threads need chunks to work on. No figures were kept.
LEAST_WIDE_CHUNK, MOST_WIDE_CHUNK = 64, 2048
#: Multiply-adds in a chunk for which waking a thread pays: some 50 microseconds of a core. No figures were kept.
WORTH_A_THREAD = 6e6


@dataclass(frozen=True)
class Shape:
    """All that is known about a net, and about a kind of call of it, when it is compiled.

    Attributes:
        activations: a formula's text a layer.
        loss: what :func:`backprop_xp.losses.kernel_of` says, None for forward only.
        factors: whether gradients are multiplied by sample weights or a scale.
    """

    sizes: tuple[int, ...]
    bias: bool
    dtype: str
    activations: tuple[Any, ...]
    loss: Any
    factors: bool = False
    input_grad: bool = False

    @property
    def parameters(self) -> int:
        """How many numbers the weights and biases hold."""
        return sum((a + self.bias) * b for a, b in zip(self.sizes, self.sizes[1:]))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one sample's matrix products, for the loss and all gradients that are wanted."""
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:])]
        return 3 * sum(products) - (0 if self.input_grad else products[0])

    @property
    def wide(self) -> bool:
        """Whether products are blocked for the caches (kernels/wide.h) or tiles stay in registers (net_cpu.h)."""
        return self.parameters >= WIDE_PARAMETERS

    @property
    def narrow_chunk(self) -> int:
        """Samples in a logical chunk of the narrow form."""
        return SMALL_CHUNK if self.parameters <= SMALL_NET else CHUNK


def wide_chunk(multiply_adds: int, samples: int, rows: int) -> int:
    """Samples in a logical chunk of the wide form: whole tiles of ``rows`` samples, where it holds more than one tile.

    Args:
        multiply_adds: of one sample.
        samples: in the batch.
        rows: samples in a tile.
    """
    least = max(int(WORTH_A_THREAD / max(1, multiply_adds)), LEAST_WIDE_CHUNK)
    wanted = min(max(samples // 8, least), MOST_WIDE_CHUNK)
    return wanted if wanted < rows else wanted // rows * rows


#: By a formula's text, the struct of kernels/activations.h that computes it faster.
WRITTEN_OUT = {cls.text: f"bpx::{cls.kernel}" for cls in ACTIVATIONS.values() if cls.kernel}

_programs: dict[Shape, Any] = {}


def too_deep(layers: int) -> str:
    """Why a net of so many layers isn't compiled, "" if it is."""
    return f"it has {layers} layers, and compiling more than {MOST_LAYERS} takes too long" * (layers > MOST_LAYERS)


def program(shape: Shape, activations: Sequence[Any]) -> Any:
    """The library with the entry points of kernels/net_cpu.h or kernels/wide.h. Raises CompileError."""
    if shape not in _programs:
        what = f"the net {'-'.join(map(str, shape.sizes))} in {shape.dtype}"
        library = kernel_cache.library(source(shape, activations), what)
        if shape.wide:
            structs.check(library, structs.WideArgs)
            _declare_wide(library)
        elif shape.loss is None:
            structs.check(library, structs.Args)
            library.bpx_forward.argtypes, library.bpx_forward.restype = (POINTER,), None
        else:
            structs.check(library, structs.Args, structs.Tree)
            library.bpx_backprop.argtypes, library.bpx_backprop.restype = (POINTER,), None
            library.bpx_tree_add.argtypes, library.bpx_tree_add.restype = (POINTER, POINTER, POINTER, INT), None
            library.bpx_tree_total.argtypes, library.bpx_tree_total.restype = (POINTER, POINTER), DOUBLE
        if shape.loss is not None:
            library.bpx_small.argtypes, library.bpx_small.restype = (POINTER, INT, POINTER, POINTER, DOUBLE), INT
        else:
            library.bpx_small_forward.argtypes = (POINTER, INT, POINTER, POINTER)
            library.bpx_small_forward.restype = None
        structs.check(library, structs.SmallNet)
        library.bpx_small_memory.argtypes, library.bpx_small_memory.restype = (), INT
        _programs[shape] = library
    return _programs[shape]


def source(shape: Shape, activations: Sequence[Any]) -> str:
    """The translation unit for this net."""
    forms = ("FORWARD", "BACKPROP", "WIDE_FORWARD", "WIDE_BACKPROP")
    entry = f"BPX_{forms[2 * shape.wide + (shape.loss is not None)]}(Net)\n"
    header = kernel_source("wide.h" if shape.wide else "net_cpu.h")
    return "\n".join([header, declarations(shape, activations, WRITTEN_OUT), entry])


def declarations(shape: Shape, activations: Sequence[Any], written_out: Mapping[Any, str], **facts: bool) -> str:
    """C++ source of ``struct Net`` and of what it is made of; equal activations are one struct.

    Args:
        written_out: names of structs in kernels/activations.h, which stand for formulas of these texts.
        facts: further constants of the net.
    """
    names, code = activation_source(activations, written_out)
    bias = str(shape.bias).lower()
    layers = ", ".join(
        f"bpx::Layer<{inputs}, {outputs}, {names[f.text]}, {bias}>"
        for inputs, outputs, f in zip(shape.sizes, shape.sizes[1:], activations)
    )
    loss, loss_code = loss_source(shape.loss)
    code += loss_code
    facts |= {"backward": shape.loss is not None, "factors": shape.factors, "input_grad": shape.input_grad}
    flags = ", ".join(f"{name} = {str(fact).lower()}" for name, fact in facts.items())
    code += [
        "struct Net {",
        f"  using S = {NUMBERS[shape.dtype]};",
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


def _declare_wide(library: Any) -> None:
    library.bpx_wide.argtypes, library.bpx_wide.restype = (POINTER, INT, INT, POINTER, POINTER), DOUBLE
    for name in ("bpx_wide_pack", "bpx_wide_unpack"):
        function = getattr(library, name)
        function.argtypes, function.restype = (POINTER, POINTER), None
    for name in ("params", "grads", "memory", "rows"):
        function = getattr(library, f"bpx_wide_{name}")
        function.argtypes, function.restype = (), INT
