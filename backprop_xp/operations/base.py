"""What a node of a graph computes: the class of all operations, and what one is told where it runs.

All arrays are batches, (n, width), a sample a row; one sample comes as a batch of one. An operation keeps nothing
from a forward to a backward pass: it may run on several tiles of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..backend import Array
from ..derivatives.chain_rule import Rules

Draw = Callable[[tuple[int, int]], Any]
#: A node as it is written down: its name, operation and inputs.
Described = tuple[str, "Operation", tuple[str, ...]]

#: Methods that are an operation's arithmetic, and all that a subclass or an object may override.
ARITHMETIC = frozenset({"forward", "backward", "from_context", "new_buffers"})
METHODS = ARITHMETIC | {"arity", "width", "initial", "initial_buffers"}


@dataclass(slots=True)
class Context:
    """Where an operation runs: at a node, in one call, on the whole batch or some of its samples.

    Attributes:
        node: the node's name.
        xp: the array module, numpy or cupy.
        dtype, shape: of the node's value, (n, width).
        training: whether the call trains: dropout drops, and batch normalisation looks at the batch.
        buffers: the node's, by name.
        key: 64 bits to draw from, which depend on the net's seed, the number of the training call and the node; None
            where nothing is drawn.
        first: the number of the first sample in the whole batch.
    """

    node: str
    xp: Any
    dtype: np.dtype
    shape: tuple[int, int]
    training: bool
    buffers: Mapping[str, Array]
    key: int | None
    first: int


class WholeBatch:
    """All samples of a batch, of which operations are shown parts: here the one part that is everything.

    Attributes:
        samples: how many there are.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def total(self, parts: Sequence[Array], like: Array) -> Array:
        """The sum of arrays, one for each part that is here, over all parts wherever they are; shaped as ``like``."""
        return parts[0]


class Operation:
    """What a node computes from its inputs. Subclass it for a node of your own: :meth:`forward` and :meth:`backward`.

    Attributes:
        arity: how many inputs it takes; None for any number from one on.
        name: what to call it in drawings and messages.
        scope: "sample" in a subclass whose value and gradients in the inputs are, for each sample, the same whatever
            others are in the batch, and whose parameters' gradients are sums over the samples. Engines may then give
            it some of the samples at a time; without it, or with "batch", it always gets all of them, and with
            "batch in training" in calls that train. One that changes its buffers gets all of them there as well.
        needs_key: whether it draws from its context's key in training.
        in_layers: whether one of one input may stand in a layer of a :class:`backprop_xp.Net`, behind W z + b.
    """

    name: str = ""
    arity: int | None = 1
    needs_key: ClassVar[bool] = False
    in_layers: ClassVar[bool] = True

    def width(self, *widths: int) -> int:
        """Features of the result, from the inputs' features; a ValueError where they don't fit each other."""
        return widths[0]

    def initial(self, widths: tuple[int, ...], draw: Draw) -> Mapping[str, Any]:
        """The parameters by name, as they are at first; ``draw((out, in))`` draws by the net's initialiser."""
        return {}

    def initial_buffers(self, widths: tuple[int, ...]) -> Mapping[str, Any]:
        """The buffers by name, as they are at first: arrays that are kept and moved with the net, but not trained."""
        return {}

    def from_context(self, context: Context, *inputs: Array) -> Mapping[str, Any]:
        """What forward and backward take by name besides the parameters, computed once a call: here the buffers."""
        return context.buffers

    def forward(self, *inputs: Array, **given: Any) -> Array:
        """The value, (n, width), from the inputs, and by name the parameters and what :meth:`from_context` gave."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, *inputs)")

    def backward(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        """From the gradient in the value those in the inputs, then in the parameters: one array, or a tuple."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(self, grad, *inputs)")

    def from_parts(self, context: Context, inputs: Sequence[Array], batch: WholeBatch) -> Mapping[str, Any]:
        """What :meth:`from_context` would give for the whole batch, of which parts are here (the first input of each).

        It and :meth:`backward_of_parts` are for operations with ``scope = "batch in training"`` that work on several
        machines: what they must know of other samples are sums, ``batch.total``, for which all parts wait.
        """
        raise NotImplementedError(f"{type(self).__name__} must define from_parts(self, context, inputs, batch)")

    def backward_of_parts(
        self, grads: Sequence[Array], inputs: Sequence[Array], batch: WholeBatch, **given: Any
    ) -> list[Any]:
        """What :meth:`backward` answers for each part that is here; parameters' gradients are sums over that part."""
        raise NotImplementedError(f"{type(self).__name__} must define backward_of_parts(self, grads, inputs, batch)")

    def push(self, rules: Rules, *inputs: Array, **given: Any) -> Array:
        """The value with its derivatives, a stack (signals, n, width) ordered by ``rules``, from the inputs' stacks.

        It and :meth:`pull` are to the stacks what :meth:`forward` and :meth:`backward` are to the signals alone, and
        take by name what these take. An operation without them has no derivatives in x.
        """
        raise NotImplementedError(f"{type(self).__name__} must define push(self, rules, *inputs)")

    def pull(self, rules: Rules, grad: Array, *inputs: Array, **given: Any) -> Any:
        """From the gradient in the value's stack those in the inputs' stacks, then in the parameters (their shapes)."""
        raise NotImplementedError(f"{type(self).__name__} must define pull(self, rules, grad, *inputs)")

    def per_sample(self, grad: Array, *inputs: Array, **given: Any) -> Any:
        """The parameters' gradients of every sample for itself, (n, *shape): one array, or a tuple.

        :meth:`backward` gives their sums. Only operations with parameters need it, for gradients sample by sample.
        """
        raise NotImplementedError(f"{type(self).__name__} must define per_sample(self, grad, *inputs)")

    def new_buffers(self, context: Context, *inputs: Array, **given: Any) -> Mapping[str, Array]:
        """The buffers that a forward pass in training changes, by name: new arrays."""
        return {}

    def expanded(self, name: str, inputs: tuple[str, ...]) -> list[Described]:
        """The nodes that a node of this operation stands for, the last of them with its name."""
        return [(name, self, inputs)]

    def in_layer(self) -> Any:
        """What a layer of a Net has after W z + b where it was given this: an activation, or an operation.

        Raises:
            ValueError: it can't stand there.
        """
        if self.arity != 1 or not self.in_layers:
            raise ValueError(f"{called(self)} can't stand in a layer of a Net: write the net as a GraphNet")
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({shown})"

    @property
    def changes_buffers(self) -> bool:
        """Whether training changes its buffers, of what it sees of the batch."""
        return "new_buffers" in vars(self) or type(self).new_buffers is not Operation.new_buffers

    def has(self, *methods: str) -> bool:
        """Whether these methods fit its forward and backward: the nearest class with either has them as well.

        A subclass that overrides forward alone computes something else than the push that it inherits.
        """
        defined = [vars(self), *(vars(cls) for cls in type(self).__mro__ if cls is not Operation)]
        nearest = next((own for own in defined if own.keys() & ARITHMETIC), {})
        return nearest.keys() >= set(methods)


def called(thing: Any) -> str:
    """What to call an operation, an activation or a loss, for people."""
    return getattr(thing, "name", "") or type(thing).__name__
