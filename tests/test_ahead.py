"""Compiling ahead: afterwards no call of the net, in this process or another, starts a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from backprop_xp import Elementwise, Equation, Graph, GraphNet, Net, cli, engines
from backprop_xp.programs import elementwise, fused, matrices
from backprop_xp.programs import graph as graphs
from backprop_xp.programs import narrow as of_narrow
from backprop_xp.toolchain import cache, compiler
from backprop_xp.toolchain.compiler import CompileError

needs_compiler = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A cache that holds what is compiled once for all nets, which takes long: a copy of what the ordinary one holds."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        asked, read = [], cache.read
        patch.setattr(cache, "read", lambda path: asked.append(path) or read(path))
        forget(patch)
        for dtype in ("float32", "float64"):
            matrices.core(dtype)
            of_narrow.parts(dtype)
        forget(patch)
    for path in asked:
        shutil.copy2(path, folder)
    return folder


def forget(patch):
    """As a new process would."""
    patch.setattr(cache, "_loaded", {})
    patch.setattr(of_narrow, "_programs", {})
    patch.setattr(graphs, "_programs", {})
    patch.setattr(engines, "_failures", {})
    known = (matrices._core, matrices._activation, matrices._loss, of_narrow._parts, elementwise._function)
    for function in known:
        function.cache_clear()


@pytest.fixture
def home(once, tmp_path, monkeypatch):
    """Such a cache, of which this process knows nothing yet."""
    shutil.copytree(once, tmp_path / "cache")
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path / "cache"))
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        yield tmp_path / "cache"
        forget(patch)


@pytest.fixture
def forbidden(monkeypatch):
    """From when it is called on, a compiler that is started is a failure."""

    def forbid():
        def build(self, source, target, what):
            raise AssertionError(f"{what} is compiled")

        monkeypatch.setattr(compiler.Compiler, "build", build)

    return forbid


def narrow():
    return Net(
        (3, 5, 4), ("tanh", Elementwise("bump", value="exp(-t * t)")), "softmax_cross_entropy", dtype="float32", rng=0
    )


def wide():
    return Net((60, 60, 4), ("relu", "identity"), "mse", bias=True, rng=0, reduction="mean")


def use(net, **options):
    """Calls of every kind: one sample, some, and very many."""
    random = np.random.default_rng(0)
    width, out = net.sizes[0], net.sizes[-1]
    for n in (None, 1, 7, fused.NARROW_SAMPLES + 3):
        batch = () if n is None else (n,)
        x = random.normal(size=(*batch, width)).astype(net.dtype)
        targets = [random.random((*batch, out)).astype(net.dtype)] if net.loss.needs_target else [None]
        if getattr(net.loss, "takes_indices", False):
            targets.append(random.integers(0, out, batch))
        for y in targets:
            net.loss_and_grad(x, y, **{name: np.ones(batch) if name == "sample_weight" else True for name in options})
        net(x)
    net(random.normal(size=(fused.NARROW_OUTPUTS + 1, width)).astype(net.dtype))


@needs_compiler
@pytest.mark.parametrize("make", [narrow, wide])
def test_no_call_compiles_afterwards(make, home, forbidden):
    net, said = make(), []
    programs = net.compile(said.append)
    assert programs == said and programs
    compiled = [built.what for built in programs if not built.known]
    assert len(compiled) == len({*compiled}) >= 3 and all(built.seconds > 0 for built in programs)
    assert all(tensor.grad is None for tensor in net.parameters)  # nothing has happened to it
    forbidden()
    use(net)
    assert net.compile(said.append) == []  # this process has everything


@needs_compiler
def test_options_have_programs_of_their_own(home, forbidden):
    net = narrow()
    net.compile(None, sample_weight=True, input_grad=True)
    forbidden()
    for options in ({"sample_weight": 1}, {"input_grad": 1}, {"sample_weight": 1, "input_grad": 1}):
        use(net, **options)


@needs_compiler
def test_graphs_with_and_without_dropping(home, forbidden):
    g = Graph()
    x = g.input(3)
    net = g.net(g.linear(g.dropout(g.apply("tanh", g.linear(x, 3)), 0.5) + x, 2), dtype="float32", rng=0)
    assert isinstance(net, GraphNet)
    draws = net.draws
    assert net.compile(None)
    assert net.draws == draws
    forbidden()
    x = np.ones((9, 3), np.float32)
    for training in (True, False):
        net.loss_and_grad(x, training=training)
        net.loss_and_grad(x[0], training=training)
        net.forward(x, training=training)


@needs_compiler
def test_another_process_finds_everything_in_the_cache(home):
    program = textwrap.dedent("""
        from backprop_xp import Net
        for built in Net((3, 4, 2), rng=0, backend="numpy").compile(None):
            print(built.known, built)
    """)
    outputs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ})
        for _ in range(2)
    ]
    first, second = ([line.partition(" ") for line in result.stdout.splitlines()] for result in outputs)
    assert all(line.endswith(": compiled before" if known == "True" else " s") for known, _, line in (*first, *second))
    assert {line.rpartition(":")[0] for known, _, line in first if known == "False"} >= {
        "the net 3-4-2 for one sample", "the net 3-4-2 in float64",
        "the activation tanh in float64",
    }  # fmt: skip
    assert [known for known, _, _ in second] == ["True"] * len(first)


@needs_compiler
def test_graphs_that_want_a_batch_in_training(home, forbidden):
    g = Graph()
    net = g.net(g.apply("tanh", g.batch_norm(g.linear(g.input(3), 4))), dtype="float32", rng=0)
    before = {name: tensor.data.copy() for name, tensor in net.buffers.items()}
    net.compile(None)
    assert all(np.array_equal(net.buffers[name].data, data) for name, data in before.items())
    forbidden()
    x = np.ones((9, 3), np.float32)
    for training in (True, False):
        net.loss_and_grad(x, training=training)
        net.forward(x, training=training)
    net.forward(x[0])


class Slow:
    """An activation that is no formula."""

    def __call__(self, t):
        return np.log(t - 1)

    def grad(self, t):
        return 1 / (t - 1)


@needs_compiler
def test_what_is_written_in_python_is_not_compiled(home):
    net = Net((3, 2), (Slow(),), rng=0)
    assert net.compile(None) == []
    net = Net((3, 2, 2), ("tanh", "identity"), rng=0, engine="layered")
    assert net.compile(None) == []


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(CompileError, match=r"no C\+\+ compiler was found \(\$CXX is '/nonexistent'\)"):
        Net((3, 2), rng=0).compile()
    assert Net((3, 2), rng=0, engine="layered").compile() == []


@needs_compiler
def test_what_fails_is_said_after_the_rest(home, monkeypatch):
    monkeypatch.setattr(of_narrow, "source", lambda shape: "#error spoilt")
    said = []
    with pytest.raises(CompileError, match=r"^the net 3-4-2 in float64 can't be compiled: .*failed: .*spoilt"):
        Net((3, 4, 2), rng=0).compile(said.append)
    failed = {built.what: built.error for built in said if built.error}
    assert failed.keys() == {"the net 3-4-2 in float64"}, failed
    assert len(said) > 3


@needs_compiler
def test_the_command(home, capsys, tmp_path):
    assert (
        cli.main(
            ["compile", "3-4-2", "50-60-2", "--activations", "relu", "--loss", "mse", "--bias", "--backend", "numpy"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3-4-2: Net(3-4-2, relu, identity, mse, float64, numpy)")
    second = next(k for k, line in enumerate(lines) if line.startswith("50-60-2: "))
    assert all(line.startswith("  ") and line.endswith((" s", ": compiled before")) for line in lines[1:second])
    assert [line.rpartition(": ")[0] for line in lines[second + 1 :]] == [
        "  the net 50-60-2 for one sample", "  the net 50-60-2 for outputs of one sample",
    ]  # fmt: skip
    pytest.importorskip("safetensors")
    Net((3, 4, 2), ("relu", "identity"), "mse", True, rng=0).save(tmp_path / "net")
    assert cli.main(["compile", str(tmp_path / "net"), "--backend", "numpy"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  nothing that isn't there"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("5",), "NET must be widths such as 784-128-10 or the file of a net, got '5'"),
        (("5-x",), "got '5-x'"),
        (("",), "got ''"),
        (("5-0",), "every layer width"),
        (("5-4-3", "--activations", "tanh,relu,tanh"), "2 layers need 2 activations, got 3"),
        (("5-4-3", "--activations", "tan"), "did you mean 'tanh'?"),
        (("5-4-3", "--loss", "mes"), "did you mean 'mse'?"),
        (("5-4-3", "--backend", "abacus"), "unknown backend 'abacus'"),
        (
            ("saved", "--loss", "mse"),
            "saved is a file, which says activations, loss, dtype, bias, reduction and weights itself",
        ),
        (("saved", "--bias"), "saved is a file"),
        (("saved",), "saved is no whole safetensors file"),
        ((), "NET"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_before_anything_is_compiled(
    arguments, message, capsys, tmp_path, monkeypatch, forbidden
):
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").write_text("no net", encoding="utf-8")
    forbidden()
    assert (
        cli.main(["compile", "4-2", *arguments] if arguments and arguments[0] == "5" else ["compile", *arguments]) == 1
    )
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1
    assert message in streams.err


def test_the_command_without_a_compiler_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    assert cli.main(["compile", "3-2", "--backend", "numpy"]) == 1
    streams = capsys.readouterr()
    assert streams.err == "backprop-xp: no C++ compiler was found ($CXX is '/nonexistent')\n"


@pytest.mark.gpu
def test_on_a_device(cupy):
    net = Net((3, 4, 2), dtype="float32", rng=0, backend="cupy")
    said = []
    net.compile(said.append)
    assert any(built.what.startswith("the kernel ") for built in said)


@needs_compiler
@pytest.mark.parametrize("text", ["u_a - {} * u_aa * v", "u_a ** 2 + u_b - f * {}"])
def test_equations_are_compiled_as_well(text, forbidden):
    equation = Equation(
        text.format(np.random.default_rng().random()),  # that no earlier test has compiled
        inputs="a b", outputs="u v", targets="f" if "f" in text else "",
    )  # fmt: skip
    net = Net((2, 5, 2), ("tanh", "identity"), "mse", bias=True, rng=0, backend="numpy", dtype="float32")
    programs = net.compile(None, equations=equation)
    assert "an equation in float32" in [built.what for built in programs if not built.known]
    forbidden()
    points, y = np.ones((40, 2), "float32"), np.ones(40, "float32") if equation.needs_target else None
    net.loss_and_grad(points, y, loss=equation, input_grad=True)
    assert net.compile(None, equations=[equation, equation]) == []


def test_an_equation_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the equation has 1 inputs"):
        wide().compile(None, equations=Equation("u_a", inputs="a"))
