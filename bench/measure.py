"""Timing contenders against each other: in turn, A B C A B C ..., after a warm-up and a proof of equal gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from backprop_xp.bench.contenders import Contender

#: How far a gradient may be from PyTorch's, as the norm of the difference over the norm. float32 sums a million terms
#: in another order, and units near a kink of relu fall to either side of it.
TOLERANCE = {"float32": 3e-4, "float64": 1e-10}
#: Beyond so many samples it grows with them, as PyTorch's error in float32 does: its gradients of the article's net are
#: 1e-5 from those in float64 at a million samples and 4e-4 at four (ours 5e-8 and 4e-8).
MANY = 1 << 20

SHORTEST = 0.1  # seconds; shorter steps are timed several at a time
#: Seconds of rest before every turn: the threads of the contender before must have gone to sleep. OpenMP workers, which
#: PyTorch uses, spin for up to 200 ms after their last task, on processors that are somebody else's turn by then.
REST = 0.25
FEWEST_ROUNDS, MOST_ROUNDS = 5, 40


@dataclass
class Timing:
    """The seconds a step took in each round."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Half of the distance between the quartiles, over the median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / 2 / self.median)

    def speedup_over(self, other: Timing) -> float:
        """The median of the ratios round by round: slow spells of the machine hit both."""
        return float(np.median(np.array(other.seconds) / np.array(self.seconds)))


class WrongGradient(RuntimeError):
    """A contender's loss or gradient isn't the reference's; there is no point in its speed."""


def prove_equal(reference: Contender, others: Sequence[Contender], dtype: str, samples: int = 0) -> float:
    """The largest relative difference of a loss or gradient from the reference's. Raises WrongGradient."""
    tolerance = TOLERANCE[dtype] * max(1.0, samples / MANY)
    reference.step()
    expected, worst = reference.results(), 0.0
    for contender in others:
        contender.step()
        got = contender.results()
        if len(got) != len(expected):
            raise WrongGradient(f"{contender.name} gives {len(got)} results, {reference.name} {len(expected)}")
        for k, (a, b) in enumerate(zip(expected, got)):
            difference = np.linalg.norm(a - b) / max(np.linalg.norm(a), np.finfo(dtype).tiny)
            what = "loss" if k == 0 else f"gradient {k}"
            if a.shape != b.shape or not difference <= tolerance:  # not <=: NaN fails
                raise WrongGradient(
                    f"{contender.name}: its {what} is {difference:.1e} from {reference.name}'s, "
                    f"more than {tolerance:.0e}"
                )
            worst = max(worst, float(difference))
    return worst


def alternate(
    contenders: Sequence[Contender],
    budget: float,
    progress: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time every contender once a round, until the budget of seconds is spent; each has been run before.

    A turn is a rest, one step that isn't timed, and steps of SHORTEST seconds in all that are.

    Args:
        budget: seconds for all rounds together; at least FEWEST_ROUNDS are run even so.
        progress: told the share of the budget that is spent.
    """
    repeats = []
    for contender in contenders:
        start = clock()
        contender.step()
        repeats.append(max(1, int(SHORTEST / max(clock() - start, 1e-9))))
    timings = [Timing(contender) for contender in contenders]
    begin = clock()
    for done in range(MOST_ROUNDS):
        if done >= FEWEST_ROUNDS and clock() - begin > budget:
            break
        for timing, count in zip(timings, repeats):
            time.sleep(REST)
            timing.contender.step()  # wakes its threads, and brings its data back to the caches
            if timing.contender.timer is not None:
                timing.seconds.append(timing.contender.timer(count) / count)
                continue
            start = clock()
            for _ in range(count):
                timing.contender.step()
            timing.seconds.append((clock() - start) / count)
        progress(min(1.0, (clock() - begin) / budget))
    return timings


def fastest_form(timings: Sequence[Timing], name: str) -> Timing | None:
    """Of several forms of one contender the one with the smaller median."""
    return min((t for t in timings if t.contender.name == name), key=lambda t: t.median, default=None)
