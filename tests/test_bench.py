"""The benchmark: honest contenders, the proof before the speed, tables and pictures, and files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from backprop_xp.bench import (
    ablation,
    cases,
    command,
    contenders,
    equations,
    latency,
    limits,
    limits_gpu,
    measure,
    memory,
    plot,
    report,
    settings,
)
from backprop_xp.bench import run as bench_run
from backprop_xp.bench.contenders import Contender
from machines import BUSY, OTHERS, QUIET

from backprop_xp import cli, get_backend

torch = pytest.importorskip("torch")

SMALL = [replace(case, samples=96) for case in cases.DEFAULT]
SETTINGS = settings.Settings(threads=1, budget=0.01, memory=False)
LIMITS = limits.Limits({"float32": 1e11, "float64": 5e10}, None, 1e10)


def test_operations_are_counted_as_promised():
    assert cases.ARTICLE.flops == 728
    one = cases.Case("one", (3, 2), ("tanh",), 1)
    assert one.flops == 2 * 2 * 6  # forward and weight gradient, no gradient in x
    assert {(case.name, case.samples, case.dtype) for case in cases.DEFAULT} >= {
        ("article's net", 1 << 20, "float32"), ("article's net", 1 << 20, "float64"),
        ("64-64-64-64-10", 65_536, "float32"), ("8 residual blocks", 65_536, "float32"),
        ("densely connected", 65_536, "float32"), ("784-512-512-10", 32_768, "float32"), ("digits", 57_504, "float32"),
    }  # fmt: skip


def test_operations_are_those_that_our_plan_counts():
    for case in SMALL:
        if case.data == "normal":
            loss = equations.ours(case.equation, case.sizes[0]) if case.equation else None
            assert case.net(backend="numpy").plan(case.arrays()[0], loss).flops == case.samples * case.flops


@pytest.mark.parametrize("case", SMALL, ids=lambda case: f"{case.name} {case.dtype}")
def test_every_contender_computes_the_same(case):
    pytest.importorskip("sklearn")
    reference = contenders.torch_eager(case, "nn")
    others = [contenders.torch_eager(case, "matmul")]
    others += [contenders.ours(case, engine, 1, "numpy") for engine in ("layered", "tiled", "auto")]
    assert measure.prove_equal(reference, others, case.dtype) < measure.TOLERANCE[case.dtype]
    depth = len(case.sizes) - 1
    assert len(reference.results()) == 1 + depth * (2 if case.bias else 1)


@pytest.mark.parametrize("equation", equations.RESIDUALS)
def test_everybody_derives_the_same(equation):
    assert {case.equation for case in cases.DERIVATIVES} == set(equations.RESIDUALS)
    case = replace(cases.LAPLACIAN, sizes=(2, 5, 1), activations=("tanh", "identity"), equation=equation)
    case = case.with_samples(40)
    reference = contenders.torch_eager(case, "nn")
    others = [contenders.torch_eager(case, form) for form in (*contenders.eager_forms(case)[1:], contenders.FUNCTIONAL)]
    if contenders.available("jax"):
        others += [contenders.jax_jit(case, form=form) for form in contenders.jax_forms(case)]
    others += [contenders.ours(case, engine, 1, "numpy") for engine in ("layered", "auto")]
    assert measure.prove_equal(reference, others, case.dtype) < measure.TOLERANCE[case.dtype]
    assert [other.form for other in others if other.name == "JAX"] in ([], list(equations.JAX_FORMS))


def test_the_batch_is_drawn_once_for_everybody():
    first, _ = SMALL[0].arrays()
    assert SMALL[0].arrays()[0] is first
    assert SMALL[1].arrays()[0].dtype == SMALL[1].dtype
    np.testing.assert_array_equal(SMALL[0].arrays()[0], first)


def test_torch_compile_with_cuda_graphs_is_for_small_batches_of_a_gpu():
    few, many = (cases.ARTICLE.with_samples(n) for n in (contenders.FEW_SAMPLES, contenders.FEW_SAMPLES + 1))
    assert contenders.compiled_forms(few, True) == ("nn", "nn, CUDA graphs")
    assert contenders.compiled_forms(many, True) == contenders.compiled_forms(few, False) == ("nn",)


class Graph:
    """What stands for torch.cuda here, where there is no device: a capture runs what it captures, a replay does nothing."""

    replays = 0

    def replay(self):
        Graph.replays += 1

    def wait_stream(self, stream):
        """Nothing to wait for."""


def test_pytorch_in_a_cuda_graph_reads_what_the_graph_writes(monkeypatch):
    nothing = lambda *arguments: contextlib.nullcontext()  # noqa: E731
    for name, stands_for in {
        "CUDAGraph": Graph, "Stream": Graph, "current_stream": Graph, "device": nothing, "stream": nothing, "graph": nothing,
        "synchronize": lambda device: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stands_for)
    reference = contenders.torch_eager(SMALL[0], "nn")
    captured = contenders.torch_graph(SMALL[0], "matmul", "cpu")
    assert (captured.name, captured.form) == (contenders.GRAPH, "matmul")
    assert measure.prove_equal(reference, [captured], "float32") < 1e-6
    assert Graph.replays == 1
    before = captured.results()
    captured.step()
    for a, b in zip(before, captured.results(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_jax_keeps_out_of_the_others_memory_and_does_not_round():
    pytest.importorskip("jax")
    code = (
        "import os\nfrom backprop_xp.bench import cases, contenders\n"
        "contenders.jax_jit(cases.ARTICLE.with_samples(8)).step()\nimport jax\n"
        "print(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'], jax.config.jax_default_matmul_precision)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["false", "highest"]


def test_a_jax_without_a_gpu_is_left_out_with_a_note():
    jax = pytest.importorskip("jax")
    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("this JAX has one")
    with pytest.raises(RuntimeError):
        contenders.jax_jit(SMALL[0], 0)


def test_jax_computes_the_same():
    pytest.importorskip("jax")
    for case in SMALL:
        measure.prove_equal(contenders.torch_eager(case, "nn"), [contenders.jax_jit(case)], case.dtype)


def fake(name, results, log=None, form="f"):
    return Contender(name, form, lambda: log.append(name) if log is not None else None, lambda: results)


@pytest.mark.parametrize("wrong", [[np.ones(3), np.full(3, 1.01)], [np.ones(3), np.full(3, np.nan)],
                                   [np.ones(3)], [np.ones(3), np.ones((3, 1))], [np.array(np.inf), np.ones(3)]])  # fmt: skip
def test_a_wrong_gradient_is_never_equal(wrong):
    right = [np.ones(3), np.ones(3)]
    assert measure.prove_equal(fake("a", right), [fake("b", right)], "float32") == 0
    with pytest.raises((measure.WrongGradient, ValueError)):
        measure.prove_equal(fake("a", right), [fake("b", wrong)], "float32")


def test_no_speed_is_shown_for_a_wrong_gradient(monkeypatch):
    original = contenders.ours

    def cheating(*arguments, **options):
        made = original(*arguments, **options)
        return Contender(made.name, made.form, made.step, lambda: [2 * a for a in made.results()])

    monkeypatch.setattr(contenders, "ours", cheating)
    result = bench_run.run_case(SMALL[0], SETTINGS, machine=QUIET)
    assert result.rows == []
    assert "backprop_xp: its loss is" in result.refused
    text = report.table([result], LIMITS)
    assert "no speed is shown" in text
    assert " M " not in text


def test_a_result_has_everything_the_table_shows(brief):
    result = bench_run.run_case(SMALL[0], SETTINGS, machine=QUIET)
    assert [row.contender for row in result.rows] == ["backprop_xp", contenders.EAGER]
    assert result.difference < measure.TOLERANCE["float32"]
    assert result.busy == []
    text = report.table([result], LIMITS)
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "gradients equal PyTorch's" in text
    assert report.BUSY not in text
    marked = report.markdown([result], LIMITS)
    assert marked.count("| article's net |") == 2
    assert report.BUSY not in marked
    (point,) = report.points([result])
    assert (point.what, list(point.rivals), point.busy) == ("article's net, 96 x float32", [contenders.EAGER], False)
    assert len(point.ours) == len(point.rivals[contenders.EAGER]) == measure.FEWEST_ROUNDS


def test_figures_of_a_busy_machine_are_not_to_be_quoted(brief):
    result = bench_run.run_case(SMALL[0], SETTINGS, machine=BUSY)
    text, marked = report.table([result], LIMITS), report.markdown([result], LIMITS)
    assert f"busy: not to be quoted: in 5 of 5 rounds the machine did other work ({OTHERS})" in text
    assert marked.count("| article's net (busy: not to be quoted) |") == 2
    assert report.points([result])[0].busy


def test_memory_is_that_of_the_batch():
    case = cases.ARTICLE.with_samples(1 << 18)
    eager = memory.extra_bytes(case, contenders.EAGER, "nn", 1)
    if eager is None:
        pytest.skip("the system doesn't tell")
    fused = memory.extra_bytes(case, "backprop_xp", "fused", 1)
    assert eager > case.samples * 4 * 26  # every t or z of the batch
    assert fused < 32 << 20


def test_limits_are_measured():
    with limits.peak_loop() as peak:
        measured = limits.measure(1, peak, size=128)
        again = peak(1)
    assert measured.with_peak(again).fma == (again and {d: max(again[d], measured.fma[d]) for d in again})
    assert measured.gemm["float32"] > 1e8
    assert measured.copy > 1e8
    if measured.fma is not None:
        assert measured.fma["float32"] > measured.fma["float64"] > 1e8


def test_what_each_step_brings(monkeypatch):
    monkeypatch.setattr(ablation, "SECONDS", 0.0)
    steps = ablation.run(cases.ARTICLE.with_samples(3000), 1)
    assert [step.what for step in steps][:2] == ["layered, 1 thread", "layered, 1 threads"]
    assert all(step.samples_per_second > 0 for step in steps)
    text = ablation.table(steps)
    assert text.splitlines()[1].endswith("1.0 x")
    assert len(text.splitlines()) == len(steps) + 1


def test_a_picture_says_what_it_shows(tmp_path, brief, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = []
    monkeypatch.setattr(pyplot, "close", shown.append)
    other = cases.Case("3-7-2", (3, 7, 2), ("tanh", "identity"), 8, "float64")
    families = {"batch": [other.with_samples(n) for n in (1, 8)], "depth": [case.with_samples(8) for case in cases.DEPTHS],
                "width": [cases.WIDTHS[0].with_samples(8)]}  # fmt: skip
    quick = replace(SETTINGS, engines=("layered",))
    results = {
        family: [bench_run.run_case(case, quick, machine=QUIET) for case in some[:2]]
        for family, some in families.items()
    }
    results["width"][0].busy.append("others computed")
    plot.throughput(tmp_path / "throughput.png", results, "Some Processor, 2 threads, 2026-01-31")
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["throughput.png"]
    (figure,) = shown
    assert figure.get_suptitle() == "Some Processor, 2 threads, 2026-01-31"
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "samples in a batch, 3-7-2", "layers, 16 wide", "width of the hidden layers, w-w-w-10"
    ]  # fmt: skip
    assert [axis.get_title() for axis in figure.axes] == [
        "over batch: float64, tanh, identity", "over depth: float32, tanh, identity",
        "over width: float32, tanh, identity (busy: not to be quoted)",
    ]  # fmt: skip


def test_sweeps_show_what_a_user_gets_beside_rivals(brief, monkeypatch):
    assert list(bench_run.SWEEPS) == ["batch", "width", "depth"]
    everything = replace(SETTINGS, engines=("auto", "tiled", "layered"))
    few = {"batch": [cases.ARTICLE.with_samples(8)], "width": [cases.WIDTHS[0].with_samples(8)], "depth": []}
    swept = list(bench_run.sweep(few, everything, machine=BUSY))
    assert [family for family, _ in swept] == ["batch", "width"]
    for _, result in swept:
        assert [row.contender for row in result.rows] == ["backprop_xp", contenders.EAGER]


@pytest.mark.parametrize("machine", [QUIET, BUSY])
def test_latency_is_proven_and_says_whether_to_quote_it(machine, brief):
    rounds = latency.run(1e-9, machine)
    text = latency.table(rounds, "kept")
    assert len(rounds.spells) == measure.FEWEST_ROUNDS
    assert "memory: kept" in text
    assert "PyTorch eager" in text
    assert (report.BUSY in text) == (machine is BUSY) == ("no claim" in text)


def test_latency_of_a_graph_stands_beside_that_of_a_chain(brief):
    rounds = latency.run_graphs(1e-9, BUSY)
    sizes = [sum(tensor.data.size for tensor in net.parameters) for net in (latency.chain(), latency.residual())]
    assert sizes[0] == sizes[1]
    head, *lines, busy = latency.table_of_graphs(rounds).splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "chain, one sample", "residual net, one sample", "chain, 32 samples", "residual net, 32 samples",
    ]  # fmt: skip
    assert ["times as long" in line for line in lines] == [False, True, False, True]
    assert head == "5 layers of width 16" and busy.startswith(report.BUSY)


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    report.replace_file(target, b"old")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        report.replace_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "device, name", [("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"), ("../etc/", "etc"), ("?", "device")]
)
def test_devices_name_files(device, name):
    assert report.file_name(device) == name


@pytest.mark.parametrize("text", ["", "5", "5-", "a-b", "5-0", "5--4"])
def test_nets_that_are_none(text):
    with pytest.raises(ValueError, match="--net must be widths such as 5-10-4-12, got"):
        cases.parse_net(text)


@pytest.mark.parametrize(
    "script, shown",
    [
        (
            'echo "$2 580.65.06, 1755, 1980, 2619, 700.00, 41"',
            "1755 of 1980 MHz, memory 2619 MHz, limit 700.00 W, 41 degrees, driver 0000000a:1b:00.0 580.65.06",
        ),
        ("exit 9", "not known (nvidia-smi does not answer)"),
        ("echo no devices were found", "not known (nvidia-smi does not answer)"),
    ],
)
def test_clocks_are_those_of_the_right_device(script, shown, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert limits_gpu._clocks({"pciDomainID": 10, "pciBusID": 27, "pciDeviceID": 0}) == shown


@pytest.mark.gpu
def test_on_a_gpu_the_devices_clock_is_used():
    pytest.importorskip("cupy")
    contender = contenders.ours(cases.ARTICLE.with_samples(64), "layered", 1, "cupy")
    reference = contenders.torch_eager(cases.ARTICLE.with_samples(64), "nn")
    measure.prove_equal(reference, [contender], "float32")
    assert contender.timer(2) >= 0
    (timing,) = measure.alternate([measure.here(contender)], 0.01, QUIET).timings
    assert len(timing.seconds) >= measure.FEWEST_ROUNDS


@pytest.mark.gpu
def test_contenders_on_a_gpu_have_no_rest(monkeypatch):
    pytest.importorskip("cupy")
    rests = []
    monkeypatch.setattr(measure.time, "sleep", rests.append)
    on_gpu = replace(SETTINGS, backend="cupy")
    bench_run.run_case(cases.ARTICLE.with_samples(64), on_gpu, machine=QUIET)
    assert set(rests) == {0.0}


@pytest.mark.gpu
def test_a_case_that_fails_ends_no_run_on_a_gpu(capsys, tmp_path, monkeypatch):
    pytest.importorskip("cupy")
    ours = contenders.ours

    def failing(case, *arguments, **options):
        if case.sizes == cases.ARTICLE.sizes:
            raise MemoryError("no memory for this one")
        return ours(case, *arguments, **options)

    monkeypatch.setattr(contenders, "ours", failing)
    monkeypatch.setattr(command, "GPU", (cases.ARTICLE, cases.Case("other", (3, 2), ("tanh",), 8)))
    arguments = ("--dtype", "float32", "--batch", "32", "--seconds", "0.01", "--json", str(tmp_path / "results.json"))
    assert cli.main(["bench", "--backend", "cupy", *arguments]) == 1
    first, second = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["results"]
    assert first["refused"] == "MemoryError: no memory for this one"
    assert second["rows"]
    assert "no speed is shown: MemoryError: no memory for this one" in capsys.readouterr().out


@pytest.mark.gpu
def test_a_run_on_a_gpu_is_written_under_the_devices_name(capsys, tmp_path):
    cupy = pytest.importorskip("cupy")
    arguments = ("--net", "5-10-4-12", "--dtype", "float32", "--batch", "64", "--seconds", "0.01", "--compile")
    assert cli.main(["bench", "--backend", "cupy", *arguments, "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    device = limits_gpu.name(get_backend("cupy"))
    files = [tmp_path / f"{report.file_name(device)}.{kind}" for kind in ("json", "md")]
    assert sorted(tmp_path.iterdir()) == files
    content, text = json.loads(files[0].read_text(encoding="utf-8")), files[1].read_text(encoding="utf-8")
    assert content["environment"]["gpu"]["device"] == device
    assert content["environment"]["versions"]["cupy"] == cupy.__version__
    assert all(content["limits"][what][dtype] > 0 for what in ("gemm", "fma") for dtype in ("float32", "float64"))
    (result,) = content["results"]
    assert result["difference"] < measure.TOLERANCE["float32"]
    names = {row["contender"] for row in result["rows"]}
    assert names >= {"backprop_xp", "backprop_xp repeated"}
    assert (contenders.EAGER in names) == torch.cuda.is_available()
    for shown in (out, text):
        assert device in shown
        assert "TF32 in CuPy: off" in shown
        assert "clocks: " in shown
    assert ("PyTorch has no CUDA here" in out) != torch.cuda.is_available()


@pytest.mark.gpu
def test_limits_of_a_gpu_count_what_was_done(monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setattr(limits_gpu, "LONG_ENOUGH", 0.0)  # the smallest sizes
    measured = limits_gpu.measure(get_backend("cupy"))
    assert min(measured.copy, *measured.gemm.values(), *measured.fma.values()) > 1e6
    log = []
    cupy = get_backend("cupy").xp
    monkeypatch.setattr(limits_gpu, "LONG_ENOUGH", float("inf"))
    limits_gpu._grown(cupy, lambda size: (1.0, lambda: log.append(size)), 4, 20)
    assert log == [4] * 6 + [8] * 6 + [16] * 6
