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
from ..keywords import known_options
from ..losses import averaged
from ..messages import unknown
from .chain_rule import Rules, rules
from .differentiable import Differentiable
from .laplacians import collected
from .names import Named, Names, checked
from .ways import Way, cheapest


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

    @known_options
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
        self.residuals = residuals
        self._name_all(inputs, outputs, targets, tuple(params or {}))
        for name, value in (params or {}).items():
            if hasattr(Equation, name) or name in vars(self):
                raise ValueError(f"a parameter can't be called {name!r}: an equation has that attribute")
            setattr(self, name, ranges.real(name, value))
        self.parsed  # noqa: B018  a mistake is reported here, not at the first call

    def _name_all(
        self,
        inputs: str | Sequence[str],
        outputs: str | Sequence[str],
        targets: str | Sequence[str],
        params: tuple[str, ...],
    ) -> None:
        called = {}
        for what, given in (("inputs", inputs), ("outputs", outputs), ("targets", targets)):
            called[what] = checked(what, tuple(given.split() if isinstance(given, str) else given))
        self.names, self.targets = Names(called["inputs"], called["outputs"]), called["targets"]
        self._params = params
        everything = (*self.names.inputs, *self.names.outputs, *self.targets, *params)
        for name in everything:
            if everything.count(name) > 1:
                raise ValueError(f"{name!r} names two things: {' '.join(everything)}")

    @property
    def needs_target(self) -> bool:
        """Whether the residuals read targets."""
        return bool(self.targets)

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

    @property
    def reads(self) -> Reads:
        """What the residuals read of a net, and what is pushed through it for them."""
        parsed = self.parsed
        return Reads(parsed.formula.variables, parsed.named, parsed.rules)

    def __repr__(self) -> str:
        return f"Equation({', '.join(map(repr, self.residuals))})"

    def values(self, net: Differentiable, x: Any, y: Any = None) -> Array:
        """The residuals (n, residuals) of a net at the points ``x`` (n, inputs), with targets ``y`` (n, targets)."""
        x, y, _ = self._checked(net, x, y, None)
        parts = []
        with net.backend.activate():
            way = self.reads.way
            for rows in net.tiles(len(x), way.carried):
                u, _ = way.push(net, x[rows], rows.start)
                known = self._known(u, x[rows], None if y is None else y[rows])
                parts.append(module_of(x).stack(self._residuals(known), axis=1))
        return module_of(x).concatenate(parts)

    def points(self, net: Differentiable, x: Any, y: Any, sample_weight: Any, mean: bool) -> Points:
        """A batch, checked.

        Args:
            x: (n, inputs).
            y: (n, targets), or (n,) for one target; None without targets.
            sample_weight: (n,) factors of the points' losses, or None.
            mean: the mean over the points' losses (with weights, the weighted mean), not their sum.
        """
        x, y, weight = self._checked(net, x, y, sample_weight)
        scale, weight = averaged(self, (len(x), 1), weight) if mean else (1.0, weight)
        return Points(x, y, weight, scale)

    def loss_and_grad(
        self, net: Differentiable, points: Points, input_grad: bool = False
    ) -> tuple[Any, list[Array], Array | None]:
        """The loss at these points and its gradients, layer by layer in tiles of the batch.

        Returns:
            The loss, a scalar of the net's dtype; layer by layer the gradients of the weight and of the bias, if there
            is one; and the gradient in x, or None if it isn't wanted.
        """
        x, y, weight, scale = points
        total, grad_x = 0.0, []
        gradients: list[Array] = []
        with net.backend.activate():
            way = self.reads.way
            for rows in net.tiles(len(x), way.carried):
                part_y, part_weight = (None if a is None else a[rows] for a in (y, weight))
                u, kept = way.push(net, x[rows], rows.start)
                loss, grad_u, direct = self._pull(u, x[rows], part_y, part_weight, scale)
                found, from_u = way.pull(net, kept, grad_u)
                total = total + loss
                gradients = found if not gradients else [a + b for a, b in zip(gradients, found)]
                if input_grad:
                    grad_x.append(from_u + direct)
        return net.dtype.type(total * scale), gradients, module_of(x).concatenate(grad_x) if input_grad else None

    # ---- one tile of points ------------------------------------------------------------------------------------------

    def _pull(
        self, u: Array, x: Array, y: Array | None, weight: Array | None, scale: float
    ) -> tuple[float, Array, Array]:
        """The points' losses summed, without ``scale``; the gradients in the stack of outputs, and directly in x."""
        xp, reads = module_of(x), self.reads
        grad_u, direct = xp.zeros_like(u), xp.zeros_like(x)
        squares, slopes = self._squares(self._known(u, x, y))
        weighted = squares if weight is None else squares * weight
        factor = scale if weight is None else scale * weight
        for name, slope in slopes.items():
            if name in self.names.inputs:
                direct[:, self.names.inputs.index(name)] = factor * slope
            else:
                at = reads.named[name]
                grad_u[reads.rules.place(at.along), :, at.output] = factor * slope
        return 0.5 * float(weighted.sum(dtype=xp.float64)), grad_u, direct

    def _known(self, u: Array, x: Array, y: Array | None) -> dict[str, Array]:
        """Everything that the residuals read, (samples,) each, by name."""
        reads = self.reads
        known = {name: x[:, k] for k, name in enumerate(self.names.inputs)}
        known |= {name: u[reads.rules.place(at.along), :, at.output] for name, at in reads.named.items()}
        if y is not None:
            known |= {name: y[:, k] for k, name in enumerate(self.targets)}
        return {name: module_of(x).ascontiguousarray(known[name]) for name in reads.variables}

    def _residuals(self, known: dict[str, Array]) -> list[Array]:
        """Every residual, (samples,)."""
        return arrays.elementwise(self.parsed.formula, self.parsed.residuals, known, self.parameters)

    def _squares(self, known: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """The sum of the residuals' squares, (samples,), and by name the derivatives of half of it in what is known."""
        parsed = self.parsed
        outputs = parsed.squares, *parsed.slopes.values()
        squares, *slopes = arrays.elementwise(parsed.formula, outputs, known, self.parameters)
        return squares, dict(zip(parsed.slopes, slopes))

    def points_in(self, net: Differentiable, x: Any) -> Array:
        """``x`` (n, inputs), checked."""
        sizes = len(self.names.inputs), len(self.names.outputs)
        if sizes != (net.inputs, net.outputs):
            raise ValueError(
                f"the equation has {sizes[0]} inputs ({' '.join(self.names.inputs)}) and {sizes[1]} outputs "
                f"({' '.join(self.names.outputs)}); the net has {net.inputs} and {net.outputs}"
            )
        x = checks.as_batch(x, net.inputs, net.backend, net.dtype)
        return x if x.ndim == 2 else x[None]

    def _checked(
        self, net: Differentiable, x: Any, y: Any, sample_weight: Any
    ) -> tuple[Array, Array | None, Array | None]:
        x = self.points_in(net, x)
        weight = checks.as_sample_weight(sample_weight, (len(x),), net.backend, net.dtype)
        if (y is None) != (not self.targets):
            raise ValueError(
                f"the equation reads the targets {' '.join(self.targets)}, got no y"
                if y is None
                else 'the equation takes no targets, got y; name them: Equation(..., targets="f")'
            )
        if y is not None:
            y = net.backend.asarray(y, net.dtype, "y")
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


class Reads(NamedTuple):
    """What residuals read.

    Attributes:
        variables: names of all of it: inputs, outputs, their derivatives and targets.
        named: by its name, every output and derivative among them.
        rules: these, and what they are made of.
    """

    variables: tuple[str, ...]
    named: dict[str, Named]
    rules: Rules

    @property
    def way(self) -> Way:
        """How a net gives them."""
        return cheapest(self.named, self.rules)


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
        rules: these, and what they are made of.
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
                named[name] = find(name, names, (*text.targets, *text.params), repr(residual))
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


def find(name: str, names: Names, others: tuple[str, ...], where: str) -> Named:
    """The output's derivative of this name. Raises FormulaError; ``others`` could have stood there as well."""
    found = names.find(name)
    if found is None:
        known = (*names.outputs, *names.inputs, *others)
        example = f"{names.outputs[0]}_{names.inputs[0]}"
        raise FormulaError(f"{unknown('name', name, known)}, and derivatives such as {example} (in {where})")
    return found


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
