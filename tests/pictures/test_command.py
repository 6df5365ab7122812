"""`backprop-xp picture`, as a user types it."""

import numpy as np
import pytest

from backprop_xp import Graph, Net, cli, exchange
from backprop_xp.data import Recipe, train
from backprop_xp.data.scaling import FAR
from backprop_xp.pictures import command, decision_boundary

pytest.importorskip("matplotlib")
pandas = pytest.importorskip("pandas")

QUICK = Recipe(epochs=2, hidden=(4,), backend="numpy")


def run(*arguments):
    return cli.main(list(map(str, arguments)))


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of every boundary, in the order in which they were drawn."""
    found = []

    def noted(*asked, axes, **options):
        found.append(axes)
        return decision_boundary(*asked, axes=axes, **options)

    monkeypatch.setattr(command, "decision_boundary", noted)
    return found


def table(classes=False, columns=2, rows=90):
    random = np.random.default_rng(0)
    frame = pandas.DataFrame(random.normal(size=(rows, columns)) * 10 + 500, columns=[f"c{k}" for k in range(columns)])
    y = frame["c0"] > 500
    return frame.assign(y=np.where(y, "high", "low") if classes else frame["c0"] * 2)


def trained(name="m.safetensors", **options):
    frame = table(**options)
    frame.to_csv("t.csv", index=False)
    train(frame, "y", QUICK).model.save(name)
    return name


LOSSES = ("half_sum_sq", "mse", "softmax_cross_entropy", "bce_with_logits", "mae")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", command.KINDS)
def test_a_net_with_drawn_weights(kind, loss, capsys, tmp_path):
    assert run("picture", kind, "--net", "2-4-3", "--activations", "sigmoid", "--loss", loss, "--bias") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"picture in {kind}.png\n")
    assert (tmp_path / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert ("times that of z_1" in out) == (kind == "gradients")


def test_the_seed_and_the_way_that_weights_are_drawn_decide(capsys):
    said = []
    for options in ((), ("--seed", 1), ("--init", "he_normal"), ()):
        assert run("picture", "gradients", "--net", "3-40-40-1", "--force", *options) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[3] and len(set(said)) == 3


def test_the_formats(tmp_path):
    for kind, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")):
        assert run("picture", "boundary", "--net", "2-3-1", "--output", f"p.{kind}") == 0
        assert (tmp_path / f"p.{kind}").read_bytes().startswith(start)


def test_a_boundary_of_a_trained_model_is_in_the_tables_own_words_and_units(drawn):
    trained(classes=True)
    assert run("picture", "boundary", "m.safetensors", "t.csv") == 0
    (panel,) = drawn
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("c0", "c1")
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["high", "low"]
    assert sum(len(points.get_offsets()) for points in panel.collections if points.get_label() in ("high", "low")) == 90
    ticks = {text.get_text(): place for text, place in zip(panel.get_xticklabels(), panel.get_xticks())}
    assert {"490", "500", "510"} <= ticks.keys()
    assert abs(ticks["500"]) < 0.5 and -FAR < ticks["490"] < ticks["510"] < FAR


def test_a_boundary_without_targets_has_its_points_and_a_legend(drawn):
    trained(classes=True)
    table(classes=True).drop(columns="y").to_csv("u.csv", index=False)
    assert run("picture", "boundary", "m.safetensors", "u.csv") == 0
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["high", "low"]
    assert sum(len(points.get_offsets()) for points in drawn[0].collections if points.get_label()[0] == "_") >= 90


@pytest.mark.parametrize("classes", [True, False])
def test_a_boundary_without_a_table_is_in_the_models_words_and_units(classes, drawn):
    trained(classes=classes)
    assert run("picture", "boundary", "m.safetensors") == 0
    (panel,) = drawn
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("c0", "c1")
    ticks = [float(text.get_text()) for text in panel.get_xticklabels()]
    assert len(ticks) > 3 and all(470 < tick < 530 for tick in ticks)
    if classes:
        assert [text.get_text() for text in panel.get_legend().get_texts()] == ["high", "low"]
    else:
        assert bar(panel).get_ylabel() == "y"


def bar(panel):
    """The axes of the colour bar."""
    return panel.get_images()[0].colorbar.ax


def test_amounts_are_in_the_tables_units(drawn):
    trained()
    assert run("picture", "boundary", "m.safetensors", "t.csv") == 0
    image, cloud = drawn[0].get_images()[0], drawn[0].collections[-1]
    truth = table()["y"]
    np.testing.assert_allclose(np.sort(cloud.get_array()), np.sort(truth), rtol=1e-9)
    low, high = image.get_clim()
    assert low <= truth.min() and truth.max() <= high and bar(drawn[0]).get_ylabel() == "y"
    assert 900 < np.ma.median(image.get_array()) < 1100


@pytest.mark.parametrize("classes", [True, False])
def test_of_several_targets_the_first_is_drawn(classes, drawn):
    frame = table(classes=classes).assign(z=lambda frame: frame.y)
    frame.to_csv("t.csv", index=False)
    train(frame, ("y", "z"), QUICK).model.save("m.safetensors")
    assert run("picture", "boundary", "m.safetensors", "t.csv") == 0
    assert bar(drawn[0]).get_ylabel() == ("probability of y high" if classes else "y")


def test_gradients_of_a_trained_model(capsys, monkeypatch):
    monkeypatch.setattr(command, "SAMPLES", 20)
    trained(columns=3)
    assert run("picture", "gradients", "m.safetensors", "t.csv") == 0
    from_table = capsys.readouterr().out
    assert "gradients" in from_table.splitlines()[-2]
    assert run("picture", "gradients", "m.safetensors", "--force") == 0  # with drawn samples
    assert capsys.readouterr().out != from_table


def test_several_targets(capsys):
    frame = table(columns=3).assign(z=lambda frame: frame.c1)
    frame.to_csv("t.csv", index=False)
    train(frame, ("y", "z"), QUICK).model.save("m.safetensors")
    assert run("picture", "gradients", "m.safetensors", "t.csv") == 0


def test_a_graph_of_several_inputs(tmp_path):
    g = Graph()
    x, y = g.input(1, "x"), g.input(1, "y")
    net = g.net(g.apply("tanh", g.linear(g.concatenate(x, y), 3)), loss="mse", rng=0, backend="numpy")
    exchange.save(net, "g.safetensors")
    assert run("picture", "gradients", "g.safetensors") == 0
    assert run("picture", "boundary", "g.safetensors") == 0


def test_a_table_that_is_written_otherwise(drawn, capsys):
    trained()
    table().to_csv("comma.csv", index=False, sep=";", decimal=",")
    for kind in command.KINDS:
        assert run("picture", kind, "m.safetensors", "comma.csv") == 1
        assert "--decimal , reads it" in capsys.readouterr().err
        assert run("picture", kind, "m.safetensors", "comma.csv", "--decimal", ",", "--separator", ";") == 0
    np.testing.assert_allclose(np.sort(drawn[-1].collections[-1].get_array()), np.sort(table()["y"]))


MISTAKES = [
    (("gradient", "--net", "2-1"), "unknown kind 'gradient'; did you mean 'gradients'?"),
    (("boundary",), "give MODEL, the file of a net, or --net"),
    (("boundary", "--net", "2"), "--net takes widths such as 2-3-1, got '2'"),
    (("boundary", "--net", "3-1"), "is drawn of a net with 2 features"),
    (("boundary", "--net", "2-1", "--output", "p.jpg"), "unknown format 'jpg'"),
    (("boundary", "--net", "2-1", "--output", "p"), "unknown format"),
    (("boundary", "--net", "2-1", "--output", "none/p.png"), "there is no folder"),
    (("boundary", "--net", "2-1", "--loss", "mes"), "did you mean 'mse'?"),
    (("boundary", "--net", "2-1", "--init", "he"), "unknown initialiser 'he'"),
    (("boundary", "--net", "2-1", "--seed", "-1"), "--seed"),
    (("boundary", "n.safetensors", "--net", "2-1"), "give MODEL, the file of a net, or --net: got n"),
    (("gradients", "--net", "8-4-2", "n.safetensors"), "got n.safetensors and --net 8-4-2"),
    (("boundary", "--net", "2-1", "--missing", "x"), "--missing is of DATA, which isn't given"),
    (("boundary", "n.safetensors", "--encoding", "ascii"), "--encoding is of DATA, which isn't given"),
    (("boundary", "n.safetensors", "--init", "he_normal"), "says --init itself"),
    (("boundary", "n.safetensors", "--bias"), "--bias itself"),
    (("boundary", "n.safetensors", "--output", "n.safetensors"), "unknown format 'safetensors'"),
    (("gradients", "n.safetensors", "t.csv"), "not the table"),
    (("gradients", "m.safetensors", "u.csv"), "u.csv has no column 'y', which the loss needs as a target"),
    (("gradients", "m.safetensors", "v.csv"), "the table has no column 'c0' (did you mean 'c_0'?), on which"),
    (("gradients", "there.safetensors"), "there.safetensors"),
    (("gradients", "--net", "2-1", "--output", "there.png"), "there.png"),
]


@pytest.mark.parametrize("arguments, message", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_is_one_sentence(arguments, message, capsys, tmp_path):
    exchange.save(Net((2, 1), rng=0, backend="numpy"), "n.safetensors")
    (tmp_path / "there.png").write_bytes(b"earlier")
    if "m.safetensors" in arguments:
        trained(columns=2)
        table().drop(columns="y").to_csv("u.csv", index=False)
        table().rename(columns={"c0": "c_0"}).to_csv("v.csv", index=False)
    assert run("picture", *arguments) == 1
    streams = capsys.readouterr()
    assert streams.out == "" and streams.err.count("\n") == 1 and message in streams.err
    assert (tmp_path / "there.png").read_bytes() == b"earlier"
    assert not list(tmp_path.glob("boundary.png")) + list(tmp_path.glob("gradients.png"))
