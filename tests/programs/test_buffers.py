"""Where buffers lie: what is read later is never overwritten, and what is not makes room."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backprop_xp.programs.buffers import Tape


@st.composite
def tapes(draw):
    """Instructions that read some of the buffers written so far and write new ones, perhaps in the place of old ones."""
    tape, written = Tape(lambda features: -(-features // 16) * 16), []
    for _ in range(draw(st.integers(1, 12))):
        reads = draw(st.lists(st.sampled_from(written), max_size=3)) if written else []
        new = [tape.buffer(draw(st.integers(1, 40))) for _ in range(draw(st.integers(0, 2)))]
        again = draw(st.lists(st.sampled_from(written), max_size=1)) if written else []
        over = {new[0]: tuple(reads)} if new and draw(st.booleans()) else {}
        tape.emit("", [*reads, *again], [*new, *again], over)
        written += new
    return tape


@given(tapes())
def test_a_buffer_holds_what_was_written_until_it_is_read_for_the_last_time(tape):
    places, total = tape.placed()
    memory = [None] * total

    def cells(buffer):
        return range(places[buffer], places[buffer] + tape.sizes[buffer])

    for instruction in tape.instructions:
        for buffer in instruction.reads:
            assert all(memory[cell] == buffer for cell in cells(buffer))
        for buffer in instruction.writes:
            taken = {memory[cell] for cell in cells(buffer)} - {buffer}
            inputs = taken & set(instruction.reads)
            assert inputs <= set(instruction.over.get(buffer, ()))  # others are still being read
            for cell in cells(buffer):
                memory[cell] = buffer


def test_room_is_used_again():
    tape = Tape(lambda features: -(-features // 16) * 16)
    chain = [tape.buffer(16) for _ in range(10)]
    tape.emit("", [], [chain[0]])
    for a, b in pairwise(chain):
        tape.emit("", [a], [b])
    assert tape.placed()[1] == 32
    for a, b in pairwise(chain):
        tape.emit("", [a], [b], {b: (a,)})
    assert tape.placed()[1] > 32  # now all are read again later


def test_in_place_where_that_is_allowed():
    tape = Tape(lambda features: 8)
    a, b = tape.buffer(5), tape.buffer(8)
    tape.emit("", [], [a])
    tape.emit("", [a], [b], {b: (a,)})
    assert tape.placed() == ({0: 0, 1: 0}, 8)
