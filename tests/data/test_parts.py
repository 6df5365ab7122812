"""Tables that ranks read in parts: the models, notes, scores and errors of one rank that reads all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import ends, launch, needs_mpi, output

from backprop_xp import distributed
from backprop_xp.data import folders, parts, read, train
from backprop_xp.data.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

#: ``told(world, top, shards)`` trains in every way on the tables below ``top``, and says what came of it, as texts.
PROGRAM = """
import hashlib, json, pathlib, sys, warnings
from backprop_xp import distributed
from backprop_xp.data import DataError, Recipe, choice, importance, read, report, train
from backprop_xp.distributed import share

share.WORTH, share.MANY = 1, 16  # many parts of small batches
choice.FEW_ROWS = 100
QUICK = {"hidden": (5,), "epochs": 2, "batch_size": 50, "backend": "numpy", "weight_decay": 0.1}
RUNS = [
    ("files", "amount", {}),
    ("files", "kind", {"class_weight": "balanced", "early_stopping": 1, "missing": ("-99", "?"), "dropout": 0.1}),
    ("files", "kind", {"folds": 2, "categories": ("code",), "keep": ("id",), "ignore": ("when", "text")}),
    ("files", ["amount", "other"], {"weight_decay": None}),
    ("files", ["kind", "town"], {"ignore": ("code",)}),
    ("files", "amount", {"test": "test.csv"}),
    ("texts", "amount", {}),
    ("texts", "kind", {"decimal": ","}),
    ("one.parquet", "amount", {"seed": 3}),
    ("one.csv", "amount", {}),
    ("one.npz", "amount", {}),
    ("odd", "amount", {}),
    ("odd", "kind", {"ignore": ("a",), "task": "regression"}),
    ("files", "amount", {"ignore": ("id", "text", "when", "wide", "town", "code", "kind", "other", "day", "copy")}),
]

def told(world, top, shards):
    found = []
    for name, target, options in RUNS:
        options = dict(options)
        test = options.pop("test", None)
        test = None if test is None else read(pathlib.Path(top) / test)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                frame = read(pathlib.Path(top) / name, world=world if shards else None)
                recipe = Recipe(**QUICK | options)
                trained = train(frame, target, recipe, test=test, world=world, shards=shards)
            except DataError as error:
                found.append(str(error).replace(str(top), ""))
                continue
            model = trained.model
            digest = hashlib.sha256(json.dumps(model._describe()).encode())
            for tensor in model.net.parameters: digest.update(tensor.data.tobytes())
            losses = [(epoch.loss, epoch.validation_loss) for epoch in trained.history.epochs]
            names = list(model.target.columns)
            held = trained.held_out[names].astype(str).to_csv()
            found += [digest.hexdigest(), str(losses), str(trained.counts), hashlib.sha256(held.encode()).hexdigest()]
            lines = list(report.lines(trained, 1.0))
            found += [*trained.notes, *lines, str(trained.outputs.shape), str(trained.recipe)]
            found += [f"{each.column} {each.lost:.4f}" for each in importance.importance(trained)]
    return [line.replace(str(top), "") for line in found]
"""
RANKS = """
with distributed.world() as world:
    found = told(world, sys.argv[1], shards=True)
    lengths = [world.told(0, len(read(f"{sys.argv[1]}/{name}", world=world))) for name in ("files", "one.csv", "one.npz")]
    everybody = world.told(0, hashlib.sha256(json.dumps(found).encode()).hexdigest())
    if not world.rank: print(json.dumps([found, lengths, len(set(everybody))]))
"""


def table(n=240):
    random = np.random.default_rng(0)
    frame = pandas.DataFrame({"id": np.arange(n), "wide": random.standard_cauchy(n)})
    frame["town"] = random.choice(["Bonn", "Lund", "Rome"], n)
    frame["code"] = random.integers(1, 5, n)
    frame["when"] = pandas.Timestamp("2020-01-01") + pandas.to_timedelta(random.integers(0, 900, n), "D")
    frame["day"] = [f"{d:02d}/{m:02d}/2021" for d, m in zip(random.integers(1, 28, n), random.integers(1, 12, n))]
    frame["text"] = random.choice(["$1,234.50", "$2,000.00", "$17.25"], n)
    frame["amount"] = frame.wide.clip(-3, 3) + (frame.town == "Rome") + random.normal(size=n)
    frame["other"] = 2 * frame.amount + random.normal(size=n)
    frame["kind"] = np.where(frame.amount > 0, "up", "down")
    frame["copy"] = frame.amount
    frame.loc[::7, "wide"] = np.nan
    frame.loc[3::11, "town"] = None
    frame.loc[5::50, "amount"] = np.nan
    frame.loc[200::9, "wide"] = -99.0
    return frame


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Tables in folders, unevenly cut, and one whose cells can't be used."""
    top, frame = tmp_path_factory.mktemp("tables"), table()
    frame.head(30).to_csv(top / "test.csv", index=False)
    for folder in ("files", "texts", "odd"):
        (top / folder).mkdir()
    for k, (start, stop) in enumerate([(0, 10), (10, 11), (11, 150), (150, 240)]):
        part = frame.iloc[start:stop]
        part = part.drop(columns="code") if k == 1 else part
        part.astype({"town": "category"}).to_parquet(top / "files" / f"{k}.parquet", row_group_size=60, index=False)
        part.to_csv(top / "texts" / f"{k}.csv", index=False, sep=",;"[k % 2])
        wrong = part.assign(a=["x" if i == 230 else str(i * i % 7) for i in part.index])
        wrong.to_csv(top / "odd" / f"{k}.csv", index=False)
    frame.head(0).to_csv(top / "texts" / "4.csv", index=False)
    frame.to_parquet(top / "one.parquet", row_group_size=100)
    frame.assign(town=frame.town + "\n\n").to_csv(top / "one.csv", index=False, sep=";")
    np.savez(top / "one.npz", amount=frame.amount, x=frame[["wide", "code"]], kind=frame.kind.to_numpy(str))
    return top


@pytest.fixture(scope="module")
def whole(top):
    """What one rank says that is given the whole tables, in a world of one."""
    from backprop_xp.data import choice
    from backprop_xp.distributed import share

    kept = share.WORTH, share.MANY, choice.FEW_ROWS
    scope = {}
    exec(PROGRAM, scope)
    try:
        with distributed.world() as world:
            return [scope["told"](world, str(top), shards) for shards in (False, True)]
    finally:
        share.WORTH, share.MANY, choice.FEW_ROWS = kept


def test_a_world_of_one(whole):
    assert whole[0] == whole[1]
    said = "\n".join(whole[0])
    for text in (
        "column 'copy' equals the target and is left out",
        "column 'id' differs in each row and is sorted like the rows",
        "5 rows without 'amount' are left out (the first is row 6)",
        "row 82 of 3.csv, column 'a': 'x' is no number",
        "1.parquet has no column 'code'",
        "--weight-decay",
        "each held out once in 2 folds",
        "rows are the same as rows that are trained on",
    ):
        assert text in said, text


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_have_the_bits_of_one_that_reads_all(ranks, top, whole):
    found, lengths, different = json.loads(output(ranks, PROGRAM + RANKS, top))
    assert found == whole[0] and different == 1
    assert [sum(each) for each in lengths] == [240] * 3
    assert all(max(each) < 240 for each in lengths)


@needs_mpi
def test_from_the_command_line(top, tmp_path):
    for ranks in (1, 3):
        run = launch(
            ranks, "-m", "backprop_xp", "train", "--data", top / "files", "--target", "amount", "--hidden", "4",
            "--epochs", "2", "--weight-decay", "0", "--model", tmp_path / f"{ranks}.m", "--plot", tmp_path / f"{ranks}.png",
        )  # fmt: skip
        assert run.returncode == 0 and "held out: R^2" in run.stdout, run.stderr
    assert (tmp_path / "1.m").read_bytes() == (tmp_path / "3.m").read_bytes()


@needs_mpi
def test_parts_that_make_no_table_are_refused():
    code = """
import pandas
from backprop_xp import distributed
from backprop_xp.data import train
with distributed.world() as world:
    column = ["a", "b", "c"] if world.rank else [1, 2, 3]
    train(pandas.DataFrame({"a": column, "y": [1.5, 2.5, 3.5]}), "y", world=world, shards=True)
"""
    assert "DataError: the ranks' parts don't make one table: " in ends(2, code)


def test_what_cannot_go_to_other_ranks_is_named():
    frame = pandas.DataFrame({"a": [1, "x"], "y": [1.5, 2.5]})
    with distributed.world() as world, pytest.raises(DataError, match="column 'a' can't go to other ranks: "):
        train(frame, "y", world=world, shards=True)
    with pytest.raises(ValueError, match="shards=True is for the ranks of a world"):
        train(frame, "y", shards=True)


def test_cells_travel_as_they_are(tmp_path):
    frame = pandas.DataFrame(
        {
            "whole": pandas.array([2**53 + 1, None], "Int64"),
            "kind": pandas.Categorical(["1", None]),
            "month": pandas.period_range("2020-01", periods=2, freq="M"),
            "nothing": [None, None],
            "y": [1.5, 2.5],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame = read(tmp_path / "t.parquet")
    with distributed.world() as world:
        part = parts.dealt(world, frame, ["y"])
    pandas.testing.assert_frame_equal(part.columns[list(frame.columns)], frame, check_index_type=False)


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(1, 9))
def test_every_unit_is_read_once_and_in_order(sizes, size):
    own = [folders.own(sizes, SimpleNamespace(rank=rank, size=size)) for rank in range(size)]
    assert [unit for units in own for unit in units] == list(range(len(sizes)))
    assert all(sum(sizes[unit] for unit in units) <= sum(sizes) / size + 2 * max(sizes) for units in own if units)
