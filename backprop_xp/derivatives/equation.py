"""Losses that contain derivatives of a net's outputs in its inputs: differential equations, as formulas."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from .. import arrays, ranges
from .. import inputs as checks
from ..backend import Array, module_of
from ..formulas import Formula, differentiate
from ..formulas.language import FormulaError
from ..losses import averaged
from ..messages import unknown
from .chain_rule import Rules, rules
from .differentiable import Differentiable
from .loops import stack_of_x
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
        self.residuals = residuals
        self._name_all(inputs, outputs, targets, tuple(params or {}))
        for name, value in (params or {}).items():
            if hasattr(Equation, name) or name in vars(self):
                raise ValueError(f"a parameter can't be called {name!r}: an equation has that attribute")
            setattr(self, name, ranges.real(name, value))
        self._parsed  # noqa: B018  a mistake is reported here, not at the first call

    def _name_all(
        self, inputs: str | Sequence[str], outputs: str | Sequence[str], targets: str | Sequence[str], params: Any
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
    def parameters(self) -> tuple[float, ...]:
        """The values of the parameters, in the order in which they were given."""
        return tuple(ranges.real(name, getattr(self, name)) for name in self._params)

    @property
    def reads(self) -> Reads:
        """What the residuals read of a net, and what is pushed through it for them."""
        parsed = self._parsed
        return Reads(parsed.formula.variables, parsed.named, parsed.rules)

    @property
    def _parsed(self) -> Parsed:
        return _parse(self.residuals, self.names, self.targets, self._params)

    def __repr__(self) -> str:
        return f"Equation({', '.join(map(repr, self.residuals))})"

    def values(self, net: Differentiable, x: Any, y: Any = None) -> Array:
        """The residuals (n, residuals) of a net at the points ``x`` (n, inputs), with targets ``y`` (n, targets)."""
        x, y, _ = self._checked(net, x, y, None)
        parts = []
        with net.backend.activate():
            for rows in net.tiles(len(x), self.reads.rules):
                u, _ = net.push(self._stack(x[rows]), self.reads.rules, rows.start)
                known = self._known(u, x[rows], None if y is None else y[rows])
                parts.append(module_of(x).stack(self._residuals(known), axis=1))
        return module_of(x).concatenate(parts)

    def loss_and_grad(
        self,
        net: Differentiable,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        mean: bool = False,
        input_grad: bool = False,
    ) -> tuple[Any, list[Array], Array | None]:
        """The loss at the points ``x``, and its gradients.

        Args:
            x: (n, inputs).
            y: (n, targets), or (n,) for one target; None without targets.
            sample_weight: (n,) factors of the points' losses.
            mean: the mean over the points' losses (with weights, the weighted mean), not their sum.
            input_grad: the gradient in x is wanted.

        Returns:
            The loss, a scalar of the net's dtype; layer by layer the gradients of the weight and of the bias, if there
            is one; and the gradient in x or None.
        """
        x, y, weight = self._checked(net, x, y, sample_weight)
        scale, weight = averaged(self, (len(x), 1), weight) if mean else (1.0, weight)
        total, grad_x = 0.0, []
        gradients: list[Array] = []
        with net.backend.activate():
            for rows in net.tiles(len(x), self.reads.rules):
                part_y, part_weight = (None if a is None else a[rows] for a in (y, weight))
                u, kept = net.push(self._stack(x[rows]), self.reads.rules, rows.start)
                loss, grad_u, direct = self._pull(u, x[rows], part_y, part_weight, scale)
                found, grad_z = net.pull(kept, grad_u, self.reads.rules)
                total = total + loss
                gradients = found if not gradients else [a + b for a, b in zip(gradients, found)]
                if input_grad:
                    grad_x.append(grad_z[0] + direct)
        return net.dtype.type(total * scale), gradients, module_of(x).concatenate(grad_x) if input_grad else None

    # ---- one tile of points ------------------------------------------------------------------------------------------

    def _stack(self, x: Array) -> Array:
        return stack_of_x(x, module_of(x).eye(x.shape[1], dtype=x.dtype), self.reads.rules)

    def _pull(
        self, u: Array, x: Array, y: Array | None, weight: Array | None, scale: float
    ) -> tuple[float, Array, Array]:
        """The points' losses summed, without ``scale``; the gradients in the stack of outputs, and directly in x."""
        xp, reads = module_of(x), self.reads
        grad_u, direct, total = xp.zeros_like(u), xp.zeros_like(x), 0.0
        known = self._known(u, x, y)
        residuals, derived = self._residuals(known), self._slopes(known)
        if len(residuals) != len(derived):
            raise ValueError(f"{self!r} gives {len(residuals)} residuals, and derivatives of {len(derived)}")
        for residual, slopes in zip(residuals, derived):
            weighted = residual if weight is None else residual * weight
            total += 0.5 * float((residual * weighted).sum(dtype=xp.float64))
            for name, slope in slopes.items():
                grad = scale * weighted * slope
                if name in self.names.inputs:
                    direct[:, self.names.inputs.index(name)] += grad
                else:
                    at = reads.named[name]
                    grad_u[reads.rules.place(at.along), :, at.output] += grad
        return total, grad_u, direct

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
        return arrays.elementwise(self._parsed.formula, self._parsed.residuals, known, self.parameters)

    def _slopes(self, known: dict[str, Array]) -> list[dict[str, Array]]:
        """Every residual's derivative in all that it reads of the net, (samples,) each, by name."""
        formula, parameters = self._parsed.formula, self.parameters
        return [
            dict(zip(slopes, arrays.elementwise(formula, tuple(slopes.values()), known, parameters)))
            for slopes in self._parsed.slopes
        ]

    def _checked(
        self, net: Differentiable, x: Any, y: Any, sample_weight: Any
    ) -> tuple[Array, Array | None, Array | None]:
        sizes = len(self.names.inputs), len(self.names.outputs)
        if sizes != (net.inputs, net.outputs):
            raise ValueError(
                f"the equation has {sizes[0]} inputs ({' '.join(self.names.inputs)}) and {sizes[1]} outputs "
                f"({' '.join(self.names.outputs)}); the net has {net.inputs} and {net.outputs}"
            )
        x = checks.as_batch(x, net.inputs, net.backend, net.dtype)
        x = x if x.ndim == 2 else x[None]
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


class Reads(NamedTuple):
    """What residuals read.

    Attributes:
        variables: names of all of it: inputs, outputs, their derivatives and targets.
        named: by its name, every output and derivative among them.
        rules: what is pushed through the net for these.
    """

    variables: tuple[str, ...]
    named: dict[str, Named]
    rules: Rules


class Parsed(NamedTuple):
    """Formulas and what they read.

    Attributes:
        formula: with an output for every residual, and for its derivative in everything that it reads of the net.
        residuals: names of the residuals' outputs.
        slopes: for each residual, by the name of what it is derived in, the name of that output.
        named: by its name, every output and derivative that is read.
        rules: what is pushed through the net for them.
    """

    formula: Formula
    residuals: tuple[str, ...]
    slopes: tuple[dict[str, str], ...]
    named: dict[str, Named]
    rules: Rules


@lru_cache(maxsize=128)
def _parse(residuals: tuple[str, ...], names: Names, targets: tuple[str, ...], params: tuple[str, ...]) -> Parsed:
    named: dict[str, Named] = {}
    read: list[str] = []
    for text in residuals:
        for name in _symbols(text):
            if name in params or name in read:
                continue
            if name not in names.inputs and name not in targets:
                named[name] = find(name, names, (*targets, *params), repr(text))
            read.append(name)
    if not named:
        raise FormulaError(f"no residual of {residuals} reads an output of the net ({' '.join(names.outputs)})")
    results = {f"residual{k}": text for k, text in enumerate(residuals)}
    formula = Formula(tuple(read), params, {}, results)
    slopes = []
    for result in results:
        here = {}
        for name in (*named, *(each for each in names.inputs if each in read)):
            formula.outputs[f"{result} in {name}"] = differentiate(formula, result, name)
            here[name] = f"{result} in {name}"
        slopes.append(here)
    return Parsed(formula, tuple(results), tuple(slopes), named, rules([at.along for at in named.values()]))


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
