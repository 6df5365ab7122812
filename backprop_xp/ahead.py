"""Compiling ahead: whatever later calls of a net need is made now, so that none of them waits for a compiler.

A copy of the net makes one call of every kind, on made-up data: what is compiled is by nature what such calls need.
"""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .derivatives.equation import Equation
from .programs import fused
from .toolchain import compiler
from .toolchain.built import Built, heard
from .toolchain.compiler import CompileError

FEW = 8  # samples: a batch for which no net has a program of its own


def compile(
    net: Any,
    say: Callable[[Built], object] | None = print,
    *,
    sample_weight: bool = False,
    input_grad: bool = False,
    equations: Equation | Sequence[Equation] = (),
) -> list[Built]:
    """Compile all that calls of this net will need: outputs, loss and gradients, of one sample and of any batch.

    What this process or an earlier one has compiled isn't compiled again. The net itself stays as it is.

    Args:
        net: a :class:`backprop_xp.Net` or :class:`backprop_xp.GraphNet`.
        say: is told of each program as soon as it is there; by default prints a line of what it is and its seconds.
        sample_weight: calls with sample weights as well.
        input_grad: calls for the gradient in the input as well.
        equations: losses that contain derivatives, whose calls are compiled as well.

    Returns:
        The programs that were compiled, or found in the cache; not those that this process already had.

    Raises:
        ValueError: an equation doesn't fit the net.
        CompileError: there is no compiler, or a program can't be compiled; the others were.
    """
    if not net.backend.on_gpu and net.engine != "layered":
        compiler.find()
    programs: list[Built] = []

    def listen(built: Built) -> None:
        programs.append(built)
        if say is not None:
            say(built)

    twin = copy.deepcopy(net)
    # made-up numbers may be beyond what a user's own code computes with; what can't be compiled is said at the end
    with heard(listen), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for equation in [equations] if isinstance(equations, Equation) else equations:
            twin.loss_and_grad(*_points(twin, equation), loss=equation, training=False)
        for call in _calls(twin, sample_weight, input_grad):
            call()
    for built in programs:
        if built.error:
            raise CompileError(f"{built.what} can't be compiled: {built.error}")
    return programs


def _calls(net: Any, sample_weight: bool, input_grad: bool) -> Iterator[Callable[[], object]]:
    """One call of each kind."""
    gradients, outputs = [(), (FEW,)], [(), (FEW,)]
    # only small nets have another program for many samples
    parameters, chain = sum(tensor.data.size for tensor in net.parameters), net._plan().chain
    many = sys.maxsize if chain is None else fused.narrow_from(parameters, len(chain))
    if many < sys.maxsize and net.plan(_inputs(net, (FEW,))).engine == "fused":
        gradients.append((many,))
        outputs.append((fused.NARROW_OUTPUTS,))
    # operations that are another thing in training may want several samples there
    modes = (False,) if net._plan().chain else (True, False)
    fewest = net.fewest_samples
    weighted, with_input = ((False, True) if asked else (False,) for asked in (sample_weight, input_grad))
    for batch, weigh, want, training in itertools.product(gradients, weighted, with_input, modes):
        if training and batch == () and fewest > 1:
            continue
        chosen = {"sample_weight": np.ones(batch) if weigh else None, "input_grad": want, "training": training}
        for y in _targets(net, batch):
            yield lambda: net.loss_and_grad(_inputs(net, batch), y, **chosen)  # noqa: B023
    for batch, training in itertools.product(outputs, modes):
        if not (training and batch == () and fewest > 1):
            yield lambda: net.forward(_inputs(net, batch), training=training)  # noqa: B023


def _inputs(net: Any, batch: tuple[int, ...]) -> Any:
    """A sample or a batch. The samples of a very large one are all the same memory."""

    def full(width: int) -> np.ndarray:
        if batch == (fused.NARROW_OUTPUTS,):
            return np.broadcast_to(np.full(width, 0.5, net.dtype), (*batch, width))
        return np.full((*batch, width), 0.5, net.dtype)

    widths = net._plan().inputs
    return full(*widths.values()) if len(widths) == 1 else {name: full(width) for name, width in widths.items()}


def _points(net: Any, equation: Equation) -> tuple[Any, np.ndarray | None]:
    """Points of an equation, with targets if it reads any."""
    y = np.full((FEW, len(equation.targets)), 0.5, net.dtype) if equation.needs_target else None
    return _inputs(net, (FEW,)), y


def _targets(net: Any, batch: tuple[int, ...]) -> list[Any]:
    """A target of each kind that the loss takes."""
    loss = net.loss
    if not getattr(loss, "needs_target", False):
        return [None]
    outputs = net._plan().output.width
    values = np.full((*batch, outputs), 1 / outputs, net.dtype)  # probabilities, too
    return [np.zeros(batch, np.int64), values] if getattr(loss, "takes_indices", False) else [values]
