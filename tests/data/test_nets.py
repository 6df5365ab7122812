"""Nets for tables with residual blocks, dropout and normalisation: trained, kept, applied."""

import numpy as np
import pandas
import pytest

from backprop_xp import GraphNet, Net, cli
from backprop_xp.data import Model, Recipe, nets, train
from backprop_xp.exchange import ModelFileError, save
from backprop_xp.graph import Dropout, LayerNorm

QUICK = {"hidden": (6, 6), "epochs": 3, "backend": "numpy"}
MORE = [{"residual": True}, {"dropout": 0.2}, {"normalisation": "layer"}]
MORE.append({key: value for each in MORE for key, value in each.items()})


def table(n=60):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, n))
    kind = np.where(a > 0, "large", "small")
    return pandas.DataFrame({"a": a, "b": b, "price": 3 * a + b, "kind": kind})


@pytest.mark.parametrize("more", MORE, ids=str)
@pytest.mark.parametrize("column", ["price", "kind"])
def test_trained_kept_and_applied(column, more, tmp_path):
    recipe = Recipe(**QUICK, **more, ignore=({"price", "kind"} - {column}))
    trained, again = (train(table(), column, recipe) for _ in range(2))
    assert isinstance(trained.model.net, GraphNet)
    assert trained.outputs.tobytes() == again.outputs.tobytes()
    trained.model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model", backend="numpy")
    np.testing.assert_array_equal(loaded.outputs(trained.held_out), trained.outputs)
    pandas.testing.assert_frame_equal(loaded.predict(table()), trained.model.predict(table()))


def test_without_more_it_is_the_chain_that_it_was():
    assert isinstance(train(table(), "price", Recipe(**QUICK)).model.net, Net)


def test_it_learns_and_dropout_drops_in_training_alone():
    recipe = Recipe(hidden=(16, 16), epochs=60, lr=0.02, backend="numpy", residual=True, dropout=0.1, normalisation="layer", ignore=("kind",))  # fmt: skip
    trained = train(table(200), "price", recipe)
    assert trained.score > 0.9
    net, x = trained.model.net, trained.model.table.arrays(trained.held_out)
    assert net.draws > 0
    np.testing.assert_array_equal(net(x), net(x))
    assert not np.array_equal(net.forward(x, training=True), net(x))


def test_what_the_nodes_are():
    net = nets.net_of(
        5, (4, 4, 3), 2, "tanh", residual=True, dropout=0.5, normalisation="layer", rng=0, backend="numpy"
    )
    named = {node.name: node for node in net.nodes}
    assert [named[f"hidden1.{i}"].operation.name for i in range(4)] == ["linear", "layer_norm", "tanh", "dropout"]
    assert named["hidden1"].inputs == ("hidden0", "hidden1.3")  # the residual one
    assert isinstance(named["hidden0"].operation, Dropout) and isinstance(named["hidden2"].operation, Dropout)
    plain = nets.net_of(5, (5,), 2, "tanh", normalisation="layer", backend="numpy")
    assert [type(node.operation).__name__ for node in plain.nodes] == [
        "Input",
        "Linear",
        "LayerNorm",
        "Activate",
        "Linear",
    ]
    assert LayerNorm().eps == 1e-5


def test_it_is_what_pytorch_computes():
    torch = pytest.importorskip("torch")
    from backprop_xp.exchange import to_torch

    options = {"residual": True, "dropout": 0.3, "normalisation": "layer"}
    trained = train(table(), "price", Recipe(**QUICK, **options, dtype="float64"))
    x = trained.model.table.arrays(trained.held_out).astype(np.float64)
    theirs = to_torch(trained.model.net).eval()(torch.tensor(x)).detach()
    np.testing.assert_allclose(trained.outputs, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"residual": True}, "residual needs two neighbouring hidden layers of one width, such as 64-64, got 128"),
        ({"residual": True, "hidden": (8, 4, 8)}, "of one width, such as 64-64, got 8-4-8"),
        ({"residual": True, "hidden": ()}, "got none"),
        ({"residual": "yes"}, "residual must be True or False, got 'yes'"),
        ({"dropout": 1.0}, "dropout must be a number from 0 to below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be a number from 0"),
        ({"dropout": float("nan")}, "dropout must be a number from 0"),
        ({"dropout": 0.5, "hidden": ()}, "dropout is of the hidden layers, and there are none"),
        ({"normalisation": "layer", "hidden": ()}, "normalisation is of the hidden layers, and there are none"),
        ({"normalisation": "batches"}, "unknown normalisation 'batches'"),
    ],
)
def test_what_would_change_nothing_or_is_wrong_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)


def test_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table().to_csv("t.csv", index=False)
    known = ["train", "--data", "t.csv", "--target", "kind", "--epochs", "2", "--backend", "numpy"]
    more = ["--hidden", "8-8", "--residual", "--dropout", "0.1", "--normalisation", "layer"]
    assert cli.main([*known, *more]) == 0
    assert "GraphNet(x " in capsys.readouterr().out
    assert cli.main(["predict", "t.safetensors", "t.csv", "--backend", "numpy"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 61
    for wrong, message in (
        (["--residual"], "residual needs two neighbouring hidden layers"),
        (["--dropout", "1"], "dropout must be a number from 0 to below 1, got 1.0"),
        (["--normalisation", "batch"], "argument --normalisation: unknown value 'batch'; known are"),
    ):
        assert cli.main([*known, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_graph_of_other_widths_or_inputs_is_no_model(tmp_path):
    model = train(table(), "price", Recipe(**QUICK, dropout=0.1)).model
    width = model.table.width
    two = {"x": nets.Input(width), "z": nets.Input(width), "y": (nets.Linear(1), "s"), "s": ("add", "x", "z")}
    for net in (nets.net_of(width + 1, (4,), 1, "tanh", dropout=0.1), GraphNet(two), Net((width, 2))):
        save(net, tmp_path / "odd", model._describe())
        with pytest.raises(ModelFileError, match=f"its table gives {width} numbers and its target takes 1, its net is"):
            Model.load(tmp_path / "odd")
