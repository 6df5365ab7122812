"""What an engine is: a module of engines/ with these functions, each of which takes a :class:`Call`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from ..backend import Array
from .call import Call, Result, Values


@runtime_checkable
class Engine(Protocol):
    """A way to run a whole batch."""

    def why_not(self, call: Call) -> str:
        """Why it can't run this call, "" if it can."""

    def loss_and_grad(self, call: Call) -> Result:
        """The loss and the gradients of all parameters. Raises CompileError."""

    def forward(self, call: Call) -> tuple[Array, Values | None]:
        """The outputs, and all values where the call keeps them. Raises CompileError."""

    def intermediate_bytes(self, call: Call) -> int:
        """How much memory it takes beside input, parameters and gradients."""


@runtime_checkable
class Yielding(Engine, Protocol):
    """An engine that "auto" doesn't always take, although it could run the call."""

    def yields(self, call: Call) -> str:
        """Why "auto" leaves this call to the next engine, "" if it doesn't."""


@runtime_checkable
class Rounding(Engine, Protocol):
    """An engine whose products may have rounded factors."""

    def products(self, call: Call) -> tuple[str, str]:
        """The precision of a call's products (:mod:`backprop_xp.precision`), and of float32 why it is no other."""


@runtime_checkable
class Chunked(Engine, Protocol):
    """An engine for one device that gives the same bits however a batch is cut into whole chunks."""

    def chunk_samples(self, call: Call) -> int:
        """Samples in a chunk: a function of the net and of the number of samples alone."""

    def pieces(self, call: Call) -> Pieces:
        """The loss and the gradients of a batch, of which pieces of whole chunks come one after another.

        The inputs and targets of ``call`` may still be on the host. Raises CompileError.
        """


class Pieces(Protocol):
    """The loss and the gradients of a batch that comes in pieces."""

    def add(self, call: Call, grads: Mapping[str, Array]) -> None:
        """Compute a piece behind those before; ``grads`` (n, features) get the gradients in its inputs, if any."""

    def result(self, grads: Mapping[str, Array]) -> Result:
        """The loss and the gradients of all parameters, with the gradients in the inputs of all pieces."""
