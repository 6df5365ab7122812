"""The command line, as a user types it."""

import importlib
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from backprop_xp.bench import contenders, limits
from ranks import launch, needs_mpi

from backprop_xp import ACTIVATIONS, __version__, cli, environment, proofs
from backprop_xp.toolchain import cache


def run(*arguments):
    return cli.main(list(arguments))


def parser_of(command):
    return next(action for action in cli._parser()._actions if action.dest == "command").choices[command]


def options_of(command):
    """The command's long options, each with its action."""
    return {
        option: action
        for action in parser_of(command)._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def test_info(capsys):
    assert run("info") == 0
    out = capsys.readouterr().out
    for what in ("backprop_xp", "numpy", "backend", "C++ compiler", "kernel cache", "threads"):
        assert what in out
    assert np.__version__ in out


def test_info_in_an_odd_environment(capsys, monkeypatch):
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "abacus")
    monkeypatch.setenv("BACKPROP_XP_CACHE", "/nonexistent\n")
    monkeypatch.setenv("CXX", '"')
    environment._parsed.cache_clear()
    assert run("info") == 0
    out = capsys.readouterr().out
    assert "BACKPROP_XP_BACKEND must be auto, numpy, cupy or cupy:N, got 'abacus'" in out
    assert "which is no command: No closing quotation" in out


def test_info_without_a_compiler(capsys, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    assert run("info") == 0
    assert "the fused engine is not available" in capsys.readouterr().out


def test_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("BACKPROP_XP_CACHE", str(tmp_path))
    (tmp_path / "a.kernel").write_bytes(b"x" * 2048)
    assert run("cache") == 0
    assert "1 compiled kernels, 2 KiB" in capsys.readouterr().out
    assert run("cache", "clear") == 0
    assert cache.size() == (0, 0)


def test_check_fails_with_the_engine(capsys, monkeypatch):
    pytest.importorskip("torch")
    arguments = ("check", "--engine", "layered", "--backend", "numpy", "--activation", "tanh", "--loss", "mse")
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert out.count("ok ") == 2 * (2 + len(proofs.GRAPHS))
    assert "every gradient is right" in out
    monkeypatch.setattr(ACTIVATIONS["tanh"], "backprop", lambda self, t, grad_z: grad_z)
    assert run(*arguments) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "WRONG" in out


def test_bench_prints_a_table_and_writes_files(capsys, tmp_path, brief):
    pytest.importorskip("torch")
    files = {kind: tmp_path / f"results.{kind}" for kind in ("json", "markdown", "png")}
    code = run(
        "bench", "--net", "3-4-2", "--batch", "64", "--seconds", "0.01", "--threads", "1", "--backend", "numpy",
        "--engines", "auto,layered", "--json", str(files["json"]), "--markdown", str(files["markdown"]),
    )  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    assert "3-4-2  64 x float32, 96 flop a sample" in out
    assert "gradients equal PyTorch's: within" in out
    assert max(len(line) for line in out.splitlines() if "samples/s" in line) <= 100
    content = json.loads(files["json"].read_text(encoding="utf-8"))
    (result,) = content["results"]
    assert [row["contender"] for row in result["rows"]] == ["backprop_xp", "backprop_xp layered", "PyTorch eager"]
    assert all(row["samples_per_second"] > 0 for row in result["rows"])
    assert result["rows"][-1]["speedup"] == 1.0
    assert content["limits"]["gemm"]["float32"] > 0
    assert content["environment"]["settings"]["threads"] == 1
    assert files["markdown"].read_text(encoding="utf-8").splitlines()[0] in out.splitlines()
    assert files["markdown"].read_text(encoding="utf-8").count("| 3-4-2") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.markdown"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--json", "none/x"), "none/x: there is no folder"),
        (("--json", "pipe"), "pipe: a pipe stands there"),
        (("--json", ""), "a folder stands there"),
        (("--markdown", "folder"), "folder: a folder stands there"),
        (("--json", "x", "--markdown", "./x"), "--markdown would write over --json"),
        (("--plot", "folder"), "folder: a folder stands there"),
        (("--results", "pipe/x"), "pipe/x"),
        (("--net", ""), "''"),
        (("--engines", ""), "''"),
        (("--backend", ""), "unknown backend ''"),
    ],
    ids=" ".join,
)
def test_bench_refuses_before_it_measures(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo("pipe")
    monkeypatch.setattr(limits, "measure", lambda threads: pytest.fail("it was measured"))
    assert run("bench", *arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1
    assert message in streams.err
    assert sorted(os.listdir()) == ["folder", "pipe"]


def test_bench_needs_matplotlib_for_its_picture(capsys, monkeypatch, tmp_path):
    found = contenders.available
    monkeypatch.setattr(contenders, "available", lambda name: name != "matplotlib" and found(name))
    monkeypatch.setattr(limits, "measure", lambda threads: pytest.fail("it was measured"))
    assert run("bench", "--plot", str(tmp_path / "p.png")) == 1
    assert "--plot needs matplotlib" in capsys.readouterr().err


MISTAKES = [
    ("bench", "--net", "5"), ("bench", "--net", "5-x"), ("bench", "--batch", "0"), ("bench", "--batch", "many"),
    ("bench", "--threads", "0"), ("bench", "--backend", "abacus"), ("bench", "--engines", "warp"),
    ("bench", "--dtype", "float16"), ("bench", "--seconds", "0"), ("bench", "--unknown"), ("cache", "burn"),
    ("check", "--engine", "warp"), ("nonsense",), (),
]  # fmt: skip


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_1(arguments, capsys):
    assert run(*arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("backprop-xp: ")
    assert streams.err.count("\n") == 1


COMMANDS = ("train", "predict", "explain", "demo", "picture", "bench", "check", "compile", "info", "cache")
OPTIONS = [(command, option, action) for command in COMMANDS for option, action in options_of(command).items()]
CHOICES = [(command, option, choice) for command, option, action in OPTIONS for choice in action.choices or ()]


def misspelt(word):
    """With its last letter twice, so that it is no beginning of the word."""
    return word + word[-1]


def one_line(capsys):
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1
    return streams.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_misspelt_command(command, capsys):
    for wrong in (misspelt(command), command.upper()):
        assert run(wrong, "--data", "digits") == 1
        message = f"unknown command {wrong!r}; did you mean {command!r}? (see backprop-xp --help)"
        assert one_line(capsys) == f"backprop-xp: {message}\n"


@pytest.mark.parametrize("command, option", [found[:2] for found in OPTIONS])
def test_a_misspelt_option_is_found_before_what_is_missing(command, option, capsys):
    wrong = misspelt(option)
    message = f"unknown option {wrong!r}; did you mean {option!r}? (see backprop-xp {command} --help)"
    for arguments in ((wrong,), (wrong, "5"), (f"{wrong}=a file.csv",)):
        assert run(command, *arguments) == 1  # without the table, the model or the net that the command needs
        assert one_line(capsys) == f"backprop-xp: {message}\n"


@pytest.mark.parametrize("command, option, choice", CHOICES)
def test_a_misspelt_choice(command, option, choice, capsys):
    wrong = misspelt(choice)
    message = f"unknown value {wrong!r}; did you mean {choice!r}? (see backprop-xp {command} --help)\n"
    for arguments in ((option, wrong), (f"{option}={wrong}",)):
        assert run(command, *arguments) == 1
        where, _, what = one_line(capsys).removeprefix("backprop-xp: argument ").partition(": ")
        assert option in where.split("/") and what == message


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--versoin",), "unknown option '--versoin'; did you mean '--version'? (see backprop-xp --help)"),
        (("--data", "digits", "train"), "unknown option '--data'; known are -h, --help, --version"),
        (("train", "-epochs", "3"), "unknown option '-epochs'; did you mean '--epochs'?"),
        (("bench", "-help"), "unknown option '-help'; did you mean '--help'?"),
        (("train", "--early_stopping"), "unknown option '--early_stopping'; did you mean '--early-stopping'?"),
        (("train", "--epochs", "--hiden", "8"), "unknown option '--hiden'; did you mean '--hidden'?"),
        (("info", "--nothing"), "unknown option '--nothing'; known are -h, --help (see backprop-xp info --help)"),
        (("cache", "clera"), "unknown action 'clera'; did you mean 'clear'? (see backprop-xp cache --help)"),
        (("train", "--data", "digits", "--decimal", ";"), "argument --decimal: unknown value ';'; known are '.', ','"),
        (("train",), "the following arguments are required: --data"),
        (("info", "train"), "unrecognized arguments: train (see backprop-xp info --help)"),
        (("predict", "m", "d", "e", "f"), "unrecognized arguments: e f (see backprop-xp predict --help)"),
        (("predict", "m", "---x"), "unknown option '---x'; known are -h, "),
        (("picture", "gradients", "--_output"), "unknown option '--_output'; did you mean '--output'?"),
        (("picture", "gradients", "-_x=1"), "unknown option '-_x'; known are -h, "),
        (("train", "--missing", "-,NA"), "the following arguments are required: --data"),
        (("train", "--missing", "--data"), "argument --missing: expected one argument"),
        (("train", "--date", "dmy"), "unknown option '--date'; did you mean '--dates'? (see backprop-xp train --help)"),
        (("train", "--val=0.1"), "unknown option '--val'; did you mean '--validation'?"),
        (("predict", "--", "--modle", "x"), "--modle: No such file"),
        (("bench", "--engines", "auto,fusde"), "unknown engine of --engines 'fusde'; did you mean 'fused'?"),
        (("bench", "--only", "grid,abalation"), "unknown part of --only 'abalation'; did you mean 'ablation'?"),
    ],
    ids=" ".join,
)
def test_what_is_near_is_named(arguments, message, capsys):
    pytest.importorskip("safetensors")
    assert run(*arguments) == 1
    assert one_line(capsys).startswith(f"backprop-xp: {message}")


def test_a_value_that_looks_like_an_option_is_shown_as_a_value(capsys):
    for value in ("-NA", "-NaT", "-N=A"):
        assert run("train", "--data", "t.csv", "--missing", value) == 1
        said = one_line(capsys)
        assert said.startswith(f"backprop-xp: unknown option {value.partition('=')[0]!r}; ")
        assert f" as the value of --missing write --missing={value} (see" in said
    for others in (("--residual", "-NA"), ("--missing=x", "-NA"), ("--missing", "--hiden")):
        assert run("train", "--data", "t.csv", *others) == 1
        assert "as the value" not in one_line(capsys)


@pytest.mark.parametrize("command, option", [found[:2] for found in OPTIONS])
def test_no_option_may_be_cut_short(command, option):
    parser, known = parser_of(command), options_of(command)
    for short in {option[:end] for end in range(3, len(option))} - known.keys():
        with pytest.raises(ValueError, match=f"unknown option {short!r}; "):
            parser.parse_args([short])


@pytest.mark.parametrize(
    "name, short",
    [
        ("ensembles", "--net"),
        ("estimators", "--split"),
        ("examples", "--epoch"),
        ("gpu", "--minute"),
        ("ranks", "--rank"),
    ],
)
def test_nor_one_of_a_benchmark(name, short, capsys):
    for package in ("torch", "sklearn"):
        pytest.importorskip(package)
    with pytest.raises(SystemExit):
        importlib.import_module(f"backprop_xp.bench.{name}").main([short, "1"])
    assert f"unrecognized arguments: {short}" in capsys.readouterr().err


@pytest.mark.parametrize("command, option", [found[:2] for found in OPTIONS if found[2].nargs != 0])
def test_a_value_may_begin_with_a_minus(command, option):
    """It is taken for the option's value, which may be wrong for other reasons, and never for another option."""
    parser = parser_of(command)
    for value in ("-1", "-1,2", "-1,2;-3,4", "-.5", "-1e-3", "-inf", "-nan,1", "-,NA"):
        said = []
        for arguments in ([option, value], [f"{option}={value}"]):
            try:
                said.append(parser.parse_args([*arguments, *["a"] * required(parser)]))
            except ValueError as error:
                said.append(str(error))
        assert said[0] == said[1] and "expected" not in str(said[0])


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "MODEL", "DATA", "--row", "3"),
        ("picture", "gradients", "MODEL", "DATA", "--force", "--output", "x.png"),
        ("predict", "MODEL", "DATA", "--id", "a", "--proba"),
        ("cache", "clear"),
        ("compile", "2-1", "--bias"),
    ],
)
def test_names_may_stand_before_options_behind_and_between(arguments):
    """A word without a hyphen that follows no option stays where it is among such words."""
    command, *others = arguments
    start = next((i for i, text in enumerate(others) if text.startswith("-")), len(others))
    words, options, groups = others[:start], others[start:], []
    for text in options:
        groups = [*groups, [text]] if text.startswith("-") else [*groups[:-1], [*groups[-1], text]]
    parser = parser_of(command)
    expected = parser.parse_args(others)
    for places in itertools.combinations_with_replacement(range(len(groups) + 1), len(words)):
        mixed = [text for i, group in enumerate([*groups, []]) for text in [*_at(words, places, i), *group]]
        assert parser.parse_args(mixed) == expected, mixed


def _at(words, places, i):
    return [word for word, place in zip(words, places) if place == i]


def required(parser):
    """How many arguments without a name a command needs."""
    return sum(not action.option_strings and action.required for action in parser._actions)


@needs_mpi
@pytest.mark.parametrize("arguments", [("train", "--data", "digits", "--date", "dmy"), ("bench", "--secnds", "1")])
def test_ranks_tell_of_a_mistake_once(arguments):
    run = launch(2, "-m", "backprop_xp", *arguments, timeout=60)
    told = [line for line in run.stderr.splitlines() if "unknown option" in line]
    assert len(told) == 1 and "rank 0 of 2 ends all ranks: ValueError: unknown option '--" in told[0]
    assert run.returncode == 1 and run.stdout == ""


@needs_mpi
def test_a_mistake_on_a_rank_of_one_is_told_as_without_ranks():
    run = launch(1, "-m", "backprop_xp", "demo", "--lrr", "1")
    assert run.stderr == "backprop-xp: unknown option '--lrr'; did you mean '--lr'? (see backprop-xp demo --help)\n"
    assert run.returncode == 1


def test_help_and_version(capsys):
    for arguments in (("--help",), ("bench", "--help"), ("--version",)):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_as_a_module():
    result = subprocess.run([sys.executable, "-m", "backprop_xp", "--version"], capture_output=True, text=True)
    assert result.stdout == f"backprop-xp {__version__}\n"
