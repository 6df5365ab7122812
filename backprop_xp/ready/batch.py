"""A batch through a compiled pass, with everything at hand but the batch itself."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .. import forks, threads, workspace
from ..literals import PrecisionName
from ..losses import SoftmaxCrossEntropy, terms
from ..losses.given import GIVEN
from ..plan.net import AnyNet
from ..programs import fused
from ..programs.matrices import BOTH, DOWN, UP, Pass
from ..programs.narrow import Narrow
from ..workspace import recycled
from .chain import Chain
from .gradients import Gradients, a_signal, drop_signals, hand_out

#: Bytes that are kept from call to call by themselves; more comes from the workspace, which takes longer.
KEPT_BYTES = 1 << 20
#: Multiply-adds from which on a call asks how many threads there are.
WORTH_ASKING = 50_000


def target(net: AnyNet, y: Any) -> str:
    """What kind of target this is: "none", "values" or "classes"."""
    if y is None:
        return "none"
    takes_classes = type(net.loss) is SoftmaxCrossEntropy and getattr(y, "ndim", 0) == 1
    return "classes" if takes_classes else "values"


def kernel(loss: Any, target: str) -> Any:
    """What a kernel of this loss is compiled for, see :func:`backprop_xp.losses.kernel_of`."""
    if type(loss) is not SoftmaxCrossEntropy:
        return loss.kernel
    return "classes" if target == "classes" else "probabilities"


def parts(net: AnyNet, outputs: int) -> int:
    """By what the loss of one sample is divided for the net's reduction, beside the number of samples; 0 for a sum."""
    return terms(net.loss, outputs) if net.reduction == "mean" else 0


class Ready:
    """The pass for nets of any widths, and the memory that it works in."""

    def __init__(self, net: AnyNet, chain: Chain, loss: Any, loss_key: Any) -> None:
        self._lock = forks.lock(threading.RLock)  # the arguments and the memory are shared by all threads
        self._dtype, self._features, self._outputs = net.dtype, chain.sizes[0], chain.sizes[-1]
        self._signal = a_signal(net)
        depth = len(chain.bias)
        biases = iter(chain.tensors[depth:])
        layers = [[weight, *([next(biases)] if has else [])] for weight, has in zip(chain.tensors, chain.bias)]
        self._filled = [tensor for layer in layers for tensor, _ in layer]
        arrays = [[data for _, data in layer] for layer in layers]
        functions = zip(arrays, chain.activations)
        self._pass = Pass([(a[0], a[1] if a[1:] else None, f) for a, f in functions], loss, loss_key, net.precision)
        self._precision = net.precision
        self._arrays = [data for layer in arrays for data in layer]
        self._net = self._pass.parameters, depth, loss is None
        self._memory, self._room = np.empty(0, self._dtype), workspace.Room(0)

    def _is_free(self) -> bool:
        return not forks.never_open(self._lock)

    def _is_narrow(self, samples: int) -> bool:
        return samples >= fused.NARROW_SAMPLES and samples >= fused.narrow_from(*self._net)

    def _fits(self, x: np.ndarray) -> bool:
        if not self._is_free():
            return False
        if len(x) == 0 or x.dtype != self._dtype or x.shape[1] != self._features:
            return False
        return x.flags.c_contiguous and x.flags.aligned

    def _aim(self, ready: Pass | Narrow, net: AnyNet, x: int, n: int) -> int:
        """Let a pass read the batch (n, in) at the address x; numbers of the memory that it wants."""
        args = ready.args
        args.n, args.x, args.x_row, args.x_column = n, x, self._features, 1
        args.threads = threads.count(net.threads) if n * self._pass.parameters > WORTH_ASKING else 1
        if net.precision != self._precision:
            self._allow(net.precision)
        return ready.numbers()

    def _allow(self, precision: PrecisionName) -> None:
        self._precision = precision
        self._pass.allow(precision)

    def _run(self, ready: Pass | Narrow, net: AnyNet, x: int, n: int) -> None:
        numbers = self._aim(ready, net, x, n)
        if numbers > self._memory.size and not self._grow(numbers):
            with recycled():
                memory = workspace.empty((numbers,), self._dtype)
                ready.use(memory)
                return ready.run()
        ready.use(self._memory)
        return ready.run()

    def _grow(self, numbers: int) -> bool:
        """Keep memory for ``numbers`` from now on; whether it is little enough, and there is room for it."""
        size = numbers * self._dtype.itemsize
        if size > KEPT_BYTES:
            return False
        try:
            self._room = workspace.Room(size)
        except MemoryError:
            return False
        self._memory = np.empty(numbers, self._dtype)
        return True


class Batch(Ready):
    """The loss and all gradients of batches with one kind of target. Raises CompileError."""

    def __init__(self, net: AnyNet, chain: Chain, target: str) -> None:
        self._target = target
        self._wanted = target == "none" if not net.loss.needs_target else target != "none"
        if not self._wanted:
            return
        key = kernel(net.loss, target)
        super().__init__(net, chain, net.loss, key)
        args = self._pass.args
        args.y_row, args.y_column = (1 if target == "classes" else self._outputs), 1
        self._parts = parts(net, self._outputs)
        self._gradients = Gradients(self._pass.parameters, self._dtype)
        texts = tuple(f.text for f in chain.activations)
        self._shape = fused.Shape(chain.sizes, chain.bias, self._dtype.name, texts, key, factors=bool(self._parts))
        self._activations, self._loss = chain.activations, net.loss
        self._narrow: Narrow | None = None

    def takes(self, x: np.ndarray, y: Any) -> bool:
        """Whether this is a call that needs no more checks. Raises CompileError."""
        if not self._wanted or not self._fits(x):
            return False
        if self._narrow is None and self._is_narrow(len(x)):
            self._narrow = Narrow(self._shape, self._activations, self._arrays, self._loss)
            self._narrow.args.y_row, self._narrow.args.y_column = self._pass.args.y_row, self._pass.args.y_column
        return is_target(self._target, y, (len(x), self._outputs), self._dtype)

    def loss_and_grad(self, net: AnyNet, x: np.ndarray, y: np.ndarray | None) -> Any:
        """Fill every gradient of the net, and return the loss."""
        n = len(x)
        with self._lock:
            ready = self._narrow if self._narrow is not None and self._is_narrow(n) else self._pass
            args: Any = ready.args
            args.scale = 1.0 / self._parts / n if self._parts else 1.0
            if y is not None:
                args.y = y.__array_interface__["data"][0]
                if self._target == "classes":
                    wrong = self._pass.core.bpx_matrices_wrong_class(args.y, n, self._outputs)
                    if wrong >= 0:
                        raise ValueError(f"class indices must be from 0 to {self._outputs - 1}, got {y[wrong]}")
            gradients = self._gradients.unused()
            args.grads = gradients.__array_interface__["data"][0]
            self._run(ready, net, x.__array_interface__["data"][0], n)
            loss = self._dtype.type(args.total * args.scale)
        hand_out(gradients, self._filled, self._pass)
        drop_signals(net, self._signal)
        return loss


class Kept:
    """What a batch has left on its way up through the net, for its way down."""

    __slots__ = ("_memory", "precision", "samples", "threads")

    def __init__(self, memory: workspace.Loan, samples: int, threads: int, precision: PrecisionName) -> None:
        self._memory: workspace.Loan | None = memory
        self.samples, self.threads, self.precision = samples, threads, precision  # that the memory is laid out for

    def take(self) -> workspace.Loan | None:
        """The memory, in which gradients will take the places of signals; None when it was taken before."""
        memory, self._memory = self._memory, None
        return memory


class Backward(Ready):
    """All gradients of batches from those in their outputs. Raises CompileError.

    A batch goes up and down at once; or up first, to its outputs, leaving signals from which it goes down later.

    Attributes:
        addresses: where the parameters lie, layer by layer.
    """

    def __init__(self, net: AnyNet, chain: Chain) -> None:
        super().__init__(net, chain, GIVEN, GIVEN.kernel)
        self._chain = chain
        self._narrow: Narrow | None = None
        self._gradients = Gradients(self._pass.parameters, self._dtype)
        self.addresses = [array.__array_interface__["data"][0] for array in self._arrays]

    def takes(self, samples: int) -> bool:
        """Whether it can run now for ``samples`` rows that lie one after another (n, in) in the net's dtype."""
        return samples > 0 and self._is_free()

    def forward(self, net: AnyNet, x: int, n: int, output: int) -> Kept | None:
        """Write the outputs (n, out) of the batch (n, in), by their addresses.

        Returns:
            The batch's signals. None where these would take over half of the workspace: then nothing is written.
        """
        with self._lock:
            args = self._pass.args
            args.half = UP
            size = self._aim(self._pass, net, x, n) * self._dtype.itemsize
            if size > KEPT_BYTES and size > workspace.limit() // 2:
                return None
            memory = workspace.Loan(size)
            found = Kept(memory, n, args.threads, self._precision)
            args.output = output
            self._pass.use(memory.buffer)
            self._pass.run()
        drop_signals(net, self._signal)
        return found

    def backward(
        self,
        net: AnyNet,
        x: int,
        n: int,
        grad: int,
        strides: tuple[int, ...],
        grad_x: int | None = None,
        kept: Kept | None = None,
    ) -> np.ndarray:
        """The gradients of all parameters, layer by layer in one array.

        What :meth:`forward` kept is used once: afterwards it goes up again, to the same bits.

        Args:
            x, grad: addresses of the batch (n, in), and of the gradient (n, out) in its outputs, which has these
                strides in elements.
            grad_x: where the gradient in x goes (n, in), if it is wanted.
        """
        with self._lock:
            memory = kept.take() if kept is not None and kept.samples == n else None
            is_narrow = kept is None and self._is_narrow(n)
            ready: Pass | Narrow = self._narrow_pass() if is_narrow else self._pass
            args: Any = ready.args
            args.y, (args.y_row, args.y_column), args.x_grad = grad, strides, grad_x
            gradients = self._gradients.unused()
            args.grads = gradients.__array_interface__["data"][0]
            self._pass.args.half = BOTH if memory is None else DOWN
            if kept is None or memory is None:
                self._run(ready, net, x, n)
            else:
                self._aim(self._pass, net, x, n)
                args.threads = kept.threads
                self._allow(kept.precision)
                self._pass.use(memory.buffer)
                self._pass.run()
        return gradients

    def _narrow_pass(self) -> Narrow:
        """The pass whose products are compiled for this net alone. Raises CompileError."""
        if self._narrow is None:
            functions, chain = self._chain.activations, self._chain
            texts = tuple(f.text for f in functions)
            shape = fused.Shape(chain.sizes, chain.bias, self._dtype.name, texts, GIVEN.kernel)
            self._narrow = Narrow(shape, functions, self._arrays, GIVEN)
        return self._narrow


class Outputs(Ready):
    """The outputs of batches. Raises CompileError."""

    def __init__(self, net: AnyNet, chain: Chain) -> None:
        super().__init__(net, chain, None, None)

    def takes(self, x: np.ndarray, keep_signals: bool | None) -> bool:
        """Whether this is a call that needs no more checks."""
        return not keep_signals and not self._is_narrow(len(x)) and self._fits(x)

    def forward(self, net: AnyNet, x: np.ndarray) -> np.ndarray:
        """The outputs (n, out)."""
        output = np.empty((len(x), self._outputs), self._dtype)
        with self._lock:
            self._pass.args.output = output.__array_interface__["data"][0]
            self._run(self._pass, net, x.__array_interface__["data"][0], len(x))
        drop_signals(net, self._signal)
        return output


def is_target(kind: str, y: Any, shape: tuple[int, int], dtype: np.dtype) -> bool:
    """Whether ``y`` needs no more checks as a target, "none", "values" or "classes", of outputs of this shape."""
    if kind == "none":
        return True
    if type(y) is not np.ndarray or not y.flags.c_contiguous or not y.flags.aligned:
        return False
    if kind == "classes":
        return y.dtype == np.int64 and y.shape == shape[:1]
    return y.dtype == dtype and y.shape == shape
