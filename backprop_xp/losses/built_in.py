"""The built-in losses of one output and its target, each one class with its formula."""

from .elementwise import BuiltInLoss


class HalfSumSq(BuiltInLoss):
    """Half the sum of squares, sum z^2 / 2, the article's loss; it takes no target."""

    name = "half_sum_sq"
    value = "0.5 * z * z"
    derivative = "z"
    textbook = ("0.5 * z ** 2", "z")


class HalfSquaredError(BuiltInLoss):
    """sum (z - y)^2 / 2; "mean" is over the samples."""

    name = "half_squared_error"
    let = {"d": "z - y"}
    value = "0.5 * d * d"
    derivative = "d"
    textbook = ("0.5 * (z - y) ** 2", "z - y")


class MSE(BuiltInLoss):
    """(z - y)^2; "mean" is over all elements, as in PyTorch."""

    name = "mse"
    mean_over = "elements"
    let = {"d": "z - y"}
    value = "d * d"
    derivative = "2 * d"
    textbook = ("(z - y) ** 2", "2 * (z - y)")


class MAE(BuiltInLoss):
    """|z - y|, with derivative 0 at z = y; "mean" is over all elements, as in PyTorch's L1Loss."""

    name = "mae"
    mean_over = "elements"
    let = {"d": "z - y"}
    value = "abs(d)"
    derivative = "sign(d)"
    textbook = ("abs(z - y)", "sign(z - y)")


class Huber(BuiltInLoss):
    """(z - y)^2 / 2 within delta, delta (|z - y| - delta / 2) beyond (Huber, 1964); "mean" over all elements."""

    name = "huber"
    mean_over = "elements"
    params = {"delta": 1.0}
    requires = ("delta > 0",)
    let = {"d": "z - y", "size": "abs(d)"}
    value = "where(size <= delta, 0.5 * d * d, delta * (size - 0.5 * delta))"
    derivative = "clip(d, -delta, delta)"
    textbook = (
        "where(abs(z - y) <= delta, 0.5 * (z - y) ** 2, delta * (abs(z - y) - 0.5 * delta))",
        "clip(z - y, -delta, delta)",
    )


class BCEWithLogits(BuiltInLoss):
    """Binary cross-entropy of sigmoid(z) and the probability y; "mean" over all elements, as in PyTorch.

    weight (pos_weight y softplus(-z) + (1 - y) softplus(z)), softplus(z) = log(1 + exp(z)): ``weight`` and
    ``pos_weight`` are numbers, or vectors of a number for each output. Exact limits at infinite logits, and nothing is
    lost where y is near sigmoid(z): of the two terms, ``q`` weights the one that grows with abs(z).
    """

    name = "bce_with_logits"
    mean_over = "elements"
    params = {"weight": 1.0, "pos_weight": 1.0}
    let = {
        "e": "exp(-abs(z))",
        "positive": "pos_weight * y",
        "negative": "1 - y",
        "both": "positive + negative",
        "q": "where(z < 0, positive, negative)",
        "p": "both * (e / (1 + e))",
    }
    value = "weight * (where(q == 0, 0, abs(z) * q) + both * log1p(e))"
    derivative = "weight * where(z < 0, p - q, q - p)"
    textbook = (
        "weight * (pos_weight * y * log(1 + exp(-z)) + (1 - y) * log(1 + exp(z)))",
        "weight * ((1 - y) / (1 + exp(-z)) - pos_weight * y / (1 + exp(z)))",
    )
