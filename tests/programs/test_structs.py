"""Structs that Python mirrors are those of kernels/, field by field."""

from __future__ import annotations

import ctypes
import re

import pytest
from backprop_xp.kernels import FOLDER

from backprop_xp import Net
from backprop_xp.programs import block, fused, fused_cuda, matrices, narrow, structs
from backprop_xp.toolchain import compiler

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
    return [cls for cls in ctypes.Structure.__subclasses__() if cls.__module__ == structs.__name__]


@pytest.mark.parametrize("mirror", mirrors(), ids=lambda mirror: mirror.__name__)
def test_every_field_is_mirrored_in_order(mirror):
    classes = {cls.__name__: cls for cls in mirrors()}
    expected = [
        (name, structs.POINTER if kind.endswith("*") else classes.get(kind) or KINDS[kind])
        for kind, name in fields(mirror.__name__)
    ]
    assert list(mirror._fields_) == expected


@pytest.mark.parametrize(
    "arguments, struct, rest",
    [(fused_cuda.BATCH, "Batch", []), (block.FIELDS, "BlockArgs", [("const S*", "scalars")])],
    ids=["fused_cuda.BATCH", "block.FIELDS"],
)
def test_arguments_of_cuda_kernels_are_the_fields_in_order(arguments, struct, rest):
    given = [tuple(argument.removeprefix("bpx::").rsplit(" ", 1)) for argument in arguments]
    assert [*given, *rest] == fields(struct)


def test_no_struct_is_mirrored_elsewhere():
    package = FOLDER.parent / "backprop_xp"
    mirroring = [path.name for path in package.rglob("*.py") if "ctypes.Structure)" in path.read_text(encoding="utf-8")]
    assert sorted(mirroring) == ["structs.py", "threads.py"]  # a flag, which mirrors nothing


@pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")
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
