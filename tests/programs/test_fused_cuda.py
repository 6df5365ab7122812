"""The fused kernel compiles for every architecture, and spills nothing where it is meant to run."""

from collections import Counter

import pytest

from backprop_xp import get_activation, get_loss
from backprop_xp.programs import fused, fused_cuda
from backprop_xp.toolchain import cuda

ARTICLE = (5, 10, 4, 12), ("tanh", "sigmoid", "identity"), "half_sum_sq"
DEFAULT = {80, 90, 100, 120}


def shape(sizes, names, loss, dtype="float32", **options):
    activations = [get_activation(name) for name in names]
    kind = loss if loss in ("classes", "probabilities", None) else get_loss(loss).kernel
    texts = tuple(f.text for f in activations)
    return fused.Shape(sizes, (options.pop("bias", False),) * len(names), dtype, texts, kind, **options), activations


def source(*arguments, variant=fused_cuda.VARIANTS[0], dense=True, **options):
    return fused_cuda.source(*shape(*arguments, **options), variant, dense)


NETS = {
    "article": (shape(*ARTICLE), {"ReadingAhead", "InRegisters"}),
    "article, double": (shape(*ARTICLE, "float64"), {"SharedOut"}),
    "classes": (
        shape((8, 8, 3), ("relu", "identity"), "classes", bias=True, factors=True), {"ReadingAhead", "InRegisters"}
    ),
    "probabilities": (shape((16, 16, 16, 10), ("gelu", "relu", "identity"), "probabilities", bias=True), {"SharedOut"}),
    "double": (
        shape((10, 10, 10), ("tanh", "mish"), "huber", "float64", bias=True, factors=True, input_grad=True), {"SharedOut"}
    ),
    "everything": (shape(*ARTICLE[:2], "mse", bias=True, factors=True, input_grad=True), {"SharedOut"}),
    "forward": (shape(*ARTICLE[:2], None), {"SharedOut"}),
    "forward, double": (shape(*ARTICLE[:2], None, "float64"), {"SharedOut"}),
}  # fmt: skip


#: Nets for which versions of NVRTC differ, or may; the others are for the installed one alone, which takes less time.
DELICATE = {"article", "article, double", "classes", "probabilities", "double"}


def resources(code, architecture, library=None):
    nvrtc = pytest.importorskip("nvrtc")
    (taken,) = nvrtc.compile_for(code, architecture, cuda.OPTIONS, library)[1].values()
    return taken


@pytest.mark.parametrize("name", NETS)
def test_every_version_of_nvrtc_finds_a_variant_that_spills_nothing(name):
    """... the first that fits, as toolchain/cuda.py takes it."""
    nvrtc = pytest.importorskip("nvrtc")
    (net, activations), expected = NETS[name]
    for library in nvrtc.libraries() if name in DELICATE else [nvrtc.installed()]:
        for architecture in sorted(DEFAULT & set(library.architectures)):
            fitting = (
                variant
                for variant in fused_cuda.variants(net)
                if resources(fused_cuda.source(net, activations, variant), architecture, library).fits
            )
            chosen = next(fitting, None)
            assert chosen is not None, (library.version, architecture)
            assert chosen.sums in expected, (library.version, architecture, chosen)


def arithmetic(code):
    """How often each floating-point instruction stands in the PTX."""
    lines = [line.split() for line in pytest.importorskip("nvrtc").ptx(code, *cuda.OPTIONS).splitlines()]
    kinds = ("add.", "sub.", "mul.", "fma.", "div.", "rcp.", "ex2.", "sqrt.")
    return Counter(line[0] for line in lines if line and line[0].startswith(kinds) and ".f" in line[0])


SIDE_BY_SIDE = [name for name, ((net, _), _) in NETS.items() if net.loss is not None and not net.input_grad]
SIDE_BY_SIDE += ["grid", "grid, double"]


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_many_nets_side_by_side_compute_what_one_does_and_spill_nothing(name):
    nvrtc = pytest.importorskip("nvrtc")
    grid = (8, 16, 16, 1), ("tanh", "tanh", "identity"), "mse"
    dtype = "float64" if name.endswith("double") else "float32"
    net, activations = NETS[name][0] if name in NETS else shape(*grid, dtype, bias=True, factors=True)
    for variant in fused_cuda.variants(net):
        alone, many = (fused_cuda.source(net, activations, variant, True, several) for several in (False, True))
        assert arithmetic(alone) == arithmetic(many)
    for architecture in [each for each, names in nvrtc.spread(SIDE_BY_SIDE) if name in names]:
        for variant in fused_cuda.variants(net):
            if resources(fused_cuda.source(net, activations, variant), architecture).fits:
                assert resources(fused_cuda.source(net, activations, variant, True, True), architecture).fits
                break


@pytest.mark.parametrize("name", ["probabilities", "forward, double"])
def test_features_that_are_apart_compile_everywhere(name):
    nvrtc = pytest.importorskip("nvrtc")
    (net, activations), _ = NETS[name]
    for architecture in nvrtc.ARCHITECTURES:
        resources(fused_cuda.source(net, activations, fused_cuda.variants(net)[0], dense=False), architecture)


def test_the_last_variant_has_all_registers_to_itself():
    assert "__launch_bounds__(bpx::threads, 1)" in source(*ARTICLE, variant=fused_cuda.VARIANTS[-1])
    assert "__launch_bounds__(bpx::threads) " in source(*ARTICLE)


def test_float_kernels_compute_nothing_in_double_but_the_losses_of_chunks():
    code = source(*ARTICLE[:2], "mse", bias=True, factors=True)
    lines = [line.strip() for line in pytest.importorskip("nvrtc").ptx(code, *cuda.OPTIONS).splitlines()]
    doubles = [line.split()[0] for line in lines if ".f64" in line and not line.startswith((".", "//"))]
    # one conversion, and additions over a warp and over the block
    assert sum(name.startswith("cvt.") for name in doubles) == 1
    assert {name.partition(".")[0] for name in doubles} <= {"cvt", "add", "mov", "ld", "st"}


def test_equal_nets_are_equal_text():
    assert source(*ARTICLE) == source(*ARTICLE)
    assert source(*ARTICLE) != source(*ARTICLE, bias=True)
