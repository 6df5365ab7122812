"""Timing contenders against each other: in turn, A B C A B C ..., after a warm-up and a proof of equal gradients.

The clock is read around whole turns. What else the machine did is looked at between rounds (`quiet.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import threadpoolctl
from backprop_xp.bench import allocator
from backprop_xp.bench.contenders import Contender, available
from backprop_xp.bench.quiet import Look, Machine, Spell

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

Found = TypeVar("Found")

#: How far a gradient may be from PyTorch's, as the norm of the difference over the norm: float32 sums a million terms
#: in another order. No unit of relu is so near its kink that rounding decides its slope (cases.py).
TOLERANCE = {"float32": 3e-4, "float64": 1e-10}
#: The same of products whose factors are rounded: several times the errors in backprop_xp/precision.py, for rounding
#: decides the slope of some units of relu.
ROUNDED = {"tf32x3": 3e-4, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 1e-1}
#: Beyond so many samples it grows with them, as PyTorch's error in float32 does: its gradients of the article's net are
#: 1e-5 from those in float64 at a million samples and 4e-4 at four (ours 5e-8 and 4e-8).
MANY = 1 << 20

SHORTEST = 0.1  # seconds; shorter steps are timed several at a time
#: Seconds of rest before every turn: the threads of the contender before must have gone to sleep. OpenMP workers, which
#: PyTorch uses, spin for up to 200 ms after their last task, on processors that are somebody else's turn by then.
#: On a GPU nothing of the kind spins, and a rest would let its clocks fall.
REST, REST_ON_GPU = 0.25, 0.0
FEWEST_ROUNDS, MOST_ROUNDS = 5, 40
FEWEST_SEEDS = 2  # however little time there is
MOST_SET_ASIDE = 5  # rounds that others disturbed, after which a busy machine is called one
#: A form that takes so many times what the fastest form of the same contender does, in the last one of so many rounds,
#: isn't timed any further. The first round may still be one of memory that is taken from the system.
SLOWER_FORM, AFTER_ROUNDS = 1.1, 2


@dataclass(frozen=True)
class Turn:
    """Some steps of one contender, one after another.

    Attributes:
        seconds: of a step.
        processors: processor time of its process over the time that passed.
        faults: pages a step that the system had to give.
    """

    seconds: float
    processors: float
    faults: float


@dataclass(frozen=True)
class Entrant:
    """A contender as the rounds see it: in this process or in another.

    Attributes:
        name, form: the contender's.
        memory: the setting of its process, see `allocator.py`.
        turn: does so many steps, after one that isn't timed.
    """

    name: str
    form: str
    memory: str
    turn: Callable[[int], Turn]


@dataclass
class Timing:
    """What one entrant did, round by round.

    Attributes:
        turns: of the rounds from the first on; all of them, but for a form that was left out as slower.
        counted: the numbers of those rounds that count, the same for everybody.
    """

    entrant: Entrant
    turns: list[Turn] = field(default_factory=list)
    counted: Sequence[int] = ()

    @property
    def to_the_end(self) -> bool:
        return len(self.turns) > max(self.counted)

    @property
    def seconds(self) -> list[float]:
        """Of a step, in the rounds that count."""
        return [self.turns[k].seconds for k in self.counted if k < len(self.turns)]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Half of the distance between the slowest round and the fastest, over the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median

    def speedup_over(self, other: Timing) -> float:
        """The median of the ratios round by round: slow spells of the machine hit both."""
        return float(np.median(np.array(other.seconds) / np.array(self.seconds)))


@dataclass
class Rounds:
    """A whole contest.

    Attributes:
        spells: what the machine did besides, round by round.
        counted: rounds that others left alone, or all if these are too few.
        busy: why the figures are not to be quoted, "" if they may be.
        note: a sentence on rounds that were set aside.
    """

    timings: list[Timing]
    spells: list[Spell]
    counted: list[int]
    busy: str = ""
    note: str = ""


class WrongGradient(RuntimeError):
    """A contender's loss or gradient isn't the reference's; there is no point in its speed."""


def prove_equal(reference: Contender, others: Sequence[Contender], dtype: str, samples: int = 0) -> float:
    """The largest relative difference of a loss or gradient from the reference's. Raises WrongGradient."""
    reference.step()
    expected, worst = reference.results(), 0.0
    for contender in others:
        tolerance = ROUNDED.get(contender.precision, TOLERANCE[dtype]) * max(1.0, samples / MANY)
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


def here(contender: Contender, memory: str = allocator.DEFAULT) -> Entrant:
    """A contender of this process."""
    return Entrant(contender.name, contender.form, memory, partial(take_turn, contender))


def take_turn(contender: Contender, count: int, clock: Callable[[], float] = time.perf_counter) -> Turn:
    """One step that wakes threads and brings data back to the caches, then ``count`` that are timed."""
    contender.step()
    faults, used, start = _faults(), time.process_time(), clock()
    if contender.timer is None:
        for _ in range(count):
            contender.step()
        seconds = clock() - start
    else:
        seconds = contender.timer(count)
    passed = max(clock() - start, 1e-9)
    return Turn(seconds / count, (time.process_time() - used) / passed, (_faults() - faults) / count)


def alternate(
    entrants: Sequence[Entrant],
    budget: float,
    machine: Machine,
    progress: Callable[[float], None] = lambda share: None,
    clock: Callable[[], float] = time.perf_counter,
    rest: float | None = None,
) -> Rounds:
    """Every entrant's turn once a round, each after a rest, until the budget of seconds is spent.

    A turn has steps of SHORTEST seconds. Rounds during which others took processor time are set aside and repeated.
    When MOST_SET_ASIDE were, and fewer than FEWEST_ROUNDS are left, the machine is called busy, and all count.

    Args:
        budget: seconds for all rounds together; FEWEST_ROUNDS are run even so.
        machine: looked at between rounds.
        progress: told the share of the budget that is spent.
        rest: seconds before every turn and look; None: REST.
    """
    rest = REST if rest is None else rest
    counts = [max(1, int(SHORTEST / max(entrant.turn(1).seconds, 1e-9))) for entrant in entrants]
    timings = [Timing(entrant) for entrant in entrants]
    running = list(zip(timings, counts))
    spells: list[Spell] = []
    begin, before = clock(), rested_look(machine, rest)
    while not _enough(spells, clock() - begin > budget):
        for timing, count in running:
            time.sleep(rest)
            timing.turns.append(timing.entrant.turn(count))
        after = rested_look(machine, rest)
        spells.append(machine.between(before, after))
        before = after
        if not spells[-1].busy and sum(not spell.busy for spell in spells) == AFTER_ROUNDS:
            running = [(timing, count) for timing, count in running if not _slower(timing, timings)]
        progress(min(1.0, (clock() - begin) / budget))
    return _judged(timings, spells)


def fastest_form(timings: Sequence[Timing], name: str, memory: str | None = None) -> Timing | None:
    """Of several forms of one contender, in one memory setting or in any, the one with the smaller median."""
    mine = [t for t in timings if t.entrant.name == name and memory in (None, t.entrant.memory) and t.to_the_end]
    return min(mine, key=lambda t: t.median, default=None)


def rested_look(machine: Machine, rest: float | None = None) -> Look:
    """A look at the machine when the threads of the last turn are asleep, after ``rest`` seconds, or REST."""
    time.sleep(REST if rest is None else rest)
    return machine.look()


def _enough(spells: Sequence[Spell], spent: bool) -> bool:
    quiet = sum(not spell.busy for spell in spells)
    if quiet < FEWEST_ROUNDS:
        return len(spells) - quiet >= MOST_SET_ASIDE
    return spent or len(spells) >= MOST_ROUNDS


def _slower(timing: Timing, timings: Sequence[Timing]) -> bool:
    mine = [t for t in timings if (t.entrant.name, t.entrant.memory) == (timing.entrant.name, timing.entrant.memory)]
    return timing.turns[-1].seconds > SLOWER_FORM * min(t.turns[-1].seconds for t in mine)


def _judged(timings: list[Timing], spells: list[Spell]) -> Rounds:
    quiet = [k for k, spell in enumerate(spells) if not spell.busy]
    aside = [spell.busy for spell in spells if spell.busy]
    rounds = Rounds(timings, spells, quiet)
    if len(quiet) < FEWEST_ROUNDS:
        rounds.counted = list(range(len(spells)))
        rounds.busy = f"in {len(aside)} of {len(spells)} rounds the machine did other work ({aside[-1]})"
    elif aside:
        rounds.note = f"{len(aside)} of {len(spells)} rounds were set aside and repeated: {aside[-1]}"
    for timing in timings:
        timing.counted = rounds.counted
    return rounds


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """BLAS and PyTorch, where it is installed, on ``threads`` threads."""
    if available("torch"):
        import torch

        torch.set_num_threads(threads)
    with threadpoolctl.threadpool_limits(threads, "blas"):
        yield


def by_seed(
    turn: Callable[[int], Found], seeds: Sequence[int], machine: Machine, what: str, within: float = np.inf
) -> tuple[list[Found], list[Spell], list[str]]:
    """What ``turn`` gives for every seed, after a warm-up; a seed during which others computed is taken again.

    Args:
        within: seconds, after which no other seed is begun; the first FEWEST_SEEDS are even so.

    Returns:
        With each result what the machine did besides, and why nothing may be quoted, if so; ``what`` are seeds there.
    """
    begin = time.monotonic()
    turn(seeds[0])
    results, spells, repeats, before = [], list[Spell](), MOST_SET_ASIDE, rested_look(machine)
    for seed in seeds:
        if len(results) >= FEWEST_SEEDS and time.monotonic() - begin > within:
            break
        while True:
            found = turn(seed)
            after = rested_look(machine)
            spell, before = machine.between(before, after), after
            if not spell.busy or not repeats:
                break
            repeats -= 1
        results.append(found)
        spells.append(spell)
    if not (disturbed := [spell.busy for spell in spells if spell.busy]):
        return results, spells, []
    reason = f"with {len(disturbed)} of {len(results)} {what} the machine did other work ({disturbed[-1]})"
    return results, spells, [reason]


def median_seconds(call: Callable[[], object], times: int) -> float:
    """The median of a call's seconds, which is made ``times`` times."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))
