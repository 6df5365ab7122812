"""Where batches come from: arrays, sparse or on disk where they are larger than memory, or any iterable of batches."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backend import Array, Backend
from ..distributed.share import Share
from ..distributed.world import World
from ..frames import is_sparse
from ..losses import SoftmaxCrossEntropy, get_loss
from ..losses.base import product
from ..numbers import as_seed, flag, whole

READ_AHEAD = 1 << 17  # bytes that Linux reads around one that is missing
#: How many orders of rows are kept for other runs with the same seed, such as those of an ensemble, and of how many
#: samples at most: 16 MiB in all.
KEPT_ORDERS, KEPT_SAMPLES = 64, 1 << 15


class Batch(NamedTuple):
    """One batch, and whether it is the epoch's last.

    Attributes:
        loss: instead of the net's own.
        share: where these are one rank's rows of a batch alone, of which batch: a Share of backprop_xp.distributed.
    """

    x: Any
    y: Any
    weight: Any
    last: bool
    loss: Any = None
    share: Any = None

    def loss_and_grad(self, net: Any, **shared: Any) -> tuple[Any, Mapping[str, Any] | None]:
        """The loss, whose gradients fill the net's, and None for the losses of several terms by name."""
        other = {} if self.loss is None else {"loss": self.loss}
        shared = shared if self.share is None else {"world": self.share}
        return net.loss_and_grad(self.x, self.y, sample_weight=self.weight, **other, **shared), None

    @property
    def samples(self) -> int:
        if self.share is not None:
            return self.share.samples
        first = next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        return first.shape[0] if hasattr(first, "shape") else len(first)

    def counts(self, net: Any) -> Any:
        """What its samples count for in a mean, all together; on CuPy it may be a 0-d array."""
        loss = get_loss(net.loss) if self.loss is None else self.loss
        counted = isinstance(loss, SoftmaxCrossEntropy) and loss.settings and self.y is not None
        if self.weight is None and not counted:
            return self.samples
        with net.backend.activate():
            weight = None if self.weight is None else net.backend.asarray(self.weight, None, "sample_weight")
            counts = loss.counts(net.backend.asarray(self.y, None, "y"), net.dtype) if counted else None
            both = product(weight, counts)
            if both is None:
                return self.samples
            return (both if self.share is None else self.share.everywhere(both)).sum(dtype=np.float64)

    @property
    def parts(self) -> Mapping[str, Batch]:
        """Its terms, each with a clause that names it."""
        return {"": self}


class AnyBatch(Protocol):
    """What a step is made of; :class:`Batch` says what these are."""

    @property
    def last(self) -> bool: ...
    @property
    def samples(self) -> int: ...
    @property
    def parts(self) -> Mapping[str, Batch]: ...
    def loss_and_grad(self, net: Any, **shared: Any) -> tuple[Any, Mapping[str, Any] | None]: ...
    def counts(self, net: Any) -> Any: ...


class Batches(Protocol):
    """A source of batches. ``steps`` is how many an epoch has, None where that is unknown."""

    @property
    def steps(self) -> int | None: ...

    def epoch(self, number: int, start: int) -> Iterator[AnyBatch]:
        """The batches of this epoch, without the first ``start``."""
        ...

    def description(self) -> dict[str, Any]:
        """What must be the same in a run that is resumed."""
        ...


class Rows:
    """Batches of the rows of arrays, shuffled for each epoch by its number and the seed alone.

    Arrays in memory are brought to the net's backend and dtype at once. Of a ``numpy.memmap`` only a batch's rows
    are read at a time, and of a sparse ``x`` only a batch's rows become an array.

    Attributes:
        x, y, weight: all rows; y and weight None where there are none.
        samples, steps: in an epoch.
        last_samples: of an epoch's last step.
        loss: which takes the targets, where it isn't the net's own.
        seed: the one given, or one that was drawn, where None was given; then ``drawn`` is true.
        world: ranks that share out every batch, of which this one takes its own rows alone; None without.
    """

    world: World | None = None

    def __init__(
        self,
        net: Any,
        x: Any,
        y: Any,
        weight: Any,
        batch_size: int | None,
        shuffle: bool = True,
        seed: int | None = 0,
        loss: Any = None,
    ) -> None:
        self.shuffle, self.loss = flag("shuffle", shuffle), loss
        self.drawn, self.seed = seed is None, as_seed(seed)
        at_once = None if batch_size is None else whole("batch_size", batch_size, 1)
        loss = get_loss(net.loss) if loss is None else loss
        if y is None and getattr(loss, "needs_target", False):
            raise ValueError(f"the loss {getattr(loss, 'name', type(loss).__name__)} needs a target: fit(x, y)")
        self.backend: Backend = net.backend
        self._dtype = net.dtype
        self._net = net
        self.x = _each(x, self._input, "x")
        self.y = _each(y, lambda a, name: self._target(a, loss, net.dtype, name), "y")
        self.weight = None if weight is None else self._array(weight, net.dtype, "sample_weight")
        for array in self.x.values() if isinstance(self.x, dict) else [self.x]:
            if array.ndim < 2:
                raise ValueError(f"x must be (n, features), a sample a row, got shape {array.shape}")
        self.samples = self._count()
        self.batch_size = self.samples if at_once is None else at_once
        self.steps = -(-self.samples // self.batch_size)
        self.last_samples = self.samples - (self.steps - 1) * self.batch_size

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        order = None
        if self.shuffle:
            order = self.order(number)
            if self.backend.on_gpu and not any(mapping(c) or is_sparse(c) for c in self._columns()):
                with self.backend.activate():
                    order = self.backend.xp.asarray(order)
        with _read_at_random(self._columns() if self.shuffle else ()):
            for step in range(start, self.steps):
                first = step * self.batch_size
                share = self._share(step)
                own = slice(0, self.batch_size) if share is None else share.rows()
                rows = slice(first + own.start, first + own.stop)
                chosen = rows if order is None else order[rows]
                x, y, weight = (_each(column, self._take, chosen) for column in (self.x, self.y, self.weight))
                yield Batch(x, y, weight, step + 1 == self.steps, self.loss, share)

    def _share(self, step: int) -> Share | None:
        """What of this batch of an epoch the rank computes; None without ranks."""
        if self.world is None:
            return None
        samples = min(self.batch_size, self.samples - step * self.batch_size)
        return Share(self.world, samples, sum(tensor.data.size for tensor in self._net._places()))

    def first(self) -> tuple[Any, Any]:
        """x and y of the first row, as a batch of it would hold them."""
        x, y = (_each(column, self._take, slice(0, 1)) for column in (self.x, self.y))
        return x, y

    def as_many(self, row: Any, dtype: Any = None) -> Any:
        """What :meth:`first` gave, as often as there are rows, in the memory of one."""

        def repeated(array: Any, _: None) -> Any:
            return np.broadcast_to(array.astype(dtype or array.dtype), (self.samples, *array.shape[1:]))

        return _each(row, repeated, None)

    def order(self, number: int) -> np.ndarray:
        """The rows (samples,) int64 in the order in which this epoch takes them."""
        if not self.shuffle:
            return np.arange(self.samples, dtype=np.int64)
        shuffled = _shuffled if self.samples <= KEPT_SAMPLES else _shuffled.__wrapped__
        return shuffled(self.seed, number, self.samples)

    def description(self) -> dict[str, Any]:
        sizes = {"rows": self.samples, "batch_size": self.batch_size}
        return sizes | {"shuffle": self.shuffle, "seed": self.seed}

    def _columns(self) -> list[Array]:
        columns: list[Array] = []
        for part in (self.x, self.y, self.weight):
            columns += part.values() if isinstance(part, dict) else [] if part is None else [part]
        return columns

    def _count(self, fewest: int = 1) -> int:
        columns = self._columns()
        counts = {column.shape[0] if column.ndim else 0 for column in columns}
        if len(counts) != 1 or min(counts) < fewest:
            shapes = ", ".join(str(column.shape) for column in columns)
            least = ", at least one" if fewest else ""
            raise ValueError(f"x, y and sample_weight must have the same number of rows{least}; got {shapes}")
        return counts.pop()

    def _input(self, data: Any, what: str) -> Any:
        return data.tocsr() if is_sparse(data) else self._array(data, self._dtype, what)

    def _take(self, array: Any, rows: Any) -> Array:
        if is_sparse(array):
            return self.backend.asarray(array[rows], self._dtype, "x")
        return array[rows] if isinstance(rows, slice) else array.take(rows, axis=0)

    def _array(self, data: Any, dtype: Any, what: str) -> Array:
        if mapping(data) is not None:
            return data.view(np.ndarray)
        return self.backend.asarray(data, dtype, what)

    def _target(self, data: Any, loss: Any, dtype: Any, what: str) -> Array:
        array = self._array(data, None, what)
        if mapping(array) is not None:
            return array
        indices = getattr(loss, "takes_indices", False) and array.ndim == 1 and array.dtype.kind in "biu"
        with self.backend.activate():
            return array.astype(np.int64 if indices else dtype, copy=False)


class Stream:
    """The batches of any iterable: (x, y), (x, y, sample_weight), or x alone where the loss takes no target."""

    steps = None

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        given = islice(self._batches, start, None)
        try:
            ahead = _parts(next(given))
        except StopIteration:
            after = f" after its first {start}" if start else ""
            again = " again: an iterator can be used once, a list or a DataLoader many times" if number else ""
            raise ValueError(f"the iterable gave no batch{after} in epoch {number + 1}{again}") from None
        for following in given:
            yield Batch(*ahead, last=False)
            ahead = _parts(following)
        yield Batch(*ahead, last=True)

    def description(self) -> dict[str, Any]:
        return {}


def as_batches(
    net: Any, x: Any, y: Any, weight: Any, batch_size: int | None, shuffle: bool, seed: int | None
) -> Rows | Stream:
    """The source of batches for what was handed to a run."""
    if x is None:
        raise TypeError("x must be an array, arrays by name, or an iterable of batches, got None")
    if not is_iterable_of_batches(x):
        return Rows(net, x, y, weight, batch_size, shuffle, seed)
    if y is not None or weight is not None:
        raise ValueError("an iterable of batches holds targets and weights itself: give x alone")
    return Stream(x)


def mapping(array: Any) -> mmap.mmap | None:
    """The file, mapped to memory, that the array's numbers lie in; None where they lie in memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


@contextmanager
def _read_at_random(columns: Sequence[Array]) -> Iterator[None]:
    """Tell the system that rows are read in no order: it would read a hundred kilobytes around every one of them."""
    files = [file for column in columns if (file := mapping(column)) is not None and column[:1].nbytes < READ_AHEAD]
    if not hasattr(mmap, "MADV_RANDOM"):
        files = []
    for file in files:
        file.madvise(mmap.MADV_RANDOM)
    try:
        yield
    finally:
        for file in files:
            file.madvise(mmap.MADV_NORMAL)


def is_iterable_of_batches(x: Any) -> bool:
    if isinstance(x, dict) or any(hasattr(x, name) for name in ("shape", "__array__", "__dlpack__")):
        return False
    if isinstance(x, (list, tuple)):
        return bool(x) and isinstance(x[0], (tuple, list)) and bool(x[0]) and hasattr(x[0][0], "shape")
    return hasattr(x, "__iter__")


def _parts(batch: Any) -> tuple[Any, Any, Any]:
    if not isinstance(batch, (tuple, list)):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        raise ValueError(f"a batch is x, (x, y) or (x, y, sample_weight), got {len(batch)} parts")
    return (*batch, None, None)[:3]


def _each(data: Any, function: Any, argument: Any) -> Any:
    """The function of an array, or of each of the arrays that nets with several inputs or outputs take by name."""
    if isinstance(data, dict):
        return {name: function(array, argument) for name, array in data.items()}
    return None if data is None else function(data, argument)


@lru_cache(maxsize=KEPT_ORDERS)
def _shuffled(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order (samples,) int64 of the rows in this epoch, which nobody may change."""
    order = np.random.default_rng((seed, epoch)).permutation(samples)
    order.flags.writeable = False
    return order
