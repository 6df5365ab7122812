"""One sample through the pass for nets of any widths, which leaves every signal and gradient.

It is for chains that get no pass of their own for a sample, which sample.py has: of many parameters, or very deep.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..plan.net import AnyNet
from ..programs.structs import address
from .batch import Ready, kernel, parts
from .chain import Chain
from .gradients import Gradients, hand_out
from .sample import NOTHING, Target


class _Ready(Ready):
    """The pass, and where in an array of all values and gradients those of each node lie."""

    def __init__(self, net: AnyNet, chain: Chain, loss: Any, loss_key: Any) -> None:
        super().__init__(net, chain, loss, loss_key)
        plan, signals = net._plan(), net._signals()
        assert plan.chain is not None
        (x,), at = plan.inputs, self._features
        self._values = {x: slice(0, at)}
        gradients: dict[str, slice | None] = {x: None}
        for linear, activation in plan.chain:  # in the order of bpx::Signal
            width = linear.width
            t, z, grad_z, grad_t = (slice(begin, begin + width) for begin in range(at, at + 4 * width, width))
            for node, value, grad in ((linear, t, grad_t), (activation, z, grad_z)):
                if node is not None:
                    self._values[node.name], gradients[node.name] = value, None if loss is None else grad
            at += 4 * width
        self._numbers = at
        #: Tensors of signals, and what a call leaves to each but its own array
        self._left = [
            (signals[name], (value, gradients[name], (value.stop - value.start,)))
            for name, value in self._values.items()
            if name in signals
        ]
        self._kept = net._call(np.zeros(self._features, net.dtype), True, False)

    def _fits(self, x: np.ndarray) -> bool:
        return x.shape == (self._features,) and x.dtype.kind == "f" and self._is_free()

    def _run_all(self, net: AnyNet, x: np.ndarray) -> np.ndarray:
        """All values, and their gradients."""
        found = np.empty(self._numbers, self._dtype)
        found[: self._features] = x
        self._pass.args.signals = address(found) + self._features * found.itemsize
        self._run(self._pass, net, address(found), 1)
        return found

    def _leave(self, net: AnyNet, found: np.ndarray) -> None:
        for tensor, later in self._left:
            tensor._later = (found, *later)
        net._kept = (self._kept, (found, self._values, NOTHING))


class WideSample(_Ready):
    """The loss and all gradients of one sample, with one kind of target: "none", "values" or "classes"."""

    def __init__(self, net: AnyNet, chain: Chain, target: str) -> None:
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        super().__init__(net, chain, net.loss, kernel(net.loss, target))
        self._target = Target(target, self._outputs, net.dtype)
        args, count = self._pass.args, parts(net, self._outputs)
        args.y, args.y_column, args.scale = self._target.address, 1, 1.0 / count if count else 1.0
        self._gradients = Gradients(self._pass.parameters, self._dtype)

    def takes(self, x: np.ndarray, y: Any, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return self._wanted and keep_signals is not False and self._fits(x) and self._target.takes(y)

    def loss_and_grad(self, net: AnyNet, x: np.ndarray, y: Any) -> Any:
        """Fill every gradient and signal of the net, and return the loss."""
        with self._lock:
            self._target.put(y)
            args, gradients = self._pass.args, self._gradients.unused()
            args.grads = address(gradients)
            found = self._run_all(net, x)
            loss = self._dtype.type(args.total * args.scale)
        hand_out(gradients, self._filled, self._pass)
        self._leave(net, found)
        return loss


class WideOutputs(_Ready):
    """The outputs of one sample."""

    def __init__(self, net: AnyNet, chain: Chain) -> None:
        super().__init__(net, chain, None, None)

    def takes(self, x: np.ndarray, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return keep_signals is not False and self._fits(x)

    def forward(self, net: AnyNet, x: np.ndarray) -> np.ndarray:
        """The outputs (out,); every signal is filled, without a gradient."""
        output = np.empty(self._outputs, self._dtype)
        with self._lock:
            self._pass.args.output = address(output)
            found = self._run_all(net, x)
        self._leave(net, found)
        return output
