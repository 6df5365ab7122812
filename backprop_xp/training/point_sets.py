"""Batches of several point sets at once, each with a loss of its own: the terms of one loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..derivatives.equation import Equation
from ..losses import Loss, get_loss
from ..messages import unknown
from ..numbers import as_seed, flag, is_number, real
from ..operations.base import called
from .batches import Batch, Batches, Rows, as_batches


@dataclass(frozen=True)
class PointSet:
    """Points, and the loss that they contribute: ``weight`` times its mean or sum over them, by the net's reduction.

    A tuple says the same: (x, loss), (x, y) or (x, y, loss), with the weight as a last part if it isn't 1.

    Args:
        x: (n, features), or by name for several inputs.
        y: targets, a row for each point, where the loss takes them.
        loss: a name, a loss or an :class:`backprop_xp.Equation`; None is the net's own.
        weight: a number from 0 on.
        sample_weight: (n,) factors of the points' losses.
    """

    x: Any
    y: Any = None
    loss: Any = None
    weight: float = 1.0
    sample_weight: Any = None


class Parts(NamedTuple):
    """A batch of every point set, by its name.

    Attributes:
        weights: factors of their losses in the sum of all.
    """

    batches: Mapping[str, Batch]
    weights: Mapping[str, float]
    last: bool

    def loss_and_grad(self, net: Any, **shared: Any) -> tuple[Any, Mapping[str, Any]]:
        """The weighted sum of the losses, whose gradients fill the net's, and of each its loss and counts."""
        total: Any = 0.0
        grads: dict[Any, Any] = {}
        terms = {}
        averages = getattr(net, "reduction", "sum") == "mean"
        for name, batch in self.batches.items():
            with named(name):
                loss, _ = batch.loss_and_grad(net, **shared)
            factor = self.weights[name]
            total = total + (loss if factor == 1 else factor * loss)
            terms[name] = loss, batch.counts(net) if averages else batch.samples
            with net.backend.activate():
                for tensor in net.parameters:
                    grad = tensor.grad if factor == 1 else tensor.grad * tensor.grad.dtype.type(factor)
                    grads[tensor] = grads[tensor] + grad if tensor in grads else grad
        for tensor, grad in grads.items():
            tensor.grad = grad
        return total, terms

    @property
    def samples(self) -> int:
        return sum(batch.samples for batch in self.batches.values())

    def counts(self, net: Any) -> int:
        return self.samples

    @property
    def parts(self) -> Mapping[str, Batch]:
        return {f" of {name!r}": batch for name, batch in self.batches.items()}


class PointSets:
    """A source of batches: every step takes some rows of every set.

    A set's rows come ``batch_size`` at a time, in an order that is drawn anew for each pass over it; a set that has no
    more rows comes whole. An epoch has as many steps as the set that needs the most, and the others begin again when
    they are through, so that step k of a run takes batch k modulo its own number of batches of every set.
    """

    def __init__(
        self, net: Any, sets: Mapping[str, PointSet], batch_size: Any, shuffle: bool, seed: int | None
    ) -> None:
        self.net, self.shuffle, self.drawn = net, flag("shuffle", shuffle), seed is None
        self.weights = {name: real(f"the weight of {name!r}", each.weight, 0) for name, each in sets.items()}
        sizes = _sizes(batch_size, sets)
        self.rows: dict[str, Rows] = {}
        for name, each in sets.items():
            with named(name):
                loss = _as_loss(each.loss, net)
                self.rows[name] = Rows(net, each.x, each.y, each.sample_weight, sizes[name], shuffle, 0, loss)
        for rows in self.rows.values():
            rows.shuffle &= rows.steps > 1
        self.steps = max(rows.steps for rows in self.rows.values())
        self.seed = as_seed(seed)

    @property
    def seed(self) -> int:
        """What the order of the rows of all sets depends on."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed = seed
        for k, rows in enumerate(self.rows.values()):
            rows.seed = seed + k

    def epoch(self, number: int, start: int) -> Iterator[Parts]:
        going = {name: _from(rows, number * self.steps + start) for name, rows in self.rows.items()}
        for step in range(start, self.steps):
            batches = {name: next(each) for name, each in going.items()}
            yield Parts(batches, self.weights, step + 1 == self.steps)

    def description(self) -> dict[str, Any]:
        sets = [
            [name, rows.samples, rows.batch_size, self.weights[name], describe(rows.loss)]
            for name, rows in self.rows.items()
        ]
        return {"sets": sets, "shuffle": self.shuffle, "seed": self.seed}


def as_source(net: Any, x: Any, y: Any, weight: Any, batch_size: Any, shuffle: bool, seed: int | None) -> Batches:
    """The source of batches for what was handed to a run."""
    if not is_point_sets(x):
        if isinstance(batch_size, Mapping):
            raise TypeError("batch_size can be a mapping for point sets by name alone: fit({'inside': (x, loss)})")
        return as_batches(net, x, y, weight, batch_size, shuffle, seed)
    if y is not None or weight is not None:
        raise ValueError("point sets hold targets and weights themselves: fit({'wall': (x, y, loss)})")
    return PointSets(net, as_sets(x), batch_size, shuffle, seed)


def is_point_sets(x: Any) -> bool:
    """Whether this is a mapping of point sets, not of inputs by name."""
    return isinstance(x, Mapping) and any(
        isinstance(each, (PointSet, tuple)) or (isinstance(each, list) and any(map(_is_loss, each)))
        for each in x.values()
    )


def as_sets(given: Mapping[str, Any]) -> dict[str, PointSet]:
    """Every point set by its name, from tuples as well."""
    sets = {}
    for name, each in given.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise TypeError(f"a point set's name must be a printable string, got {name!r}")
        with named(name):
            sets[name] = _as_set(each)
    return sets


@contextmanager
def named(name: str) -> Iterator[None]:
    """Say in an error which point set it is about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"point set {name!r}: {error}") from error


def describe(loss: Any) -> Any:
    """A loss in plain texts and numbers, None for the net's own."""
    if isinstance(loss, Equation):
        return [repr(loss), *loss.parameters]
    return None if loss is None else called(loss)


def _as_set(given: Any) -> PointSet:
    if isinstance(given, PointSet):
        return given
    forms = "(x, loss), (x, y) or (x, y, loss), with the weight as a last part if it isn't 1"
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"it must be {forms}, got {type(given).__name__}")
    x, *rest = given or (None,)
    y, loss, weight = None, None, 1.0
    if rest and not _is_loss(rest[0]):
        y = rest.pop(0)
    if rest and _is_loss(rest[0]):
        loss = rest.pop(0)
    if rest and is_number(rest[0]):
        weight = rest.pop(0)
    if x is None or rest or len(given) < 2 or is_number(y):
        raise ValueError(f"it must be {forms}, got {len(given)} parts: {', '.join(map(_shown, given))}")
    return PointSet(x, y, loss, weight)


def _shown(part: Any) -> str:
    if isinstance(part, (str, Equation, Loss)) or is_number(part) or part is None:
        return repr(part)
    return f"{type(part).__name__}{tuple(part.shape)}" if hasattr(part, "shape") else type(part).__name__


def _is_loss(thing: Any) -> bool:
    written = callable(thing) and callable(getattr(thing, "grad", None))
    return isinstance(thing, (str, Equation, Loss)) or written


def _as_loss(given: Any, net: Any) -> Any:
    """The loss as ``loss_and_grad`` takes it: None where it is the net's own, whose calls are kept ready."""
    if given is None or isinstance(given, Equation):
        return given
    loss = get_loss(given)
    own = net.loss
    return None if isinstance(given, str) and type(own) is type(loss) and vars(own) == vars(loss) else loss


def _sizes(batch_size: Any, sets: Mapping[str, PointSet]) -> dict[str, Any]:
    if not isinstance(batch_size, Mapping):
        return dict.fromkeys(sets, batch_size)
    for name in batch_size:
        if name not in sets:
            raise ValueError(f"batch_size names no point set: {unknown('point set', str(name), sets)}")
    if missing := [name for name in sets if name not in batch_size]:
        raise ValueError(f"batch_size must name every point set, and {missing[0]!r} is missing (None: all rows)")
    return dict(batch_size)


def _from(rows: Rows, step: int) -> Iterator[Batch]:
    """The batches of all passes over a set, one after another, from this one on."""
    number, start = divmod(step, rows.steps)
    while True:
        yield from rows.epoch(number, start)
        number, start = number + 1, 0
