"""The derivative of a formula, by the rules of calculus applied to its graph.

At a kink the derivative is PyTorch's: 0 for ``abs`` at 0, and the mean of both sides where the arguments of
``minimum`` or ``maximum`` are equal. ``where`` takes the derivative of the branch it takes.

Functions that are smooth are often written with ``abs``, so that nothing overflows: exp(-abs(t)) and where(t < 0, ...).
Derivatives of higher order must not take their pieces for kinks: they are those from the right.
"""

from __future__ import annotations

from .language import Formula

# A derivative of None is zero by its form: the node doesn't depend on the variable.
Derivative = int | None


def differentiate(formula: Formula, output: str, variable: str, *, from_the_right: bool = False) -> int:
    """Add the derivative of an output with respect to a variable to the formula; returns its node's index.

    At a kink it is PyTorch's derivative, or that of the piece to the right of it.
    """
    rules = _FromTheRight(formula) if from_the_right else _Rules(formula)
    result = rules.derivative(formula.outputs[output], formula.parse(variable))
    return formula.constant(0.0) if result is None else result


class _Rules:
    def __init__(self, formula: Formula) -> None:
        self.formula = formula

    def derivative(self, target: int, variable: int) -> Derivative:
        known: dict[int, Derivative] = {}
        for i in range(target + 1):  # every node comes after those it takes
            node = self.formula.nodes[i]
            if i == variable:
                known[i] = self.formula.constant(1.0)
            elif all(known[a] is None for a in node.args):
                known[i] = None
            else:
                rule = getattr(self, node.op, None)
                known[i] = None if rule is None else rule(i, node.args, [known[a] for a in node.args])
        return known[target]

    # node: the function's value; args: its arguments; d: their derivatives

    def add(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._sum(d[0], d[1])

    def subtract(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._sum(d[0], self._negated(d[1]))

    def multiply(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._sum(self._times(d[0], args[1]), self._times(d[1], args[0]))

    def divide(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        top = self._sum(d[0], self._negated(self._times(d[1], node)))
        return None if top is None else self.formula.node("divide", top, args[1])

    def negative(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._negated(d[0])

    def where(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._choice(args[0], d[1], d[2])

    def minimum(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._nearer("less", node, args, d)

    def maximum(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._nearer("greater", node, args, d)

    def abs(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("sign(x)", args, d)

    def sqrt(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("0.5 / sqrt(x)", args, d)

    def exp(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("exp(x)", args, d)

    def expm1(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("exp(x)", args, d)

    def log(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("1 / x", args, d)

    def sin(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("cos(x)", args, d)

    def cos(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("-sin(x)", args, d)

    def log1p(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("1 / (1 + x)", args, d)

    def tanh(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        # 1 - tanh(x)^2 would lose its digits where tanh(x) is near 1
        return self._chain("4 * exp(-2 * abs(x)) / (1 + exp(-2 * abs(x))) ** 2", args, d)

    def erf(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("1.1283791670955126 * exp(-(x * x))", args, d)  # 2 / sqrt(pi)

    def normal_cdf(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("normal_pdf(x)", args, d)

    def normal_pdf(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("-x * normal_pdf(x)", args, d)

    def _chain(self, outer: str, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._times(d[0], self.formula.parse_with(outer, {"x": args[0]}))

    def _nearer(self, comparison: str, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        """The derivative of the argument that is taken, NaN for NaN."""
        f = self.formula
        equal = f.node("where", f.node("equal", *args), self._where_equal(comparison, d), node)
        second = f.node("where", f.node(comparison, args[1], args[0]), self._value(d[1]), equal)
        return f.node("where", f.node(comparison, *args), self._value(d[0]), second)

    def _where_equal(self, comparison: str, d: list[Derivative]) -> int:
        return self.formula.node("multiply", self.formula.constant(0.5), self._value(self._sum(d[0], d[1])))

    def _choice(self, condition: int, a: Derivative, b: Derivative) -> Derivative:
        if a is None and b is None:
            return None
        return self.formula.node("where", condition, self._value(a), self._value(b))

    def _value(self, d: Derivative) -> int:
        return self.formula.constant(0.0) if d is None else d

    def _sum(self, a: Derivative, b: Derivative) -> Derivative:
        if a is None or b is None:
            return b if a is None else a
        return self.formula.node("add", a, b)

    def _negated(self, d: Derivative) -> Derivative:
        return None if d is None else self.formula.node("negative", d)

    def _times(self, d: Derivative, factor: int) -> Derivative:
        return None if d is None else self.formula.node("multiply", d, factor)


class _FromTheRight(_Rules):
    def abs(self, node: int, args: tuple[int, ...], d: list[Derivative]) -> Derivative:
        return self._chain("where(x < 0, -1, where(x >= 0, 1, x))", args, d)

    def _where_equal(self, comparison: str, d: list[Derivative]) -> int:
        """Of the argument that is taken to the right of here."""
        larger = "maximum" if comparison == "greater" else "minimum"
        return self.formula.node(larger, self._value(d[0]), self._value(d[1]))
