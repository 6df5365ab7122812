"""How each operation is written: its value, the gradient that it passes to an input, and those in its parameters.

Each of these is a :class:`Line`: the formula, why it holds, and the arithmetic of one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .. import operations
from ..formulas.notation import SUM, Written, number
from ..operations.base import called
from ..plan.plan import Node
from . import functions
from .case import Case
from .math import Math, grad, in_product, math, product, total, words


@dataclass(frozen=True)
class Line:
    """One formula, and the arithmetic of the number at ``index``, with what names in them stand for."""

    formula: Math
    why: str
    worked: str
    index: tuple[int, ...] = (0,)
    where: tuple[Math, ...] = ()
    worked_where: tuple[str, ...] = ()


class Writing:
    """An operation of the user's: Python code, of which only the results are known.

    Each subclass says ``of`` which built-in operation it is.

    Attributes:
        op: what page/passes.js calls the operation; "own" where it can't compute it.
        function: the function that it applies to each number, None where there is none to be shown.
    """

    op = "own"
    function: functions.Function | None = None
    _known: ClassVar[dict[type[operations.Operation], type[Writing]]] = {}

    def __init_subclass__(cls, of: type[operations.Operation] | None = None) -> None:
        if of is not None:
            cls._known[of], cls.op = cls, vars(cls).get("op", of.name)

    @classmethod
    def at(cls, case: Case, node: Node) -> Writing:
        """How this node is written."""
        known = operations.is_built_in(node.operation)
        return (cls._known.get(type(node.operation), cls) if known else cls)(case, node)

    def __init__(self, case: Case, node: Node) -> None:
        self.case, self.node = case, node
        self.symbol, self.grad_symbol = case.symbol(node.name), grad(case.symbol(node.name))
        self.inputs = [case.symbol(name) for name in node.inputs]

    @property
    def called(self) -> Math:
        return words(called(self.node.operation))

    def _math(self, text: str, latex: str | None = None, **more: Math) -> Math:
        """Templates in which $f is the operation, $t and $z its first input, $g the gradient in its value."""
        symbols = {name: self.case.parameter(self.node, name) for name in self.case.own(self.node)}
        symbols |= {"f": self.called, "t": self.inputs[0], "z": self.inputs[0], "g": self.grad_symbol}
        return math(text, latex, **symbols | more)

    def value(self) -> Line:
        """How the node's value is computed; the number worked out is its first."""
        inside = Math(", ".join(s.text for s in self.inputs), ", ".join(s.latex for s in self.inputs))
        formula = self._math("$f($x)", r"$f\left($x\right)", x=inside)
        return Line(formula, "Python code of your own computes it.", "")

    def passed(self, position: int, k: int) -> Line:
        """How the gradient in the value becomes one in the input at this position; worked out for its number k."""
        formula = self._math("backward of $f", r"$f\text{, backward}")
        return Line(formula, "Python code of your own computes it.", "")

    def parameter(self, name: str) -> Line:
        """The gradient in a parameter of the node."""
        return self.passed(0, 0)

    def given(self) -> dict[str, Any]:
        """What page/passes.js is given beside inputs and parameters: numbers and arrays by their names there."""
        return {}

    def _of_input(self, position: int = 0) -> np.ndarray:
        return self.case.value(self.node.inputs[position])

    def _own(self, name: str) -> np.ndarray:
        return self.case.own(self.node)[name]

    def _given(self, name: str) -> Any:
        return self.case.values.given[self.node.name][name]

    @property
    def _grad(self) -> np.ndarray:
        return self.case.grad(self.node.name)

    def _summed(self, formula: Math) -> Math:
        """The gradient in a parameter: a sum over the samples, where there are several."""
        if self.case.samples == 1:
            return formula
        return math("sum over samples of $f", r"\sum_{\text{samples}} $f", f=formula)


class InputWriting(Writing, of=operations.Input):
    def given(self) -> dict[str, Any]:
        return {"data": self.case.rows(self.node.name)}


class LinearWriting(Writing, of=operations.Linear):
    def value(self) -> Line:
        own = self.case.own(self.node)
        terms = [product(w, x) for w, x in zip(own["weight"][0], self._of_input())]
        formula = self._math("$weight $z", r"$weight\,$z")
        why = "Every neuron adds up its inputs, each times a weight of its own: its row of the matrix."
        if "bias" in own:
            formula = self._math("$weight $z + $bias", r"$weight\,$z + $bias")
            terms.append(number(own["bias"][0]))
            why = "Every neuron adds up its inputs, each times a weight of its own, and its bias."
        return Line(formula, why, total(terms))

    def passed(self, position: int, k: int) -> Line:
        formula = self._math("$weight^T $g", r"$weight^\top $g")
        why = (
            f"Each number of {self.inputs[0].text} reaches every number of {self.symbol.text}, by a weight of its "
            f"column: what comes back on all these ways adds up."
        )
        terms = [product(a, b) for a, b in zip(self._own("weight")[:, k], self._grad)]
        return Line(formula, why, total(terms), (k,))

    def parameter(self, name: str) -> Line:
        grads, z = self.case.grad_rows(self.node.name), self.case.rows(self.node.inputs[0])
        if name == "bias":
            why = f"The bias is added as it is: its derivative in {self.symbol.text} is 1."
            return Line(self._summed(self.grad_symbol), why, total([number(g) for g in grads[:, 0]]))
        formula = self._math("outer($g, $z)", r"$g\,{$z}^\top")
        why = (
            f"The weight [k,j] stands in one number alone, {self.symbol.text}[k], as a factor of "
            f"{self.inputs[0].text}[j]: its gradient is grad {self.symbol.text}[k] times {self.inputs[0].text}[j], "
            "and all these products are the outer product."
        )
        worked = total([product(g, x) for g, x in zip(grads[:, 0], z[:, 0])])
        return Line(self._summed(formula), why, worked, (0, 0))


class ActivateWriting(Writing, of=operations.Activate):
    op = "activation"  # Activate's own name is that of its activation

    def __init__(self, case: Case, node: Node) -> None:
        super().__init__(case, node)
        self.function = functions.of_activation(node.form.functions[0])
        self.op = "own" if self.function is None else "activation"

    def value(self) -> Line:
        formula = self._math("$f($t)", r"$f\left($t\right)")
        why = "The function takes every number by itself."
        if (f := self.function) is None:
            return Line(formula, why, "")
        shown = self._written(f.value, f.latex_value)
        if shown.text != formula.text:
            formula = self._math("$f($t) = $shown", r"$f\left($t\right) = $shown", shown=shown)
        at = {"t": float(self._of_input()[0])} | f.at(0)
        where = self._where(f.value, f.latex_value)
        return Line(formula, why + _note(shown), f.value.fill(at), (0,), where, tuple(f.value.fill_where(at)))

    def passed(self, position: int, k: int) -> Line:
        formula = self._math("$g * $f'($t)", r"$g \odot $f'\left($t\right)")
        why = (
            f"{self.symbol.text}[k] depends on {self.inputs[0].text}[k] alone: the Jacobian of a function that takes "
            "every number by itself is diagonal, and to multiply by it is to multiply number by number."
        )
        t, z, g = self._of_input()[k], self.case.value(self.node.name)[k], self._grad[k]
        if (f := self.function) is None:
            return Line(formula, why, "", (k,))
        shown = self._written(f.grad, f.latex_grad)
        slope = self._math("$f'($t) = $shown", r"$f'\left($t\right) = $shown", shown=shown)
        where = (slope, *self._where(f.grad, f.latex_grad))
        at = {"t": float(t), "z": float(z)} | f.at(0)
        worked = f"{number(g)} * {in_product(f.grad.fill(at))}"
        return Line(formula, why + _note(shown), worked, (k,), where, tuple(f.grad.fill_where(at)))

    def _names(self, latex: bool) -> dict[str, str | float]:
        function = self.function
        assert function is not None
        return {"t": self.inputs[0][latex], "z": self.symbol[latex]} | function.at(0)

    def _written(self, text: Written, latex: Written) -> Math:
        return Math(text.fill(self._names(False)), latex.fill(self._names(True)))

    def _where(self, text: Written, latex: Written) -> tuple[Math, ...]:
        both = zip(text.fill_where(self._names(False)), latex.fill_where(self._names(True)))
        return tuple(Math(*each) for each in both)


def _note(formula: Math) -> str:
    normal = "Phi(" in formula.text or "phi(" in formula.text
    return " Phi is the standard normal distribution function, phi its density." if normal else ""


class AddWriting(Writing, of=operations.Add):
    def value(self) -> Line:
        formula = Math(*(" + ".join(each) for each in zip(*self.inputs)))
        worked = total([number(self._of_input(i)[0]) for i in range(len(self.inputs))])
        return Line(formula, "Number by number.", worked)

    def passed(self, position: int, k: int) -> Line:
        why = "A sum passes its gradient on to every summand as it is, which keeps gradients alive in residual nets."
        return Line(self.grad_symbol, why, number(self._grad[k], SUM), (k,))


class MultiplyWriting(Writing, of=operations.Multiply):
    def value(self) -> Line:
        formula = Math(" * ".join(s.text for s in self.inputs), r" \odot ".join(s.latex for s in self.inputs))
        return Line(formula, "Number by number.", product(*(self._of_input(i)[0] for i in range(len(self.inputs)))))

    def passed(self, position: int, k: int) -> Line:
        others = [i for i in range(len(self.inputs)) if i != position]
        factors = [self.grad_symbol, *(self.inputs[i] for i in others)]
        formula = Math(" * ".join(s.text for s in factors), r" \odot ".join(s.latex for s in factors))
        worked = product(self._grad[k], *(self._of_input(i)[k] for i in others))
        return Line(formula, "The derivative of a product in a factor is the product of the others.", worked, (k,))


class ConcatenateWriting(Writing, of=operations.Concatenate):
    def value(self) -> Line:
        formula = Math(*(f"({', '.join(each)})" for each in zip(*self.inputs)))
        return Line(formula, "The inputs side by side.", number(self._of_input()[0], SUM))

    def passed(self, position: int, k: int) -> Line:
        widths = [self.case.nodes[name].width for name in self.node.inputs]
        start = sum(widths[:position])
        stop = start + widths[position]
        formula = self._math(f"$g[{start}:{stop}]", rf"\left($g\right)_{{{start}:{stop}}}")
        return Line(formula, "Every input gets its part of the gradient.", number(self._grad[start + k], SUM), (k,))


class SoftmaxWriting(Writing, of=operations.Softmax):
    def value(self) -> Line:
        formula = self._math("exp($z) / sum exp($z)", r"\frac{e^{$z}}{\sum e^{$z}}")
        _, log_total = functions.terms_of_softmax(self._of_input())
        worked = f"exp({number(self._of_input()[0], SUM)} - {number(log_total)})"
        return Line(formula, "Each number's share of the sum of all powers: probabilities.", worked)

    def passed(self, position: int, k: int) -> Line:
        p, g = self.case.value(self.node.name), self._grad
        formula = self._math("$p * ($g - sum($p * $g))", r"$p \odot \left($g - \sum $p \odot $g\right)", p=self.symbol)
        why = "A larger number takes its share from all others."
        return Line(formula, why, f"{number(p[k])} * ({number(g[k], SUM)} - {number((p * g).sum())})", (k,))


class DropoutWriting(Writing, of=operations.Dropout):
    def given(self) -> dict[str, Any]:
        return {} if (kept := self._kept()) is None else {"kept": kept}

    def _kept(self) -> np.ndarray | None:
        return self.case.values.given[self.node.name].get("kept")

    def value(self) -> Line:
        if (kept := self._kept()) is None:
            return Line(self.inputs[0], "In use, dropout drops nothing.", number(self._of_input()[0], SUM))
        formula = self._math("$z * kept", r"$z \odot \text{kept}")
        worked = product(self._of_input()[0], kept[self.case.sample, 0])
        return Line(formula, "Numbers that are drawn become 0, the others grow by what is lost on average.", worked)

    def passed(self, position: int, k: int) -> Line:
        if (kept := self._kept()) is None:
            return Line(self.grad_symbol, "Nothing was dropped.", number(self._grad[k], SUM), (k,))
        formula = self._math("$g * kept", r"$g \odot \text{kept}")
        why = "What was dropped had no influence: its gradient is 0."
        return Line(formula, why, product(self._grad[k], kept[self.case.sample, k]), (k,))


class NormWriting(Writing):
    """Of layer and batch normalisation: normal numbers n = (z - mean) * scale, times a gain, plus a bias."""

    #: What mean and variance are taken over; "" where they are running ones.
    over: str

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean and the scale 1 / sqrt(variance + eps), each as wide as the node, of the sample that is shown."""
        raise NotImplementedError

    def _rows(self) -> np.ndarray:
        """n, (samples, width)."""
        raise NotImplementedError

    def _shared(self, k: int, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """The numbers g and n over which mean and variance are taken for number k, and which of them it is."""
        raise NotImplementedError

    def given(self) -> dict[str, Any]:
        return {"eps": self._eps}

    @property
    def _eps(self) -> float:
        return self.node.operation.eps  # type: ignore[attr-defined]

    def value(self) -> Line:
        formula = self._math(
            "$gain * ($z - mean) * scale + $bias", r"$gain \odot \left($z - \mu\right) / \sigma + $bias"
        )
        over = f"over {self.over}" if self.over else "kept from training"
        why = f"mean and scale = 1 / sqrt(variance + eps), {over}: mean 0 and variance 1, then a gain and a bias."
        mean, scale = self._scaling()
        gain, bias, z = self._own("gain")[0], self._own("bias")[0], self._of_input()[0]
        return Line(
            formula,
            why,
            f"{number(gain)} * ({number(z, SUM)} - {number(mean[0])}) * {number(scale[0])} + {number(bias)}",
        )

    def passed(self, position: int, k: int) -> Line:
        _, scale = self._scaling()
        if not self.over:
            formula = self._math("scale * $gain * $g", r"\frac{$gain}{\sigma} \odot $g")
            worked = product(scale[k], self._own("gain")[k], self._grad[k])
            return Line(formula, "Mean and variance are constants here.", worked, (k,))
        where = (
            self._math("g = $gain * $g", r"g = $gain \odot $g"),
            self._math("n = ($z - mean) * scale", r"n = \frac{$z - \mu}{\sigma}"),
        )
        formula = Math(
            "scale * (g - mean(g) - n * mean(g * n))",
            r"\frac{1}{\sigma}\left(g - \overline{g} - n \odot \overline{g \odot n}\right)",
        )
        why = (
            f"Mean and variance over {self.over} depend on every one of them, too: what they contribute is taken away."
        )
        g, n, at = self._shared(k, self._own("gain"))
        along = f"{number(n[at])} * {number((g * n).mean())}"
        worked = f"{number(scale[k])} * ({number(g[at], SUM)} - {number(g.mean())} - {along})"
        return Line(formula, why, worked, (k,), where)

    def parameter(self, name: str) -> Line:
        grads = self.case.grad_rows(self.node.name)[:, 0]
        if name == "bias":
            return Line(
                self._summed(self.grad_symbol), "The bias is added as it is.", total([number(g) for g in grads])
            )
        formula = self._math("$g * n", r"$g \odot n")
        where = (self._math("n = ($z - mean) * scale", r"n = \frac{$z - \mu}{\sigma}"),)
        worked = total([product(a, b) for a, b in zip(grads, self._rows()[:, 0])])
        return Line(self._summed(formula), "The gain is a factor of n.", worked, (0,), where)


class LayerNormWriting(NormWriting, of=operations.LayerNorm):
    over = "its numbers"

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        z = self._of_input()
        mean = np.full(z.shape, z.mean())
        return mean, np.full(z.shape, 1 / np.sqrt(((z - mean) ** 2).mean() + self._eps))

    def _rows(self) -> np.ndarray:
        z = self.case.rows(self.node.inputs[0])
        centred = z - z.mean(axis=1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + self._eps)

    def _shared(self, k: int, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        mean, scale = self._scaling()
        return self._grad * gain, (self._of_input() - mean) * scale, k


class BatchNormWriting(NormWriting, of=operations.BatchNorm):
    def given(self) -> dict[str, Any]:
        running = {} if self.over else {"mean": self._given("mean"), "scale": self._given("scale")}
        return super().given() | running

    @property
    def over(self) -> str:  # type: ignore[override]
        return "the batch" if self._given("batch") is not None else ""

    def _scaling(self) -> tuple[np.ndarray, np.ndarray]:
        return self._given("mean"), self._given("scale")

    def _rows(self) -> np.ndarray:
        mean, scale = self._scaling()
        return (self.case.rows(self.node.inputs[0]) - mean) * scale

    def _shared(self, k: int, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        return self.case.grad_rows(self.node.name)[:, k] * gain[k], self._rows()[:, k], self.case.sample
