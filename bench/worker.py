"""The processes in which contenders are measured: one for each memory setting, since a process can't go back.

A process lives as long as the run. It is told by lines of JSON on its input what to do, answers each with one on its
output, and sleeps in between, so that only one of them computes at a time. It ends with its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

import threadpoolctl
from backprop_xp.bench import allocator, entries, measure
from backprop_xp.bench.cases import Case
from backprop_xp.bench.contenders import EAGER, Contender
from backprop_xp.bench.measure import Entrant, Turn
from backprop_xp.bench.settings import Settings

END_WITHIN = 10.0  # seconds, for a process whose input was closed


@dataclass
class Ready:
    """Contenders of one case, in one process.

    Attributes:
        entrants: name and form of each.
        difference: the largest one between a loss or gradient and PyTorch's; None without PyTorch.
        refused: whose gradient was wrong, "" if nobody's.
        notes: sentences on who was left out.
    """

    entrants: list[tuple[str, str]] = field(default_factory=list)
    difference: float | None = None
    refused: str = ""
    notes: list[str] = field(default_factory=list)


class Worker(Protocol):
    """What has contenders and lets them take turns. ``pid`` is None for this very process."""

    memory: str
    pid: int | None

    def prepare(self, case: Case, settings: Settings) -> Ready:
        """Make the contenders of a case, and prove their gradients equal."""

    def turn(self, number: int, count: int) -> Turn:
        """``count`` steps of the contender of this number."""


class Here:
    """A worker that is this process."""

    memory = allocator.DEFAULT
    pid = None

    def __init__(self) -> None:
        self._contenders: list[Contender] = []
        self._threads = 1

    def prepare(self, case: Case, settings: Settings) -> Ready:
        self._contenders, self._threads = [], settings.threads  # frees what the last case held
        ready = Ready()
        with self._blas():
            everybody = entries.contenders(case, settings, ready.notes)
            eager = [contender for contender in everybody if contender.name == EAGER]
            try:
                if eager:
                    prove = partial(measure.prove_equal, eager[0], dtype=case.dtype, samples=case.samples)
                    others = [contender for contender in everybody if contender is not eager[0]]
                    ready.difference = prove([contender for contender in others if not contender.precision])
                    for contender in [contender for contender in others if contender.precision]:
                        error = f"gradients within {prove([contender]):.1e} of PyTorch's in {case.dtype}"
                        ready.notes.append(f"{contender.name} ({contender.form}): {error}")
                else:
                    for contender in everybody:
                        contender.step()
            except measure.WrongGradient as error:
                ready.refused = str(error)
                return ready
        if eager and entries.only_proves(settings):
            everybody = [contender for contender in everybody if contender not in eager]
            ready.notes.append("PyTorch has no CUDA here: it proved the gradients on the CPU, and is not timed")
        self._contenders = everybody
        ready.entrants = [(contender.name, contender.form) for contender in everybody]
        return ready

    def turn(self, number: int, count: int) -> Turn:
        with self._blas():
            return measure.take_turn(self._contenders[number], count)

    def _blas(self) -> Any:
        return threadpoolctl.threadpool_limits(self._threads, "blas")


class Process:
    """A worker that is a process of its own. Raises ChildProcessError where it ends or fails.

    Attributes:
        trouble: why memory isn't kept although it should be, "" if all is well.
    """

    def __init__(self, memory: str) -> None:
        self.memory = memory
        command = [sys.executable, "-m", "backprop_xp.bench.worker", memory]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid: int | None = self._process.pid
        try:
            self.trouble: str = self._answer("it started")
        except BaseException:
            self.close()
            raise

    def prepare(self, case: Case, settings: Settings) -> Ready:
        answer = self._ask({"case": asdict(case), "settings": asdict(settings)}, f"it prepared {case.name}")
        return Ready(**answer | {"entrants": [(name, form) for name, form in answer["entrants"]]})

    def turn(self, number: int, count: int) -> Turn:
        return Turn(**self._ask({"number": number, "count": count}, f"contender {number} had its turn"))

    def close(self) -> None:
        """End it, by force if it doesn't by itself."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # it has ended, with a request unread
            self._process.stdin.close()
        try:
            self._process.wait(END_WITHIN)
        except BaseException:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any], doing: str) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, as its answer will say
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer(doing)

    def _answer(self, doing: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ChildProcessError(f"the process with memory {self.memory} ended with code {code} while {doing}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildProcessError(f"the process with memory {self.memory} failed while {doing}: {answer['error']}")
        return answer["answer"]


@contextlib.contextmanager
def processes() -> Iterator[tuple[list[Process], str]]:
    """Workers in both memory settings, where memory can be kept; and a sentence on that for the table."""
    open_ones: list[Process] = []
    try:
        for memory in (allocator.KEPT, allocator.DEFAULT):
            open_ones.append(Process(memory))
        kept, _ = open_ones
        if kept.trouble:
            kept.close()
            yield open_ones[1:], f"memory is not kept, {kept.trouble}: everybody has the system's default"
        else:
            yield open_ones, "memory kept (mallopt) and by default, in processes of their own: the better one counts"
    finally:
        for process in open_ones:
            process.close()


def entrants(worker: Worker, ready: Ready) -> list[Entrant]:
    """The contenders that a worker has prepared."""
    numbered = enumerate(ready.entrants)
    return [Entrant(name, form, worker.memory, partial(worker.turn, number)) for number, (name, form) in numbered]


def main(memory: str) -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run's own process is interrupted, and ends this one
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print

    def answer(kind: str, content: Any) -> None:
        print(json.dumps({kind: content}), file=answers, flush=True)

    answer("answer", allocator.keep() if memory == allocator.KEPT else "")
    here = Here()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "case" in asked:
                result: Any = here.prepare(Case.from_json(asked["case"]), Settings.from_json(asked["settings"]))
            else:
                result = here.turn(**asked)
        except Exception as error:  # told to the run's process, which shows it in its own way
            answer("error", f"{type(error).__name__}: {str(error).strip()}")
        else:
            answer("answer", asdict(result))


if __name__ == "__main__":
    main(sys.argv[1])
