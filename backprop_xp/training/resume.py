"""A run's whole state, to and from checkpoints."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Array, module_of
from .batches import Rows
from .checkpoints import Checkpoint, CheckpointError, Folder
from .nan import check_parameters

if TYPE_CHECKING:
    from .fit import Run


#: Attributes of a net, where it has them, that say what dropout will draw.
NET_STATE = ("seed", "draws")


class Saver:
    """Writes a run's state every so many steps, and puts it back at the start of a resumed run."""

    def __init__(self, run: Run, folder: str | os.PathLike[str], every: int, resume: bool) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"checkpoint_every must be a positive number of steps, got {every!r}")
        self.run, self.every, self.folder = run, every, Folder(folder)
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
            "finished": run.finished,
        }
        if run.stopping is not None:
            state["stopping"] = [run.stopping.epoch, run.stopping.value, run.stopping.waited]
            if run.stopping.best is not None:
                arrays["best"] = run.stopping.best
        loop.saved = self.folder.write(loop.number, {name: _host(a) for name, a in arrays.items()}, state)

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
        try:
            self._compare(found)
            arrays = {"parameters": run.flat.data}
            arrays |= {f"optimiser.{name}": array for name, array in loop.optimiser.state.items()}
            for name, array in arrays.items():
                _fill(array, found.arrays[name])
            for name in loop.optimiser.options:  # a callback may have changed them
                value = state["optimiser"][name]
                setattr(loop.optimiser, name, tuple(value) if isinstance(value, list) else value)
            loop.optimiser.count = int(state["optimiser_steps"])
            for name, value in state["net"].items():
                setattr(loop.net, name, value)
            loop.number, loop.epoch, loop.position = found.step, int(state["epoch"]), int(state["position"])
            run.total, run.samples = float(state["total"]), int(state["samples"])
            run.history = type(run.history).from_json(state["history"])
            if run.stopping is not None:
                run.stopping.epoch, run.stopping.value, run.stopping.waited = state["stopping"]
                if "best" in found.arrays:
                    run.stopping.best = run.flat.data.copy()
                    _fill(run.stopping.best, found.arrays["best"])
            run.finished = bool(state["finished"]) and (bool(run.history.stopped) or loop.epoch >= loop.epochs)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise CheckpointError(f"{found.path} is damaged, or no checkpoint of backprop_xp") from None
        loop.saved = found.path

    def _compare(self, found: Checkpoint) -> None:
        now, then = self._description(found.step), found.state["run"]
        for name in now:
            if now[name] != then.get(name):
                raise CheckpointError(
                    f"{found.path} is of another run: its {name} is {then.get(name)!r}, and now it is {now[name]!r}"
                )


def _fill(array: Array, content: np.ndarray) -> None:
    if content.shape != array.shape or content.dtype != array.dtype:
        raise ValueError("an array of another net")
    array[...] = module_of(array).asarray(content)


def _host(array: Array) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array


def _plain(data: Any) -> Any:
    """The data as JSON gives it back: lists for tuples, Python's numbers for NumPy's."""
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data.item() if isinstance(data, np.generic) else data
