"""Activation functions: each one class with its value, its derivative and its parameters.

A built-in activation is a formula, from which NumPy, CuPy and the compiled kernels all take it. To add one,
write one class here; it is then known by its ``name`` everywhere, and tested with the others.

Parameters, their defaults and ranges, and the derivative chosen at a kink are PyTorch's. Every formula gives its limit
at +-inf and NaN for NaN, and overflows nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import ranges
from .arrays import elementwise
from .formulas import Formula
from .formulas.of_activation import of_activation
from .keywords import known_options
from .messages import unknown

Array = Any


class Activation:
    """An element-wise function and its derivative. Subclass it with plain array code, as in the article.

    With ``scope = "sample"`` a subclass says that its code gives the same for a sample whatever others are in the
    batch. Without it, its code always gets the whole batch, and engines that cut batches leave it to the layered one.
    """

    def __call__(self, x: Array) -> Array:
        """f(x), of the shape of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, x)")

    def grad(self, x: Array) -> Array:
        """f'(x), of the shape of ``x``."""
        raise NotImplementedError(f"{type(self).__name__} must define grad(self, x)")

    def backprop(self, t: Array, grad_z: Array) -> Array:
        """The gradient with respect to ``t`` of what has the gradient ``grad_z`` with respect to f(t)."""
        return grad_z * self.grad(t)


class Elementwise(Activation):
    """An activation given by formulas, see :mod:`backprop_xp.formulas.language`.

    Args:
        name: what to call it in messages.
        value: f as a formula of ``t``.
        grad: f' as a formula of ``t``; derived from ``value`` if left out.
        let: names for subexpressions that both use.
        params: names and values of scalar parameters; they become attributes, which may be changed.
    """

    scope = "sample"
    name: str
    text: tuple[str, str | None, tuple[tuple[str, str], ...], tuple[str, ...]]  # value, grad, let, parameters' names
    requires: tuple[str, ...] = ()  # what the parameters must fulfil, see backprop_xp.ranges

    @known_options
    def __init__(
        self,
        name: str,
        value: str,
        grad: str | None = None,
        *,
        let: Mapping[str, str] | None = None,
        params: Mapping[str, float] | None = None,
    ) -> None:
        self.name = name
        self.text = (value, grad, tuple((let or {}).items()), tuple(params or {}))
        for parameter, number in (params or {}).items():
            if parameter in ("name", "text") or hasattr(Elementwise, parameter):
                raise ValueError(f"a parameter can't be called {parameter!r}: an activation has that attribute")
            setattr(self, parameter, ranges.real(parameter, number))
        self.formula, self.parameters  # noqa: B018  a mistake is reported here, not at the first call

    @property
    def formula(self) -> Formula:
        """The formula with the outputs "value", "grad" and "grad_t", the last being ``grad_z`` * f'(t)."""
        return of_activation(*self.text)

    @property
    def parameters(self) -> tuple[float, ...]:
        """The values of the parameters, in the formula's order; a ValueError where they are out of range."""
        values = {name: ranges.real(name, getattr(self, name)) for name in self.text[3]}
        ranges.check(self, values, self.requires)
        return tuple(values.values())

    @property
    def is_formula(self) -> bool:
        """Whether the formula says all there is: false where a subclass or an instance overrides a method."""
        return type(self) in FORMULA_CLASSES and not METHODS & vars(self).keys()

    def __call__(self, x: Array) -> Array:
        return elementwise(self.formula, ("value",), {"t": x}, self.parameters)[0]

    def grad(self, x: Array) -> Array:
        return elementwise(self.formula, ("grad",), {"t": x}, self.parameters)[0]

    def backprop(self, t: Array, grad_z: Array) -> Array:
        if not self.is_formula:
            return super().backprop(t, grad_z)
        return elementwise(self.formula, ("grad_t",), {"t": t, "grad_z": grad_z}, self.parameters)[0]

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.text[3])
        return f"{type(self).__name__}({params})"


METHODS = {"__call__", "grad", "backprop"}


class BuiltIn(Elementwise):
    """A built-in activation: the class's attributes are its formula.

    ``kernel`` and ``cuda_kernel`` name structs of kernels/activations.h that compute the formula in less time, on the
    CPU and on the GPU, where there are such. ``second`` is the second derivative as a formula of ``value`` and
    ``derivative``, where there is a short one that loses no digits: compiled derivatives of higher order start from it.
    Where ``value`` and ``derivative`` are written so that nothing overflows, ``textbook`` has both as people know them,
    the derivative of t and z = f(t).
    """

    kernel: str = ""
    cuda_kernel: str = ""
    textbook: tuple[str, str] | None = None
    second: str = ""
    value: str
    derivative: str
    let: Mapping[str, str] = {}
    params: Mapping[str, float] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.text = (cls.value, cls.derivative, tuple(cls.let.items()), tuple(cls.params))
        cls.textbook = vars(cls).get("textbook")  # a subclass may be another function

    def __init__(self, **params: float) -> None:
        for name in params.keys() - self.params.keys():
            known = ", ".join(self.params) or "none"
            raise TypeError(f"{type(self).__name__} has no parameter {name!r}; it has {known}")
        for name, default in self.params.items():
            setattr(self, name, ranges.real(name, params.get(name, default)))
        self.parameters  # noqa: B018  it checks their ranges


class Identity(BuiltIn):
    """f(t) = t."""

    name = "identity"
    value = "t"
    derivative = "1"


class Tanh(BuiltIn):
    """Hyperbolic tangent, f'(t) = 1 - tanh(t)^2, computed as 4 exp(-2 |t|) / (1 + exp(-2 |t|))^2."""

    name = "tanh"
    # kernels/math_cpu.h computes tanh from the same e and q, which the compiler then shares
    let = {"e": "exp(-2 * abs(t))", "q": "2 / (1 + e)"}
    value = "tanh(t)"
    derivative = "e * q * q"
    textbook = ("tanh(t)", "1 - z ** 2")
    kernel = cuda_kernel = "hyperbolic_tangent"
    second = "-2 * value * derivative"


class Sigmoid(BuiltIn):
    """Logistic sigmoid, f(t) = 1 / (1 + exp(-t)); f' = f (1 - f)."""

    name = "sigmoid"
    let = {"e": "exp(-abs(t))", "q": "1 / (1 + e)"}
    value = "where(t < 0, e * q, q)"
    derivative = "e * q * q"
    textbook = ("1 / (1 + exp(-t))", "z * (1 - z)")
    cuda_kernel = "logistic"
    second = "(1 - 2 * value) * derivative"


class ReLU(BuiltIn):
    """f(t) = max(t, 0); f'(0) = 0."""

    name = "relu"
    value = "maximum(t, 0)"
    derivative = "where(t <= 0, 0, where(t > 0, 1, t))"
    textbook = ("maximum(t, 0)", "where(t > 0, 1, 0)")
    cuda_kernel = "rectifier"


class LeakyReLU(BuiltIn):
    """f(t) = t for t > 0, negative_slope t otherwise; f'(0) = negative_slope."""

    name = "leaky_relu"
    params = {"negative_slope": 0.01}
    value = "where(t > 0, t, negative_slope * t)"
    derivative = "where(t > 0, 1, where(t <= 0, negative_slope, t))"
    textbook = ("where(t > 0, t, negative_slope * t)", "where(t > 0, 1, negative_slope)")


class ELU(BuiltIn):
    """f(t) = t for t > 0, alpha (exp(t) - 1) otherwise (Clevert et al., 2015)."""

    name = "elu"
    params = {"alpha": 1.0}
    value = "where(t > 0, t, alpha * expm1(t))"
    derivative = "where(t > 0, 1, alpha * exp(t))"


class SELU(BuiltIn):
    """f(t) = scale t for t > 0, scale alpha (exp(t) - 1) otherwise (Klambauer et al., 2017)."""

    name = "selu"
    let = {"scale": "1.0507009873554804934193349852946", "slope": "scale * 1.6732632423543772848170429916717"}
    value = "where(t > 0, scale * t, slope * expm1(t))"
    derivative = "where(t > 0, scale, slope * exp(t))"


class CELU(BuiltIn):
    """f(t) = t for t > 0, alpha (exp(t / alpha) - 1) otherwise (Barron, 2017)."""

    name = "celu"
    params = {"alpha": 1.0}
    requires = ("alpha != 0",)
    value = "where(t > 0, t, alpha * expm1(t / alpha))"
    derivative = "where(t > 0, 1, exp(t / alpha))"


class GELU(BuiltIn):
    """f(t) = t Phi(t), Phi the standard normal distribution function (Hendrycks and Gimpel, 2016)."""

    name = "gelu"
    # 40 standard deviations out, Phi is 0 or 1 and phi is 0: the clipping only keeps inf * 0 away
    let = {"cdf": "normal_cdf(t)"}
    value = "maximum(t, -40) * cdf"
    derivative = "cdf + clip(t, -40, 40) * normal_pdf(t)"
    textbook = ("t * normal_cdf(t)", "normal_cdf(t) + t * normal_pdf(t)")


class GELUTanh(BuiltIn):
    """f(t) = t / 2 (1 + tanh(u)) = t sigmoid(2 u), u = sqrt(2 / pi) (t + 0.044715 t^3)."""

    name = "gelu_tanh"
    let = {
        "c": "clip(t, -100, 100)",
        "a": "1.5957691216057307",
        "b": "a * 0.044715",
        "u": "c * (a + b * c * c)",
        "e": "exp(-abs(u))",
        "q": "1 / (1 + e)",
        "s": "where(u < 0, e * q, q)",
    }
    value = "maximum(t, -100) * s"
    derivative = "s + c * (e * q * q) * (a + 3 * b * c * c)"


class SiLU(BuiltIn):
    """f(t) = t sigmoid(t), also called swish (Elfwing et al., 2017; Ramachandran et al., 2017)."""

    name = "silu"
    # exp(-1e4) is 0 in both precisions: the clipping only keeps inf * 0 away
    let = {"e": "exp(-abs(t))", "q": "1 / (1 + e)", "s": "where(t < 0, e * q, q)"}
    value = "maximum(t, -1e4) * s"
    derivative = "s + clip(t, -1e4, 1e4) * (e * q * q)"
    textbook = ("t / (1 + exp(-t))", "(1 + exp(-t) + t * exp(-t)) / (1 + exp(-t)) ** 2")


class Mish(BuiltIn):
    """f(t) = t w(t), w(t) = tanh(log(1 + exp(t))) (Misra, 2019), without overflow or cancellation.

    With e = exp(-|t|): w = (1 + 2 e) / (1 + 2 e + 2 e^2) for t >= 0 and e (e + 2) / (e (e + 2) + 2) for t < 0;
    w' = 4 e (1 + e) / (1 + 2 e + 2 e^2)^2 and 4 e (1 + e) / (e (e + 2) + 2)^2 up to a factor e for t >= 0.
    """

    name = "mish"
    let = {
        "e": "exp(-abs(t))",
        "n": "where(t < 0, e * (e + 2), 1 + 2 * e)",
        "d": "where(t < 0, n + 2, n + 2 * e * e)",
        "w": "n / d",
    }
    value = "maximum(t, -1e4) * w"
    derivative = "w + clip(t, -1e4, 1e4) * (4 * e * (1 + e) * where(t < 0, 1, e) / (d * d))"


class Softplus(BuiltIn):
    """f(t) = log(1 + exp(beta t)) / beta, and t itself where beta t > threshold, as in PyTorch."""

    name = "softplus"
    params = {"beta": 1.0, "threshold": 20.0}
    requires = ("beta > 0",)
    let = {"u": "beta * t", "e": "exp(-abs(u))"}
    value = "where(u > threshold, t, (maximum(u, 0) + log1p(e)) / beta)"
    derivative = "where(u > threshold, 1, where(u < 0, e, 1) / (1 + e))"
    textbook = ("log(1 + exp(beta * t)) / beta", "1 / (1 + exp(-beta * t))")


class Softsign(BuiltIn):
    """f(t) = t / (1 + |t|); f'(t) = 1 / (1 + |t|)^2."""

    name = "softsign"
    let = {"c": "clip(t, -1e30, 1e30)", "q": "1 / (1 + abs(t))"}
    value = "c / (1 + abs(c))"
    derivative = "q * q"
    textbook = ("t / (1 + abs(t))", "1 / (1 + abs(t)) ** 2")


class HardSigmoid(BuiltIn):
    """f(t) = (t + 3) / 6 clipped to [0, 1]; f'(-3) = f'(3) = 0."""

    name = "hard_sigmoid"
    value = "clip(t + 3, 0, 6) / 6"
    derivative = "where(t <= -3, 0, where(t >= 3, 0, where(t == t, 1 / 6, t)))"
    textbook = ("clip(t + 3, 0, 6) / 6", "where(abs(t) < 3, 1 / 6, 0)")


class HardTanh(BuiltIn):
    """f(t) = t clipped to [min_val, max_val]; f' = 0 at both ends."""

    name = "hard_tanh"
    params = {"min_val": -1.0, "max_val": 1.0}
    requires = ("min_val < max_val",)
    value = "clip(t, min_val, max_val)"
    derivative = "where(t <= min_val, 0, where(t >= max_val, 0, where(t == t, 1, t)))"
    textbook = ("clip(t, min_val, max_val)", "where(t <= min_val, 0, where(t < max_val, 1, 0))")


class HardSwish(BuiltIn):
    """f(t) = t (t + 3) / 6 between -3 and 3, 0 below and t above (Howard et al., 2019)."""

    name = "hard_swish"
    value = "where(t <= -3, 0, where(t >= 3, t, t * (t + 3) / 6))"
    derivative = "where(t <= -3, 0, where(t >= 3, 1, t / 3 + 0.5))"


class ReLU6(BuiltIn):
    """f(t) = t clipped to [0, 6]; f'(0) = f'(6) = 0."""

    name = "relu6"
    value = "clip(t, 0, 6)"
    derivative = "where(t <= 0, 0, where(t >= 6, 0, where(t == t, 1, t)))"
    textbook = ("clip(t, 0, 6)", "where(t <= 0, 0, where(t < 6, 1, 0))")


class LogSigmoid(BuiltIn):
    """f(t) = -log(1 + exp(-t)); f'(t) = sigmoid(-t)."""

    name = "log_sigmoid"
    let = {"e": "exp(-abs(t))"}
    value = "minimum(t, 0) - log1p(e)"
    derivative = "where(t < 0, 1, e) / (1 + e)"
    textbook = ("-log(1 + exp(-t))", "1 / (1 + exp(t))")


class Sin(BuiltIn):
    """f(t) = sin(omega t), NaN at infinity; SIREN's layers have omega = 30 (Sitzmann et al., 2020)."""

    omega: float
    name = "sin"
    params = {"omega": 1.0}
    value = "sin(omega * t)"
    derivative = "omega * cos(omega * t)"


class Cos(BuiltIn):
    """f(t) = cos(omega t), NaN at infinity: with Sin, Fourier features (Rahimi and Recht, 2007)."""

    omega: float
    name = "cos"
    params = {"omega": 1.0}
    value = "cos(omega * t)"
    derivative = "-omega * sin(omega * t)"


#: Every built-in activation by name.
ACTIVATIONS: dict[str, type[BuiltIn]] = {cls.name: cls for cls in BuiltIn.__subclasses__()}
ALIASES = {"swish": "silu", "linear": "identity", "logistic": "sigmoid"}
FORMULA_CLASSES = frozenset([Elementwise, *ACTIVATIONS.values()])


def get_activation(activation: str | Activation) -> Activation:
    """The activation of this name with its default parameters, or the object itself.

    Raises:
        ValueError: unknown name. TypeError: neither a name nor an object with ``__call__`` and ``grad``.
    """
    if isinstance(activation, str):
        name = ALIASES.get(activation, activation)
        if name not in ACTIVATIONS:
            raise ValueError(unknown("activation", activation, [*ACTIVATIONS, *ALIASES]))
        return ACTIVATIONS[name]()
    if isinstance(activation, type) or not (callable(activation) and callable(getattr(activation, "grad", None))):
        shown = activation.__name__ if isinstance(activation, type) else type(activation).__name__
        raise TypeError(f"an activation is a name or an object with __call__ and grad, got {shown}")
    return activation
