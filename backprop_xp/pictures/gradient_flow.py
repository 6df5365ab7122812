"""How large signals and gradients are on their way through a net, at a glance."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import axes as drawing
from ..backend import NUMPY
from ..drawn import computed

#: The share of the output's gradient that the first layer's has, below which gradients are said to vanish, and above
#: which to explode: a rule of thumb.
VANISHED, EXPLODED = 1e-3, 1e3
SPAN = 100  # the largest of an axis over its smallest, at least: a factor of two looks small
MOST_NAMED = 20  # nodes, up to which each has its name


class GradientFlow:
    """How large a net's signals and their gradients are, node by node: now, and after every epoch of a run.

    It looks once when it is made, and again wherever it is called; ``fit`` does so after every epoch if it is one of
    its callbacks::

        flow = GradientFlow(net, x, y)
        net.fit(x, y, epochs=20, callbacks=[flow])
        flow.plot()

    ``print`` shows the last look as a table, with a sentence on whether gradients vanish or explode. The net stays as
    it is.

    Args:
        net: a Net or a GraphNet.
        x, y, sample_weight, training: as for ``loss_and_grad``. A look keeps every signal of the batch: a few hundred
            samples show enough.

    Attributes:
        nodes: their names, in the order in which they are computed.
        epochs: of every look the epoch after which it was made, 0 for the first.
        signals: (looks, nodes) the root mean square of each node's value, over samples and features.
        gradients: (looks, nodes) the root mean square of the loss's gradient in it, 0 where none arrives.
    """

    def __init__(self, net: Any, x: Any, y: Any = None, *, sample_weight: Any = None, training: bool = True) -> None:
        self._batch = (x, y, sample_weight, training)
        nodes = net._plan().nodes
        self.nodes = [node.name for node in nodes]
        self._symbols = {name: net._plan().symbol(name) for name in self.nodes}
        own = [node for node in nodes if not node.form.is_input]
        #: the node whose gradient is compared with the output's: the first with a weight, if there is one
        self.first = next((node.name for node in own if node.form.is_linear), own[0].name)
        self.epochs: list[int] = []
        self.signals = np.empty((0, len(nodes)))
        self.gradients = np.empty((0, len(nodes)))
        self._look(net, 0)

    def __call__(self, net: Any, epoch: Any = None) -> None:
        """Look again; what ``fit`` calls with the net and the :class:`~backprop_xp.training.Epoch` that has ended."""
        self._look(net, self.epochs[-1] + 1 if epoch is None else epoch.number)

    def _look(self, net: Any, epoch: int) -> None:
        names = [node.name for node in net._plan().nodes]
        if names != self.nodes:
            raise ValueError(f"the net must have the nodes {', '.join(self.nodes)}, got {', '.join(names)}")
        numbers = computed(net, *self._batch)
        for name, arrays in (("signals", numbers.values), ("gradients", numbers.grads)):
            sizes = [_size(arrays.get(node)) for node in self.nodes]
            setattr(self, name, np.vstack([getattr(self, name), sizes]))
        self.epochs.append(epoch)

    @property
    def left(self) -> float:
        """What is left of the output's gradient in the first layer, at the last look: the ratio of their sizes."""
        gradients = dict(zip(self.nodes, self.gradients[-1]))
        with np.errstate(all="ignore"):
            return float(gradients[self.first] / gradients[self.nodes[-1]])

    @property
    def verdict(self) -> str:
        """A sentence on the last look: whether gradients vanish, explode or neither."""
        symbols, left = [*self._symbols.values()], self.left
        first, last = self._symbols[self.first], symbols[-1]
        for what, sizes in (("signal", self.signals[-1]), ("gradient", self.gradients[-1][::-1])):
            nodes = symbols if what == "signal" else symbols[::-1]
            if not np.isfinite(sizes).all():
                return f"the {what} is not finite from {nodes[int(np.argmin(np.isfinite(sizes)))]} on"
        if self.gradients[-1][-1] == 0:
            return f"the gradient in {last} is 0"
        if left == 0:
            return f"no gradient arrives in {first}"
        said = "vanish" if left < VANISHED else "explode" if left > EXPLODED else "arrive"
        return f"gradients {said}: {first} has {left:.2g} times that of {last}"

    def plot(self, axes: Any = None) -> Any:
        """Draw the sizes of signals and of gradients, node by node, a line for every look.

        A line that falls from right to left among the gradients is one that vanishes, one that rises explodes.
        ``flow.plot()[0].figure.savefig("flow.svg")`` keeps it, as a PNG, SVG or PDF.

        Args:
            axes: two to draw on; by default those of a new figure.

        Returns:
            The two axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        axes = drawing.new("a gradient flow", 2) if axes is None else axes
        from matplotlib import cm, colors
        from matplotlib.ticker import MaxNLocator

        colour: Any = cm.ScalarMappable(colors.Normalize(min(self.epochs), max(self.epochs)), "coolwarm")
        pairs = (("signals", self.signals), ("gradients", self.gradients))
        for each, (title, sizes) in zip(axes, pairs, strict=True):
            for epoch, line in zip(self.epochs, sizes):
                shown = np.where(np.isfinite(line) & (line > 0), line, np.nan)
                last = epoch == self.epochs[-1]
                style = {"marker": "o", "markersize": 4, "linewidth": 2} if last else {"linewidth": 1}
                each.plot(shown, color=colour.to_rgba(epoch), **style)
            _say_what_is_no_size(each, sizes[-1])
            _name(each, [*self._symbols.values()])
            _scale(each, sizes[np.isfinite(sizes) & (sizes > 0)])
            each.set(title=title, ylabel="root mean square")
        axes[1].set_title(f"gradients (read from right to left)\n{drawing.short(self.verdict, 80)}")
        if len(self.epochs) > 1:
            axes[1].figure.colorbar(colour, ax=axes[1], label="after epoch", ticks=MaxNLocator(integer=True))
        return axes

    def __str__(self) -> str:
        symbols = self._symbols.values()
        wide = max(len("node"), *map(len, symbols))
        lines = [f"{'node':{wide}}  {'signal':>9}  {'gradient':>9}"]
        for name, signal, gradient in zip(symbols, self.signals[-1], self.gradients[-1]):
            lines.append(f"{name:{wide}}  {signal:9.3g}  {gradient:9.3g}")
        return "\n".join([*lines, self.verdict])

    def __repr__(self) -> str:
        looks = f"{len(self.epochs)} look{'' if len(self.epochs) == 1 else 's'}"
        return f"GradientFlow({len(self.nodes)} nodes, {looks}, {self.verdict})"


def _size(array: Any) -> float:
    """The root mean square, in float64; scaled, so that squares neither overflow nor vanish."""
    if array is None:
        return 0.0
    array = np.abs(NUMPY.take(array).astype(np.float64))
    largest = array.max(initial=0.0)
    if largest == 0 or not np.isfinite(largest):
        return float(largest)
    return float(largest * np.sqrt(np.mean((array / largest) ** 2)))


def _name(axes: Any, nodes: list[str]) -> None:
    every = -(-len(nodes) // MOST_NAMED)
    places = range(0, len(nodes), every)
    names = [drawing.short(nodes[place]) for place in places]
    turn = 60 if max(map(len, names)) > 3 else 0
    axes.set_xticks(places, names, rotation=turn, ha="right" if turn else "center", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(nodes) - 0.5)
    axes.grid(alpha=0.3)


def _scale(axes: Any, sizes: np.ndarray) -> None:
    """Powers of ten, SPAN or more of them, with plain numbers where they are few."""
    from matplotlib.ticker import LogLocator, NullLocator

    if not len(sizes):
        return
    low, high = np.log10([sizes.min(), sizes.max()])
    room = max(0.05 * (high - low), (np.log10(SPAN) - (high - low)) / 2)
    axes.set_yscale("log")
    axes.set_ylim(10 ** max(low - room, -320.0), 10 ** min(high + room, 308.0))
    few = high - low + 2 * room < 4
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    if few:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _say_what_is_no_size(axes: Any, sizes: np.ndarray) -> None:
    """Write 0, inf or nan where a line has no point on an axis of logarithms."""
    for place, size in enumerate(sizes):
        if size == 0 or not np.isfinite(size):
            at = axes.get_xaxis_transform()
            axes.text(place, 0.02, f"{size:g}", color="C3", ha="center", fontweight="bold", transform=at)
