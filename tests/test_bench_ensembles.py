"""The benchmark of many small nets: its proof, its table and its arguments."""

import numpy as np
import pytest
from backprop_xp.bench import ensembles, measure, report
from machines import BUSY, QUIET

GRID = ensembles.Grid(nets=3, epochs=1, threads=1, dtype="float64")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(ensembles, "SAMPLES", 60)
    monkeypatch.setattr(measure, "REST", 0.0)


def test_rounds_and_table():
    text = ensembles.table(GRID, ensembles.run(GRID, 1e-3, QUIET))
    lines = text.splitlines()
    assert lines[0] == "3 nets 8-16-16-1 in float64, 1 epoch of 60 samples in batches of 128, 1 thread"
    assert [line.split("  ")[1] for line in lines[1:]] == [ensembles.LOOP, ensembles.TOGETHER, ensembles.STEPS]
    assert all(line.endswith("of the loop's time") for line in lines[2:])
    assert report.BUSY in ensembles.table(GRID, ensembles.run(GRID, 1e-3, BUSY))


def test_nets_are_new_in_every_turn():
    loop = ensembles.contenders(GRID)[0]
    assert loop.timer(2) > 0
    once = [a.tobytes() for a in loop.results()]
    loop.step()
    assert [a.tobytes() for a in loop.results()] == once


def test_other_bits_are_no_speed(monkeypatch):
    loop, together, _ = ensembles.contenders(GRID)
    ensembles.prove_equal(loop, together)
    together.results()[0][0, 0] = np.nextafter(together.results()[0][0, 0], 9)
    monkeypatch.setattr(together, "step", lambda: None)
    with pytest.raises(measure.WrongGradient, match=r"^1 of 18 parameters of an ensemble have other bits than alone$"):
        ensembles.prove_equal(loop, together)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--epochs", "1,two"], "must be whole numbers such as 1,5, got 1,two"),
        (["--nets", "0"], "must be at least 1"),
        (["--seconds", "0"], "more than 0"),
        (["--threads", "0"], "error: --threads must be an integer from 1 to"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        ensembles.main(arguments)
    assert message in capsys.readouterr().err


def test_the_command(monkeypatch, capsys):
    monkeypatch.setattr(ensembles, "Machine", lambda threads: QUIET)
    assert ensembles.main(["--nets", "2", "--epochs", "1,2", "--threads", "2", "--seconds", "0.001"]) == 0
    assert capsys.readouterr().out.count("2 threads") == 2
