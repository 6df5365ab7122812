"""Arrays for gradients: what was handed out is kept, and an interrupt leaves them whole."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from backprop_xp.ready.gradients import KEPT, Gradients
from backprop_xp.workspace import SMALLEST

COUNT = SMALLEST // 4 + 5  # so large that they begin where registers do


def test_what_was_handed_out_is_never_handed_out_again_but_when_it_was_let_go():
    gradients = Gradients(COUNT, np.float32)
    held = [gradients.unused() for _ in range(KEPT + 2)]
    assert not any(np.shares_memory(a, b) for a, b in pairwise(held))
    address = held[-1].ctypes.data
    del held[-1]
    assert gradients.unused().ctypes.data == address


@pytest.mark.parametrize("line", range(1, 12))
def test_an_interrupt_in_any_line_leaves_them_usable(line):
    gradients, held = Gradients(COUNT, np.float32), []
    first = Gradients.unused.__code__.co_firstlineno

    def interrupt(frame, event, argument):
        if frame.f_code is not Gradients.unused.__code__:
            return None
        if event == "line" and frame.f_lineno == first + line:
            raise KeyboardInterrupt
        return interrupt

    for _ in range(KEPT + 1):
        sys.settrace(interrupt)
        try:
            held.append(gradients.unused())
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        held.append(gradients.unused())
        assert held[-1].shape == (COUNT,) and held[-1].ctypes.data % 64 == 0
    assert not any(np.shares_memory(a, b) for k, a in enumerate(held) for b in held[:k])
