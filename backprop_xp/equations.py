"""How the loss of an equation is run: compiled where it can be, else by the loops of derivatives/loops.py, graph.py."""

from __future__ import annotations

from typing import Any

from .backend import Array
from .derivatives.differentiable import Differentiable
from .derivatives.equation import Equation, Points
from .derivatives.stacked import stacked
from .engines import ENGINES, Choice, warn_uncompiled
from .engines.cooperative import equation as cooperative
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
    try:
        if chosen == "cooperative":
            return cooperative.loss_and_grad(net, equation, points, input_grad)
        if chosen == "fused":
            return fused.loss_and_grad(net, equation, points, input_grad, threads)
    except CompileError as error:
        reason = _failures[_key(net, equation)] = str(error)
        warn_uncompiled(reason)
    if not net.backend.on_gpu and (lacking := compiler.missing()) and lacking in reason:
        warn_uncompiled(lacking)
    return equation.loss_and_grad(net, points, input_grad)


def choice(engine: str, net: Differentiable, equation: Equation, samples: int) -> Choice:
    """Which engine would run the loss of an equation for ``samples`` points, in words and numbers."""
    chosen, reason = _choose(engine, net, equation, samples)
    carried = equation.reads.rules if chosen == "cooperative" else equation.reads.way.carried
    signals = len(carried.stack)
    if chosen == "layered":
        bytes_ = min(net.tiles(1, carried)[0].stop, samples) * signals * net.widths * net.dtype.itemsize
    else:
        bytes_ = _compiled(net)[1].intermediate_bytes(net, equation, samples)
    return Choice(chosen, reason, 2 * samples * signals * net.multiply_adds, bytes_)


def _compiled(net: Differentiable) -> tuple[str, Any]:
    """The engine that has a compiled pass for equations where the net is, by its name and as a module."""
    return ("cooperative", cooperative) if net.backend.on_gpu else ("fused", fused)


def _choose(engine: str, net: Differentiable, equation: Equation, samples: int) -> tuple[str, str]:
    if engine not in ("auto", *ENGINES):
        raise ValueError(unknown("engine", str(engine), ("auto", *ENGINES)))
    compiled, module = _compiled(net)
    if engine not in ("auto", compiled):
        return "layered", f"equations run {compiled} or layered"
    if not samples:
        return "layered", "it is empty"
    in_python = type(equation) is not Equation
    reason = f"{type(equation).__name__} is written in Python" if in_python else module.why_not(net, equation)
    if reason and engine == compiled:
        raise ValueError(f"the {compiled} engine can't run this equation: {reason}")
    if not reason:
        reason = _failures.get(_key(net, equation), "")
    if reason:
        return "layered", f"not {compiled}: {reason}"
    return compiled, "it is the fastest" if engine == "auto" else "it was asked for"


def _key(net: Differentiable, equation: Equation) -> Any:
    """Equations of one key are compiled, or not, alike."""
    return equation.text, tuple(layer.activation.text for layer in stacked(net).layers), net.dtype, net.backend.name
