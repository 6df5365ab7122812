"""What compiled passes for losses with derivatives are told in C++: activations' chain rules, and equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..derivatives.chain_rule import Rules
from ..derivatives.differentiable import Differentiable
from ..derivatives.equation import Parsed, Text, parse
from ..derivatives.of_activation import chain_rule
from ..derivatives.stacked import NotStacked, stacked
from ..derivatives.ways import Twice, Way
from ..formulas import Formula, emit, is_formula

#: Terms of the chain rule in an equation that is compiled, at most: beyond, an activation takes the compiler seconds.
MOST_TERMS = 100


def why_not(net: Differentiable, carried: Rules) -> str:
    """Why no pass for layers in a row can be written for this net and what is carried through it, "" if it can."""
    try:
        layers = stacked(net).layers
    except NotStacked as reason:
        return f"the graph is more than layers in a row, to which earlier ones are added: {reason}"
    if not all(is_formula(layer.activation) for layer in layers):
        return "an activation is written in Python"
    terms = sum(map(len, carried.terms))
    if terms > MOST_TERMS:
        return f"its derivatives have {terms} terms, and compiling more than {MOST_TERMS} takes too long"
    return ""


def activation(
    text: Any, formula: Formula, rules: Rules, written_out: Mapping[Any, str], number: int = 0
) -> tuple[str, str, str, str]:
    """The structs of an activation's chain rule, and their names: ``Forward``, ``Backward`` and what comes first.

    Args:
        text: the activation's, which is no identity; ``formula`` is of its value and derivative.
        written_out: as :func:`backprop_xp.programs.fused.declarations` takes it.
        number: which of several activations of one unit this is.
    """
    rule = chain_rule(text, rules)
    code, first = beforehand(text, formula, rule.by_value, written_out, number)
    names = f"Forward{number}", f"Backward{number}"
    for name, ruled, result in zip(names, (rule.forward, rule.backward), ("z", "grad")):
        code += emit.function(ruled, tuple(f"{result}{k}" for k in range(len(rules.stack))), name)
    return code, *names, first


def beforehand(
    text: Any, formula: Formula, by_value: bool, written_out: Mapping[Any, str], number: int = 0
) -> tuple[str, str]:
    """The struct of an activation's value and derivative, and its name, where others are formulas of these."""
    if not by_value:
        return "", "bpx::nothing"
    if text in written_out:
        return "", written_out[text]
    name = f"Activation{number}"
    return emit.struct(formula, name, ("t",)), name


def equation(text: Text, way: Way) -> str:
    """The struct ``Equation`` of kernels/stack_parts.h: an equation of what a pass carries in this way."""
    parsed = parse(text)
    code = emit.function(parsed.formula, (parsed.squares, *parsed.slopes.values()), "Residuals")
    reads, gives = (
        [_place(text, parsed, way, name) for name in each] for each in (parsed.formula.variables, parsed.slopes)
    )
    return code + (
        "struct Equation : Residuals {\n"
        f"  static constexpr int reads = {len(reads)}, gives = {len(gives)};\n"
        f"  BPX_FN static constexpr bpx::Place from(int k) {{ return {_one_of(reads)}; }}\n"
        f"  BPX_FN static constexpr bpx::Place to(int k) {{ return {_one_of(gives)}; }}\n"
        "};\n"
    )


def _place(text: Text, parsed: Parsed, way: Way, name: str) -> str:
    if name in text.names.inputs:
        return f"bpx::Place{{bpx::At::x, 0, {text.names.inputs.index(name)}}}"
    if name in text.targets:
        return f"bpx::Place{{bpx::At::y, 0, {text.targets.index(name)}}}"
    at = parsed.named[name]
    if isinstance(way, Twice) and isinstance(at.along, tuple) and at.along:
        return f"bpx::Place{{bpx::At::slope, 0, {at.along[0]}}}"
    return f"bpx::Place{{bpx::At::signal, {parsed.rules.place(at.along)}, {at.output}}}"


def _one_of(places: Sequence[str]) -> str:
    """An expression for number k of them. An array of constants would be memory, not registers, on the GPU."""
    return " : ".join([*(f"k == {k} ? {place}" for k, place in enumerate(places[:-1])), places[-1]])
