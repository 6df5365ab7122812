"""From points to the derivatives that an equation reads, and from its gradients in these back to the parameters.

Every derivative can be pushed forward as a tangent, one for each input (loops.py). Of an output u whose first
derivatives alone are read, in several inputs, there is a way whose cost doesn't grow with their number, by
backpropagation twice: a plain backward pass gives g = grad u; and as the loss L(u, g) changes by

    dL = dL/du . du + v . dg        v = dL/dg

where v . g is the derivative of u along v, one tangent is pushed forward along v, and the gradients of
dL/du . u + v . g are pulled back through it, with dL/du and v held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from ..backend import Array, module_of
from .chain_rule import Rules, rules
from .differentiable import Differentiable
from .loops import stack_of_x
from .names import Named


class Way(Protocol):
    """How an equation gets what it reads.

    Attributes:
        carried: what goes through the net forward and backward, at most at once.
    """

    @property
    def carried(self) -> Rules: ...

    def push(self, net: Differentiable, x: Array, first: int) -> tuple[Array, Any]:
        """The outputs and the derivatives that are read, (signals, samples, outputs), and what :meth:`pull` needs."""
        ...

    def pull(self, net: Differentiable, kept: Any, grad_u: Array) -> tuple[list[Array], Array]:
        """The parameters' gradients, and that in x, from those in what :meth:`push` gave."""
        ...


class Tangents(NamedTuple):
    """Every derivative is pushed forward.

    Attributes:
        carried: what is read.
    """

    carried: Rules

    def push(self, net: Differentiable, x: Array, first: int) -> tuple[Array, Any]:
        return net.push(stack_of_x(x, module_of(x).eye(x.shape[1], dtype=x.dtype), self.carried), self.carried, first)

    def pull(self, net: Differentiable, kept: Any, grad_u: Array) -> tuple[list[Array], Array]:
        gradients, grad_x = net.pull(kept, grad_u, self.carried)
        return gradients, grad_x[0]


class Twice(NamedTuple):
    """Backpropagation twice.

    Attributes:
        read: what is read; first derivatives of output number ``output`` alone.
        output: its number.
    """

    read: Rules
    output: int

    @property
    def carried(self) -> Rules:
        return rules([(0,)])

    def push(self, net: Differentiable, x: Array, first: int) -> tuple[Array, Any]:
        net.check()
        xp = module_of(x)
        outputs, gradient_in_x = net.pullback(x, first)
        seed = xp.zeros_like(outputs)
        seed[:, self.output] = 1
        gradient = gradient_in_x(seed)
        u = xp.zeros((len(self.read.stack), *outputs.shape), x.dtype)
        u[0] = outputs
        for place, axis in self._axes():
            u[place, :, self.output] = gradient[:, axis]
        return u, (x, first)

    def pull(self, net: Differentiable, kept: Any, grad_u: Array) -> tuple[list[Array], Array]:
        xp, (x, first) = module_of(grad_u), kept
        direction = xp.zeros_like(x)
        for place, axis in self._axes():
            direction[:, axis] = grad_u[place, :, self.output]
        _, kept = net.push(stack_of_x(x, [direction], self.carried), self.carried, first)
        grad = xp.zeros((2, *grad_u.shape[1:]), x.dtype)
        grad[0], grad[1, :, self.output] = grad_u[0], 1
        gradients, grad_x = net.pull(kept, grad, self.carried)
        return gradients, grad_x[0]

    def _axes(self) -> list[tuple[int, int]]:
        """Of each derivative that is read its place, and the input in which it is derived."""
        return [(k, along[0]) for k, along in enumerate(self.read.stack) if isinstance(along, tuple) and along]


def cheapest(named: Mapping[str, Named], read: Rules) -> Way:
    """The way that takes the fewest products: ``named`` are the derivatives that ``read`` has in its stack."""
    derived = [at for at in named.values() if at.along != ()]
    outputs = {at.output for at in derived}
    first = all(isinstance(at.along, tuple) and len(at.along) == 1 for at in derived)
    return Twice(read, outputs.pop()) if first and len(outputs) == 1 and len(derived) > 1 else Tangents(read)
