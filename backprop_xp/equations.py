"""How the loss of an equation is run: fused where it can be, else by the loops of derivatives/loops.py and graph.py."""

from __future__ import annotations

from typing import Any

from .backend import Array
from .derivatives.differentiable import Differentiable
from .derivatives.equation import Equation, Points
from .derivatives.stacked import stacked
from .engines import ENGINES, Choice, warn_uncompiled
from .engines.fused import equation as fused
from .messages import unknown
from .toolchain import compiler
from .toolchain.compiler import CompileError

_failures: dict[Any, str] = {}  # why what was compiled in vain in this process can't be


def loss_and_grad(
    engine: str, net: Differentiable, equation: Equation, points: Points, input_grad: bool, threads: int | None
) -> tuple[Any, list[Array], Array | None]:
    """What :meth:`backprop_xp.Equation.loss_and_grad` gives, by the engine of this name or the one "auto" chooses.

    Raises:
        ValueError: the engine that was named can't run it.
    """
    chosen, reason = _choose(engine, net, equation, len(points.x))
    if chosen == "fused":
        try:
            return fused.loss_and_grad(net, equation, points, input_grad, threads)
        except CompileError as error:
            reason = _failures[_key(net, equation)] = str(error)
            warn_uncompiled(reason)
    elif not net.backend.on_gpu and (lacking := compiler.missing()) and lacking in reason:
        warn_uncompiled(lacking)
    return equation.loss_and_grad(net, points, input_grad)


def choice(engine: str, net: Differentiable, equation: Equation, samples: int) -> Choice:
    """Which engine would run the loss of an equation for ``samples`` points, in words and numbers."""
    chosen, reason = _choose(engine, net, equation, samples)
    carried = equation.reads.way.carried
    signals = len(carried.stack)
    flops = 2 * samples * signals * net.multiply_adds
    widths = net.widths
    rows = fused.tile_samples(signals * widths * net.dtype.itemsize)
    if chosen != "fused":
        rows = net.tiles(1, carried)[0].stop
    return Choice(chosen, reason, flops, min(rows, samples) * signals * widths * net.dtype.itemsize)


def _choose(engine: str, net: Differentiable, equation: Equation, samples: int) -> tuple[str, str]:
    if engine not in ("auto", *ENGINES):
        raise ValueError(unknown("engine", str(engine), ("auto", *ENGINES)))
    if engine not in ("auto", "fused"):
        return "layered", "equations run fused or layered"
    if not samples:
        return "layered", "it is empty"
    in_python = type(equation) is not Equation
    reason = f"{type(equation).__name__} is written in Python" if in_python else fused.why_not(net, equation)
    if reason and engine == "fused":
        raise ValueError(f"the fused engine can't run this equation: {reason}")
    if not reason:
        reason = _failures.get(_key(net, equation), "")
    if reason:
        return "layered", f"not fused: {reason}"
    return "fused", "it is the fastest" if engine == "auto" else "it was asked for"


def _key(net: Differentiable, equation: Equation) -> Any:
    """Equations of one key are compiled, or not, alike."""
    return equation.text, tuple(layer.activation.text for layer in stacked(net).layers), net.dtype
