"""How long the first loss and gradients of a net never seen take, compilers included: each in a process of its own.

Ours are measured with a cache of compiled kernels that other nets of this dtype, activation and loss have used: what is
compiled once a machine is a line of its own. What the rivals keep on disk is put away, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from backprop_xp.bench import memory
from backprop_xp.bench.cases import Case
from backprop_xp.bench.contenders import EAGER
from backprop_xp.bench.settings import Settings
from backprop_xp.bench.standing import OURS

from backprop_xp import environment

LONGEST = 300  # seconds, after which a process is given up
ONCE = f"{OURS}, once a machine"
#: Another net than any that is measured, and samples of it for which it gets a program of its own.
OTHER, OTHER_SAMPLES = (24, 40, 10), 2048


@dataclass(frozen=True)
class FirstCall:
    """One net and one contender.

    Attributes:
        net: its name.
        contender: who, or ONCE.
        seconds: of the first step, which is timed from when arrays and parameters are there.
    """

    net: str
    contender: str
    seconds: float


def run(
    cases: Sequence[Case],
    compiled: Sequence[Case],
    settings: Settings,
    progress: Callable[[str, float], None],
) -> list[FirstCall]:
    """The first call of each case, by everybody; torch.compile's of ``compiled`` alone. What fails is left out."""
    found = []
    with tempfile.TemporaryDirectory() as cache:
        activations = cases[0].activations[-len(OTHER) + 1 :]
        other = replace(cases[0], name=ONCE, sizes=OTHER, activations=activations, samples=OTHER_SAMPLES)
        plans = [(other, OURS), *((case, OURS) for case in cases)]
        plans += [(case, EAGER) for case in cases]
        plans += [(case, "JAX") for case in cases if settings.jax]
        plans += [(case, "torch.compile") for case in compiled if settings.compile]
        for k, (case, who) in enumerate(plans):
            progress(f"first call of {who}: {case.name}", k / len(plans))
            seconds = _measure(case, who, settings.threads, cache)
            if seconds is not None:
                found.append(FirstCall(case.name, ONCE if case is other else who, seconds))
    return found


def table(calls: Sequence[FirstCall]) -> str:
    """A row for each net, a column for each contender."""
    who = [name for name in dict.fromkeys(call.contender for call in calls) if name != ONCE]
    at = {(call.net, call.contender): call.seconds for call in calls}
    lines = ["seconds of the first call, compiling included", "", f"| net | {' | '.join(who)} |"]
    lines.append(f"| --- |{' ---: |' * len(who)}")
    for net in dict.fromkeys(call.net for call in calls if call.contender != ONCE):
        cells = (f"{at[net, name]:.3f}" if (net, name) in at else "-" for name in who)
        lines.append(f"| {net} | {' | '.join(cells)} |")
    lines += [f"\n{ONCE}: {call.seconds:.1f} s for all nets" for call in calls if call.contender == ONCE]
    return "\n".join(lines)


def _measure(case: Case, who: str, threads: int, cache: str) -> float | None:
    request = json.dumps({"case": asdict(case), "who": who, "threads": threads})
    command = [sys.executable, "-m", "backprop_xp.bench.first_call", request]
    with tempfile.TemporaryDirectory() as fresh:
        variables = environment.passed_on({environment.CACHE.name: cache, "TORCHINDUCTOR_CACHE_DIR": fresh})
        try:
            result = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=LONGEST)
            return float(result.stdout.split()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError):
            return None


def main(request: str) -> None:
    asked = json.loads(request)
    contender = memory.make(Case.from_json(asked["case"]), asked["who"], "nn", asked["threads"])
    start = time.perf_counter()
    contender.step()
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1])
