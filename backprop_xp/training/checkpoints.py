"""Checkpoints: a run's state in a folder, written so that a crash at any moment leaves a whole one behind.

A checkpoint is an .npz file of plain arrays and a JSON text, without pickle. The last two are kept.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import TEMPORARY, kind, replacing
from ..numbers import whole
from .lock import Lock

KEPT = 2
MOST_STEPS = 10**12 - 1  # what fits into a name
FORMAT = "backprop_xp checkpoint 2"
LARGEST_TEXT = 1 << 26  # bytes of JSON: the history of a very long run
NAME = re.compile(r"checkpoint-(\d{12})\.npz")

#: What reading a file of other content ends in, besides OSError.
UNREADABLE = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, SyntaxError, MemoryError, OverflowError, RecursionError,
    NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


class CheckpointError(RuntimeError):
    """A checkpoint can't be written or read; the message says why, and which one is still good."""


class Checkpoint(NamedTuple):
    """What was read: the step, the arrays, and the rest of the state."""

    path: Path
    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class Folder:
    """The checkpoints of one run, in a folder of their own; in a ``with`` block no other run can use it.

    Raises:
        CheckpointError: it can't be written to, or, from the block, another run is using it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise CheckpointError(f"checkpoints can't be written to {self.path}: {error.strerror}") from None

    def __enter__(self) -> Folder:
        try:
            self._lock = Lock(self.path)
        except OSError as error:
            raise CheckpointError(f"checkpoints can't be written to {self.path}: {error.strerror}") from None
        if self._lock.certain:
            for path in self.path.glob(f"{TEMPORARY}*"):  # of a process that was killed
                with suppress(OSError):
                    path.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def files(self) -> list[Path]:
        """Every checkpoint, the newest first."""
        return sorted((path for path in self.path.iterdir() if NAME.fullmatch(path.name)), reverse=True)

    def write(self, step: int, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, and remove those before the last two.

        Raises:
            CheckpointError: it can't be written; those before it are untouched.
        """
        target = self.path / f"checkpoint-{step:012d}.npz"
        text = json.dumps({"format": FORMAT, "step": step} | dict(state))
        content = {"state": np.frombuffer(text.encode(), np.uint8)} | dict(arrays)
        try:
            with replacing(target) as file:
                np.savez(file, **content)
        except OSError as error:
            good = next((f"; {path.name} is still good" for path in self.files() if path != target), "")
            raise CheckpointError(f"checkpoint {target} can't be written: {error.strerror or error}{good}") from None
        for path in self.files()[KEPT:]:
            with suppress(OSError):
                path.unlink()
        return target

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, with a warning about each that can't; None where there is none.

        Raises:
            CheckpointError: there are some, and none can be read.
        """
        files, reason = self.files(), ""
        for path in files:
            try:
                return read(path)
            except CheckpointError as error:
                reason = str(error)
                if path != files[-1]:
                    warnings.warn(f"{reason}; going back to the one before it", RuntimeWarning, stacklevel=4)
        if files:
            raise CheckpointError(f"no checkpoint in {self.path} can be read: {reason}")
        return None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint whole. Raises CheckpointError where it is truncated, damaged, or something else."""
    try:
        if what := kind(path.stat()):
            raise CheckpointError(f"{path} can't be read: {what} stands there")
        with np.load(path, allow_pickle=False) as archive:
            if "state" not in archive.files or archive.zip is None:
                raise CheckpointError(f"{path} is no checkpoint of backprop_xp")
            sizes = {info.filename: info.file_size for info in archive.zip.infolist()}
            if sum(sizes.values()) > 2 * path.stat().st_size + LARGEST_TEXT or sizes["state.npy"] > LARGEST_TEXT:
                raise CheckpointError(f"{path} is no checkpoint of backprop_xp: it is packed, and these never are")
            state = json.loads(archive["state"].tobytes())
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no checkpoint of this version of backprop_xp")
            arrays = {name: archive[name] for name in archive.files if name != "state"}
            return Checkpoint(path, whole("step", state["step"], 0, MOST_STEPS), arrays, state)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror or error}") from None
    except UNREADABLE:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of backprop_xp") from None
