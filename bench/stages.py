"""A run in stages that loses nothing: each has a box of seconds, and the next one begins whatever became of the last.

What a command prints goes to a file of its own as it comes, and the summary is on disk after every stage.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from backprop_xp.bench.report import replace_file

from backprop_xp.environment import passed_on

GRACE = 5.0  # seconds from the interrupt to the end by force, for a command whose box has closed
LOOK_EVERY = 0.05  # seconds, whether commands have ended
NOT_STARTED = 127  # the code of a shell for a program that can't be started
SUMMARY = "summary.txt"


@dataclass(frozen=True)
class Command:
    """What a stage runs.

    Attributes:
        name: of its file of output, without the suffix .txt.
        arguments: the program and what it is given.
        counts: whether the run fails if it fails.
        environment: variables beside those of this process.
    """

    name: str
    arguments: Sequence[str]
    counts: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """Commands that run side by side.

    Attributes:
        share: of the time that is left when it begins, in proportion to the shares of the stages behind it.
        commands: made when it begins, of the seconds that it has.
        left_out: why it isn't run, "" if it is.
    """

    name: str
    share: float
    commands: Callable[[float], Sequence[Command]]
    left_out: str = ""


@dataclass(frozen=True)
class Ended:
    """What became of a command.

    Attributes:
        code: its exit code, negative after a signal; None if its box closed before it ended.
        seconds: that it ran.
        last: the last line that it printed.
    """

    command: Command
    code: int | None
    seconds: float
    last: str

    @property
    def failed(self) -> bool:
        return self.command.counts and self.code != 0

    @property
    def line(self) -> str:
        result = "box closed" if self.code is None else f"failed ({self.code})" if self.code else "ok"
        return f"{self.command.name:24} {result:12} {self.seconds:5.0f} s  {self.last}"


def run(
    stages: Sequence[Stage],
    seconds: float,
    folder: Path,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Stage after stage within ``seconds``, about; 0 if every command that counts ended well, else 1.

    What a stage doesn't use of its box goes to the others. An interrupt ends the run, and what ran, with a summary.

    Args:
        folder: for the output, made if need be.
        say: shows a line to people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begin, lines, failed = clock(), [], False
    left = [stage for stage in stages if not stage.left_out]
    try:
        for stage in stages:
            if stage.left_out:
                lines.append(f"{stage.name:24} left out: {stage.left_out}")
                say(lines[-1])
                continue
            box = max(0.0, seconds - (clock() - begin)) * stage.share / sum(other.share for other in left)
            left.remove(stage)
            say(f"{clock() - begin:5.0f} s  {stage.name}, at most {box:.0f} s")
            ended = _run_stage(stage.commands(box), box, folder, clock)
            failed |= any(one.failed for one in ended)
            lines += [one.line for one in ended]
            say("\n".join(one.line for one in ended))
            _write(folder, lines)
    except KeyboardInterrupt:
        lines.append(f"{stage.name:24} interrupted")
        failed = True
    lines += [f"{stage.name:24} not run" for stage in left]
    lines.append(f"{clock() - begin:.0f} s; {'something failed' if failed else 'all is well'}; output is in {folder}")
    _write(folder, lines)
    say("\n".join(["", *lines]))
    return int(failed)


def _run_stage(commands: Sequence[Command], seconds: float, folder: Path, clock: Callable[[], float]) -> list[Ended]:
    begin = clock()
    running: dict[int, subprocess.Popen[bytes]] = {}
    codes: dict[int, tuple[int, float]] = {}
    try:
        for number, command in enumerate(commands):
            with open(_output(folder, command), "wb") as output:
                try:
                    running[number] = _start(command, output)
                except OSError as error:  # the next ones run even so
                    output.write(f"{error}\n".encode())
                    codes[number] = NOT_STARTED, 0.0
        while running.keys() - codes.keys() and clock() - begin < seconds:
            time.sleep(LOOK_EVERY)
            for number in running.keys() - codes.keys():
                if (code := running[number].poll()) is not None:
                    codes[number] = code, clock() - begin
    finally:
        _end([process for number, process in running.items() if number not in codes])
    return [
        Ended(command, *codes.get(number, (None, clock() - begin)), _last_line(_output(folder, command)))
        for number, command in enumerate(commands)
    ]


def _output(folder: Path, command: Command) -> Path:
    return folder / f"{command.name}.txt"


def _start(command: Command, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=passed_on(command.environment),
        start_new_session=True,  # so that whatever it starts can be ended with it
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt these and all that they have started, and end by force what doesn't listen."""
    _signal(processes, "SIGINT")
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    _signal(processes, "SIGKILL")
    for process in processes:
        process.wait()


def _signal(processes: Sequence[subprocess.Popen[bytes]], name: str) -> None:
    """Send this signal to the groups of these; where there are neither, on Windows, end the processes themselves."""
    for process in processes:
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, getattr(signal, name))
            else:
                process.kill()


def _last_line(path: Path) -> str:
    """The last line with anything on it, of the last few kilobytes."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    return next((line[:160] for line in reversed(lines) if line), "")


def _write(folder: Path, lines: Sequence[str]) -> None:
    replace_file(folder / SUMMARY, "".join(f"{line}\n" for line in lines).encode())
