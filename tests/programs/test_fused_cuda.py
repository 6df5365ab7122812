"""The fused kernel compiles for every architecture, and spills nothing where it is meant to run."""

from __future__ import annotations

import pytest

from backprop_xp import get_activation, get_loss
from backprop_xp.programs import fused, fused_cuda
from backprop_xp.toolchain import cuda

ARTICLE = (5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq"
DEFAULT = (80, 90, 100)


def source(sizes, names, loss, dtype="float32", *, variant="ReadingAhead", dense=True, **options):
    activations = [get_activation(name) for name in names]
    kind = loss if loss in ("classes", "probabilities", None) else get_loss(loss).kernel
    texts = tuple(f.text for f in activations)
    shape = fused.Shape(sizes, (options.pop("bias", False),) * len(names), dtype, texts, kind, **options)
    return fused_cuda.source(shape, activations, variant, dense)


def resources(code, architecture):
    nvrtc = pytest.importorskip("nvrtc")
    (taken,) = nvrtc.compile_for(code, architecture, cuda.OPTIONS)[1].values()
    return taken


@pytest.mark.parametrize(
    "code",
    [
        source(*ARTICLE),
        source(*ARTICLE, "float64", variant="SharedOut"),
        source((8, 8, 3), ("relu", "identity"), "classes", bias=True, factors=True, variant="InRegisters"),
        source((16, 16, 16, 10), ("gelu", "relu", "identity"), "probabilities", bias=True, variant="SharedOut", dense=False),
        source((10, 10, 10), ("tanh", "mish"), "huber", "float64", bias=True, factors=True, input_grad=True, variant="SharedOut"),
        source(*ARTICLE[:2], "mse", bias=True, factors=True, input_grad=True, variant="SharedOut"),
        source(*ARTICLE[:2], None),
        source(*ARTICLE[:2], None, "float64", dense=False),
    ],
    ids=["article", "article64", "classes", "probabilities", "float64", "everything", "forward", "forward64"],
)  # fmt: skip
def test_variants_compile_everywhere_and_spill_nothing_by_default(code):
    nvrtc = pytest.importorskip("nvrtc")
    for architecture in nvrtc.ARCHITECTURES:
        taken = resources(code, architecture)
        if architecture in DEFAULT:
            assert (taken.spills, taken.stack) == (0, 0), architecture


def test_float_kernels_compute_nothing_in_double_but_the_losses_of_chunks():
    nvrtc = pytest.importorskip("nvrtc").nvrtc
    program = nvrtc.createProgram(source(*ARTICLE[:2], "mse", bias=True, factors=True), "kernel.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=compute_90", *cuda.OPTIONS))
    lines = [line.strip() for line in nvrtc.getPTX(program).decode().splitlines()]
    doubles = [line.split()[0] for line in lines if ".f64" in line and not line.startswith((".", "//"))]
    # one conversion, and additions over a warp and over the block
    assert doubles.count("cvt.f64.f32") == 1
    assert {name.partition(".")[0] for name in doubles} <= {"cvt", "add", "mov", "ld", "st"}


def test_equal_nets_are_equal_text():
    assert source(*ARTICLE) == source(*ARTICLE)
    assert source(*ARTICLE) != source(*ARTICLE, bias=True)
