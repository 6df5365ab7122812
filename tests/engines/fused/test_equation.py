"""Equations in one compiled pass: what the two loops give, the same bits for any number of threads, any processor."""

import numpy as np
import pytest
from here import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop_xp import ACTIVATIONS, Elementwise, Equation, Net
from backprop_xp.engines.fused import equation as fused
from backprop_xp.toolchain import cache, compiler

pytestmark = [needs_compiler, pytest.mark.filterwarnings("error:running without compiled kernels")]

TOLERANCE = {"float32": 1e-4, "float64": 1e-11}
#: By name: equations for nets of two inputs and two outputs.
TEXTS = {
    "heat": ("u_y - nu * u_xx", "v - x"),
    "laplacians": ("u_xx + u_yy - f", "v_yy + v_xx + u * v"),
    "burgers": ("u_y + u * u_x - nu * u_xx",),
    "eikonal": ("u_x ** 2 + u_y ** 2 - 1",),
    "third": ("u_xxy - v_x * exp(-x * x)",),
    "values": ("u - v * f + y",),
}
EQUATIONS = {
    name: Equation(
        *texts, inputs="x y", outputs="u v", targets="f" if "f" in "".join(texts) else "", params={"nu": 0.3}
    )
    for name, texts in TEXTS.items()
}


def both(sizes, activation="tanh", dtype="float64", seed=0, bias=True, **options):
    """Layered and fused."""
    nets = []
    for engine in ("layered", "fused"):
        functions = (*(activation,) * (len(sizes) - 2), "identity")
        net = Net(sizes, functions, "mse", bias, dtype, seed, "numpy", "glorot_normal", engine=engine, **options)
        for b in net.biases:
            b.data = np.random.default_rng(seed + 1).normal(size=b.data.shape).astype(dtype)
        nets.append(net)
    return nets


def batch(equation, n, dtype="float64", seed=0):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(n, 2)).astype(dtype), random.normal(size=n).astype(dtype)
    return x, y if equation.targets else None


def everything(net, *args, **options):
    """The loss, the gradient in x, and those of all parameters, by what they are called."""
    loss, grad_x = net.loss_and_grad(*args, input_grad=True, **options)
    return {"loss": loss, "x": grad_x} | {f"parameter {k}": p.grad for k, p in enumerate(net.parameters)}


def assert_agree(nets, *args, **options):
    tolerance = TOLERANCE[nets[0].dtype.name]
    expected, found = (everything(net, *args, **options) for net in nets)
    for name, array in expected.items():
        scale = max(1e-3, np.abs(array).max(initial=0.0))
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance * scale, err_msg=name)
        assert found[name].dtype == nets[0].dtype and found[name].shape == array.shape


@settings(deadline=None, max_examples=25)
@given(
    hidden=st.lists(st.integers(1, 70), max_size=4),
    name=st.sampled_from(sorted(EQUATIONS)),
    n=st.sampled_from([1, 2, 15, 31, 32, 33, 96, 255, 256, 257, 700]),
    dtype=st.sampled_from(["float32", "float64"]),
    weighted=st.booleans(),
    bias=st.booleans(),
    reduction=st.sampled_from(["sum", "mean"]),
)
def test_any_widths_and_batches(hidden, name, n, dtype, weighted, bias, reduction):
    nets = both((2, *hidden, 2), dtype=dtype, bias=bias, reduction=reduction)
    x, y = batch(EQUATIONS[name], n, dtype)
    weight = np.random.default_rng(2).uniform(0.1, 1, n) if weighted else None
    assert_agree(nets, x, y, loss=EQUATIONS[name], sample_weight=weight)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation(activation):
    nets = both((2, 9, 5, 2), activation)
    x, _ = batch(EQUATIONS["burgers"], 40)
    assert_agree(nets, x, loss=EQUATIONS["burgers"])


def test_activations_of_ones_own_with_parameters():
    bump = Elementwise("bump", value="exp(-width * t * t)", params={"width": 0.7})
    nets = both((2, 9, 5, 2), bump)
    x, _ = batch(EQUATIONS["heat"], 40)
    assert_agree(nets, x, loss=EQUATIONS["heat"])
    bump.width = 0.2
    assert_agree(nets, x, loss=EQUATIONS["heat"])


def test_parameters_of_an_equation_may_be_changed():
    equation = Equation("u_y - nu * u_xx", inputs="x y", outputs="u v", params={"nu": 0.3})
    nets, (x, _) = both((2, 9, 2)), batch(equation, 20)
    before = nets[1].loss_and_grad(x, loss=equation)
    equation.nu = 2.0
    assert_agree(nets, x, loss=equation)
    assert nets[1].loss_and_grad(x, loss=equation) != before


def test_layers_too_wide_for_a_tile_of_the_cache():
    equation = EQUATIONS["laplacians"]
    nets, (x, y) = both((2, 600, 300, 2), dtype="float32"), batch(equation, 300, "float32")
    assert_agree(nets, x, y, loss=equation)


def test_other_numbers_of_inputs_and_outputs():
    """Five inputs, a Laplacian of three of them; seven outputs, of which only some are read."""
    names = {"inputs": "a b c d e", "outputs": "s u v w k m n"}
    equation = Equation("u_aa + u_bb + u_cc - e * w", "n_d - s", "k * m", **names)
    assert len(equation.parsed.rules.stack) == 6
    nets = both((5, 11, 7, 7))
    assert_agree(nets, np.random.default_rng(0).normal(size=(50, 5)), loss=equation)


def test_arrays_of_any_strides():
    equation = EQUATIONS["laplacians"]
    nets, (x, y) = both((2, 9, 5, 2)), batch(equation, 100)
    assert_agree(nets, x[::-2, ::-1], y[1::2], loss=equation, sample_weight=np.linspace(0, 1, 100)[::2])
    assert_agree(nets, np.asfortranarray(x), y[:, None], loss=equation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_any_number_of_threads_and_any_time(dtype, monkeypatch):
    equation = EQUATIONS["laplacians"]
    x, y = batch(equation, 5000, dtype)
    found = []
    for threads in (1, 2, 5, 1):
        net = both((2, 20, 33, 2), dtype=dtype, threads=threads)[1]
        found.append(b"".join(np.asarray(a).tobytes() for a in everything(net, x, y, loss=equation).values()))
    monkeypatch.setattr("backprop_xp.programs.stack.WAVE_BYTES", 0)  # sums of few chunks are kept at once
    net = both((2, 20, 33, 2), dtype=dtype)[1]
    found.append(b"".join(np.asarray(a).tobytes() for a in everything(net, x, y, loss=equation).values()))
    assert len(set(found)) == 1


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 31, 32, 299])
def test_nan_and_infinity_reach_what_they_reach_in_the_loops(poison, position):
    equation = EQUATIONS["laplacians"]
    nets, (x, y) = both((2, 9, 5, 2)), batch(equation, 300)
    x[position, 1] = poison
    with np.errstate(all="ignore"):
        expected, found = (everything(net, x, y, loss=equation) for net in nets)
    for name, array in expected.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(array), err_msg=name)


def test_points_that_fill_up_a_strip_count_for_nothing():
    """Not even where the residual is infinite at 0, or at the point that stands for them."""
    equation = Equation("u_xx / x", inputs="x y", outputs="u v")
    nets, (x, _) = both((2, 9, 5, 2)), batch(equation, 5)
    assert_agree(nets, x, loss=equation)
    weight = np.array([1, 1, 1, 1, 0.0])
    x[-1] = 1e-300, 0
    assert_agree(nets, x[:-1], loss=equation, sample_weight=weight[:-1])


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_on_processors_with_narrower_registers(width, dtype, monkeypatch, new_functions):
    monkeypatch.setenv("CXX", f"{' '.join(compiler.find().command)} -DBPX_VECTOR_BYTES={width}")
    monkeypatch.setattr(cache, "_loaded", {})  # what was compiled for the registers of this one
    equation = EQUATIONS["laplacians"]
    nets, (x, y) = both((2, 20, 33, 2), dtype=dtype), batch(equation, 70, dtype)
    assert_agree(nets, x, y, loss=equation)


def test_numbers_that_stand_here_and_in_the_headers():
    text = cache.Path(cache.__file__).parents[2].joinpath("kernels", "stack.h").read_text("utf-8")
    assert f"stack_bytes = 1 << {fused.TILE_BYTES.bit_length() - 1};" in text
