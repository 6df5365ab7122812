"""What graphs, files and compiled code ask of an operation, besides its arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..backend import Array
from .base import Operation
from .rounded import Computed, most
from .writing import Node, Writer

COMPUTES = ("forward", "backward", "layer_part")


class BuiltInOperation(Operation):
    """An operation that is in files, in ONNX and in compiled code.

    A user's own is asked these questions as well: :data:`PLAIN` answers for it.
    """

    #: Whether its values are handed to the net.
    is_input: ClassVar[bool] = False
    #: Whether it is W z + b.
    is_linear: ClassVar[bool] = False
    #: Samples that a batch in training must have, unless it is empty.
    fewest_samples: ClassVar[int] = 1
    #: The name of the node whose parameters it takes.
    share: str | None = None

    #: What of a layer the class computes: "linear", "activation", or "" for neither.
    layer_part: ClassVar[str] = ""

    @property
    def part(self) -> str:
        """What of a layer it computes; "" too where a subclass, or the object, has another forward or backward."""
        owners = (vars(owner) for owner in (self, *type(self).__mro__))
        return next(own for own in owners if not own.keys().isdisjoint(COMPUTES)).get("layer_part", "")

    def multiply_adds(self, features: int, below: int) -> int:
        """Of one sample's matrix products, for a first input of ``features`` where ``below`` need gradients."""
        return 0

    def computed(self, value: Array, inputs: Sequence[Array], own: Mapping[str, Array]) -> Computed:
        """What a value was computed from, all arrays on NumPy; ``own`` are its parameters."""
        return Computed(max(sum(map(most, inputs)), most(value)))

    # ---- in files, in ONNX and in PyTorch ---------------------------------------------------------------------------

    #: The arguments that say what it is, and their types; a ``str | None`` may be left out.
    settings: ClassVar[Mapping[str, Any]] = {}

    def shapes(self, widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Of the parameters and buffers, by name."""
        return {name: (self.width(*widths),) for name in (*self.vectors, *self.constants)}

    def onnx(self, writer: Any, inputs: Sequence[str], own: Mapping[str, str]) -> str | None:
        """The name of its value in an ONNX graph, None if it has no form there.

        Args:
            writer: adds nodes, see :mod:`backprop_xp.exchange.to_onnx`.
            inputs: names of the inputs' values.
            own: names of its parameters and buffers in the ONNX graph, by their names here.
        """
        return None

    def module(self, maker: Any, width: int, own: Mapping[str, Any]) -> Any:
        """PyTorch's module for it, None if it has none.

        Args:
            maker: has PyTorch as ``maker.torch``, and ``maker.activation`` makes an activation's module.
            width: features of its value.
            own: its Parameters, and the numbers of its buffers as tensors of PyTorch's, by their names here.
        """
        return None

    def fx(self, writer: Any, inputs: Sequence[Any]) -> Any:
        """Its node in a graph of torch.fx, None where that calls its module; ``inputs`` are nodes there.

        Args:
            writer: adds nodes, see :mod:`backprop_xp.exchange.to_fx`.
        """
        return None

    def in_torch(self, maker: Any, inputs: Sequence[Any], own: Mapping[str, Any]) -> Any:
        """Its value in PyTorch's own operations, None if it has none there; ``inputs`` are tensors, (..., width).

        Args:
            maker: has PyTorch and what the node has at hand, see :class:`backprop_xp.torch_plain.Maker`; where
                :meth:`fx` adds a node, its ``add`` computes the value.
            own: its parameters, tensors by their names here.
        """
        return self.fx(maker, inputs)

    # ---- as compiled code, see programs/graph_source.py -------------------------------------------------------------

    #: Parameters, and buffers, of one number a feature, in the order in which compiled code packs them.
    vectors: Sequence[str] = ()
    constants: Sequence[str] = ()
    #: Numbers of each feature that its code computes of the whole batch in training, where it can.
    of_batch: ClassVar[int] = 0
    #: Whether it puts its inputs side by side, and whether it reads the pieces of such a value.
    joins: ClassVar[bool] = False
    reads_pieces: ClassVar[bool] = False
    #: Whether there is compiled code for it: that its functions are formulas is another question.
    is_compiled: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.is_compiled = cls.write is not BuiltInOperation.write

    @property
    def functions(self) -> Sequence[Any]:
        """Activations that it computes; the numbers of each are scalars of the compiled code."""
        return ()

    @property
    def has_parameters(self) -> bool:
        """Whether there is something to train."""
        return bool(self.vectors)

    def facts(self) -> tuple[Any, ...]:
        """What its code depends on besides widths, for the key of a compiled program."""
        return (type(self),)

    def passes_on(self, inputs: int, dropping: bool) -> bool:
        """Whether the value of this many inputs is the first of them; ``dropping`` where dropout drops."""
        return False

    def write(self, writer: Writer, node: Node, inputs: Sequence[str], to: int) -> None:
        """Write the forward pass over a tile: from the values of ``inputs``, names of nodes, to buffer ``to``."""
        raise NotImplementedError

    def write_below(self, writer: Writer, node: Node, inputs: Sequence[str], grad: int) -> None:
        """Write the backward pass over a tile: from buffer ``grad`` to the gradients of ``inputs`` and parameters."""
        raise NotImplementedError


#: What stands for an operation of the user's where one of these questions is asked.
PLAIN = BuiltInOperation()


def flag(value: bool) -> str:
    """As C++ has it."""
    return str(value).lower()
