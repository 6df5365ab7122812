"""The shim: which backend is chosen, why, and what it takes as an array."""

import importlib.util
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

from backprop_xp import ACTIVATIONS, LOSSES, BackendError, Net, backend, environment, get_backend


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """The environment and earlier probes of CuPy are out of the way."""
    monkeypatch.delenv("BACKPROP_XP_BACKEND", raising=False)
    for cached in (backend._if_possible, backend._cupy):
        cached.cache_clear()
    yield
    for cached in (backend._if_possible, backend._cupy):
        cached.cache_clear()


def without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "cupy" else find(name))


def with_fake_cupy(monkeypatch, count=None, error=None, driver=0):
    fake = types.ModuleType("cupy")
    fake.__spec__ = importlib.util.spec_from_loader("cupy", None)
    fake.ndarray = type("ndarray", (), {})

    def device_count():
        if error:
            raise error
        return count

    runtime = {"getDeviceCount": device_count, "driverGetVersion": lambda: driver, "runtimeGetVersion": lambda: 13010}
    fake.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(**runtime))
    monkeypatch.setitem(sys.modules, "cupy", fake)


def test_auto_is_numpy_silently_without_cupy(monkeypatch):
    without_cupy(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend("auto").name == "numpy"
        assert Net((3, 2)).backend.name == "numpy"


@pytest.mark.parametrize(
    "error, reason",
    [
        (RuntimeError("cudaErrorInsufficientDriver: too old"), "no NVIDIA driver, or it is older.*cuda12"),
        (RuntimeError("cudaErrorNoDevice: none"), "no CUDA device is present"),
        (OSError("libcuda is broken"), r"its first use failed \(OSError: libcuda is broken\)"),
    ],
)
def test_auto_warns_once_where_cupy_cannot_be_used(monkeypatch, error, reason):
    with_fake_cupy(monkeypatch, error=error)
    with pytest.warns(RuntimeWarning, match=f"computing with NumPy: CuPy is installed but .*{reason}"):
        assert get_backend("auto").name == "numpy"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend("auto").name == "numpy"


@pytest.mark.parametrize(
    "driver, install",
    [(12080, r"the NVIDIA driver for CUDA 12: pip install 'backprop-xp\[cuda12\]'"), (11040, "update")],
)
def test_a_driver_that_is_older_than_this_cupy(monkeypatch, driver, install):
    with_fake_cupy(monkeypatch, error=RuntimeError("cudaErrorInsufficientDriver: too old"), driver=driver)
    with pytest.raises(BackendError, match=f"CuPy is installed but it is for CUDA 13 and .*{install}.*too old"):
        get_backend("cupy")


def test_a_compiler_that_cannot_be_loaded(monkeypatch):
    error = RuntimeError("CuPy failed to load libnvrtc.so.13: cannot open shared object file")
    with_fake_cupy(monkeypatch, error=error, driver=13020)
    with pytest.raises(
        BackendError, match=r"compiler can't be loaded .*libnvrtc.*: pip install 'backprop-xp\[cuda13\]'"
    ):
        get_backend("cupy")


def test_no_devices(monkeypatch):
    with_fake_cupy(monkeypatch, count=0)
    with pytest.raises(BackendError, match="CUDA device 0 was asked for and none is present"):
        get_backend("cupy")
    with_fake_cupy(monkeypatch, count=1)
    with pytest.raises(BackendError, match="CUDA device 3 was asked for and 1 is present"):
        get_backend("cupy:3")


def test_an_explicit_cupy_that_is_not_installed(monkeypatch):
    without_cupy(monkeypatch)
    with pytest.raises(BackendError, match=r"CuPy is not installed: pip install 'backprop-xp\[cuda13\]'"):
        get_backend("cupy")


def test_a_broken_installation(monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "cupy":
                raise ImportError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(BackendError, match=r"can't be imported .*libnvrtc.so.13.*; reinstall it"):
        get_backend("cupy")


def test_the_real_cupy_without_a_driver():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(BackendError, match="CuPy is installed but"):
        get_backend("cupy")


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")
    assert get_backend().name == "numpy"
    monkeypatch.setenv("BACKPROP_XP_BACKEND", " NumPy ")
    assert get_backend().name == "numpy"
    # the article's net is NumPy's whatever the environment says
    assert Net().backend.name == "numpy"


@pytest.mark.parametrize("text", ["torch", "cupy:x", "cupy:-1", "cupy:", "gpu\n", "cupy:1e9"])
def test_an_unknown_name_in_the_environment_is_one_warning(monkeypatch, text):
    without_cupy(monkeypatch)
    environment._parsed.cache_clear()
    monkeypatch.setenv("BACKPROP_XP_BACKEND", text)
    with pytest.warns(RuntimeWarning, match="BACKPROP_XP_BACKEND must be auto, numpy, cupy or cupy:N, got "):
        assert get_backend() is get_backend("auto")
    assert get_backend() is get_backend("auto")


@pytest.mark.parametrize("text", ["cupy", "cupy:7"])
def test_a_device_of_the_environment_that_is_not_there_is_one_warning(monkeypatch, text):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setenv("BACKPROP_XP_BACKEND", text)
    with pytest.warns(RuntimeWarning, match="computing with NumPy: CuPy is"):
        assert get_backend().name == "numpy"
    assert get_backend().name == "numpy"
    with pytest.raises(BackendError):
        get_backend(text)


@pytest.mark.parametrize("name", ["jax", "cupy:x", "cupy:-1", "NumPy", ""])
def test_unknown_names(name):
    if name:
        with pytest.raises(ValueError, match="unknown backend"):
            get_backend(name)
    assert get_backend(get_backend("numpy")) is get_backend("numpy")


@pytest.mark.parametrize(
    "name, meant", [("numpi", "numpy"), ("NumPy", "numpy"), ("cpy", "cupy"), ("cupy:first", "cupy:N"), ("atuo", "auto")]
)
def test_a_name_that_is_nearly_right(name, meant):
    with pytest.raises(ValueError, match=f"unknown backend '{name}'; did you mean '{meant}'\\?"):
        get_backend(name)


@pytest.mark.parametrize("module", ["cupy", "torch", "scipy", "sklearn", "jax", "mpmath"])
def test_importing_the_package_imports_no_heavy_one(module):
    program = f"import backprop_xp, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


EVERY_MODULE = """
import importlib, pkgutil, sys, backprop_xp
for found in pkgutil.walk_packages(backprop_xp.__path__, "backprop_xp."):
    if not (found.name.endswith((".__main__", "_fx", ".fx_functions", ".fx_reader")) or ".torch_" in found.name):
        importlib.import_module(found.name)
"""


def test_nothing_heavy_is_imported_and_nothing_is_compiled_by_any_module(tmp_path):
    program = EVERY_MODULE + (
        "assert 'backprop_xp.programs.device_layers' in sys.modules\n"
        "assert not {'cupy', 'torch', 'jax'} & sys.modules.keys()\n"
        "assert not backprop_xp.toolchain.cache.folder().exists()"
    )
    environment = {"BACKPROP_XP_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin"}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0


def test_arrays_on_a_device_are_refused_on_the_host():
    class OnDevice:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, **options):
            raise AssertionError("must not be asked")

    with pytest.raises(TypeError, match=r"x is on a CUDA device .*net\.to\('cupy'\)"):
        Net((3, 2), backend="numpy")(OnDevice())


JAX = """
import jax, numpy as np
from backprop_xp import Net, get_backend
x, net = jax.numpy.arange(64.0).reshape(16, 4), Net((4, 16), dtype="float32", backend="numpy", rng=0)
assert get_backend("numpy").asarray(x, net.dtype, "x").ctypes.data == x.unsafe_buffer_pointer()
net.loss_and_grad(x)
np.testing.assert_array_equal(np.asarray(jax.numpy.from_dlpack(net.weights[0].grad)), net.weights[0].grad)
"""


def test_arrays_of_jax_come_in_without_a_copy_and_go_out():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    # in a process of its own: JAX has threads, and other tests fork
    done = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_tensor_that_requires_a_gradient_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"x can't be read as an array: .*detach"):
        Net((3, 2), backend="numpy")(torch.ones(4, 3, requires_grad=True))


def test_no_copy_where_none_is_needed():
    numpy = get_backend("numpy")
    x = np.ones((4, 3))
    assert numpy.asarray(x, np.dtype(np.float64), "x") is x
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, dtype=torch.float64)
    assert np.shares_memory(numpy.asarray(tensor, np.dtype(np.float64), "x"), tensor.numpy())


def laid_out(cupy, array, start, row):
    """The array (n, width) on the device, its numbers ``start`` bytes behind an address for them, its rows ``row`` apart."""
    width = array.shape[1] * array.itemsize
    memory = np.zeros(start + len(array) * row, np.uint8)
    for i, numbers in enumerate(array):
        memory[start + i * row :][:width] = np.frombuffer(numbers.tobytes(), np.uint8)
    return cupy.ndarray(array.shape, array.dtype, cupy.asarray(memory).data + start, (row, array.itemsize))


@pytest.mark.gpu
@pytest.mark.parametrize("start, more", [(0, 4), (4, 0), (3, 5), (1, 1)])
@pytest.mark.parametrize("engine", ["fused", "cooperative", "layered"])
def test_arrays_at_odd_addresses_are_copied(cupy, random, engine, start, more):
    """A kernel would read other numbers, or end all use of the device."""
    net = Net((5, 4, 3), ("tanh", "sigmoid"), "half_squared_error", True, "float64", 0, "cupy", engine=engine)
    x, y = random.normal(size=(40, 5)), random.normal(size=(40, 3))
    expected = [float(net.loss_and_grad(x, y)), *(p.grad.get() for p in (*net.weights, *net.biases))]
    odd = [laid_out(cupy, a, start, 8 * a.shape[1] + more) for a in (x, y)]
    for tensor in net.weights:
        tensor.data = laid_out(cupy, tensor.data.get(), start, 8 * tensor.data.shape[1] + more)
    got = [float(net.loss_and_grad(*odd)), *(p.grad.get() for p in (*net.weights, *net.biases))]
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(net(odd[0]).get(), net(x).get())


@pytest.mark.gpu
def test_what_kernels_can_read_is_not_copied(cupy):
    numbers = cupy.arange(40.0).reshape(5, 8)
    for array in (
        numbers,
        numbers[::-2, 3:],
        numbers.T,
        numbers[0, 0],
        numbers[:0],
        cupy.zeros((3, 0)),
        numbers.view("u1")[:, 1:],
    ):
        assert backend.addressable(array) is array
    odd = laid_out(cupy, np.arange(6.0).reshape(2, 3), 4, 28)
    for array in (odd, odd[0], odd[1, 2], odd[::-1], odd.T):
        copy = backend.addressable(array)
        assert copy.data.ptr % 8 == 0 and copy.flags.c_contiguous
        assert (copy.shape, copy.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(backend.addressable(odd).get(), np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(backend.addressable(odd.T[::-1]).get(), np.arange(6.0).reshape(2, 3).T[::-1])


@pytest.mark.gpu
def test_functions_of_arrays_at_odd_addresses(cupy, random):
    values = random.normal(size=(4, 3))
    odd = laid_out(cupy, values, 4, 28)
    for name in ("tanh", "gelu"):
        f = ACTIVATIONS[name]()
        np.testing.assert_array_equal(f(odd).get(), f(cupy.asarray(values)).get())
    loss = LOSSES["half_sum_sq"]()
    assert float(loss(odd)) == float(loss(cupy.asarray(values)))


class Temporary:
    """A tensor of PyTorch on a CUDA device, as far as it is looked at."""

    device = "cuda:0"

    def __init__(self, array):
        self.array, self.streams = array, []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def record_stream(self, stream):
        self.streams.append(stream)


@pytest.mark.gpu
def test_pytorch_keeps_a_tensors_memory_until_our_stream_has_read_it(cupy, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: ("default", device))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer, device: (pointer, device))
    net, x = Net((3, 2), backend="cupy", rng=0), Temporary(cupy.ones((4, 3)))
    net.loss_and_grad(x)
    assert x.streams == [("default", "cuda:0")]
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        net.loss_and_grad(x)
    assert x.streams[1:] == [(stream.ptr, "cuda:0")]
    stream.synchronize()
