"""Whether a whole run may be quoted: what `quiet.py` doesn't see round by round, limits and load show."""

from __future__ import annotations

import os
from collections.abc import Sequence

from backprop_xp.bench.limits import Limits, Peak
from backprop_xp.bench.quiet import processors
from backprop_xp.bench.report import Result

STEADY = 0.9  # the multiply-add peak may fall to this share of its best within one run
#: Of the multiply-add peak nothing can do more than 100 %. The best matrix product of the rivals can be beaten, by a
#: tenth or so, not by this much.
MOST_OF_FMA, MOST_OF_GEMM = 1.03, 1.2


class Watch:
    """Follows a run from its beginning to its end.

    Attributes:
        limits: of the machine; the multiply-add peak is the best one so far.
        peaks: the multiply-add peak before, between and after the cases, by dtype.
        load_before, load_after: the load average of the last minute; None where the system has none.
    """

    def __init__(self, limits: Limits, peak: Peak, threads: int, load_before: float | None) -> None:
        self.limits, self.load_before, self.load_after = limits, load_before, None
        self.peaks = [limits.fma] if limits.fma else []
        self._peak, self._threads = peak, threads

    def after(self, result: Result) -> None:
        """Run the peak loop again, and look at the shares of the limits that this result shows."""
        peak = self._peak(self._threads)
        if peak is not None:
            result.peaks = len(self.peaks) - 1, len(self.peaks)
            self.peaks.append(peak)
            self.limits = self.limits.with_peak(peak)
        result.busy += by_share(result, self.limits)

    def end(self) -> list[str]:
        """Why nothing in the run is to be quoted, sentence by sentence."""
        self.load_after = load()
        return [
            *by_load(self.load_before, 1, processors(), "before the run"),
            *by_load(self.load_after, self._threads + 1, processors(), "at its end"),
        ]

    def around(self, result: Result) -> list[str]:
        """Why this result is not to be quoted, by the peaks that were run before and after it and all others."""
        return by_peak(self.peaks, [k for k in result.peaks if k >= 0])


def load() -> float | None:
    """The system's load average over the last minute; None where there is none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def by_load(value: float | None, own: int, processors: int, when: str) -> list[str]:
    """A reason if more than our own threads were running or waiting."""
    if value is None or value - own <= max(1.0, processors / 2):
        return []
    return [f"the load average was {value:.1f} {when}, on {processors} processors"]


def by_peak(peaks: Sequence[dict[str, float]], around: Sequence[int]) -> list[str]:
    """A reason for each dtype in which the multiply-add loop was slower at these times of a run than it can be."""
    reasons = []
    for dtype in peaks[0] if peaks and around else ():
        share = min(peaks[k][dtype] for k in around) / max(peak[dtype] for peak in peaks)
        if share < STEADY:
            reasons.append(f"the multiply-add peak in {dtype} was at {share:.0%} of its best just before or after")
    return reasons


def by_share(result: Result, limits: Limits) -> list[str]:
    """A reason if somebody did more than is possible: the limits were measured while others computed."""
    reasons, dtype = [], result.case.dtype
    bounds = [("the multiply-add peak", limits.fma, MOST_OF_FMA), ("the matrix product", limits.gemm, MOST_OF_GEMM)]
    for row in result.rows:
        for what, limit, most in bounds:
            share = row.samples_per_second * result.case.flops / limit[dtype] if limit else 0.0
            if share > most:
                reasons.append(f"{row.contender} shows {share:.0%} of {what}")
    return reasons
