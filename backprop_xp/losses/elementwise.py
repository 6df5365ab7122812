"""Losses that are a sum over the outputs of a formula: the built-in ones' and the users'."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import later, ranges
from ..arrays import elementwise, in_launches, sum_elementwise
from ..backend import module_of
from ..formulas import Formula, differentiate
from ..keywords import known_options
from ..messages import unknown
from .base import MEAN_OVER, METHODS, Array, Loss, check_outputs, is_vector

if TYPE_CHECKING:
    from ..programs import device_layers
else:
    device_layers = later.Module("backprop_xp.programs.device_layers")


class Text(NamedTuple):
    """What an element-wise loss is, but for the values of its parameters: two losses with the same are one kernel."""

    value: str
    grad: str | None
    let: tuple[tuple[str, str], ...]
    params: tuple[str, ...]


class ElementwiseLoss(Loss):
    """A loss that is the sum over the outputs of a formula of one output ``z`` and its target ``y``.

    ``ElementwiseLoss("poisson", value="exp(z) - y * z")`` is one, in the language of
    :mod:`backprop_xp.formulas.language`. It takes no target where no formula reads ``y``.

    Args:
        name: what to call it in messages and files.
        value: the loss of one output.
        grad: its derivative in ``z``; derived from ``value`` if left out.
        let: names for subexpressions that both use.
        params: names and values of parameters, which become attributes and may be changed: numbers, or vectors of a
            number for each output.
        mean_over: whether ``reduction="mean"`` divides the sum by the number of "samples" or of "elements".
    """

    scope = "sample"
    text: Text
    requires: tuple[str, ...] = ()  # what the parameters must fulfil, see backprop_xp.ranges

    @known_options
    def __init__(
        self,
        name: str,
        value: str,
        grad: str | None = None,
        *,
        let: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        mean_over: str = "samples",
    ) -> None:
        if mean_over not in MEAN_OVER:
            raise ValueError(unknown("mean_over", str(mean_over), MEAN_OVER))
        self.text = Text(value, grad, tuple((let or {}).items()), tuple(params or {}))
        self.name, self.mean_over = name, mean_over
        for parameter in self.text.params:
            if parameter in ("name", "text") or hasattr(ElementwiseLoss, parameter):
                raise ValueError(f"a parameter can't be called {parameter!r}: a loss has that attribute")
        self._set(params or {})
        self.formula  # noqa: B018  a mistake in the text is reported here, not at the first call
        self.needs_target = self.kernel.needs_target

    def _set(self, params: Mapping[str, Any]) -> None:
        for name, value in params.items():
            setattr(self, name, value if is_vector(value) else ranges.real(name, value))
        self.settings  # noqa: B018  it checks their ranges

    def __setattr__(self, name: str, value: Any) -> None:
        # a copy: an array could be changed in place, which a prepared call wouldn't see
        if name != "text" and name in self.text.params and is_vector(value):
            value = tuple(ranges.real(name, number) for number in value)
        super().__setattr__(name, value)

    @property
    def settings(self) -> dict[str, float | tuple[float, ...]]:
        """The parameters by name, in the formula's order.

        Raises:
            ValueError: one is out of its range, or vectors differ in length.
        """
        values: dict[str, float | tuple[float, ...]] = {}
        if not self.text.params:
            return values
        for name in self.text.params:
            value = getattr(self, name)
            values[name] = value if isinstance(value, tuple) else ranges.real(name, value)
        lengths = {len(value) for value in values.values() if isinstance(value, tuple)}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(f"the vectors of {self!r} must have one length, that of the net's outputs")
        for k in range(max(lengths, default=1)):
            ranges.check(self, {n: v[k] if isinstance(v, tuple) else v for n, v in values.items()}, self.requires)
        return values

    @property
    def outputs(self) -> int | None:
        """How many outputs a net with this loss must have; None where no parameter is a vector."""
        return next((len(value) for value in self.settings.values() if isinstance(value, tuple)), None)

    @property
    def parameters(self) -> tuple[float, ...]:
        """All parameters in the formula's order; where one is a vector, all of them for each output in turn."""
        values = self.settings
        return tuple(
            value[k] if isinstance(value, tuple) else value
            for k in range(self.outputs or 1)
            for value in values.values()
        )

    @property
    def kernel(self) -> KernelLoss:
        """What a kernel is compiled for."""
        return KernelLoss(self.text, self.outputs is not None)

    @property
    def formula(self) -> Formula:
        """The formula with "value" and "grad", "value_weighted", "grad_scaled", and "grad_weighted" (by both).

        Vectors among the parameters are variables of it.
        """
        return _formula(self.text, tuple(name for name, value in self.settings.items() if isinstance(value, tuple)))

    @property
    def is_formula(self) -> bool:
        """Whether the formula says all there is: false where a subclass or an instance overrides a method."""
        cls: Any = type(self)
        return not METHODS & vars(self).keys() and all(getattr(cls, m) is getattr(ElementwiseLoss, m) for m in METHODS)

    def __call__(self, z: Array, y: Array | None = None) -> Array:
        return sum_elementwise(self.formula, "value", self._arrays(z, y), self._scalars(1.0))

    def grad(self, z: Array, y: Array | None = None) -> Array:
        return elementwise(self.formula, ("grad",), self._arrays(z, y), self._scalars(1.0))[0]

    def weighted(self, z: Array, y: Array | None, weight: Array | None, scale: float) -> tuple[Array, Array]:
        if not self.is_formula:
            return super().weighted(z, y, weight, scale)
        if self.outputs is None and in_launches(z):
            return device_layers.loss_alone(self, z, y, weight, scale)
        arrays = self._arrays(z, y)
        outputs = ("value", "grad" if isinstance(scale, float) and scale == 1.0 else "grad_scaled")
        if weight is not None:
            column = weight[:, None] if z.ndim == 2 else module_of(z).broadcast_to(weight, z.shape)
            arrays["sample_weight"], outputs = column, ("value_weighted", "grad_weighted")
        parameters = self._scalars(scale)
        value = sum_elementwise(self.formula, outputs[0], arrays, parameters)
        return value * z.dtype.type(scale), elementwise(self.formula, outputs[1:], arrays, parameters)[0]

    def _arrays(self, z: Array, y: Array | None) -> dict[str, Array]:
        """The variables of the formula by name."""
        arrays = {"z": z, "y": y} if self.needs_target else {"z": z}
        check_outputs(self, z.shape[-1])
        for name, value in self.settings.items():
            if isinstance(value, tuple):
                xp = module_of(z)
                arrays[name] = xp.broadcast_to(xp.asarray(value, z.dtype), z.shape)
        return arrays

    def _scalars(self, scale: float) -> tuple[float, ...]:
        return (*(value for value in self.settings.values() if not isinstance(value, tuple)), scale)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.text.params)})"


class KernelLoss(NamedTuple):
    """What a kernel of an element-wise loss is compiled for: its text, and whether parameters are vectors."""

    text: Text
    per_output: bool

    @property
    def formula(self) -> Formula:
        """The outputs "value" and "grad" as functions of ``z`` and ``y`` alone, for kernels that weight and scale."""
        return _formula_alone(self.text, ())

    @property
    def needs_target(self) -> bool:
        """Whether a formula reads ``y``."""
        return _reads_target(self.text)

    def parameters(self, outputs: int) -> int:
        """How many numbers :attr:`ElementwiseLoss.parameters` are for ``outputs`` outputs."""
        return len(self.text.params) * (outputs if self.per_output else 1)


class BuiltInLoss(ElementwiseLoss):
    """A built-in element-wise loss: the class's attributes are its formula.

    Where ``value`` and ``derivative`` are written so that nothing overflows, ``textbook`` has both as people know them.
    """

    textbook: tuple[str, str] | None = None
    value: str
    derivative: str
    let: Mapping[str, str] = {}
    params: Mapping[str, float] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.text = Text(cls.value, cls.derivative, tuple(cls.let.items()), tuple(cls.params))
        cls.needs_target = _reads_target(cls.text)
        cls.textbook = vars(cls).get("textbook")  # a subclass may be another function

    def __init__(self, **params: Any) -> None:
        for name in params.keys() - self.params.keys():
            raise TypeError(
                f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self.params) or 'none'}"
            )
        self._set({**self.params, **{name: value for name, value in params.items() if value is not None}})


@lru_cache(maxsize=64)
def _formula(text: Text, vectors: tuple[str, ...]) -> Formula:
    formula = _formula_alone.__wrapped__(text, vectors)  # one of its own, to add to
    weight, scale = formula.add_variable("sample_weight"), formula.add_parameter("scale_of_all")
    node = formula.node
    # the value is scaled once, after it is summed
    formula.outputs["value_weighted"] = node("multiply", formula.outputs["value"], weight)
    formula.outputs["grad_scaled"] = node("multiply", formula.outputs["grad"], scale)
    formula.outputs["grad_weighted"] = node("multiply", formula.outputs["grad_scaled"], weight)
    return formula


@lru_cache(maxsize=64)
def _formula_alone(text: Text, vectors: tuple[str, ...]) -> Formula:
    given = {"value": text.value} if text.grad is None else {"value": text.value, "grad": text.grad}
    scalars = tuple(name for name in text.params if name not in vectors)
    formula = Formula(("z", "y", *vectors), scalars, dict(text.let), given)
    if text.grad is None:
        formula.outputs["grad"] = differentiate(formula, "value", "z")
    return formula


def _reads_target(text: Text) -> bool:
    return _formula_alone(text, ()).reads("y")
