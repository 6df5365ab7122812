"""Formulas on CuPy: they compile for every architecture, and compute what NumPy computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from backprop_xp.kernels import source

from backprop_xp import ACTIVATIONS
from backprop_xp.formulas import Formula, device
from backprop_xp.losses import LOSSES, ElementwiseLoss

OUTPUTS = {"value": (1, 0), "grad": (1, 0), "grad_t": (1, 1)}
LOSS_OUTPUTS = ("value", "grad", "grad_scaled", "value_weighted", "grad_weighted")
SPECIALS = [0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0, 6.0, 20, -20, 88, -88, 709, -709, 1e30, -1e30, np.inf, -np.inf, np.nan]


def all_kernels(dtype: str) -> list[str]:
    """Every kernel of every built-in activation and loss."""
    entries = [
        device.entry(cls().formula, (output,), widths, dtype, f"{name}_{output}")
        for name, cls in ACTIVATIONS.items()
        for output, widths in OUTPUTS.items()
    ]
    for name, cls in LOSSES.items():
        if issubclass(cls, ElementwiseLoss):
            for output in LOSS_OUTPUTS:
                arrays = len(cls().formula.variables) - 1
                widths = (1,) * arrays + (12 if "weighted" in output else 0,)
                entries.append(device.entry(cls().formula, (output,), widths, dtype, f"{name}_{output}"))
    return entries


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_for_every_architecture(dtype):
    nvrtc = pytest.importorskip("nvrtc")
    for architecture, entries in nvrtc.spread(all_kernels(dtype)):
        binary, resources = nvrtc.compile_for(source("math.h") + "".join(entries), architecture)
        assert binary
        assert len(resources) == len(entries)
        # sin and cos of large arguments, CUDA's own as well, keep the bits of 2/pi that matter on the stack
        waves = ("sin_", "cos_")
        spilling = [name for name, r in resources.items() if r.spills or (r.stack and not name.startswith(waves))]
        assert not spilling


def test_float_kernels_compute_nothing_in_double():
    nvrtc = pytest.importorskip("nvrtc")
    assert ".f64" not in nvrtc.ptx(source("math.h") + "".join(all_kernels("float32")), "-std=c++17")


def close(got, expected, dtype):
    """Equal to a few ULP, specials exactly; subnormal float32 results are flushed to zero on the GPU."""
    got = got.get()
    tiny = np.finfo(dtype).tiny if dtype == "float32" else 0
    np.testing.assert_allclose(got, expected, rtol=16 * np.finfo(dtype).eps, atol=2 * tiny)
    assert got.dtype == dtype


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_numpy(cupy, name, dtype):
    f = ACTIVATIONS[name]()
    t = np.concatenate([np.linspace(-9, 9, 201), SPECIALS]).astype(dtype)
    grad_z = np.linspace(-2, 2, len(t)).astype(dtype)
    on_device, grad_on_device = cupy.asarray(t), cupy.asarray(grad_z)
    close(f(on_device), f(t), dtype)
    scale = np.abs(f.grad(t[np.isfinite(t)])).max()
    for got, expected in (
        (f.grad(on_device), f.grad(t)),
        (f.backprop(on_device, grad_on_device), f.backprop(t, grad_z)),
    ):
        # a derivative that passes through zero is right to a few ULP of its size elsewhere
        np.testing.assert_allclose(
            got.get(), expected, rtol=32 * np.finfo(dtype).eps, atol=4 * scale * np.finfo(dtype).eps
        )


@pytest.mark.gpu
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 255, 256, 257])
def test_every_length(cupy, n):
    t = np.linspace(-3, 3, n)
    close(ACTIVATIONS["tanh"]()(cupy.asarray(t)), np.tanh(t), "float64")


@pytest.mark.gpu
def test_beyond_one_grid(cupy, monkeypatch):
    monkeypatch.setattr(device, "MOST_BLOCKS", 2)
    t = np.linspace(-3, 3, 5 * 2 * device.THREADS + 7)
    close(ACTIVATIONS["tanh"]()(cupy.asarray(t)), np.tanh(t), "float64")


@pytest.mark.gpu
def test_parameters_reach_a_float_kernel_as_floats(cupy):
    t = np.array([-2.0, 3.0], np.float32)
    close(ACTIVATIONS["leaky_relu"](negative_slope=0.25)(cupy.asarray(t)), np.float32([-0.5, 3]), "float32")


def test_a_python_number_never_reaches_a_kernel():
    """CuPy would pass it as a double or a 64-bit integer, and a kernel that declares a float would read garbage."""
    for number in (0.25, 3, True):
        with pytest.raises(TypeError, match=f"NumPy scalars of the types it declares, got the Python number {number}"):
            device.launch(None, (1,), 32, [np.float32(1), number])


def test_kernels_are_named_without_templates():
    """With name_expressions, CuPy compiles templates of several parameters anew in every process."""
    package = Path(device.__file__).parents[1]
    code = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert not [path for path, text in code.items() if "name_expressions" in text]
    compiling = {path: text for path, text in code.items() if "RawKernel(" in text or "RawModule(" in text}
    assert {path.name for path in compiling} == {"device.py", "cuda.py"}
    for path, text in compiling.items():
        assert 'extern "C"' in text or "BPX_ENTRY" in text, path


@pytest.mark.gpu
def test_a_column_is_read_once_a_row_and_other_dtypes_are_converted(cupy):
    formula = Formula(("z", "weight"), (), {}, {"value": "z * weight"})
    z, weight = np.arange(12.0, dtype=np.float32).reshape(4, 3), np.array([[1.0], [2.0], [0.5], [-1.0]])
    (got,) = device.run(cupy, formula, ("value",), {"z": cupy.asarray(z), "weight": cupy.asarray(weight)}, ())
    close(got, (z * weight).astype(np.float32), "float32")


@pytest.mark.gpu
def test_non_contiguous_input(cupy):
    t = np.linspace(-3, 3, 24).reshape(4, 6)
    close(ACTIVATIONS["tanh"]()(cupy.asarray(t).T[::2]), np.tanh(t.T[::2]), "float64")


@pytest.mark.gpu
def test_a_host_array_among_device_arrays_is_refused(cupy):
    f = ACTIVATIONS["tanh"]()
    with pytest.raises(TypeError, match="grad_z must be a CuPy array like the others, got ndarray"):
        f.backprop(cupy.zeros(3), np.zeros(3))


@pytest.mark.gpu
def test_complex_numbers_are_refused(cupy):
    with pytest.raises(TypeError, match="expected float32 or float64 numbers, got dtype complex128"):
        ACTIVATIONS["tanh"]()(cupy.zeros(3, complex))


@pytest.mark.gpu
def test_the_current_stream_is_used(cupy):
    f, t = ACTIVATIONS["tanh"](), np.linspace(-3, 3, 100)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        result = f(cupy.asarray(t))
    stream.synchronize()
    close(result, np.tanh(t), "float64")


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 257, 5000])
def test_updates_in_place(cupy, monkeypatch, n):
    """Outputs overwrite the variables they are named after, and no other; beyond one grid too."""
    monkeypatch.setattr(device, "MOST_BLOCKS", 2)
    formula = Formula(("a", "b", "c"), ("s",), {}, {"b": "a", "a": "a - s * b + c"})
    a, b, c = (np.linspace(k, 2 * k + 1, n) for k in range(3))
    on_device = {name: cupy.asarray(array) for name, array in zip("abc", (a, b, c))}
    device.update(cupy, formula, on_device, (0.5,))
    for name, expected in (("a", a - 0.5 * b + c), ("b", a), ("c", c)):
        close(on_device[name], expected, "float64")
