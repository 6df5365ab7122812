"""BACKPROP_XP_SHOW_SOURCE=1 prints the code of every kind of net, on the CPU and on CUDA devices."""

import subprocess

import numpy as np
import pytest
from backprop_xp.kernels import FOLDER, source, without_headers
from here import needs_compiler

from backprop_xp import Elementwise, Graph, Net, show_source
from backprop_xp.programs import graph, matrices, narrow
from backprop_xp.programs import sample as of_sample
from backprop_xp.toolchain import cache, compiler


def chain():
    return Net((3, 4, 2), dtype="float32", rng=0, backend="numpy", engine="fused"), np.ones((5000, 3), np.float32)


def any_widths():
    return Net((64, 64, 3), rng=0, backend="numpy", engine="fused"), np.ones((5, 64))


def sample():
    return Net(rng=0, backend="numpy"), np.ones(5)


def residual():
    g = Graph()
    x = g.input(4)
    return g.net(g.linear(g.apply("tanh", g.linear(x, 4)) + x, 2), rng=0, backend="numpy"), np.ones((5, 4))


@pytest.fixture
def afresh(monkeypatch):
    """A process that has compiled nothing yet."""
    monkeypatch.setattr(cache, "_loaded", {})
    monkeypatch.setattr(narrow, "_programs", {})
    monkeypatch.setattr(graph, "_programs", {})
    monkeypatch.setattr(of_sample, "_programs", {})
    for function in (matrices._core, matrices._activation, matrices._loss):
        function.cache_clear()


@needs_compiler
@pytest.mark.parametrize(
    "make, parts",
    [
        (chain, ['#include "dense_cpu.h"', "BPX_DENSE(float, 0, 3, 4, false)"]),
        (
            any_widths,
            ['#include "training_cpu.h"', "BPX_MATRICES(double)", "bpx::activation_both<", "bpx::loss_block<"],
        ),
        (sample, ['#include "sample.h"', "struct Graph {", "BPX_GRAPH_SAMPLE(Graph)"]),
        (residual, ['#include "graph.h"', "struct Graph {", "BPX_GRAPH(Graph)"]),
    ],
)
def test_the_code_that_a_net_gets(make, parts, afresh, monkeypatch, capfd, tmp_path):
    monkeypatch.setenv(show_source.SHOW_SOURCE.name, "1")
    net, x = make()
    net.loss_and_grad(x)
    shown = capfd.readouterr().err
    assert shown.count("// backprop_xp: ") >= 1
    for part in parts:
        assert part in shown
    assert "#pragma" not in shown and len(shown.splitlines()) < 200  # without the headers

    net.loss_and_grad(x)
    assert "#include" not in capfd.readouterr().err  # once

    # what was printed is a whole unit
    unit = "// backprop_xp: " + shown.split("// backprop_xp: ")[-1]
    (tmp_path / "shown.cpp").write_text(unit.partition("backprop_xp: compiling")[0], encoding="utf-8")
    found = compiler.find()
    command = [*found.command, "-std=c++17", "-fsyntax-only", "-w", "-I", str(FOLDER), str(tmp_path / "shown.cpp")]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("value", ["", "0", None])
def test_nothing_is_printed_unasked(value, monkeypatch, capfd):
    if value is None:
        monkeypatch.delenv(show_source.SHOW_SOURCE.name, raising=False)
    else:
        monkeypatch.setenv(show_source.SHOW_SOURCE.name, value)
    show_source.show("int x;", "a test")
    assert capfd.readouterr().err == ""


def test_a_text_without_headers_is_shown_whole():
    assert without_headers("int x;\n") == "int x;\n"
    assert without_headers(source("dense_cpu.h") + "\nint x;\n") == '#include "dense_cpu.h"\nint x;\n'


@pytest.mark.gpu
def test_the_code_of_cuda_kernels(cupy, monkeypatch, capfd):
    monkeypatch.setenv(show_source.SHOW_SOURCE.name, "1")
    activation = Elementwise("shown", "t / (1.0625 + t * t)")  # of no other test, so that nothing is compiled yet
    for engine, part in (
        ("fused", "BPX_ENTRY void __launch_bounds__(bpx::threads) bpx_backprop("),
        ("cooperative", "bpx_block("),
        ("layered", "bpx::layer_backward<"),
    ):
        net = Net((3, 7, 2), (activation, "identity"), rng=0, backend="cupy", engine=engine)
        net.loss_and_grad(cupy.ones((5, 3)))
        shown = capfd.readouterr().err
        assert part in shown and '#include "' in shown, engine
