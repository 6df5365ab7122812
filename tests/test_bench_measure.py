"""Rounds: everybody's turn in each, those that others disturbed set aside, statistics over rounds."""

import pytest
from backprop_xp.bench import measure, run
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.measure import Entrant, Rounds, Timing, Turn
from machines import OTHERS, Scripted


@pytest.fixture(autouse=True)
def without_rest(monkeypatch):
    monkeypatch.setattr(measure, "REST", 0.0)


def scripted(name, seconds, form="f", memory="kept", log=None):
    """An entrant whose turns take these times, the last one again and again; its trial takes the first."""
    left = [seconds[0], *seconds]

    def turn(count):
        if log is not None:
            log.append(name)
        return Turn(left.pop(0) if len(left) > 1 else left[0], 1.0, 0.0)

    return Entrant(name, form, memory, turn)


def test_contenders_take_turns():
    log = []
    entrants = [scripted(name, [1.0], log=log) for name in "ab"]
    rounds = measure.alternate(entrants, 1e-9, Scripted())
    assert log == ["a", "b"] * (1 + measure.FEWEST_ROUNDS)
    assert rounds.counted == list(range(measure.FEWEST_ROUNDS))
    assert (rounds.busy, rounds.note) == ("", "")


def test_rounds_go_on_until_the_budget_is_spent():
    now = iter(range(10**6))
    rounds = measure.alternate([scripted("a", [1.0])], 20.0, Scripted(), clock=lambda: float(next(now)))
    assert measure.FEWEST_ROUNDS < len(rounds.spells) < measure.MOST_ROUNDS
    rounds = measure.alternate([scripted("a", [1.0])], float("inf"), Scripted())
    assert len(rounds.spells) == measure.MOST_ROUNDS


def test_a_turn_is_a_step_to_wake_up_and_steps_that_are_timed():
    log, now = [], iter([10.0, 16.0, 16.0])
    contender = Contender("a", "f", lambda: log.append(1), list)
    turn = measure.take_turn(contender, 3, clock=lambda: next(now))
    assert (len(log), turn.seconds) == (4, 2.0)
    contender.timer = lambda count: 0.5 * count  # the device's own clock
    assert measure.take_turn(contender, 4).seconds == 0.5


def test_disturbed_rounds_are_set_aside_and_repeated():
    slow = [1.0, 9.0, 1.0, 8.0, 1.2, 1.1, 1.3]
    machine = Scripted(busy=[False, True, False, True])
    rounds = measure.alternate([scripted("a", slow)], 1e-9, machine)
    assert rounds.counted == [0, 2, 4, 5, 6]
    (timing,) = rounds.timings
    assert timing.seconds == [1.0, 1.0, 1.2, 1.1, 1.3]
    assert timing.spread == pytest.approx(0.3 / 2 / 1.1)
    assert [turn.seconds for turn in timing.turns] == slow
    assert rounds.busy == ""
    assert rounds.note == f"2 of 7 rounds were set aside and repeated: {OTHERS}"


@pytest.mark.parametrize("quiet_ones", range(measure.FEWEST_ROUNDS))
def test_a_busy_machine_is_called_one_after_a_bounded_time(quiet_ones):
    machine = Scripted(busy=[False] * quiet_ones, then=True)
    rounds = measure.alternate([scripted("a", [1.0])], 1e9, machine)
    number = quiet_ones + measure.MOST_SET_ASIDE
    assert rounds.counted == list(range(number))
    assert rounds.busy == f"in 5 of {number} rounds the machine did other work ({OTHERS})"


def test_a_slower_form_is_left_out_after_two_rounds_that_count():
    entrants = [scripted("a", [1.0], "good"), scripted("a", [0.5, 0.5, 2.0], "bad"), scripted("a", [1.05], "close"),
                scripted("a", [3.0], "good", "default"), scripted("b", [9.0])]  # fmt: skip
    rounds = measure.alternate(entrants, 1e-9, Scripted(busy=[True]))
    turns = {(t.entrant.name, t.entrant.form, t.entrant.memory): len(t.turns) for t in rounds.timings}
    everything = 1 + measure.FEWEST_ROUNDS
    assert turns == {("a", "good", "kept"): everything, ("a", "bad", "kept"): 3, ("a", "close", "kept"): everything,
                     ("a", "good", "default"): everything, ("b", "f", "kept"): everything}  # fmt: skip
    assert measure.fastest_form(rounds.timings, "a").entrant.form == "good"


def test_a_form_that_was_left_out_is_never_the_fastest():
    """Even where later rounds were slower for those that stayed."""
    entrants = [scripted("a", [1.0, 1.0, 7.0], "stays"), scripted("a", [1.2], "leaves")]
    rounds = measure.alternate(entrants, 1e-9, Scripted())
    assert measure.fastest_form(rounds.timings, "a").entrant.form == "stays"


def timing(name, seconds, form="f", memory="kept"):
    turns = [Turn(s, 1.0, 0.0) for s in seconds]
    return Timing(Entrant(name, form, memory, None), turns, range(len(seconds)))


def test_statistics():
    a, b = timing("a", [1.0, 2, 3]), timing("b", [2.0, 4, 9])
    assert (a.median, b.median) == (2, 4)
    assert a.spread == 0.5
    assert a.speedup_over(b) == 2
    default = timing("a", [0.5] * 3, "g", "default")
    assert measure.fastest_form([b, a, default], "a") is default
    assert measure.fastest_form([b, a, default], "a", "kept") is a
    assert measure.fastest_form([], "a") is None


@pytest.mark.parametrize("better", ["kept", "default"])
def test_the_base_of_every_ratio_is_a_rivals_best_form(better):
    worse = {"kept": "default", "default": "kept"}[better]
    timings = [
        timing("backprop_xp", [1.0, 1.0], "fused", better), timing("backprop_xp", [1.5, 1.5], "fused", worse),
        timing(EAGER, [13.0, 14.0], "nn", better), timing(EAGER, [27.0, 27.0], "nn", worse),
        timing(EAGER, [15.0, 15.0], "matmul", better), timing(EAGER, [26.0, 26.0], "matmul", worse),
        timing("JAX", [10.0, 11.0], "jit", worse), timing("JAX", [12.0, 12.0], "jit", better),
    ]  # fmt: skip
    rows = {row.contender: row for row in run.rows(100, Rounds(timings, [], [0, 1]))}
    ours, eager, jax = rows["backprop_xp"], rows[EAGER], rows["JAX"]
    assert (ours.speedup, eager.speedup) == (13.5, 1.0)
    assert (ours.over_rival, jax.over_rival) == (10.5, 1.0)
    assert (eager.form, eager.memory, jax.memory) == ("nn", better, worse)
    assert eager.samples_per_second == 100 / 13.5
    assert eager.by_default == (100 / 13.5 if better == "default" else 100 / 26)
    assert eager.seconds == [13.0, 14.0]
    assert [(one["form"], one["memory"], one["seconds"]) for one in eager.rounds] == [
        ("nn", better, [13.0, 14.0]), ("nn", worse, [27.0, 27.0]),
        ("matmul", better, [15.0, 15.0]), ("matmul", worse, [26.0, 26.0]),
    ]  # fmt: skip
