"""Formulas as C++: what is printed, and that a plain compiler makes the same numbers of it."""

import ctypes
import subprocess

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, LOSSES
from backprop_xp.formulas import Formula, emit
from backprop_xp.losses import ElementwiseLoss
from backprop_xp.toolchain import compiler

# The functions of kernels/math.h as the standard library has them: what is tested here is the printed code alone.
STUB = """
#include <cmath>
#define BPX_FN inline
namespace bpx {
template <class T> T c(double x) { return T(x); }
template <class T> T where(bool m, T a, T b) { return m ? a : b; }
template <class T> T minimum(T a, T b) { return a != a || a < b ? a : b; }
template <class T> T maximum(T a, T b) { return a != a || a > b ? a : b; }
template <class T> T sign(T x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
template <class T> T abs(T x) { return std::fabs(x); }
template <class T> T normal_cdf(T x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }
template <class T> T normal_pdf(T x) { return 0.3989422804014327 * std::exp(-x * x / 2); }
using std::exp; using std::expm1; using std::log; using std::log1p; using std::tanh; using std::sqrt; using std::erf;
using std::sin; using std::cos;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Every activation and element-wise loss in one library of plain functions."""
    if compiler.missing():
        pytest.skip("no C++ compiler on this machine")
    text = [STUB]
    for name, f in ACTIVATIONS.items():
        text.append(emit.struct(f().formula, f"act_{name}", ("t",)))
        text.append(
            f'extern "C" void run_{name}(double t, const double* p, double* out) {{\n'
            f"  out[0] = act_{name}::value(t, p); out[1] = act_{name}::grad(t, p);\n"
            f"  act_{name}::both(t, p, out[2], out[3]); }}\n"
        )
    for name, loss in LOSSES.items():
        if issubclass(loss, ElementwiseLoss):
            text.append(emit.struct(loss().kernel.formula, f"loss_{name}", ("z", "y"), loss.needs_target))
            text.append(
                f'extern "C" void run_{name}(double z, double y, const double* p, double* out) {{\n'
                f"  out[0] = loss_{name}::value(z, y, p); out[1] = loss_{name}::grad(z, y, p);\n"
                f"  out[2] = loss_{name}::target; out[3] = loss_{name}::params;\n"
                f"  double summand; loss_{name}::both(z, y, p, summand, out[5]); out[4] = loss_{name}::factor * summand; }}\n"
            )
    folder = tmp_path_factory.mktemp("emit")
    (folder / "all.cpp").write_text("\n".join(text), encoding="utf-8")
    cxx = compiler.find().command[0]
    flags = [
        "-std=c++17",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-variable",
        "-Wno-unused-parameter",
        "-shared",
        "-fPIC",
        "-O0",
    ]
    subprocess.run([cxx, *flags, "all.cpp", "-o", "all.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "all.so"))


def parameters(f):
    return (ctypes.c_double * 4)(*f.parameters)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_numpys(name, library):
    f, out = ACTIVATIONS[name](), (ctypes.c_double * 4)()
    for t in (0.0, -0.0, 0.3, -0.7, 1.0, 2.5, -3.0, 3.0, 6.0, 25.0, -30.0):
        getattr(library, f"run_{name}")(ctypes.c_double(t), parameters(f), out)
        np.testing.assert_allclose(list(out), [f(t), f.grad(t)] * 2, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if issubclass(loss, ElementwiseLoss)])
def test_losses_are_numpys(name, library):
    loss, out = LOSSES[name](), (ctypes.c_double * 6)()
    for z, y in ((0.5, 0.2), (-3.0, 1.0), (0.25, 0.25), (40.0, 0.0)):
        getattr(library, f"run_{name}")(ctypes.c_double(z), ctypes.c_double(y), parameters(loss), out)
        args = (np.array([z]), np.array([y]))
        expected = [loss(*args), loss.grad(*args)[0]]
        np.testing.assert_allclose([out[0], out[1], out[4], out[5]], expected * 2, rtol=1e-13)
        assert list(out)[2:4] == [loss.needs_target, len(loss.params)]


@pytest.mark.parametrize(
    "value, factor", [("0.5 * z * z", 0.5), ("4 * (z - y)", 4.0), ("0.3 * z * z", 1.0), ("z * 0.5", 1.0), ("z", 1.0)]
)
def test_a_power_of_2_is_left_to_the_sum(value, factor):
    formula = Formula(("z", "y"), (), {}, {"value": value, "grad": "z"})
    text = emit.struct(formula, "F", ("z", "y"), True)
    assert f"float factor = {factor}f;" in text
    assert ("bpx::c<T>" in text.partition("static void both")[2]) == (value in ("0.3 * z * z", "z * 0.5"))


def test_shared_parts_are_printed_once():
    formula = Formula(("t",), ("p",), {}, {"value": "exp(-t) + p", "grad": "-exp(-t)"})
    text = emit.struct(formula, "F", ("t",))
    both = text.partition("static void both")[2]
    assert both.count("bpx::exp(") == 1
    assert "static constexpr int params = 1, stride = 0;" in text


def test_numbers_are_printed_in_full():
    formula = Formula(("t",), (), {}, {"value": "0.1 * t + 1e-300 - 5e-324", "grad": "t"})
    text = emit.struct(formula, "F", ("t",))
    for number in ("0.1", "1e-300", "5e-324"):
        assert f"bpx::c<T>({number})" in text


def test_nothing_of_the_users_text_is_printed():
    formula = Formula(("t",), ("evil_name",), {"another_name": "t * evil_name"}, {"value": "another_name", "grad": "t"})
    for text in (emit.struct(formula, "F", ("t",)), emit.function(formula, ("value",), "F")):
        assert "evil" not in text
        assert "another" not in text
