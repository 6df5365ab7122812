"""`backprop-xp explain` and `demo`, as a user types them."""

import importlib.util

import numpy as np
import pytest

from backprop_xp import Net, cli
from backprop_xp.explain import walk
from backprop_xp.passes import article


def run(*arguments):
    return cli.main(list(arguments))


def test_demo_shows_the_articles_net_and_proves_it(capsys):
    assert run("demo") == 0
    out = capsys.readouterr().out
    assert "x -> t_0 -> z_0 -> t_1 -> z_1 -> t_2 -> z_2 -> loss" in out
    assert "l = 0.5 * 0.8001^2 + " in out and "= 23.95" in out
    assert "grad t_1[0] = 19.03 * 0.4965 * (1 - 0.4965) = 4.758" in out
    assert "..." not in out  # nothing is cut
    assert out.count("equal, to") == (9 if importlib.util.find_spec("torch") else 4)
    assert "the loss before: 23.948238, after: 16.477949; it falls" in out


def test_demo_without_pytorch(capsys, monkeypatch):
    monkeypatch.setattr(walk.importlib.util, "find_spec", lambda name: None)
    assert run("demo") == 0
    out = capsys.readouterr().out
    assert "PyTorch is not installed" in out
    assert out.count("equal, to") == 4


def test_a_wrong_gradient_ends_with_1(capsys, monkeypatch):
    right = article.outer
    monkeypatch.setattr(article, "outer", lambda grad_t, z: 2 * right(grad_t, z))
    assert run("demo") == 1
    captured = capsys.readouterr()
    assert "W_0  WRONG" in captured.out and "a gradient is wrong" in captured.err


def test_a_net_of_ones_own(capsys):
    arguments = ["--net", "2-3-2", "--activations", "relu", "--loss", "softmax_cross_entropy", "--bias", "--seed", "1"]
    assert run("explain", *arguments, "--input", "1,-1", "--target", "1") == 0
    out = capsys.readouterr().out
    assert "Net(2-3-2, relu, identity, softmax_cross_entropy, float64, numpy)" in out
    assert "softmax(z_1) - y" in out
    assert run("explain", *arguments, "--input", "1,-1;0.5,2", "--target", "1;0", "--reduction", "mean") == 0
    assert "2 samples" in capsys.readouterr().out
    assert run("explain", *arguments, "--input", "1,-1", "--target", "0.25,0.75") == 0


@pytest.mark.parametrize("x", ["-1,2", "-.5,-1e-3", "-1,2;-3,4"])
def test_numbers_may_begin_with_a_minus(x, capsys):
    target = "-1e-1" if ";" not in x else "-1;-2"
    net = ("explain", "--net", "2-1", "--loss", "mse", "--seed", "1")
    said = []
    for given in (("--input", x, "--target", target), (f"--input={x}", f"--target={target}")):
        assert run(*net, *given) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "grad W_0" in said[0]


@pytest.mark.parametrize("kind", ["latex", "html"])
def test_files(kind, capsys, tmp_path):
    path = tmp_path / f"told.{kind}"
    assert run("explain", "--net", "2-3-1", "--input", "1,0", f"--{kind}", str(path)) == 0
    assert capsys.readouterr().out == f"written to {path}\n"
    assert path.read_text(encoding="utf-8")
    assert run("demo", f"--{kind}", str(tmp_path / "none" / "x")) == 1
    assert "none" in capsys.readouterr().err


def test_the_file_of_a_net(capsys, tmp_path):
    pytest.importorskip("safetensors")
    net = Net((2, 3, 1), bias=True, loss="mse", rng=3)
    net.save(tmp_path / "net.safetensors")
    assert run("explain", str(tmp_path / "net.safetensors"), "--input", "1,0.5", "--target", "2") == 0
    loss = float(net.loss_and_grad([1, 0.5], [2.0]))
    assert f"the loss before: {loss:.6f}" in capsys.readouterr().out


def test_a_row_of_a_table(capsys, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    pandas = pytest.importorskip("pandas")
    from backprop_xp.data import read, train
    from backprop_xp.data.recipe import Recipe

    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"a": random.normal(size=60), "b": random.normal(size=60)})
    frame["kind"] = np.where(frame.a > frame.b, "up", "down")
    frame.to_csv(tmp_path / "t.csv", index=False)
    trained = train(read(tmp_path / "t.csv"), "kind", Recipe(hidden=(3,), epochs=2))
    model = str(tmp_path / "m.safetensors")
    trained.model.save(model)
    assert run("explain", model, str(tmp_path / "t.csv"), "--row", "5") == 0
    out = capsys.readouterr().out
    assert "softmax_cross_entropy" in out and "y = [" in out
    for wrong, said in (
        (["--row", "999"], "--row must be from"),
        ([], "of DATA one row is explained"),
        (["--row", "5", "--input", "1,2"], "of DATA one row is explained"),
    ):
        assert run("explain", model, str(tmp_path / "t.csv"), *wrong) == 1
        assert said in capsys.readouterr().err
    assert run("explain", model) == 1
    assert "MODEL DATA --row N" in capsys.readouterr().err
    assert run("explain", model, "--input", "1,2", "--loss", "mse") == 1
    assert "which says --loss itself" in capsys.readouterr().err


def test_a_row_with_several_targets(capsys, tmp_path):
    pytest.importorskip("safetensors")
    pandas = pytest.importorskip("pandas")
    from backprop_xp.data import Recipe, train

    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(40, 4)), columns=list("abyz"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    train(frame, ("y", "z"), Recipe(hidden=(3,), epochs=1)).model.save(tmp_path / "m.safetensors")
    assert run("explain", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv"), "--row", "5") == 0
    frame.rename(columns={"z": "zz"}).to_csv(tmp_path / "t.csv", index=False)
    assert run("explain", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv"), "--row", "5") == 1
    said = capsys.readouterr().err
    assert "t.csv has no column 'z' (did you mean 'zz'?), which the loss needs as a target" in said


@pytest.mark.parametrize(("arguments", "said"), [
    (["--net", "2-1", "m"], "give MODEL, the file of a net, or --net: got m and --net 2-1"),
    (["--net", "2-x"], "--net takes widths such as 2-3-1, got '2-x'"),
    (["--net", "2-1", "--input", "1,a"], "--input takes numbers such as 1,0, of a batch 1,0;0,1, got '1,a'"),
    (["--net", "2-1", "--input", "1,2;3"], "--input takes numbers such as 1,0"),
    (["--net", "2-1", "--input", "-inf,0"], "--input takes finite numbers, got '-inf,0'"),
    (["--net", "2-1", "--input", "1,2;1e400,0"], "--input takes finite numbers, got '1,2;1e400,0'"),
    (["--net", "2-1", "--loss", "mse", "--input", "1,2", "--target", "nan"], "--target takes finite numbers, got 'nan'"),
    (["--net", "2-1", "--input", "1,2,3"], "x must have 2 features, got 3"),
    (["--net", "2-1", "--loss", "mse", "--input", "1,2"], "the loss mse needs a target: --target 1, or of two outputs"),
    (["--net", "2-1", "--input", "1,2", "--target", "1"], "half_sum_sq takes no target: leave --target out, or name"),
    (["--net", "2-2", "--loss", "softmax_cross_entropy"], "needs the number of a class: --target 1, or shares of two"),
    (["--net", "2-2", "--loss", "softmax_cross_entropy", "--target", "0.5"], "takes the number of a class: --target 1, o"),
    (["--net", "2-2", "--loss", "softmax_cross_entropy", "--target", "1e30"], "takes the number of a class: --target 1, "),
    (["--net", "2-2", "--loss", "softmax_cross_entropy", "--target", "1;0"], "one for each sample of --input, 1, got 2: "),
    (["--net", "2-1", "--loss", "mse", "--input", "1,2;0,1", "--target", "1"], "each sample of --input, 2, got 1: '1'"),
    (["--net", "2-1", "--lr", "-1"], "lr must be a number"),
    (["--row", "3"], "--row is one of DATA"),
    (["--net", "2-1", "--separator", ";"], "--separator is of DATA, which isn't given"),
    (["m", "--input", "1", "--decimal", ","], "--decimal is of DATA, which isn't given"),
    (["--text", "--html", "x.html"], "not allowed with argument"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(arguments, said, capsys):
    assert run("explain", *arguments) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "explain"])
def test_what_is_there_already_is_written_over_by_force_alone(command, tmp_path, capsys):
    path = tmp_path / "page.html"
    path.write_text("mine", encoding="utf-8")
    assert cli.main([command, "--html", str(path)]) == 1
    assert "this file is there already; --force writes over it" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "mine"
    assert cli.main([command, "--html", str(path), "--force"]) == 0


def test_a_softmax_of_one_sample(capsys):
    assert cli.main(["explain", "--net", "2-3-3", "--activations", "tanh,softmax", "--input", "1,-0.5"]) == 0
    assert "it falls" in capsys.readouterr().out
