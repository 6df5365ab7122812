"""Cases: contenders are prepared and proven in every worker, then timed in turn, then their memory is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

from backprop_xp.bench import allocator, measure, memory, worker
from backprop_xp.bench.cases import ARTICLE, BATCHES, DEPTHS, WIDTHS, Case
from backprop_xp.bench.contenders import EAGER
from backprop_xp.bench.measure import Rounds, Timing
from backprop_xp.bench.quiet import Machine
from backprop_xp.bench.report import Result, Row
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.standing import OURS
from backprop_xp.bench.worker import Worker

from backprop_xp import get_backend

Progress = Callable[[str, float], None]
#: What is varied in the sweeps of a full run, and seconds of timing each point.
SWEEPS = {"batch": [ARTICLE.with_samples(n) for n in BATCHES], "width": WIDTHS, "depth": DEPTHS}
SWEEP_SECONDS = 2.0


def run_case(
    case: Case,
    settings: Settings,
    progress: Progress = lambda what, share: None,
    workers: Sequence[Worker] = (),
    machine: Machine | None = None,
) -> Result:
    """Prove the gradients equal, then time everybody in turn, then measure memory.

    Args:
        workers: the processes that take turns; by default this one alone.
        machine: tells whether others computed meanwhile; by default the real one.
    """
    title = f"{case.name} {case.samples:,} x {case.dtype}"
    progress(title, 0.0)
    workers = workers or [worker.Here()]
    on_gpu = get_backend(settings.backend).on_gpu
    # on a GPU it is one thread of the host that launches
    machine = machine or Machine(1 if on_gpu else settings.threads, [w.pid for w in workers if w.pid is not None])
    result = Result(case)
    everybody = []
    for one in workers:
        ready = one.prepare(case, settings)
        result.notes += [note for note in ready.notes if note not in result.notes]
        if ready.refused:
            result.refused = ready.refused
            return result
        if ready.difference is not None:
            result.difference = max(result.difference or 0.0, ready.difference)
        everybody += worker.entrants(one, ready)
    names = list(dict.fromkeys(entrant.name for entrant in everybody))
    everybody.sort(key=lambda entrant: names.index(entrant.name))
    rest = measure.REST_ON_GPU if on_gpu else measure.REST
    rounds = measure.alternate(everybody, settings.budget, machine, lambda share: progress(title, share), rest=rest)
    result.spells, result.counted = rounds.spells, rounds.counted
    result.busy += [rounds.busy] if rounds.busy else []
    result.notes += [rounds.note] if rounds.note else []
    result.rows = rows(case.samples, rounds)
    if settings.memory:
        for row in result.rows:
            progress(f"{title}: memory of {row.contender}", 1.0)
            row.extra_bytes = memory.extra_bytes(case, row.contender, row.form, settings.threads)
    return result


def rows(samples: int, rounds: Rounds) -> list[Row]:
    """A row for every contender, of its fastest form in its better memory setting."""
    names = list(dict.fromkeys(timing.entrant.name for timing in rounds.timings))
    best = {name: measure.fastest_form(rounds.timings, name) for name in names}
    baseline = best.get(EAGER)
    rivals = [timing for name, timing in best.items() if timing is not None and not name.startswith(OURS)]
    rival = min(rivals, key=lambda timing: timing.median, default=None)
    made = []
    for name, timing in best.items():
        assert timing is not None
        default = measure.fastest_form(rounds.timings, name, allocator.DEFAULT)
        row = Row(name, timing.entrant.form, samples / timing.median, timing.spread, None)
        row.speedup = timing.speedup_over(baseline) if baseline else None
        row.over_rival = timing.speedup_over(rival) if rival else None
        row.memory = timing.entrant.memory
        row.by_default = samples / default.median if default else None
        row.seconds = timing.seconds
        row.rounds = [_series(t) for t in rounds.timings if t.entrant.name == name]
        made.append(row)
    return made


def sweep(
    families: Mapping[str, Sequence[Case]],
    settings: Settings,
    progress: Progress = lambda what, share: None,
    workers: Sequence[Worker] = (),
    machine: Machine | None = None,
) -> Iterator[tuple[str, Result]]:
    """What a user gets and its rivals, with little time for each case; each result as it is there, with its family."""
    quick = replace(settings, engines=("auto",), budget=SWEEP_SECONDS, memory=False)
    for family, cases in families.items():
        for case in cases:
            yield family, run_case(case, quick, progress, workers, machine)


def _series(timing: Timing) -> dict[str, object]:
    turns = [asdict(turn) for turn in timing.turns]
    return {
        "form": timing.entrant.form,
        "memory": timing.entrant.memory,
        **{what: [turn[what] for turn in turns] for what in ("seconds", "processors", "faults")},
    }
