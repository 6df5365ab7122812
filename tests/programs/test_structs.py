"""Structs that Python mirrors are those of kernels/, field by field."""

import ctypes
import re

import pytest
from backprop_xp.kernels import FOLDER
from here import needs_compiler

from backprop_xp import HalfSumSq, Net, Tanh
from backprop_xp.programs import fused, fused_cuda, matrices, narrow, structs
from backprop_xp.toolchain import cuda

HEADERS = "\n".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.h")))
KINDS = {"i64": structs.INT, "double": structs.DOUBLE}


def fields(name):
    """[(type, name)] of a struct in kernels/, in order."""
    (body,) = re.findall(rf"struct {name} {{\n(.*?)^}};", HEADERS, re.DOTALL | re.MULTILINE)
    found = []
    for declaration in re.sub(r"//.*", "", body).split(";")[:-1]:
        kind, _, names = re.match(r"\s*((const )?[\w]+(?:\*| const\*)*) (.*)", declaration.strip(), re.DOTALL).groups()
        found += [(kind, field.strip()) for field in names.split(",")]
    return found


def mirrors():
    """All of them, and ``Batch`` of either dtype."""
    return [cls for cls in ctypes.Structure.__subclasses__() if cls.__module__ == structs.__name__]


@pytest.mark.parametrize("mirror", mirrors(), ids=lambda mirror: mirror.__name__)
def test_every_field_is_mirrored_in_order(mirror):
    classes = {cls.__name__: cls for cls in mirrors()} | {"S": dict(mirror._fields_).get("scale")}
    expected = [
        (name, structs.POINTER if kind.endswith("*") else classes.get(kind) or KINDS[kind])
        for kind, name in fields(mirror.__name__)
    ]
    assert list(mirror._fields_) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("forward", [False, True])
def test_cuda_units_of_another_size_are_not_compiled(dtype, forward):
    nvrtc = pytest.importorskip("nvrtc")
    net = fused.Shape((3, 4, 2), (True, True), dtype, (Tanh.text,) * 2, None if forward else HalfSumSq().kernel)
    source = fused_cuda.source(net, [Tanh()] * 2, fused_cuda.VARIANTS[-1])
    line = f"static_assert(sizeof(bpx::Batch<S>) == {ctypes.sizeof(structs.BATCHES[dtype])},"
    assert source.count(line) == 1
    nvrtc.compile_for(source, 90, cuda.OPTIONS)
    with pytest.raises(pytest.fail.Exception, match=r"not as in programs/structs\.py"):
        nvrtc.compile_for(source.replace("struct Batch {", "struct Batch {\n  i64 more;"), 90, cuda.OPTIONS)


def test_no_struct_is_mirrored_elsewhere():
    package = FOLDER.parent / "backprop_xp"
    sources = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    mirroring = [name for name, text in sources.items() if re.search(r"class \w+\(ctypes\.Structure\)", text)]
    assert sorted(mirroring) == ["structs.py", "threads.py"]  # a flag, which mirrors nothing


@needs_compiler
@pytest.mark.parametrize("sizes, name", [((3, 4, 2), "Narrow"), ((3, 4, 2), "NarrowLayer"), ((64, 64, 3), "Matrices")])
def test_a_library_of_another_size_is_not_called(sizes, name, monkeypatch):
    longer = type(name, (ctypes.Structure,), {"_fields_": [*getattr(structs, name)._fields_, ("more", structs.INT)]})
    monkeypatch.setattr(structs, name, longer)
    monkeypatch.setattr(matrices, name, longer, raising=False)
    matrices._core.cache_clear()
    narrow._parts.cache_clear()
    net = Net(sizes, rng=0, backend="numpy", engine="fused")
    size = ctypes.sizeof(longer)
    with pytest.raises(
        RuntimeError, match=f"bpx::{name} is {size - 8} bytes in kernels/, and {size} in programs/structs.py"
    ):
        net.loss_and_grad([[1.0] * sizes[0]] * fused.NARROW_SAMPLES)
