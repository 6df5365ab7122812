"""Many nets that are trained side by side: a grid search, a sweep over seeds, an ensemble."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import later
from .. import threads as pool
from ..backend import on_host
from ..distributed import World
from ..distributed.alike import of_net
from ..distributed.world import TRAINED
from ..keywords import known
from ..numbers import whole
from ..tensor import tensors_of
from . import again
from .again import Runs
from .batches import Rows, is_iterable_of_batches
from .fit import Run, fit, planned, warn_of_defaults
from .history import History
from .nan import DivergedError
from .optimisers import get_optimiser

if TYPE_CHECKING:
    from . import together
else:
    together = later.Module("backprop_xp.training.together")

#: Arguments of :func:`fit`, and what they are if they aren't given.
DEFAULTS = {name: argument.default for name, argument in inspect.signature(fit).parameters.items()}
#: Those that are the ensemble's own, or that nets trained side by side can't have.
OWN = ("net", "x", "y", "world", "progress")
#: Those that nets have copies of.
COPIED = ("optimiser", "early_stopping", "schedule")


class Planned(NamedTuple):
    """A net's training: the arguments of :func:`fit`, and what makes the run, or the runs of nets of its kind."""

    given: dict[str, Any]
    run: partial[Run] | Runs

    def carry_out(self) -> History:
        if isinstance(self.run, Runs):
            return self.run.train(self.given)
        given = self.given
        return self.run().carry_out(given["checkpoint"], given["checkpoint_every"], given["resume"], False)


class Ensemble:
    """Nets that are trained side by side; :func:`ensemble` makes one.

    Attributes:
        nets: of any shapes, on one backend, none of which shares a tensor with another.
        alone: on CuPy, by the numbers of nets that :meth:`fit` has last trained one after another, why.
    """

    def __init__(self, nets: Iterable[Any]) -> None:
        if hasattr(nets, "loss_and_grad"):
            raise TypeError(f"an ensemble is made of several nets, got one {type(nets).__name__}: put it into a list")
        self.nets = list(nets)
        self.alone: dict[int, str] = {}
        self._check()

    def _check(self) -> None:
        """That these are nets on one backend that share nothing, as they are now. Raises ValueError, TypeError."""
        if not self.nets:
            raise ValueError("an ensemble needs at least one net, got none")
        owners: dict[int, int] = {}
        for k, net in enumerate(self.nets):
            if not hasattr(net, "loss_and_grad"):
                raise TypeError(f"an ensemble is made of nets, got {type(net).__name__} at {k}")
            if net.backend.name != self.nets[0].backend.name:
                raise ValueError(
                    f"the nets of an ensemble are on one backend: net 0 on {self.nets[0].backend.name}, "
                    f"net {k} on {net.backend.name}"
                )
            if (first := owners.setdefault(id(net), k)) != k:
                raise ValueError(f"net {first} and net {k} are one net")
            for tensor in tensors_of(net):
                if (first := owners.setdefault(id(tensor), k)) != k:
                    raise ValueError(f"net {first} and net {k} share {tensor.name or 'a tensor'}")

    def __len__(self) -> int:
        return len(self.nets)

    def __call__(self, x: Any) -> Any:
        """The outputs of all nets, (nets, n, outputs), for inputs (n, features); ``.mean(axis=0)`` averages them.

        Raises:
            ValueError: the nets have different numbers of outputs.
        """
        outputs: list[Any] = [None] * len(self.nets)

        def one(k: int) -> None:
            with _of(k):
                outputs[k] = self.nets[k].forward(x)

        _each(range(len(self.nets)), one, self._workers(None))
        widths = [z.shape[-1] for z in outputs]
        if len({*widths}) > 1:
            other = next(k for k, width in enumerate(widths) if width != widths[0])
            raise ValueError(f"net 0 has {widths[0]} outputs, net {other} has {widths[other]}: call each by itself")
        backend = self.nets[0].backend
        with backend.activate():
            return backend.xp.stack(outputs)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        each: Iterable[Mapping[str, Any]] | None = None,
        threads: int | None = None,
        world: World | None = None,
        **options: Any,
    ) -> list[History]:
        """Train every net as :func:`backprop_xp.training.fit` trains it by itself, with the same bits.

        All options, and the shapes of x and y, are checked before any net is trained. A net whose loss is no longer
        finite stops by itself, as its history says; a warning names these. Any other exception ends all training.

        On the CPU each thread trains a net at a time. On CuPy nets of one shape are trained together, each step of all
        in a few launches; those for which that can't be, one after another: :attr:`alone` says which and why.

        Args:
            x, y, options: as for :func:`fit`. Optimisers and early stopping are copied for every net. Callbacks are
                called on several threads. ``checkpoint`` is a folder in which every net has one of its own.
            each: for every net the options that are its own, as in ``[{"seed": 1}, {"seed": 2}]``.
            threads: how many nets are trained at a time; None takes the number that a net would use.
            world: ranks that share out the nets, see :func:`backprop_xp.distributed.world`; afterwards each rank has
                all of them.

        Returns:
            A history for each net; the seconds of an epoch are those of all nets that were trained together.
        """
        self._check()
        if len(self.nets) > 1 and is_iterable_of_batches(x) and isinstance(x, Iterator):
            raise ValueError("every net goes through x, and an iterator can be used once: give a list or a DataLoader")
        workers, own = self._workers(threads), self._options(options, each)
        histories: list[History | None] = [None] * len(self.nets)
        mine = range(len(self.nets)) if world is None else self._of_rank(world)
        backend = self.nets[0].backend
        with backend.activate():
            plans = self._plans(x, y, {k: own[k] for k in mine})
            if backend.on_gpu:
                self._together(plans, histories)

        def one(k: int) -> None:
            plan = plans.pop(k)
            try:
                with backend.activate():
                    histories[k] = plan.carry_out()
            except DivergedError as error:
                histories[k] = error.history
            except Exception as error:
                error.add_note(f"in the training of net {k}")
                raise

        _each([*plans], one, workers)
        if world is not None:
            self._tell(world, mine, histories)
        found = [history for history in histories if history is not None]
        diverged = [k for k, history in enumerate(found) if history.stopped.startswith(DivergedError.__name__)]
        if diverged:
            named = ", ".join(map(str, diverged[:10])) + (", ..." if len(diverged) > 10 else "")
            message = f"{len(diverged)} of {len(found)} nets diverged: {named}; see the stopped of each history"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        return found

    def _options(self, shared: Mapping[str, Any], each: Iterable[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        own: list[Mapping[str, Any]] = [{}] * len(self.nets) if each is None else [*each]
        if isinstance(each, Mapping) or not all(isinstance(options, Mapping) for options in own):
            raise TypeError(
                'each must be a list of options by name, a dictionary a net, as in [{"seed": 1}, {"seed": 2}]'
            )
        if len(own) != len(self.nets):
            raise ValueError(f"each must hold options for every net, {len(self.nets)}, got {len(own)}")
        found = []
        for k in range(len(self.nets)):
            for name in OWN:
                if name in shared or name in own[k]:
                    raise TypeError(f"{name} is the ensemble's, not an option of its nets")
            with _of(k):
                options = known("fit", [*DEFAULTS], dict(shared)) | known("fit", [*DEFAULTS], dict(own[k]))
            for name in COPIED:
                if name in options and not callable(options[name]):
                    options[name] = copy.deepcopy(options[name])
            if options.get("checkpoint") is not None:
                name = f"net-{k:0{len(str(len(self.nets) - 1))}d}"
                options["checkpoint"] = Path(os.fspath(options["checkpoint"]), name)
            found.append(options)
        return found

    def _plans(self, x: Any, y: Any, own: Mapping[int, dict[str, Any]]) -> dict[int, Planned]:
        """What each net is to be trained by. Nets of one kind read the same arrays."""
        plans: dict[int, Planned] = {}
        data: dict[Any, Any] = {}
        runs: dict[str, Runs] = {}
        for k, options in own.items():
            net, given = self.nets[k], DEFAULTS | options
            reads = getattr(net, "dtype", None), getattr(getattr(net, "loss", None), "takes_indices", None)
            given["net"], (given["x"], given["y"]) = net, data.get(reads, (x, y))
            with _of(k):
                given["optimiser"] = get_optimiser(given["optimiser"])
                kind = None if net.backend.on_gpu else again.kind(given)
                if kind is not None and kind in runs:
                    again.check(given)
                    plans[k] = Planned(given, runs[kind])
                else:
                    run = planned(given)
                    plans[k] = Planned(given, run)
                    if isinstance(rows := run.args[0].batches, Rows):
                        _check_shapes(net, rows)
                        data[reads] = rows.x, rows.y
                        if kind is not None:
                            runs[kind] = Runs()
            warn_of_defaults(net)
        for plan in plans.values():
            if (folder := plan.given["checkpoint"]) is not None:
                folder.parent.mkdir(parents=True, exist_ok=True)
        return plans

    def _together(self, plans: dict[int, Planned], histories: list[History | None]) -> None:
        """Train, and take out of the plans, nets on a CUDA device that write no checkpoints."""
        self.alone = {k: "it writes checkpoints" for k, plan in plans.items() if plan.given["checkpoint"] is not None}
        runs = {k: plan.run() for k, plan in plans.items() if k not in self.alone and isinstance(plan.run, partial)}
        self.alone |= together.train(runs)
        for k, run in runs.items():
            histories[k] = run.history
            del plans[k]

    def _workers(self, wanted: int | None) -> int:
        if wanted is not None:
            wanted = whole("threads", wanted, 1)
        return 1 if self.nets[0].backend.on_gpu else pool.count(wanted or getattr(self.nets[0], "threads", None))

    def _of_rank(self, world: World) -> range:
        world.agree({f"net {k}: {name}": fact for k, net in enumerate(self.nets) for name, fact in of_net(net).items()})
        return range(world.rank, len(self.nets), world.size)

    def _tell(self, world: World, mine: range, histories: list[History | None]) -> None:
        """Bring what every rank has trained to all of them: a line of JSON, then the numbers of its nets."""
        told, numbers = [], []
        for k in mine:
            history, net = histories[k], self.nets[k]
            assert history is not None
            told.append({"net": k, "history": history.as_json(), "draws": getattr(net, "draws", None)})
            numbers += [np.ascontiguousarray(on_host(tensor.data)).tobytes() for tensor in tensors_of(net)]
        message = json.dumps(told).encode() + b"\n" + b"".join(numbers)
        for rank, data in enumerate(world.gather(TRAINED, np.frombuffer(message, np.uint8))):
            if rank == world.rank:
                continue
            line, _, rest = data.tobytes().partition(b"\n")
            at = 0
            for one in json.loads(line):
                k, net = one["net"], self.nets[one["net"]]
                state, epochs = one["history"], one["history"]["epochs"]
                last = epochs[-1]["step"] if epochs else 0
                histories[k] = History.from_json(state, len(epochs), last, state["seed"])
                if one["draws"] is not None:
                    net.draws = one["draws"]
                with net.backend.activate():
                    for tensor in tensors_of(net):
                        shape, dtype = tensor.data.shape, tensor.data.dtype
                        found = np.frombuffer(rest, dtype, math.prod(shape), at).reshape(shape)
                        tensor.data[...] = net.backend.xp.asarray(found)
                        at += found.nbytes


def _check_shapes(net: Any, rows: Rows) -> None:
    """That a net takes such rows; nets that others wrote say so as they are trained. Raises ValueError, TypeError."""
    if hasattr(net, "_call"):
        x, y = rows.first()
        try:
            _check_call(net, x, y)
        except ValueError:
            _check_call(net, rows.as_many(x, net.dtype), rows.as_many(y))  # for the message to tell the shapes given
            raise


def _check_call(net: Any, x: Any, y: Any) -> None:
    net._aim(net._call(x, False, False, net.loss), y, None)


@contextmanager
def _of(k: int) -> Iterator[None]:
    """Let exceptions about what was given say which net it was given to."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if type(error) not in (TypeError, ValueError):
            raise
        raise type(error)(f"net {k}: {error}") from None


def _each(numbers: Sequence[int], work: Callable[[int], None], workers: int) -> None:
    """Do the work for every number, on at most this many threads at once. An exception ends it early."""
    left = iter(numbers)

    def take() -> None:
        for number in left:  # next() of such an iterator is one step of C: no two threads get the same
            pool.check()
            work(number)

    pool.run(take, max(1, min(workers, len(numbers))), pool.Stop(), long=True)


def ensemble(nets: Iterable[Any]) -> Ensemble:
    """Nets that are trained side by side; each gets the bits of training it alone.

        histories = ensemble(Net((8, 16, 1), rng=seed) for seed in range(100)).fit(x, y, epochs=20)

    Args:
        nets: of any shapes, on one backend, none of which shares a tensor with another.

    Raises:
        ValueError, TypeError: they are something else.
    """
    return Ensemble(nets)
