"""Training on tables, and models in files."""

import json

import numpy as np
import pandas
import pytest
from safetensors.numpy import load_file, save_file

from backprop_xp import Net
from backprop_xp.data import Classes, DataError, Model, Recipe, Table, read, train
from backprop_xp.data.recipe import split
from backprop_xp.exchange import ModelFileError, save

SMALL = Recipe(hidden=(8,), epochs=2, backend="numpy", categories=("grade",))


def table(n=60):
    random = np.random.default_rng(0)
    size, colour = random.normal(size=n), random.choice(["red", "green", "blue"], n)
    frame = pandas.DataFrame({"size": size, "colour": colour, "grade": random.integers(1, 4, n)})
    frame.loc[3, "size"] = np.nan
    frame["price"] = 3 * size + (colour == "red") + 0.5
    frame["kind"] = np.where(size > 0, "large", "small")
    frame.loc[[5, 7], ["price", "kind"]] = np.nan
    frame.loc[3, "price"] = 0.5
    frame.index = range(1, n + 1)
    return frame


@pytest.mark.parametrize("column", ["price", "kind"])
def test_a_model_in_a_file_gives_the_same_answers(column, tmp_path):
    trained = train(table(), column, SMALL)
    assert trained.notes[0] == f"2 rows without {column!r} are left out (the first is row 6)"
    trained.model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model", backend="numpy")
    assert again.target == trained.model.target
    assert again.table.columns == trained.model.table.columns
    new = table().drop(index=[6, 8])
    pandas.testing.assert_frame_equal(again.predict(new), trained.model.predict(new))
    np.testing.assert_array_equal(again.outputs(trained.held_out), trained.outputs)


def test_the_same_recipe_gives_the_same_bits():
    a, b = (train(table(), "kind", SMALL) for _ in range(2))
    assert a.outputs.tobytes() == b.outputs.tobytes()
    assert list(a.held_out.index) == list(b.held_out.index)


def test_what_is_held_out_teaches_nothing():
    frame = table()
    before = train(frame, "price", Recipe(hidden=(8,), epochs=2, backend="numpy", ignore=("kind",)))
    frame.loc[before.held_out.index, ["size", "price"]] = 1e6
    after = train(frame, "price", Recipe(hidden=(8,), epochs=2, backend="numpy", ignore=("kind",)))
    assert after.model.target == before.model.target
    for p, q in zip(after.model.net.parameters, before.model.net.parameters):
        np.testing.assert_array_equal(p.data, q.data)


def test_every_class_has_its_share():
    frame = pandas.DataFrame({"y": ["a"] * 50 + ["b"] * 10 + ["c"]})
    first, held = split(frame, "y", Recipe())
    assert frame["y"].iloc[held].value_counts().to_dict() == {"a": 10, "b": 2}
    np.testing.assert_array_equal(np.sort(np.concatenate([first, held])), np.arange(61))


@pytest.mark.parametrize("name, least", [("iris", 0.9), ("breast-cancer", 0.93), ("diabetes", 0.35), ("digits", 0.97)])
def test_the_default_settings_learn(name, least):
    assert train(read(name), "target", Recipe(backend="numpy")).score >= least


def test_a_recipe_of_numpys_numbers():
    plain = Recipe(hidden=(8,), epochs=3, batch_size=16, lr=0.25, validation=0.25, seed=4)
    same = Recipe(
        hidden=np.array([8]),
        epochs=np.int64(3),
        batch_size=np.array(16),
        lr=np.float32(0.25),
        validation=np.array(0.25),
        seed=np.uint8(4),
    )
    assert same == plain
    a, b = (train(table(), "price", recipe) for recipe in (plain, same))
    for p, q in zip(a.model.net.parameters, b.model.net.parameters):
        np.testing.assert_array_equal(p.data, q.data)


def test_a_recipe_without_a_seed_draws_one():
    seeds = {Recipe(seed=None).seed for _ in range(3)}
    assert len(seeds) == 3 and all(isinstance(seed, int) for seed in seeds)


def test_mistakes():
    for options, message in (
        ({"ignore": ("colr",)}, r"no column 'colr' \(did you mean 'colour'\?\); it has 'size', 'colour'"),
        ({"categories": ("colr",)}, "no column 'colr'"),
        ({"validation": 1.0}, "must be a number between 0 and 1, got 1.0"),
        ({"validation": 0.001, "task": "regression"}, "58 rows are too few to hold 0% out"),
        ({"task": "clustering"}, "unknown task 'clustering'"),
        ({"seed": -1}, "seed must be an integer from 0 on, got -1"),
        ({"epochs": 2.5}, "epochs must be an integer from 0 on, got 2.5"),
        ({"hidden": (8, 0)}, "every width in hidden must be an integer from 1 on, got 0"),
        ({"lr": float("nan")}, "lr must be a number from 0 on, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            train(table(), "price", Recipe(**options))
    with pytest.raises(DataError, match="the target 'y' is missing in every row"):
        train(pandas.DataFrame({"a": [1, 2], "y": [None, None]}), "y")


def rewritten(path, change):
    """The file with its description changed."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["backprop_xp"])
    change(description)
    save_file(load_file(path), path, {"backprop_xp": json.dumps(description)})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["extra"].pop("table"), "not the table that the net was trained on"),
        (lambda d: d["extra"]["table"].pop(), "its table gives 1 numbers and its target takes 2, its net is Net"),
        (lambda d: d["extra"].update(table={}), "'table' of its description must be of type list"),
        (lambda d: d["extra"].update(target=[]), "'target' of its description must be of type dict"),
        (lambda d: d["extra"]["target"].update(labels=["a", "b", "c"]), "its target takes 3"),
        (lambda d: d["extra"]["table"][0].update(mean=10**400), "too large"),
        (lambda d: d["extra"].update(missing="?"), "'missing' of its description must be of type list"),
        (lambda d: d["extra"].update(trained_on=1), "'trained_on' of its description must be"),
        (lambda d: d["extra"].update(missing=[1]), "'missing' of its description must be different texts"),
    ],
)
def test_a_hostile_model(change, message, tmp_path):
    path = tmp_path / "model"
    columns = Table.learn(pandas.DataFrame({"a": [1, 2], "b": [3, 5]}), np.arange(2))[0]
    Model(Net((2, 2), backend="numpy"), columns, Classes("y", ("a", "b"))).save(path)
    assert Model.load(path).table.width == 2
    rewritten(path, change)
    with pytest.raises(ModelFileError, match=message) as caught:
        Model.load(path)
    assert str(path) in str(caught.value)


def test_a_model_of_an_older_version(tmp_path):
    trained = train(table(), "price", SMALL)
    trained.model.save(tmp_path / "model")

    def older(description):
        extra = description["extra"]
        for part in (extra["target"], *extra["table"]):
            part.pop("notation", None)
        del extra["missing"], extra["trained_on"]

    rewritten(tmp_path / "model", older)
    outputs = Model.load(tmp_path / "model", backend="numpy").outputs(trained.held_out)
    np.testing.assert_array_equal(outputs, trained.outputs)


def test_a_net_alone_is_no_model(tmp_path):
    save(Net((2, 2)), tmp_path / "net")
    with pytest.raises(ModelFileError, match="not the table"):
        Model.load(tmp_path / "net")


@pytest.mark.gpu
def test_on_a_device(tmp_path):
    pytest.importorskip("cupy")
    trained = train(table(), "kind", Recipe(hidden=(4,), epochs=1, backend="cupy", ignore=("price",)))
    trained.model.save(tmp_path / "model")
    for backend in ("numpy", "cupy"):
        outputs = Model.load(tmp_path / "model", backend=backend).outputs(trained.held_out)
        np.testing.assert_allclose(outputs, trained.outputs, rtol=1e-4, atol=1e-5)


def test_a_training_is_one_line():
    run = train(table(), "price", Recipe(epochs=1, hidden=(4,)))
    assert repr(run).startswith("Trained(Net(") and "\n" not in repr(run) and "History(1 epoch" in repr(run)
    assert run.describe_score() in repr(run)
