"""What `make gpu` runs: every check finds its tests, tools that are missing are named, and the parts run by themselves."""

import subprocess
import sys
from pathlib import Path

import pytest
from backprop_xp.bench import contenders, gpu, nopool, profile, smoke, stages, warm

from backprop_xp.engines import fused_gpu
from backprop_xp.programs import block
from backprop_xp.toolchain import cuda

REPOSITORY = Path(__file__).parent.parent
TOOLS = ("compute-sanitizer", "ncu")


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Programs of these names on the PATH, and none elsewhere."""

    def given(*names):
        for name in names:
            (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(gpu, "ELSEWHERE", (str(tmp_path / "elsewhere"),))

    return given


def commands(planned):
    return {command.name: command for stage in planned for command in stage.commands(100.0)}


def test_the_stages_and_their_boxes(tools):
    tools(*TOOLS)
    planned = gpu.plan(Path("r"))
    assert [stage.name for stage in planned] == [
        "facts",
        "tests",
        "bench",
        "sanitizers",
        "profile-fused",
        "profile-cooperative",
    ]
    assert [stage.share for stage in planned] == [40, 120, 170, 100, 25, 25]
    assert not any(stage.left_out for stage in planned)
    assert [name for name, command in commands(planned).items() if not command.counts] == ["warm"]


def test_the_benchmark_knows_its_box(tools):
    tools()
    (bench,) = gpu.plan(Path("r"), bench=("--net", "3-2"))[2].commands(170.0)
    arguments = list(bench.arguments)
    assert float(arguments[arguments.index("--within") + 1]) == 165
    assert 0 < float(arguments[arguments.index("--seconds") + 1]) < 10
    assert arguments[-2:] == ["--net", "3-2"]


@pytest.mark.parametrize("there", [(), TOOLS[:1], TOOLS[1:]])
def test_tools_that_are_missing_are_named(tools, there):
    tools(*there)
    left_out = [stage.left_out for stage in gpu.plan(Path("r"))[3:]]
    expected = ["" if name in there else f"{name} is not installed" for name in (TOOLS[0], TOOLS[1], TOOLS[1])]
    assert left_out == expected


def test_tools_are_found_beside_the_path(tools, tmp_path, monkeypatch):
    tools(*TOOLS)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(gpu, "ELSEWHERE", (str(tmp_path),))
    assert not any(stage.left_out for stage in gpu.plan(Path("r")))


def test_every_tool_of_the_sanitizer_looks_at_arrays_of_their_own(tools):
    tools(*TOOLS)
    found = commands(gpu.plan(Path("r"))[3:4])
    assert {name.partition("-")[0] for name in found} == {"memcheck", "racecheck", "synccheck", "initcheck"}
    assert len(found) == len(gpu.CHECKS)
    for command in found.values():
        text = " ".join(command.arguments)
        assert f"--error-exitcode {gpu.FOUND} " in text
        assert "-p backprop_xp.bench.nopool" in text
        assert f"--ignore={gpu.ITSELF}" in text


def test_every_check_finds_tests_for_each_of_its_words():
    chosen = [check for check in gpu.CHECKS if check.chosen]
    files = sorted({path for check in chosen for path in check.tests})
    command = [sys.executable, *gpu.PYTEST, "--collect-only", *files]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.splitlines()
    for check in chosen:
        for word in check.chosen.split(" or "):
            assert any(word in name for name in names if name.startswith(check.tests)), word


def test_files_that_are_named_are_there():
    for path in (gpu.ITSELF, *(path for check in gpu.CHECKS for path in check.tests)):
        assert (REPOSITORY / path).exists()


@pytest.mark.parametrize("code, expected", [("print('here')", 0), ("raise SystemExit(3)", 1)])
def test_the_exit_code_is_that_of_all_stages(code, expected, tmp_path, monkeypatch, capsys):
    asked = []
    commands = [stages.Command("one", (sys.executable, "-c", code)), stages.Command("two", (sys.executable, "-c", ""))]
    monkeypatch.setattr(
        gpu, "plan", lambda *given: asked.append(given) or [stages.Stage("s", 1.0, lambda box: commands)]
    )
    arguments = ["--minutes", "1", "--out", str(tmp_path), "--tests", "a 'b c'", "--bench=--net 3-2", "--small"]
    assert gpu.main(arguments) == expected
    assert asked == [(Path("bench", "results"), ["a", "b c"], ["--net", "3-2"], True)]
    assert "one" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none(minutes, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--minutes", minutes])
    assert "--minutes must be a positive number" in capsys.readouterr().err


@pytest.mark.gpu
def test_every_engine_is_looked_at_first(cupy, capsys, monkeypatch):
    monkeypatch.setattr(smoke, "BATCHES", (1, 5))
    assert smoke.main(["--small"]) == 0
    out = capsys.readouterr().out
    assert out.count("relative error") == 3 * 2 * 2
    assert "NVRTC" in out and "every engine agrees with NumPy in float64" in out
    monkeypatch.setattr(smoke, "MOST_EPS", 0)
    assert smoke.main(["--small"]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.gpu
def test_what_is_profiled_runs_the_kernel_that_is_looked_for(cupy, capsys, monkeypatch):
    launched, kernel = [], cuda.kernel
    for module in (fused_gpu, block):
        monkeypatch.setattr(module, "_programs", {})
    monkeypatch.setattr(cuda, "kernel", lambda source, name: (launched.append(name), kernel(source, name))[1])
    for name, profiled in profile.CASES.items():
        profile.main(name, ["--small"])
        assert profiled.kernel in launched
    assert capsys.readouterr().out.count("loss") == len(profile.CASES)


@pytest.mark.gpu
def test_caches_are_filled_by_whoever_can(cupy, capsys, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(contenders, "torch_compiled", broken)
    warm.main(["--small"])
    out = capsys.readouterr().out
    assert "article's net, 64 x float32: ours" in out
    assert "torch.compile (nn): RuntimeError: no compiler here" in out


@pytest.mark.gpu
def test_without_a_pool_every_array_is_an_allocation(cupy):
    before = cupy.cuda.get_allocator()
    try:
        nopool.pytest_configure()
        used = cupy.get_default_memory_pool().used_bytes()
        array = cupy.zeros(1000)
        assert cupy.get_default_memory_pool().used_bytes() == used
        assert array.data.mem.size == array.nbytes
    finally:
        cupy.cuda.set_allocator(before)
        cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)
