"""A command and all it starts, as one group of processes that ends with this process, however this process ends.

A compiler is a driver of several programs, which go on where the driver, or who called it, is killed. So a watcher
(watcher.py) leads the group, and ends it once its parent is no more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

WATCHER = Path(__file__).with_name("watcher.py")
GROUPS = hasattr(os, "killpg")  # whether the system has groups of processes: Windows has none


class Group:
    """One command's group.

    Args:
        folder: deleted where the watcher ends the group; None for a command too short to be watched.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._processes: list[tuple[subprocess.Popen[bytes], bool]] = []  # and whether it leads a group

    def start(self, command: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the command, its output and its messages in one pipe. Raises OSError or RuntimeError."""
        leader = self._watch() if self._folder is not None else None
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": environment}
        try:
            return self._add(command, leader, **pipe)
        except PermissionError:
            if leader is None:
                raise
            return self._add(command, None, **pipe)  # the watcher died at once: its group is no more

    def end(self) -> None:
        """Kill all that is left of it."""
        while self._processes:
            process, leads = self._processes[-1]
            process.kill()  # unless it has ended, as its number may be another's by now
            if leads:
                with contextlib.suppress(OSError):  # none of them is left
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._processes.pop()

    def _watch(self) -> int | None:
        """Start the watcher; returns its group."""
        if not GROUPS or not sys.executable:
            return None
        arguments = (sys.executable, "-I", "-S", str(WATCHER), str(os.getpid()), str(self._folder))
        return self._add(arguments, None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid

    def _add(self, command: tuple[str, ...], group: int | None, **options: Any) -> subprocess.Popen[bytes]:
        if GROUPS:
            options["process_group"] = group or 0
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        self._processes.append((process, GROUPS and group is None))
        return process
