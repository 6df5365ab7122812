"""A run's whole state, to and from checkpoints."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Array, module_of, on_host
from ..numbers import any_real, is_number, whole
from .buffers import Buffers
from .checkpoints import MOST_STEPS, Checkpoint, CheckpointError, Folder, read
from .flat import Flat
from .history import History
from .nan import check_parameters
from .optimiser import Optimiser


def load_parameters(net: Any, path: str | os.PathLike[str]) -> None:
    """Put the parameters and buffers of a checkpoint into a net, for a new run with other options.

    Raises:
        CheckpointError: it can't be read, or is of another net; the net is as it was.
    """
    found, flat = read(Path(path)), Flat(net.parameters)
    with _fitting(found.path):
        if found.state["run"]["parameters"] != _plain(flat.layout):
            raise ValueError("an array of another net")
        content = _like(flat.data, found.arrays["parameters"])
        buffers = Buffers(net, flat)
        kept = _kept_buffers(buffers, found)
    flat.data[...] = content
    if kept is not None:
        buffers.restore(kept)


#: Attributes of a net, where it has them, that say what dropout will draw.
NET_STATE = ("seed", "draws")


class Saver:
    """Writes a run's state after every ``every`` steps, and puts it back at the start of a resumed run.

    ``run`` is a :class:`backprop_xp.training.fit.Run`. The folder must be locked; ranks but the first have none, and
    read what the first one reads.
    """

    def __init__(self, run: Any, folder: Folder | None, every: int, resume: bool) -> None:
        self.run, self.every, self.folder = run, whole("checkpoint_every", every, 1), folder
        self._written: int | None = None  # the step of the last checkpoint
        if resume:
            found = run.ranks.read(folder)
            if found is not None:
                self._restore(found)
        elif folder is not None and (files := folder.files()):
            raise CheckpointError(
                f"{folder.path} holds {files[0].name} of another run: pass resume=True to go on with it, "
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
        loop.settle()
        if loop.options.stop_on_nan:  # the last checkpoint is a good one
            check_parameters(loop.net, loop.number, loop.saved)
        loop.optimiser.bind(loop.net.parameters).adopt()  # with the state that changed options need
        kept = loop.optimiser.whole_state()
        if self.folder is None:
            self._written = loop.number
            return
        arrays = {"parameters": run.flat.data} | {f"optimiser.{k}": a for k, a in kept.items()}
        state: dict[str, Any] = {
            "run": self._description() | self._schedule(loop.number),
            "optimiser": _plain(loop.optimiser.settings()),
            "optimiser_steps": loop.optimiser.count,
            "net": {name: whole(name, getattr(loop.net, name)) for name in NET_STATE if hasattr(loop.net, name)},
            "epoch": loop.epoch,
            "position": loop.position,
            "total": float(run.total),
            "weight": float(run.weight),
            "terms": {name: [float(total), float(weight)] for name, (total, weight) in run.terms.items()},
            "history": run.history.as_json(),
        }
        buffers = run.buffers.content()
        if buffers is not None:
            arrays["buffers"] = buffers
        if run.stopping is not None:
            stopping = run.stopping
            state["stopping"] = [stopping.epoch, stopping.value, stopping.waited, stopping.not_finite]
            if stopping.best is not None:
                arrays["best"] = stopping.best
        loop.saved = self.folder.write(loop.number, {name: on_host(a) for name, a in arrays.items()}, state)
        self._written = loop.number

    def _schedule(self, number: int) -> dict[str, Any]:
        """What the schedule came to within ``number`` steps, which must be the same in a run that is resumed."""
        schedule = self.run.loop.schedule
        return {"schedule": [float(schedule(step)) for step in (0, number // 2, number - 1) if step >= 0]}

    def _description(self) -> dict[str, Any]:
        """What else must be the same in a run that is resumed. The number of epochs may be raised."""
        run, loop = self.run, self.run.loop
        description: dict[str, Any] = {
            "parameters": run.flat.layout,
            "dtype": run.flat.dtype.name,
            "optimiser": run.settings,
            "early_stopping": repr(run.stopping),
        } | loop.options.of_steps
        return _plain(description | loop.batches.description())

    def _restore(self, found: Checkpoint) -> None:
        run, loop, state = self.run, self.run.loop, found.state
        with _fitting(found.path):
            run.go_on_with(state["run"].get("seed"))
        self._compare(found, self._description())
        with _fitting(found.path):
            epoch, position = _place(state, found.step, loop.batches.steps)
        self._compare(found, self._schedule(found.step))
        with _fitting(found.path):  # nothing is changed unless all of it fits
            parameters = _like(run.flat.data, found.arrays["parameters"])
            buffers = _kept_buffers(run.buffers, found)
            best = _like(run.buffers.with_parameters(), found.arrays["best"]) if "best" in found.arrays else None
            options = _options(loop.optimiser, state["optimiser"])
            count = whole("optimiser_steps", state["optimiser_steps"], found.step, MOST_STEPS)
            arrays = _state_arrays(loop.optimiser, options, found, run.flat.data)
            drawn = {name: whole(name, state["net"][name]) for name in _net_state(loop.net, state["net"])}
            total, weight = any_real("total", state["total"]), any_real("weight", state["weight"])
            terms = _terms(state.get("terms", {}))
            history = History.from_json(state["history"], epoch, found.step, run.history.seed)
            stopping = None if run.stopping is None else _stopping(state["stopping"], epoch, best is not None)
        run.flat.data[...] = parameters
        if buffers is not None:
            run.buffers.restore(buffers)
        loop.optimiser.restore(options, count, arrays)
        for name, value in drawn.items():
            setattr(loop.net, name, value)
        loop.number, loop.epoch, loop.position, loop.saved = found.step, epoch, position, found.path
        run.total, run.weight, run.terms, run.history = total, weight, terms, history
        if run.stopping is not None and stopping is not None:
            run.stopping.restore(best, *stopping)

    def _compare(self, found: Checkpoint, now: dict[str, Any]) -> None:
        then = found.state["run"]
        for name in now:
            if now[name] != then.get(name):
                raise CheckpointError(
                    f"{found.path} is of another run: its {name} is {then.get(name)!r}, and now it is {now[name]!r}; "
                    "load_parameters(net, path) takes the parameters alone"
                )


def _net_state(net: Any, saved: dict[str, Any]) -> list[str]:
    """The names of NET_STATE that a net needs, and others that were saved of it."""
    draws = hasattr(net, "_plan") and net._plan().drawing
    return [name for name in NET_STATE if hasattr(net, name) and (draws or name in saved)]


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """A sentence for content that is not what a checkpoint of this net holds."""
    try:
        yield
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this net: it has no {error}") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} is damaged, or no checkpoint of this net: {error}") from None


def _place(state: dict[str, Any], step: int, steps: int | None) -> tuple[int, int]:
    """The epoch and the position in it of the next step, after ``step`` steps; ``steps`` make an epoch."""
    epoch, position = whole("epoch", state["epoch"]), whole("position", state["position"])
    if steps is None:
        possible = position == step if epoch == 0 else epoch + position <= step
    else:
        possible = position < steps and epoch * steps + position == step
    if not possible:
        raise ValueError(f"after {step} steps a run can't be at position {position} of epoch {epoch}")
    return epoch, position


def _options(optimiser: Optimiser, saved: dict[str, Any]) -> dict[str, Any]:
    """The optimiser's options as a checkpoint has them, each of the kind that it is now."""
    options = {name: tuple(saved[name]) if isinstance(saved[name], list) else saved[name] for name in optimiser.options}
    for name, value in options.items():
        present = getattr(optimiser, name)
        if not (isinstance(value, type(present)) or (is_number(value) and is_number(present))):
            raise ValueError(f"{name} of {type(optimiser).__name__} can't be {value!r}")
    return options


def _state_arrays(optimiser: Optimiser, options: dict[str, Any], found: Checkpoint, like: Array) -> dict[str, Array]:
    """The optimiser's state arrays, which are those that its rule needs with these options."""
    trial = copy.copy(optimiser)
    trial.restore(options, 0, {})
    prefix = "optimiser."
    saved = {name.removeprefix(prefix): array for name, array in found.arrays.items() if name.startswith(prefix)}
    shapes = trial.state_shapes(saved, like.size)
    return {name: _like(module_of(like).empty(shape, like.dtype), saved[name]) for name, shape in shapes.items()}


def _terms(saved: Any) -> dict[str, tuple[float, float]]:
    """What the losses of several point sets have come to in this epoch."""
    return {
        name: (any_real(f"the loss of {name!r}", total), any_real(f"the weight of {name!r}", weight))
        for name, (total, weight) in saved.items()
    }


def _stopping(saved: Any, epochs: int, has_best: bool) -> tuple[int, float, int, int]:
    """What early stopping was at: the best epoch, its loss, and how many epochs since, of them not finite."""
    best, value, waited, not_finite = saved
    least, most = (1, epochs) if has_best else (0, 0)
    waited = whole("waited", waited, 0, epochs)
    return (
        whole("the best epoch", best, least, most),
        any_real("the best loss", value),
        waited,
        whole("not_finite", not_finite, 0, waited),
    )


def _kept_buffers(buffers: Buffers, found: Checkpoint) -> Array | None:
    """A checkpoint's buffers, None for a net without."""
    now = buffers.content()
    return None if now is None else _like(now, found.arrays["buffers"])


def _like(array: Array, content: np.ndarray) -> Array:
    """The content as an array like this one."""
    if content.shape != array.shape or content.dtype != array.dtype:
        raise ValueError("an array of another net")
    return module_of(array).asarray(content)


def _plain(data: Any) -> Any:
    """The data as JSON gives it back: lists for tuples, Python's numbers for NumPy's."""
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    return data.tolist() if isinstance(data, (np.generic, np.ndarray)) else data
