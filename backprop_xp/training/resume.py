"""A run's whole state, to and from checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, module_of
from .batches import Rows
from .checkpoints import Checkpoint, CheckpointError, Folder, read
from .flat import Flat
from .nan import check_parameters

if TYPE_CHECKING:
    from .fit import Run


def load_parameters(net: Any, path: str | os.PathLike[str]) -> None:
    """Put the parameters of a checkpoint into a net, for a new run with other options.

    Raises:
        CheckpointError: it can't be read, or is of another net; the net is as it was.
    """
    found, flat = read(Path(path)), Flat(net.parameters)
    with _fitting(found.path):
        if found.state["run"]["parameters"] != _plain(flat.layout):
            raise ValueError("an array of another net")
        content = _like(flat.data, found.arrays["parameters"])
    flat.data[...] = content


#: Attributes of a net, where it has them, that say what dropout will draw.
NET_STATE = ("seed", "draws")


class Saver:
    """Writes a run's state every so many steps, and puts it back at the start of a resumed run."""

    def __init__(self, run: Run, folder: str | os.PathLike[str], every: int, resume: bool) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"checkpoint_every must be a positive number of steps, got {every!r}")
        self.run, self.every, self.folder = run, every, Folder(folder)
        self._written: int | None = None  # the step of the last checkpoint
        if resume:
            found = self.folder.newest()
            if found is not None:
                self._restore(found)
        elif files := self.folder.files():
            raise CheckpointError(
                f"{self.folder.path} holds {files[0].name} of another run: pass resume=True to go on with it, "
                "or give another folder"
            )

    def after(self, step: int) -> None:
        """Write a checkpoint if it is time."""
        if step % self.every == 0:
            self.write()

    def finish(self) -> None:
        """Write a checkpoint of the run's end, unless it was just written."""
        if self._written != self.run.loop.number:
            self.write()

    def write(self) -> None:
        """Write a checkpoint of the run as it is now."""
        run, loop = self.run, self.run.loop
        if loop.stop_on_nan:  # the last checkpoint is a good one
            check_parameters(loop.net, loop.number, loop.saved)
        run.flat.adopt()
        arrays = {"parameters": run.flat.data} | {f"optimiser.{k}": a for k, a in loop.optimiser.state.items()}
        state: dict[str, Any] = {
            "run": self._description(loop.number),
            "optimiser": _plain(loop.optimiser.settings()),
            "optimiser_steps": loop.optimiser.count,
            "net": {name: getattr(loop.net, name) for name in NET_STATE if hasattr(loop.net, name)},
            "epoch": loop.epoch,
            "position": loop.position,
            "total": float(run.total),
            "samples": run.samples,
            "history": run.history.as_json(),
        }
        if run.stopping is not None:
            state["stopping"] = [run.stopping.epoch, run.stopping.value, run.stopping.waited]
            if run.stopping.best is not None:
                arrays["best"] = run.stopping.best
        loop.saved = self.folder.write(loop.number, {name: _host(a) for name, a in arrays.items()}, state)
        self._written = loop.number

    def _description(self, number: int) -> dict[str, Any]:
        """What must be the same in a run that is resumed after so many steps. The number of epochs may be raised."""
        run, loop = self.run, self.run.loop
        source = loop.batches
        description: dict[str, Any] = {
            "parameters": run.flat.layout,
            "dtype": run.flat.dtype.name,
            "optimiser": run.settings,
            "schedule": [float(loop.schedule(step)) for step in (0, number // 2, number - 1) if step >= 0],
            "early_stopping": repr(run.stopping),
        } | loop.options
        if isinstance(source, Rows):
            description |= {"rows": source.samples, "batch_size": source.batch_size}
            description |= {"shuffle": source.shuffle, "seed": source.seed}
        return _plain(description)

    def _restore(self, found: Checkpoint) -> None:
        run, loop, state = self.run, self.run.loop, found.state
        self._compare(found)
        with _fitting(found.path):  # nothing is changed unless all of it fits
            arrays = {"parameters": run.flat.data}
            arrays |= {f"optimiser.{name}": array for name, array in loop.optimiser.state.items()}
            contents = {name: _like(array, found.arrays[name]) for name, array in arrays.items()}
            best = _like(run.flat.data, found.arrays["best"]) if "best" in found.arrays else None
            options = {name: _tuple(state["optimiser"][name]) for name in loop.optimiser.options}
            count, epoch, position = (int(state[name]) for name in ("optimiser_steps", "epoch", "position"))
            total, samples = float(state["total"]), int(state["samples"])
            history, drawn = type(run.history).from_json(state["history"]), dict(state["net"])
            stopping = None if run.stopping is None else [*map(float, state["stopping"])]
        for name, array in arrays.items():
            array[...] = contents[name]
        for target, values in ((loop.optimiser, options), (loop.net, drawn)):  # a callback may have changed options
            for name, value in values.items():
                setattr(target, name, value)
        loop.optimiser.count = count
        loop.number, loop.epoch, loop.position, loop.saved = found.step, epoch, position, found.path
        run.total, run.samples, run.history = total, samples, history
        if run.stopping is not None and stopping is not None:
            run.stopping.restore(best, *stopping)

    def _compare(self, found: Checkpoint) -> None:
        with _fitting(found.path):
            now, then = self._description(found.step), dict(found.state["run"])
        for name in now:
            if now[name] != then.get(name):
                raise CheckpointError(
                    f"{found.path} is of another run: its {name} is {then.get(name)!r}, and now it is {now[name]!r}; "
                    "load_parameters(net, path) takes the parameters alone"
                )


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """A sentence for content that is not what a checkpoint of this net holds."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this net") from None


def _like(array: Array, content: np.ndarray) -> Array:
    """The content as an array like this one."""
    if content.shape != array.shape or content.dtype != array.dtype:
        raise ValueError("an array of another net")
    return module_of(array).asarray(content)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _host(array: Array) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array


def _plain(data: Any) -> Any:
    """The data as JSON gives it back: lists for tuples, Python's numbers for NumPy's."""
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data.item() if isinstance(data, np.generic) else data
