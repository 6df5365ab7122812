"""A line that shows how a run goes: tqdm's bar where it is installed, a plain one elsewhere, nothing in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

SECONDS = 0.1  # between two updates


class Progress:
    """Steps, loss and samples per second, on standard error.

    Args:
        total: how many steps the whole run takes, None where that is unknown.
        done: how many were made before.
        shown: None shows it where standard error is a terminal.
    """

    def __init__(self, total: int | None, done: int = 0, shown: bool | None = None) -> None:
        self._out: TextIO = sys.stderr
        self.shown = self._out.isatty() if shown is None else shown
        self._total, self._step, self._samples = total, done, 0
        self._next = self._last = time.perf_counter()
        self._bar: Any = None
        if self.shown:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, initial=done, unit="step", file=self._out, mininterval=0, leave=True)

    def steps(self, step: int, samples: Sequence[int], loss: Any) -> None:
        """More steps were made, on so many samples each; shown a few times a second at most."""
        if not self.shown:
            return
        self._samples += sum(samples)
        now = time.perf_counter()
        if now >= self._next:
            self._show(step, float(loss), now)
            self._next = now + SECONDS

    def close(self, step: int, loss: float) -> None:
        """Show the last state, and end the line."""
        if not self.shown:
            return
        self._show(step, loss, time.perf_counter())
        if self._bar is not None:
            self._bar.close()
        else:
            print(file=self._out, flush=True)

    def _show(self, step: int, loss: float, now: float) -> None:
        rate = self._samples / (now - self._last) if now > self._last else 0.0
        text = f"loss {loss:.6g}, {rate:,.0f} samples/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._step)
        else:
            of = f"/{self._total}" if self._total is not None else ""
            print(f"\rstep {step}{of}: {text}\x1b[K", end="", file=self._out, flush=True)
        self._step, self._samples, self._last = step, 0, now
