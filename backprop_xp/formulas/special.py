"""The error function and the normal distribution for NumPy, which has neither.

Source of the approximations: W. J. Cody, "Rational Chebyshev approximations for the error function",
Mathematics of Computation 23 (1969), with the coefficients of his SPECFUN routine CALERF, good to about
1e-16 relative. float32 is computed in float64 and rounded once.
"""

from __future__ import annotations

import numpy as np

# erf(x) = x A(x^2) / B(x^2) for |x| <= 0.46875
A = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
     3.77485237685302021e2, 3.20937758913846947e3)  # fmt: skip
B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# erfc(x) = exp(-x^2) C(x) / D(x) for 0.46875 < x <= 4
C = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3)  # fmt: skip
D = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
# erfc(x) = exp(-x^2) / x (1 / sqrt(pi) - u P(u) / Q(u)), u = 1 / x^2, for x > 4
P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
Q = (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3)  # fmt: skip

INVERSE_SQRT_PI = 0.56418958354775628695
INVERSE_SQRT_2PI = 0.39894228040143267794
SQRT_HALF = 0.70710678118654752440


def erf(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The error function, 2 / sqrt(pi) times the integral of exp(-s^2) from 0 to x."""
    dtype, x = x.dtype, x.astype(np.float64, copy=False)
    size = np.abs(x)
    with np.errstate(all="ignore"):
        result = np.where(size <= 0.46875, _erf_small(x), np.copysign(1 - _erfc_positive(size, size, 0.0), x))
    return _rounded(result, dtype, out)


def normal_cdf(t: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The standard normal distribution function, erfc(-t / sqrt(2)) / 2, to full relative accuracy."""
    dtype, t = t.dtype, t.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        x = t * SQRT_HALF
        size = np.abs(x)
        # exp(-x^2) magnifies the rounding of x = t / sqrt(2), so it is taken as exp(-t^2 / 2)
        tail = 0.5 * _erfc_positive(size, t, 0.5)
        result = np.where(size <= 0.46875, 0.5 + 0.5 * _erf_small(x), np.where(t < 0, tail, 1 - tail))
    return _rounded(result, dtype, out)


def normal_pdf(t: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """The standard normal density, exp(-t^2 / 2) / sqrt(2 pi), to full relative accuracy."""
    dtype, t = t.dtype, t.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        result = INVERSE_SQRT_2PI * _exp_minus_square(t, 0.5)
    return _rounded(result, dtype, out)


def _rounded(result: np.ndarray, dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return result.astype(dtype)[()]
    np.copyto(out, result, casting="same_kind")
    return out


def _polynomial(x: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    result = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        result *= x
        result += c
    return result


def _erf_small(x: np.ndarray) -> np.ndarray:
    square = x * x
    return x * _polynomial(square, A) / _polynomial(square, B)


def _erfc_positive(x: np.ndarray, root: np.ndarray, factor: float) -> np.ndarray:
    """erfc(x) for x > 0.46875 with exp(-x^2) computed as exp(-factor * root^2) (factor 0 stands for 1)."""
    gauss = _exp_minus_square(root, factor or 1.0)
    middle = np.minimum(x, 4.0)
    u = 1 / np.square(np.maximum(x, 4.0))
    far = (INVERSE_SQRT_PI - u * _polynomial(u, P) / _polynomial(u, Q)) / x
    return gauss * np.where(x <= 4.0, _polynomial(middle, C) / _polynomial(middle, D), far)


def _exp_minus_square(x: np.ndarray, factor: float) -> np.ndarray:
    """exp(-factor x^2): x^2 is split into a part that is exact in a double and a small rest."""
    x = np.minimum(np.abs(x), 60.0)  # beyond it the result is 0; inf - inf would be NaN
    high = np.trunc(x * 65536.0) / 65536.0
    return np.exp(-factor * high * high) * np.exp(-factor * (x - high) * (x + high))
