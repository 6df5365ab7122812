"""The language of element-wise formulas, and the graph that a formula's text becomes.

A formula is text such as ``"where(t > 0, t, slope * t)"``: numbers, names, ``+ - * / **``, comparisons and
the functions in :data:`FUNCTIONS`. It is parsed with :mod:`ast` against this whitelist and nothing in it is
ever evaluated as Python. Equal subexpressions become one node, so a value and its derivative share their work.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..messages import unknown

#: Functions a formula may call, and how many arguments each takes. Each is defined for NumPy in
#: ``formulas/blocked.py`` and for kernels in ``kernels/math.h``, under this name.
FUNCTIONS = {
    "abs": 1, "sign": 1, "sqrt": 1, "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "sin": 1,
    "cos": 1, "tanh": 1,
    "erf": 1, "normal_cdf": 1, "normal_pdf": 1, "minimum": 2, "maximum": 2, "where": 3,
}  # fmt: skip

#: Functions that are written in terms of the others. Not with abs(x), whose derivative at 0 would be taken for theirs.
MACROS = {
    "clip": (("x", "low", "high"), "minimum(maximum(x, low), high)"),
    "sigmoid": (("x",), "where(x < 0, exp(where(x < 0, x, -x)), 1) / (1 + exp(where(x < 0, x, -x)))"),
}

OPERATORS = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
COMPARISONS = {
    ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal",
    ast.Eq: "equal", ast.NotEq: "not_equal",
}  # fmt: skip
MASKS = frozenset(COMPARISONS.values())

LONGEST_TEXT = 4000
LARGEST_POWER = 64


class FormulaError(ValueError):
    """A formula's text holds something outside the language; the message says what and where."""


class Node(NamedTuple):
    """One step of a formula: an operation on earlier nodes, or an input."""

    op: str  # "variable", "parameter", "constant", or the name of an operation or function
    args: tuple[int, ...] = ()  # the nodes it takes, by index
    name: str = ""  # of a variable or parameter
    number: float = 0.0  # of a constant


class Formula:
    """Several named expressions of the same variables and parameters, as one graph.

    Args:
        variables: names of the arrays.
        parameters: names of the scalars.
        let: names for shared subexpressions, in order; later ones may use earlier ones.
        outputs: the expressions, by name.
    """

    def __init__(
        self,
        variables: tuple[str, ...],
        parameters: tuple[str, ...],
        let: Mapping[str, str],
        outputs: Mapping[str, str],
    ) -> None:
        self.variables, self.parameters = variables, parameters
        self.nodes: list[Node] = []
        self._index: dict[Node, int] = {}
        self._names: dict[str, int] = {}
        for name in variables:
            self._define(name, self.node("variable", name=name))
        for name in parameters:
            self._define(name, self.node("parameter", name=name))
        for name, text in let.items():
            self._define(name, self.parse(text))
        self.outputs = {name: self.parse(text) for name, text in outputs.items()}

    def node(self, op: str, *args: int, name: str = "", number: float = 0.0) -> int:
        """The index of this node, which is made if no equal one exists."""
        if op == "multiply":
            for a, b in (args, args[::-1]):
                if self.nodes[a].op == "constant" and self.nodes[a].number == 1:
                    return b  # exact for every b, NaN and infinities included
        node = Node(op, args, name, number)
        # 0.0 == -0.0, but they are different constants
        key = node if op != "constant" else node._replace(name=number.hex())
        if key not in self._index:
            self._index[key] = len(self.nodes)
            self.nodes.append(node)
        return self._index[key]

    def constant(self, number: float) -> int:
        """The index of this number's node."""
        return self.node("constant", number=number)

    def parse(self, text: str) -> int:
        """Add an expression to the graph; returns its node's index."""
        return self.parse_with(text, self._names)

    def parse_with(self, text: str, names: Mapping[str, int]) -> int:
        """The node of a formula's text, with these nodes as the names it may use."""
        if not isinstance(text, str):
            raise FormulaError(f"a formula is text, got {type(text).__name__}")
        if len(text) > LONGEST_TEXT:
            raise FormulaError(f"a formula may have {LONGEST_TEXT} characters, got {len(text)}")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            index = self._walk(tree.body, text, names)
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            if isinstance(error, FormulaError):
                raise
            raise FormulaError(f"{text!r} is no formula: {getattr(error, 'msg', error)}") from None
        if self.nodes[index].op in MASKS:
            raise FormulaError(f"{text!r} is a comparison, not a number; use where(condition, a, b)")
        return index

    def add_variable(self, name: str) -> int:
        """The index of one more variable, which the outputs made before don't depend on."""
        index = self.node("variable", name=name)
        self._define(name, index)
        self.variables += (name,)
        return index

    def add_parameter(self, name: str) -> int:
        """The index of a node that reads one more parameter, which is added."""
        index = self.node("parameter", name=name)
        self._define(name, index)
        self.parameters += (name,)
        return index

    def reads(self, variable: str) -> bool:
        """Whether an output depends on this variable."""
        return any(self.nodes[i] == Node("variable", name=variable) for i in self.reachable(self.outputs.values()))

    def reachable(self, results: Iterable[int]) -> list[int]:
        """The nodes that these nodes need, themselves included, in order."""
        stack, needed = list(results), set[int]()
        while stack:
            i = stack.pop()
            if i not in needed:
                needed.add(i)
                stack.extend(self.nodes[i].args)
        return sorted(needed)

    def _define(self, name: str, index: int) -> None:
        if not name.isidentifier() or name.startswith("_"):
            raise FormulaError(f"{name!r} can't name a variable or parameter of a formula")
        if name in FUNCTIONS or name in MACROS:
            raise FormulaError(f"{name!r} is a function of the language and can't be redefined")
        if name in self._names:
            raise FormulaError(f"{name!r} is defined twice")
        self._names[name] = index

    def _walk(self, tree: ast.expr, text: str, names: Mapping[str, int]) -> int:
        match tree:
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() as number):
                if not math.isfinite(value := float(number)):
                    raise FormulaError(f"the number {number} in {text!r} is too large")
                return self.constant(value)
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                raise FormulaError(f"{unknown('name', name, names)} (in {text!r})")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._number(operand, text, names)
                if self.nodes[inner].op == "constant":
                    return self.constant(-self.nodes[inner].number)
                return self.node("negative", inner)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._number(operand, text, names)
            case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
                return self._power(self._number(base, text, names), exponent, text)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                a, b = (self._number(side, text, names) for side in (left, right))
                return self.node(OPERATORS[type(op)], a, b)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in COMPARISONS:
                a, b = (self._number(side, text, names) for side in (left, right))
                return self.node(COMPARISONS[type(op)], a, b)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args, text, names)
        shown = ast.get_source_segment(text.strip(), tree) or type(tree).__name__
        raise FormulaError(f"{shown!r} in {text!r} is not part of the formula language")

    def _number(self, tree: ast.expr, text: str, names: Mapping[str, int]) -> int:
        index = self._walk(tree, text, names)
        if self.nodes[index].op in MASKS:
            raise FormulaError(f"{text!r} computes with a comparison; use where(condition, a, b)")
        return index

    def _call(self, name: str, args: list[ast.expr], text: str, names: Mapping[str, int]) -> int:
        macro = MACROS.get(name)
        if macro is None and name not in FUNCTIONS:
            raise FormulaError(f"{unknown('function', name, [*FUNCTIONS, *MACROS])} (in {text!r})")
        count = len(macro[0]) if macro else FUNCTIONS[name]
        if len(args) != count:
            raise FormulaError(f"{name}() in {text!r} takes {count} arguments, got {len(args)}")
        if name == "where":
            condition = self._walk(args[0], text, names)
            if self.nodes[condition].op not in MASKS:
                raise FormulaError(f"the condition of where() in {text!r} must be a comparison")
            return self.node("where", condition, *(self._number(a, text, names) for a in args[1:]))
        indices = [self._number(a, text, names) for a in args]
        if macro is None:
            return self.node(name, *indices)
        parameters, body = macro
        return self._walk(ast.parse(body, mode="eval").body, body, dict(zip(parameters, indices)))

    def _power(self, base: int, exponent: ast.expr, text: str) -> int:
        match exponent:
            case ast.Constant(value=0.5):
                return self.node("sqrt", base)
            case ast.Constant(value=int() as n) if not isinstance(n, bool) and 1 <= n <= LARGEST_POWER:
                return self._multiplied(base, n)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as n)) if 1 <= n <= LARGEST_POWER:
                return self.node("divide", self.constant(1.0), self._multiplied(base, n))
        raise FormulaError(
            f"the exponent in {text!r} must be 0.5 or a whole number from 1 to {LARGEST_POWER} or its negative"
        )

    def _multiplied(self, base: int, n: int) -> int:
        """base ** n by repeated squaring."""
        if n == 1:
            return base
        half = self._multiplied(base, n // 2)
        square = self.node("multiply", half, half)
        return self.node("multiply", square, base) if n % 2 else square
