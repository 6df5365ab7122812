"""Losses that contain derivatives of a net's outputs in its inputs: differential equations, as formulas."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

from .. import arrays, ranges
from .. import inputs as checks
from ..backend import Array, module_of
from ..formulas import Formula, differentiate
from ..formulas.language import FormulaError
from ..losses import averaged
from ..messages import unknown
from .chain_rule import Rules, rules
from .laplacians import collected
from .loops import Chain, pull_back, push_forward, stack_of_x
from .names import Named, Names, checked


class Equation:
    """What must be zero at every point, written with a net's outputs, their derivatives, and its inputs.

    ``Equation("u_t - nu * u_xx", inputs="x t", outputs="u", params={"nu": 0.01})`` is the heat equation, in the
    language of :mod:`backprop_xp.formulas.language`; ``u_xx`` is u derived twice in x. The loss of a point is half the
    sum of the squares of all residuals there; ``net.loss_and_grad(points, loss=equation)`` gives it with the gradients
    of all parameters.

    Args:
        residuals: one formula or more.
        inputs: names of the net's inputs, in order; a name has no underscore.
        outputs: names of its outputs, in order.
        params: names and values of scalars; they become attributes, which may be changed.
        targets: names of the columns of ``y`` that the formulas read, such as a measured source.

    Raises:
        ValueError: a formula holds something that is none of these, or names stand twice.
    """

    name = "equation"

    def __init__(
        self,
        *residuals: str,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str] = "u",
        params: Mapping[str, float] | None = None,
        targets: str | Sequence[str] = "",
    ) -> None:
        if not residuals:
            raise ValueError('an equation needs a formula: Equation("u_t - u_xx", inputs="x t")')
        called = {}
        for what, given in (("inputs", inputs), ("outputs", outputs), ("targets", targets)):
            called[what] = checked(what, tuple(given.split() if isinstance(given, str) else given))
        self.residuals, self.targets = residuals, called["targets"]
        self.names = Names(called["inputs"], called["outputs"])
        self._params = tuple(params or {})
        everything = (*self.names.inputs, *self.names.outputs, *self.targets, *self._params)
        for name in everything:
            if everything.count(name) > 1:
                raise ValueError(f"{name!r} names two things: {' '.join(everything)}")
        for name, value in (params or {}).items():
            if hasattr(Equation, name) or name in vars(self):
                raise ValueError(f"a parameter can't be called {name!r}: an equation has that attribute")
            setattr(self, name, ranges.real(name, value))
        self.parsed  # noqa: B018  a mistake is reported here, not at the first call

    @property
    def parameters(self) -> tuple[float, ...]:
        """The values of the parameters, in the order in which they were given."""
        return tuple(ranges.real(name, getattr(self, name)) for name in self._params)

    @property
    def text(self) -> Text:
        """All that it says, but for the values of the parameters."""
        return Text(self.residuals, self.names, self.targets, self._params)

    @property
    def parsed(self) -> Parsed:
        """What :func:`parse` makes of it."""
        return parse(self.text)

    def __repr__(self) -> str:
        return f"Equation({', '.join(map(repr, self.residuals))})"

    def values(self, chain: Chain, x: Any, y: Any = None) -> Array:
        """The residuals (n, residuals) of a net at the points ``x`` (n, inputs), with targets ``y`` (n, targets)."""
        x, y, _ = self._checked(chain, x, y, None)
        parts = []
        with chain.backend.activate():
            for rows in chain.tiles(len(x), self.parsed.rules):
                u, _ = push_forward(chain.layers, self._stack(x[rows]), self.parsed.rules)
                found = self._evaluate(self.parsed.residuals, u, x[rows], None if y is None else y[rows])
                parts.append(module_of(x).stack(found, axis=1))
        return module_of(x).concatenate(parts)

    def points(self, chain: Chain, x: Any, y: Any, sample_weight: Any, mean: bool) -> Points:
        """A batch, checked.

        Args:
            x: (n, inputs).
            y: (n, targets), or (n,) for one target; None without targets.
            sample_weight: (n,) factors of the points' losses, or None.
            mean: the mean over the points' losses (with weights, the weighted mean), not their sum.
        """
        x, y, weight = self._checked(chain, x, y, sample_weight)
        scale, weight = averaged(self, (len(x), 1), weight) if mean else (1.0, weight)
        return Points(x, y, weight, scale)

    def loss_and_grad(
        self, chain: Chain, points: Points, input_grad: bool = False
    ) -> tuple[Any, list[Array], Array | None]:
        """The loss at these points and its gradients, layer by layer in tiles of the batch.

        Returns:
            The loss, a scalar of the net's dtype; layer by layer the gradients of the weight and of the bias, if there
            is one; and the gradient in x, or None if it isn't wanted.
        """
        x, y, weight, scale = points
        total, grad_x = 0.0, []
        gradients: list[Array] = []
        with chain.backend.activate():
            for rows in chain.tiles(len(x), self.parsed.rules):
                part_y, part_weight = (None if a is None else a[rows] for a in (y, weight))
                u, kept = push_forward(chain.layers, self._stack(x[rows]), self.parsed.rules)
                loss, grad_u, direct = self._pull(u, x[rows], part_y, part_weight, scale)
                found, grad_z = pull_back(chain.layers, kept, grad_u, self.parsed.rules)
                total = total + loss
                gradients = found if not gradients else [a + b for a, b in zip(gradients, found)]
                if input_grad:
                    grad_x.append(grad_z[0] + direct)
        return chain.dtype.type(total * scale), gradients, module_of(x).concatenate(grad_x) if input_grad else None

    # ---- one tile of points ------------------------------------------------------------------------------------------

    def _stack(self, x: Array) -> Array:
        return stack_of_x(x, module_of(x).eye(x.shape[1], dtype=x.dtype), self.parsed.rules)

    def _pull(
        self, u: Array, x: Array, y: Array | None, weight: Array | None, scale: float
    ) -> tuple[float, Array, Array]:
        """The points' losses summed, without ``scale``; the gradients in the stack of outputs, and directly in x."""
        xp, parsed = module_of(x), self.parsed
        grad_u, direct = xp.zeros_like(u), xp.zeros_like(x)
        squares, *slopes = self._evaluate((parsed.squares, *parsed.slopes.values()), u, x, y)
        weighted = squares if weight is None else squares * weight
        factor = scale if weight is None else scale * weight
        for name, slope in zip(parsed.slopes, slopes):
            if name in self.names.inputs:
                direct[:, self.names.inputs.index(name)] = factor * slope
            else:
                at = parsed.named[name]
                grad_u[parsed.rules.place(at.along), :, at.output] = factor * slope
        return 0.5 * float(weighted.sum(dtype=xp.float64)), grad_u, direct

    def _evaluate(self, outputs: tuple[str, ...], u: Array, x: Array, y: Array | None) -> list[Array]:
        parsed = self.parsed
        known = {name: x[:, k] for k, name in enumerate(self.names.inputs)}
        known |= {name: u[parsed.rules.place(at.along), :, at.output] for name, at in parsed.named.items()}
        if y is not None:
            known |= {name: y[:, k] for k, name in enumerate(self.targets)}
        read = {name: module_of(x).ascontiguousarray(known[name]) for name in parsed.formula.variables}
        return arrays.elementwise(parsed.formula, outputs, read, self.parameters)

    def points_in(self, chain: Chain, x: Any) -> Array:
        """``x`` (n, inputs), checked."""
        sizes = len(self.names.inputs), len(self.names.outputs)
        if sizes != (chain.inputs, chain.outputs):
            raise ValueError(
                f"the equation has {sizes[0]} inputs ({' '.join(self.names.inputs)}) and {sizes[1]} outputs "
                f"({' '.join(self.names.outputs)}); the net has {chain.inputs} and {chain.outputs}"
            )
        x = checks.as_batch(x, chain.inputs, chain.backend, chain.dtype)
        return x if x.ndim == 2 else x[None]

    def _checked(self, chain: Chain, x: Any, y: Any, sample_weight: Any) -> tuple[Array, Array | None, Array | None]:
        x = self.points_in(chain, x)
        weight = checks.as_sample_weight(sample_weight, (len(x),), chain.backend, chain.dtype)
        if (y is None) != (not self.targets):
            raise ValueError(
                f"the equation reads the targets {' '.join(self.targets)}, got no y"
                if y is None
                else 'the equation takes no targets, got y; name them: Equation(..., targets="f")'
            )
        if y is not None:
            y = chain.backend.asarray(y, chain.dtype, "y")
            y = y[:, None] if y.ndim == 1 and len(self.targets) == 1 else y
            if y.shape != (len(x), len(self.targets)):
                raise ValueError(f"y must be ({len(x)}, {len(self.targets)}), a column for each target, got {y.shape}")
        return x, y, weight


class Points(NamedTuple):
    """A batch of points, checked.

    Attributes:
        x, y, weight: (n, inputs), (n, targets) or None, (n,) or None.
        scale: what the sum of the points' losses is multiplied by.
    """

    x: Array
    y: Array | None
    weight: Array | None
    scale: float


class Text(NamedTuple):
    """What an equation says: its residuals, the names of inputs and outputs, of targets and of parameters."""

    residuals: tuple[str, ...]
    names: Names
    targets: tuple[str, ...]
    params: tuple[str, ...]


class Parsed(NamedTuple):
    """Formulas and what they read.

    Attributes:
        formula: its variables are what the residuals read.
        residuals: the outputs of ``formula`` with their values.
        squares: the output with the sum of their squares.
        slopes: by what is read of outputs and inputs, the output with the derivative in it of half that sum.
        named: by its name, every output and derivative that is read. A Laplacian stands under the name of the first of
            its derivatives.
        rules: what is pushed through the net for them.
    """

    formula: Formula
    residuals: tuple[str, ...]
    squares: str
    slopes: dict[str, str]
    named: dict[str, Named]
    rules: Rules


@lru_cache(maxsize=128)
def parse(text: Text) -> Parsed:
    """The formulas of an equation. Raises FormulaError."""
    named: dict[str, Named] = {}
    read: list[str] = []
    names = text.names
    for residual in text.residuals:
        for name in _symbols(residual):
            if name in text.params or name in read:
                continue
            if name not in names.inputs and name not in text.targets:
                found = names.find(name)
                if found is None:
                    known = (*names.outputs, *names.inputs, *text.targets, *text.params)
                    raise FormulaError(
                        f"{unknown('name', name, known)}, and derivatives such as "
                        f"{names.outputs[0]}_{names.inputs[0]} (in {residual!r})"
                    )
                named[name] = found
            read.append(name)
    if not named:
        raise FormulaError(f"no residual of {text.residuals} reads an output of the net ({' '.join(names.outputs)})")
    parsed = _derived(text, read, named)
    fewer = _derived(text, read, collected(parsed.formula, parsed.residuals, named))
    return min(parsed, fewer, key=lambda each: len(each.rules.stack))


def _derived(text: Text, read: Sequence[str], named: dict[str, Named]) -> Parsed:
    """Everything of these residuals, in which names of derivatives that are not in ``named`` stand for 0."""
    known = (*named, *text.names.inputs, *text.targets)
    results = {f"residual {k}": residual for k, residual in enumerate(text.residuals)}
    zeros = {name: "0" for name in read if name not in known}
    formula = Formula(tuple(name for name in read if name in known), text.params, zeros, results)
    values, zero = [formula.outputs[result] for result in results], formula.constant(0.0)

    def total(products: Iterable[tuple[int, int]]) -> int:
        nodes = [formula.node("multiply", *product) for product in products]
        return reduce(partial(formula.node, "add"), nodes) if nodes else zero

    formula.outputs["squares"] = total(zip(values, values))
    slopes = {}
    for name in (*named, *(each for each in text.names.inputs if each in read)):
        found = [differentiate(formula, result, name) for result in results]
        slopes[name] = f"in {name}"
        formula.outputs[slopes[name]] = total(pair for pair in zip(values, found) if pair[1] != zero)
    return Parsed(formula, tuple(results), "squares", slopes, named, rules([at.along for at in named.values()]))


def _symbols(text: str) -> list[str]:
    """Names that are no function's, in the order in which they stand."""
    try:
        tree = ast.parse(str(text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        Formula((), (), {}, {"residual": text})  # it says what is wrong
        raise
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called]
    return [node.id for node in sorted(found, key=lambda node: (node.lineno, node.col_offset))]
