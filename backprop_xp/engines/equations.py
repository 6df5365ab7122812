"""How the loss of an equation is run: fused where it can be, else by the two loops of derivatives/loops.py."""

from __future__ import annotations

from typing import Any

from ..backend import Array
from ..derivatives.equation import Equation, Points
from ..derivatives.loops import Chain
from ..messages import unknown
from ..toolchain import compiler
from ..toolchain.compiler import CompileError
from . import ENGINES, Choice, warn_uncompiled
from .fused import equation as fused

_failures: dict[Any, str] = {}  # why what was compiled in vain in this process can't be


def loss_and_grad(
    engine: str, chain: Chain, equation: Equation, points: Points, input_grad: bool, threads: int | None
) -> tuple[Any, list[Array], Array | None]:
    """What :meth:`backprop_xp.Equation.loss_and_grad` gives, by the engine of this name or the one "auto" chooses.

    Raises:
        ValueError: the engine that was named can't run it.
    """
    chosen, reason = _choose(engine, chain, equation, len(points.x))
    if chosen == "fused":
        try:
            return fused.loss_and_grad(chain, equation, points, input_grad, threads)
        except CompileError as error:
            reason = _failures[_key(chain, equation)] = str(error)
            warn_uncompiled(reason)
    elif not chain.backend.on_gpu and (lacking := compiler.missing()) and lacking in reason:
        warn_uncompiled(lacking)
    return equation.loss_and_grad(chain, points, input_grad)


def choice(engine: str, chain: Chain, equation: Equation, samples: int) -> Choice:
    """Which engine would run the loss of an equation for ``samples`` points, in words and numbers."""
    chosen, reason = _choose(engine, chain, equation, samples)
    signals = len(equation.parsed.rules.stack)
    numbers = [weight.size for weight, _, _ in chain.layers]
    flops = 2 * samples * signals * (3 * sum(numbers) - numbers[0])
    widths = chain.inputs + 2 * sum(len(weight) for weight, _, _ in chain.layers)
    rows = fused.tile_samples(signals * widths * chain.dtype.itemsize)
    if chosen != "fused":
        rows = chain.tiles(1, equation.parsed.rules)[0].stop
    return Choice(chosen, reason, flops, min(rows, samples) * signals * widths * chain.dtype.itemsize)


def _choose(engine: str, chain: Chain, equation: Equation, samples: int) -> tuple[str, str]:
    if engine not in ("auto", *ENGINES):
        raise ValueError(unknown("engine", str(engine), ("auto", *ENGINES)))
    if engine not in ("auto", "fused"):
        return "layered", "equations run fused or layered"
    if not samples:
        return "layered", "it is empty"
    reason = fused.why_not(chain, equation)
    if reason and engine == "fused":
        raise ValueError(f"the fused engine can't run this equation: {reason}")
    if reason := reason or _failures.get(_key(chain, equation), ""):
        return "layered", f"not fused: {reason}"
    return "fused", "it is the fastest" if engine == "auto" else "it was asked for"


def _key(chain: Chain, equation: Equation) -> Any:
    """Equations of one key are compiled, or not, alike."""
    return equation.text, tuple(layer.activation.text for layer in chain.layers), chain.dtype
