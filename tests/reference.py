"""Activations in 40 digits, by their textbook formulas, for comparison."""

import mpmath as mp
import numpy as np

mp.mp.dps = 60


def sigmoid(t):
    return 1 / (1 + mp.exp(-t))


def normal_cdf(t):
    return mp.erfc(-t / mp.sqrt(2)) / 2


def normal_pdf(t):
    return mp.exp(-t * t / 2) / mp.sqrt(2 * mp.pi)


SCALE, ALPHA = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")
# what the formula's constants are once they are doubles
A = mp.mpf(1.5957691216057307)
B = A * mp.mpf(0.044715)
SLOPE, SIXTH = mp.mpf(0.01), mp.mpf(1) / 6


def gelu_tanh_slope(t):
    s = sigmoid(t * (A + B * t * t))
    return s + t * s * sigmoid(-t * (A + B * t * t)) * (A + 3 * B * t * t)


def mish_slope(t):
    w = mp.tanh(mp.log1p(mp.exp(t)))
    return w + t * (1 - w * w) * sigmoid(t)


#: name -> (value, derivative) of a finite number
FUNCTIONS = {
    "identity": (lambda t: t, lambda t: mp.mpf(1)),
    "tanh": (mp.tanh, lambda t: mp.sech(t) ** 2),
    "sigmoid": (sigmoid, lambda t: sigmoid(t) * sigmoid(-t)),
    "relu": (lambda t: max(t, 0), lambda t: mp.mpf(t > 0)),
    "leaky_relu": (lambda t: t if t > 0 else SLOPE * t, lambda t: 1 if t > 0 else SLOPE),
    "elu": (lambda t: t if t > 0 else mp.expm1(t), lambda t: 1 if t > 0 else mp.exp(t)),
    "selu": (
        lambda t: SCALE * (t if t > 0 else ALPHA * mp.expm1(t)),
        lambda t: SCALE * (1 if t > 0 else ALPHA * mp.exp(t)),
    ),
    "celu": (lambda t: t if t > 0 else mp.expm1(t), lambda t: 1 if t > 0 else mp.exp(t)),
    "gelu": (lambda t: t * normal_cdf(t), lambda t: normal_cdf(t) + t * normal_pdf(t)),
    "gelu_tanh": (lambda t: t * sigmoid(t * (A + B * t * t)), gelu_tanh_slope),
    "silu": (lambda t: t * sigmoid(t), lambda t: sigmoid(t) * (1 + t * sigmoid(-t))),
    "mish": (lambda t: t * mp.tanh(mp.log1p(mp.exp(t))), mish_slope),
    "softplus": (lambda t: t if t > 20 else mp.log1p(mp.exp(t)), lambda t: 1 if t > 20 else sigmoid(t)),
    "softsign": (lambda t: t / (1 + abs(t)), lambda t: 1 / (1 + abs(t)) ** 2),
    "hard_sigmoid": (lambda t: min(max(t + 3, 0), 6) / 6, lambda t: SIXTH if -3 < t < 3 else mp.mpf(0)),
    "hard_tanh": (lambda t: min(max(t, -1), 1), lambda t: mp.mpf(-1 < t < 1)),
    "hard_swish": (
        lambda t: t * min(max(t + 3, 0), 6) / 6,
        lambda t: mp.mpf(0) if t <= -3 else mp.mpf(1) if t >= 3 else t / 3 + mp.mpf(0.5),
    ),
    "relu6": (lambda t: min(max(t, 0), 6), lambda t: mp.mpf(0 < t < 6)),
    "sin": (mp.sin, mp.cos),
    "cos": (mp.cos, lambda t: -mp.sin(t)),
    "log_sigmoid": (lambda t: -mp.log1p(mp.exp(-t)), lambda t: sigmoid(-t)),
}

#: name -> (value, derivative) at -inf and +inf, the limits
AT_INFINITY = {
    "identity": ((-np.inf, 1), (np.inf, 1)),
    "tanh": ((-1, 0), (1, 0)),
    "sigmoid": ((0, 0), (1, 0)),
    "relu": ((0, 0), (np.inf, 1)),
    "leaky_relu": ((-np.inf, 0.01), (np.inf, 1)),
    "elu": ((-1, 0), (np.inf, 1)),
    "selu": ((-1.7580993408473766, 0), (np.inf, 1.0507009873554805)),
    "celu": ((-1, 0), (np.inf, 1)),
    "gelu": ((0, 0), (np.inf, 1)),
    "gelu_tanh": ((0, 0), (np.inf, 1)),
    "silu": ((0, 0), (np.inf, 1)),
    "mish": ((0, 0), (np.inf, 1)),
    "softplus": ((0, 0), (np.inf, 1)),
    "softsign": ((-1, 0), (1, 0)),
    "hard_sigmoid": ((0, 0), (1, 0)),
    "hard_tanh": ((-1, 0), (1, 0)),
    "hard_swish": ((0, 0), (np.inf, 1)),
    "relu6": ((0, 0), (6, 0)),
    "log_sigmoid": ((-np.inf, 1), (0, 0)),
    "sin": ((np.nan, np.nan), (np.nan, np.nan)),
    "cos": ((np.nan, np.nan), (np.nan, np.nan)),
}

SPECIALS = [0.0, -0.0, 1e-30, -1e-30, 20, -20, 88, -88, 709, -709, 1e30, -1e30]


def points(dtype, count=60):
    """The specials, subnormals, and a sweep."""
    tiny = float(np.finfo(dtype).tiny)
    random = np.random.default_rng(1)
    sweep = np.concatenate([random.uniform(-12, 12, count), random.normal(size=count)])
    return np.array([*SPECIALS, tiny / 8, -tiny / 8, *sweep], dtype)


def error_in_ulp(got, function, t):
    """How far ``got`` is from function(t), in units in the last place; t itself counts as known to half a unit.

    A function like gelu_tanh takes exp of a polynomial: far out, its result moves by hundreds of units if t moves by
    one, and no computation in t's precision can do better than that.
    """
    exact = mp.mpf(function(mp.mpf(float(t))))
    unit = mp.mpf(float(np.spacing(np.abs(np.asarray(float(exact), got.dtype)))))
    half = mp.mpf(float(np.spacing(np.abs(t)))) / 2
    moved = max(abs(mp.mpf(function(mp.mpf(float(t)) + s * half)) - exact) for s in (-1, 1)) if abs(t) < 1e6 else 0
    return float(max(0, abs(mp.mpf(float(got)) - exact) - 4 * moved) / unit)
