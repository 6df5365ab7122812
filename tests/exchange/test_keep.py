"""Nets in files: what comes back is what was saved, and nothing else is read."""

import io
import json
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own import Cube

pytest.importorskip("safetensors")
from safetensors.numpy import save_file

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, Loss, Net, Tanh
from backprop_xp.exchange import ModelFileError, keep, load, load_with_extra, save


class Plain(Loss):
    name = "plain"
    needs_target = False

    def __call__(self, z, y=None):
        return z.sum()

    def grad(self, z, y=None):
        return np.ones_like(z)


BUMP = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 2.0})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def assert_same(a, b):
    for name in ("sizes", "dtype", "reduction"):
        assert getattr(a, name) == getattr(b, name)
    assert repr(a.activations) == repr(b.activations)
    assert repr(a.loss) == repr(b.loss)
    for p, q in zip((*a.weights, *a.biases), (*b.weights, *b.biases), strict=True):
        assert p.data.dtype == q.data.dtype
        assert p.data.tobytes() == q.data.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_built_in_comes_back(loss, bias, dtype, path):
    names = list(ACTIVATIONS)
    net = Net((3, *[2] * len(names)), names, loss, bias, dtype, rng=0, reduction="mean")
    net.weights[0].data[:, 0] = np.nan, -0.0
    net.weights[1].data[0, 0] = np.inf
    net.save(path)
    assert_same(Net.load(path), net)


def test_changed_parameters_come_back(path):
    net = Net((2, 3, 4, 2), ("leaky_relu", "hard_tanh", "softplus"), "huber", rng=0)
    net.activations[0].negative_slope = 0.3
    net.activations[1].max_val = np.inf
    net.activations[2].beta, net.loss.delta = 2.5, 0.1
    save(net, path)
    assert_same(load(path), net)


def test_a_loaded_net_trains_on(path):
    net = Net((5, 4, 3), loss="mse", bias=True, rng=0)
    net.save(path)
    x, y = np.ones((7, 5)), np.zeros((7, 3))
    again = Net.load(path)
    assert again.loss_and_grad(x, y) == net.loss_and_grad(x, y)
    again.weights[0].data -= again.weights[0].grad


def test_extra(path):
    extra = {"classes": ["a", "ä", "\U0001f600"], "mean": [0.1, -1e300], "none": None}
    save(Net((2, 1)), path, extra)
    assert load_with_extra(path)[1] == extra
    with pytest.raises(ValueError, match="JSON"):
        save(Net((2, 1)), path, {"mean": float("nan")})
    assert load_with_extra(path)[1] == extra  # the older file is still there


def test_your_own_are_kept_by_name(path):
    net = Net((2, 3, 3, 3, 2), (BUMP, Cube(), Cube(), "tanh"), Plain(), rng=0)
    net.save(path)
    content = path.read_bytes()
    assert b"exp(" not in content
    assert b'"custom": "bump"'.replace(b'"', b'\\"') in content
    again = Net.load(path, custom={"bump": BUMP, "Cube": Cube(), "plain": Plain()})
    assert again.activations[0] is BUMP
    x = np.ones((4, 2))
    assert again.loss_and_grad(x) == net.loss_and_grad(x)


@pytest.mark.parametrize(
    "custom, message",
    [
        ({}, r"its activation 'bump' is not built in: give it with load\(..., custom={'bump': ...}\)"),
        ({"bump": Cube}, "an activation is a name or an object"),
        ({"bump": Elementwise("bump", "t * width", params={"width": 3.0})}, "was saved with {'width': 2.0}, custom"),
        ({"bump": Cube()}, "was saved with"),
    ],
)
def test_custom_must_fit(custom, message, path):
    save(Net((2, 2), (BUMP,)), path)
    with pytest.raises(ModelFileError, match=message):
        load(path, custom=custom)


def test_two_of_one_name_are_refused(path):
    other = Elementwise("bump", "exp(-width * t ** 2)", params={"width": 3.0})
    with pytest.raises(ValueError, match="two different activations are called 'bump'"):
        save(Net((2, 2, 2), (BUMP, other)), path)
    assert not path.exists()


def test_a_changed_built_in_is_your_own(path):
    class Louder(Tanh):
        def __call__(self, x):
            return 2 * super().__call__(x)

    changed = Tanh()
    changed.grad = lambda x: x
    for f, name in ((Louder(), "Louder"), (changed, "Tanh")):
        save(Net((2, 2), (f,)), path)
        with pytest.raises(ModelFileError, match=f"activation '{name}' is not built in"):
            load(path)
        assert load(path, custom={name: f}).activations[0] is f


def test_other_things_are_refused(path):
    with pytest.raises(TypeError, match=r"nets of these types can be saved: chain.*; got dict"):
        save({}, path)


def test_the_older_file_stays_if_writing_fails(path, monkeypatch):
    net = Net((2, 1), rng=0)
    save(net, path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr("os.fsync", full)
        save(Net((3, 1)), path)
    assert_same(load(path), net)
    assert os.listdir(path.parent) == [path.name]


def test_permissions_are_the_users(path):
    save(Net((2, 1)), path)
    beside = path.with_name("beside")
    beside.touch()
    assert path.stat().st_mode == beside.stat().st_mode


def test_without_safetensors(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"backprop-xp\[exchange\]"):
        save(Net((2, 1)), path)
    with pytest.raises(ImportError, match=r"backprop-xp\[exchange\]"):
        load(path)


def test_files_that_are_none(path, tmp_path):
    with pytest.raises(FileNotFoundError):
        load(path)
    with pytest.raises(ModelFileError, match="no regular file"):
        load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="no regular file"):  # and doesn't wait for a writer
        load(tmp_path / "pipe")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_never_read(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = io.BytesIO()
    np.save(array, np.array([Bomb()], object))
    for content in (pickle.dumps(Bomb()), array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="no whole safetensors file"):
            load(path)
    assert not (tmp_path / "exploded").exists()


GOOD = {
    "format": 1, "kind": "chain", "sizes": [2, 3, 1], "bias": True, "dtype": "float64", "reduction": "sum",
    "activations": [{"name": "leaky_relu", "params": {"negative_slope": 0.1}}, {"name": "tanh", "params": {}}],
    "loss": {"name": "mse", "params": {}}, "extra": {},
}  # fmt: skip
ARRAYS = {"weights.0": (3, 2), "weights.1": (1, 3), "biases.0": (3,), "biases.1": (1,)}


def write(path, description=GOOD, shapes=ARRAYS, dtype="float64", key="backprop_xp"):
    text = description if isinstance(description, str) else json.dumps(description)
    save_file({name: np.zeros(shape, dtype) for name, shape in shapes.items()}, path, {key: text})
    return path


def test_the_good_one(path):
    assert load(write(path)).sizes == (2, 3, 1)


HOSTILE = [
    (GOOD | {"format": 2}, "its format is 2; this version"),
    (GOOD | {"format": True}, "'format' of its description must be of type int, got bool"),
    (GOOD | {"kind": "tree"}, "unknown kind of net 'tree'; known are chain"),
    (GOOD | {"kind": ["chain"]}, "must be of type str, got list"),
    (GOOD | {"sizes": [2, -3, 1]}, "every layer width must be an integer"),
    (GOOD | {"sizes": [2, 1e9, 1]}, "every layer width must be an integer"),
    (GOOD | {"sizes": [1 << 24] * 100}, "the array 'biases.10' is missing"),
    (GOOD | {"sizes": [2, 4, 1]}, r"'weights.0' must be float64 \(4, 2\), got float64 \(3, 2\)"),
    (GOOD | {"sizes": []}, "at least an input and an output"),
    (GOOD | {"sizes": [2, 1]}, "'biases.1' is not part of the net"),
    (GOOD | {"bias": 1}, "must be of type bool"),
    (GOOD | {"bias": False}, "'biases.0' is not part of the net"),
    (GOOD | {"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
    (GOOD | {"dtype": "float32"}, "'weights.0' must be float32"),
    (GOOD | {"dtype": "object"}, "dtype must be"),
    (GOOD | {"reduction": "max"}, "unknown reduction 'max'"),
    (GOOD | {"activations": [{"name": "tanh", "params": {}}]}, "2 layers need 2 activations"),
    (GOOD | {"activations": ["tanh", "tanh"]}, "its activation must be a JSON object"),
    (GOOD | {"activations": [{"name": "os.system", "params": {}}] * 2}, "unknown activation 'os.system'"),
    (GOOD | {"activations": [{"name": "__class__", "params": {}}] * 2}, "unknown activation '__class__'"),
    (GOOD | {"activations": [{"name": "tanh", "params": {"text": 1}}] * 2}, "Tanh has no parameter 'text'"),
    (GOOD | {"activations": [{"name": "elu", "params": {"alpha": "1"}}] * 2}, "'alpha' .* must be a number"),
    (GOOD | {"activations": [{"name": "elu", "params": {"alpha": 10**400}}] * 2}, "too large"),
    (GOOD | {"activations": [{"custom": "bump", "params": {}}] * 2}, "'bump' is not built in"),
    (GOOD | {"activations": [{"custom": "x" * 10**6, "params": {}}] * 2}, "may have 200 characters, got 1000000"),
    (GOOD | {"activations": {}}, "must be of type list, got dict"),
    (GOOD | {"loss": None}, "its loss must be a JSON object"),
    (GOOD | {"loss": {"name": "mse", "params": {"delta": 1}}}, "MSE has no parameter 'delta'"),
    (GOOD | {"extra": []}, "'extra' of its description must be of type dict, got list"),
    ({}, "'format' of its description must be of type int, got NoneType"),
    ("[]", "its description is no JSON object"),
    ("[" * 100_000, "its description is no JSON"),
    ("9" * 10_000, "its description is no JSON"),
    ('{"a": NaN}', "its description is no JSON: NaN is no number"),
    ("__import__('os').system('true')", "its description is no JSON"),
    (" " * ((1 << 24) + 1), "16777216 are allowed"),
]


@pytest.mark.parametrize("description, message", HOSTILE, ids=[message[:40] for _, message in HOSTILE])
def test_a_hostile_description_is_one_sentence(description, message, path):
    with pytest.raises(ModelFileError, match=message) as caught:
        load(write(path, description))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_foreign_safetensors(path):
    with pytest.raises(ModelFileError, match="without a net's description"):
        load(write(path, key="format"))
    with pytest.raises(ModelFileError, match="holds I64; expected F32 or F64"):
        load(write(path, dtype="int64"))
    with pytest.raises(ModelFileError, match=r"array 'y+' is not part"):
        load(write(path, shapes=ARRAYS | {"y" * 10_000: (1,)}))


def container(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


META = {"__metadata__": {"backprop_xp": json.dumps(GOOD)}}
CONTAINERS = {
    "empty": b"",
    "length alone": struct.pack("<Q", 5),
    "endless header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "long header": struct.pack("<Q", 10**9) + b"{}",
    "not UTF-8": container(b'{"\xff": 1}'),
    "no JSON": container(b"import os"),
    "a list": container([]),
    "deep": container(b'{"__metadata__":' + b"[" * 100_000),
    "huge shape": container(META | {"weights.0": {"dtype": "F64", "shape": [2**62, 2], "data_offsets": [0, 48]}}),
    "overflow": container(META | {"weights.0": {"dtype": "F64", "shape": [2**63, 2], "data_offsets": [0, 0]}}),
    "huge and empty": container(META | {"weights.0": {"dtype": "F64", "shape": [2**62, 0], "data_offsets": [0, 0]}}),
    "negative": container(META | {"weights.0": {"dtype": "F64", "shape": [-1], "data_offsets": [0, 0]}}),
    "offsets beyond": container(META | {"weights.0": {"dtype": "F64", "shape": [2], "data_offsets": [99, 115]}}),
    "backwards": container(META | {"weights.0": {"dtype": "F64", "shape": [2], "data_offsets": [16, 0]}}, bytes(16)),
    "no such dtype": container(META | {"weights.0": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    "bfloat16": container(META | {"weights.0": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
    "metadata no text": container({"__metadata__": {"backprop_xp": {"a": 1}}}),
    "bytes after the end": container(META, bytes(9)),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_hostile_container_is_one_sentence(name, path):
    path.write_bytes(CONTAINERS[name])
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "net"
    save(Net((2, 3, 1), ("leaky_relu", "tanh"), "huber", True, rng=0, backend="numpy"), path, {"columns": ["a", "b"]})
    return path, path.read_bytes()


def loads_or_refuses(path, content):
    path.write_bytes(content)
    try:
        assert isinstance(load(path), Net)
    except ModelFileError as error:
        assert "\n" not in str(error)


def test_every_truncation_is_refused(good_bytes):
    path, content = good_bytes
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ModelFileError):
        load(path)


@given(st.data())
def test_mutated_bytes(good_bytes, data):
    path, content = good_bytes
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    loads_or_refuses(path, bytes(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["tanh", "mse", "chain", "float64", "sum", "custom", "name", "params", "inf"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*GOOD, "name", "params", "custom"]), inner, max_size=4),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(list(GOOD)), JSON, min_size=1, max_size=4))
def test_descriptions_with_anything_in_them(good_bytes, changes):
    loads_or_refuses(write(good_bytes[0], GOOD | changes), good_bytes[0].read_bytes())


@given(
    st.dictionaries(
        st.sampled_from(list(ARRAYS)),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F64", "F32", "I8", "BF16", "F8_E4M3", "X"]),
                "shape": st.lists(st.integers(-1, 2**64), max_size=3),
                "data_offsets": st.lists(st.integers(0, 2**64), max_size=3),
            }
        ),
    )
)
def test_headers_with_any_shapes(good_bytes, tensors):
    loads_or_refuses(good_bytes[0], container(META | tensors, bytes(80)))


def test_every_kind_has_a_type_of_its_own():
    assert len({kind.type for kind in keep.KINDS.values()}) == len(keep.KINDS)


@pytest.mark.gpu
def test_a_net_on_a_device(path):
    cupy = pytest.importorskip("cupy")
    net = Net((3, 4, 2), rng=0, bias=True, backend="cupy")
    net.save(path)
    for backend in ("numpy", "cupy"):
        again = Net.load(path, backend=backend)
        assert isinstance(again.weights[0].data, cupy.ndarray if backend == "cupy" else np.ndarray)
        for p, q in zip((*net.weights, *net.biases), (*again.to("numpy").weights, *again.biases), strict=True):
            np.testing.assert_array_equal(p.data.get(), q.data)
