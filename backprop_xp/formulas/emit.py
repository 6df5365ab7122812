"""Formulas as C++: the struct of static functions that kernels/*.h take as a template argument."""

from __future__ import annotations

import math

from .language import MASKS, Formula

INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/",
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=", "equal": "==", "not_equal": "!=",
}  # fmt: skip


def struct(
    formula: Formula, name: str, variables: tuple[str, ...], target: bool | None = None, per_output: bool = False
) -> str:
    """C++ source of ``struct NAME``: ``value``, ``grad`` and ``both`` for any lane type.

    The formula must have the outputs "value" and "grad", of these variables alone, which become the functions'
    first arguments. ``p`` points to the parameters, in order. A loss says whether it takes a ``target``; the value that
    its ``both`` gives is to be multiplied by ``factor``, once for a sum of many. Where it has parameters of its own
    ``per_output``, those of one output lie ``stride`` numbers behind those of the one before; else that is 0.
    """
    arguments = ", ".join(f"T x{formula.variables.index(v)}" for v in variables)
    results = dict(formula.outputs)
    count = len(formula.parameters)
    lines = [f"struct {name} {{", f"  static constexpr int params = {count}, stride = {count * per_output};"]
    if target is not None:
        summand, factor = _without_factor(formula, results["value"])
        results["value"] = summand
        lines.append(f"  static constexpr bool target = {str(target).lower()};")
        lines.append(f"  static constexpr float factor = {factor!r}f;")
    for output in ("value", "grad"):
        lines.append(f"  template <class T, class P> BPX_FN static T {output}({arguments}, P p) {{")
        lines += _body(formula, [formula.outputs[output]])
        lines += [f"    return n{formula.outputs[output]};", "  }"]
    lines.append(f"  template <class T, class P> BPX_FN static void both({arguments}, P p, T& value, T& grad) {{")
    lines += _body(formula, [results["value"], results["grad"]])
    lines += [f"    {output} = n{results[output]};" for output in ("value", "grad")]
    return "\n".join([*lines, "  }", "};", ""])


def function(formula: Formula, outputs: tuple[str, ...], name: str) -> str:
    """C++ source of ``struct NAME`` with ``run(inputs, p, results)``, arrays of the variables and of these outputs."""
    lines = [
        f"struct {name} {{",
        "  template <class T, class P> BPX_FN static void run(const T* inputs, P p, T* results) {",
    ]
    lines += [f"    const T x{k} = inputs[{k}];" for k in range(len(formula.variables))]
    lines += _body(formula, [formula.outputs[output] for output in outputs])
    lines += [f"    results[{k}] = n{formula.outputs[output]};" for k, output in enumerate(outputs)]
    return "\n".join([*lines, "  }", "};", ""])


def _without_factor(formula: Formula, i: int) -> tuple[int, float]:
    """The node without a power of 2 that it is multiplied by, which is exact at any place; and the power."""
    node = formula.nodes[i]
    if node.op == "multiply":
        left, right = node.args
        if formula.nodes[left].op == "constant" and math.frexp(formula.nodes[left].number)[0] == 0.5:
            return right, formula.nodes[left].number
        rest, factor = _without_factor(formula, left)
        if factor != 1.0:
            return formula.node("multiply", rest, right), factor
    return i, 1.0


def _body(formula: Formula, results: list[int]) -> list[str]:
    """One local per node, equal subexpressions shared. Only indices and whitelisted names are printed."""
    lines = [] if formula.parameters else ["    (void)p;"]
    for i in formula.reachable(results):
        kind = "auto" if formula.nodes[i].op in MASKS else "T"
        lines.append(f"    const {kind} n{i} = {_expression(formula, i)};")
    return lines


def _expression(formula: Formula, i: int) -> str:
    node = formula.nodes[i]
    args = [f"n{a}" for a in node.args]
    if node.op == "variable":
        return f"x{formula.variables.index(node.name)}"
    if node.op == "parameter":
        return f"bpx::c<T>(p[{formula.parameters.index(node.name)}])"
    if node.op == "constant":
        return f"bpx::c<T>({node.number!r})"
    if node.op == "negative":
        return f"-{args[0]}"
    if node.op in INFIX:
        return f"{args[0]} {INFIX[node.op]} {args[1]}"
    return f"bpx::{node.op}({', '.join(args)})"
