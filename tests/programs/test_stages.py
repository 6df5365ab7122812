"""Passes that are cut into launches: every step finds what it would find if nothing were cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.programs.buffers import Tape
from backprop_xp.programs.pieces import Added
from backprop_xp.programs.stages import cut


@st.composite
def passes(draw):
    """Instructions that read, write and add to buffers, the first of which are inputs; and where launches end."""
    tape = Tape(lambda features: features)
    inputs = [tape.buffer(draw(st.integers(1, 5))) for _ in range(draw(st.integers(1, 2)))]
    for buffer in inputs:
        tape.emit(f"input {buffer}", [], [buffer])
    written: list[int] = []
    for number in range(draw(st.integers(1, 15))):
        reads = draw(st.lists(st.sampled_from([*inputs, *written]), min_size=1, max_size=3))
        again = draw(st.lists(st.sampled_from(written), max_size=1)) if written else []
        new = [tape.buffer(draw(st.integers(1, 5))) for _ in range(draw(st.integers(0, 2)))]
        tape.emit(f"step {number}", [*reads, *again], [*new, *again], {buffer: tuple(reads) for buffer in new})
        written += new
    steps = len(tape.instructions)
    return tape, [*sorted(draw(st.sets(st.integers(1, steps - 1), max_size=4))), steps]


def found(instructions, places, kept):
    """What each step reads: who wrote it; memory is by place, and at first there is nothing in it."""
    memory, seen = {}, {}
    for instruction in instructions:
        moved = re.search(r"graph_(keep|recall)<R, S>\(args, (\d+), (\d+), .*b(\d+)\)", instruction.text)
        if moved:
            features, slot, buffer = (int(number) for number in moved.groups()[1:])
            for k in range(features):
                place = places[buffer] + k
                if moved[1] == "keep":
                    kept[slot + k] = memory[place]
                else:
                    memory[place] = kept[slot + k]
            continue
        seen[instruction.text] = [memory.get(places[buffer]) for buffer in instruction.reads]
        for buffer in instruction.writes:
            memory[places[buffer]] = (instruction.text, buffer)
            for k in range(1, SIZES[buffer]):
                memory[places[buffer] + k] = (instruction.text, buffer)
    return seen


SIZES: list[int] = []


@given(passes())
def test_every_step_reads_what_it_would_in_one_launch(given):
    tape, ends = given
    SIZES[:] = tape.sizes
    apart = {buffer: 10 * buffer for buffer in range(len(tape.sizes))}
    expected = found(tape.instructions, apart, {})
    stages, features = cut(tape, ends, [Added(k, 1) for k in range(len(ends))])
    kept, got = {}, {}
    for stage in stages:
        got |= found(stage.instructions, stage.places, kept)
    assert {text: reads for text, reads in got.items() if text.startswith("step")} == {
        text: reads for text, reads in expected.items() if text.startswith("step")
    }
    assert max(kept, default=-1) < features
    assert [stage.added.first for stage in stages] == [*range(len(ends))]


def test_one_launch_keeps_nothing_and_inputs_are_brought_again():
    tape = Tape(lambda features: features)
    x, y, z = (tape.buffer(n) for n in (3, 4, 4))
    tape.emit("input", [], [x])
    tape.emit("a", [x], [y])
    tape.emit("b", [x, y], [z])
    (whole,), features = cut(tape, [3], [Added(0, 5)])
    assert ([*whole.instructions], features) == (tape.instructions, 0)
    stages, features = cut(tape, [2, 3], [Added(0, 5), Added(5, 1)])
    assert features == 4
    assert [i.text.partition("(")[0] for i in stages[0].instructions] == ["input", "a", "bpx::graph_keep<R, S>"]
    assert [i.text.partition("(")[0] for i in stages[1].instructions] == ["input", "bpx::graph_recall<R, S>", "b"]
