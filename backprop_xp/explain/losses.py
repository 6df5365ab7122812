"""How losses are written: the number, and its gradient in the outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import elementwise
from ..formulas.notation import SUM, number
from ..losses import SoftmaxCrossEntropy
from ..operations.base import called
from . import functions
from .case import Case
from .math import Math, element, in_product, math, total, total_of, words
from .operations import Line

Y = Math("y", "y")
L = Math("l", "l")


class LossWriting:
    """A loss that is Python code of the user's.

    Attributes:
        kind: how page/passes.js computes it, "own" where it can't.
        function: of one output and its target, None where there is none.
    """

    kind = "own"
    function: functions.Function | None = None

    def __init__(self, case: Case) -> None:
        self.case, self.loss = case, case.call.loss
        self.output = case.symbol(case.call.plan.output.name)

    @property
    def called(self) -> Math:
        return words(called(self.case.net.loss))

    def value(self) -> Line:
        """The formula of the loss, and the arithmetic of its number."""
        formula = math("$f($z)", r"$f\left($z\right)", f=self.called, z=self.output)
        return Line(formula, "Python code of your own computes it.", "", ())

    def gradient(self) -> Line:
        """The formula of the gradient in the outputs, and the arithmetic of its first number."""
        return Line(math("$f'($z)", r"$f'\left($z\right)", f=self.called, z=self.output), "Its own code says so.", "")

    @property
    def _z(self) -> np.ndarray:
        return self.case.value(self.case.call.plan.output.name)

    def _scaled(self, formula: Math) -> Math:
        """A formula with what the loss of a sample is multiplied by: 1 / n for a mean, and its weight."""
        call = self.case.call
        shown, tex = _fraction(call.scale)
        text, latex = ("", "") if call.scale == 1 else (f"{shown} * ", rf"{tex}\,")
        if self.case.weights is not None:
            text, latex = text + "weight * ", latex + r"w\,"
        return Math(text + formula.text, latex + formula.latex)

    def _times_factor(self, worked: str) -> str:
        factor = self.case.factor
        return worked if factor == 1 else f"{number(factor)} * {in_product(worked)}"

    @property
    def _over(self) -> Math:
        """What the loss sums over."""
        return (
            Math("sum", r"\sum")
            if self.case.samples == 1
            else Math("sum over samples of sum", r"\sum_{\text{samples}}\sum")
        )


class ElementwiseWriting(LossWriting):
    """The sum over the outputs of a formula."""

    kind = "formula"
    function: functions.Function

    def __init__(self, case: Case, function: functions.Function) -> None:
        super().__init__(case)
        self.function = function

    def _at(self, k: int, sample: int | None = None) -> dict[str, str | float]:
        sample = self.case.sample if sample is None else sample
        z = self.case.rows(self.case.call.plan.output.name)[sample, k]
        targets = self.case.targets
        return {"z": float(z), "y": 0.0 if targets is None else float(targets[sample, k])} | self.function.at(k)

    def value(self) -> Line:
        of_k, given = element(self.output, "k"), self._shown_parameters()
        names = {"z": of_k.text, "y": "y[k]"} | given
        latex = {"z": of_k.latex, "y": "y_k"} | given
        value, tex = self.function.value, self.function.latex_value
        inner = Math(in_product(value.fill(names)), rf"\left({tex.fill(latex)}\right)")
        where = tuple(Math(*each) for each in zip(value.fill_where(names), tex.fill_where(latex)))
        formula = self._scaled(math("${sum}_k $f", r"${sum}_k $f", sum=self._over, f=inner))
        outputs = self._z.size
        worked = total_of(self.case.samples * outputs, lambda i: self._term(*divmod(i, outputs)))
        if self.case.call.scale != 1:
            worked = f"{_fraction(self.case.call.scale)[0]} * ({worked})"
        return Line(formula, self._why(), worked, (), where)

    def _term(self, sample: int, k: int) -> str:
        at = self._at(k, sample)
        term = self.function.value.fill(at)
        if self.function.value.where:  # which stand for other numbers in every term
            formula = self.function.formula
            arrays = {name: np.array([at[name]]) for name in formula.variables}
            term = number(elementwise(formula, ("value",), arrays, [float(at[p]) for p in formula.parameters])[0][0])
        if self.case.weights is not None:
            return f"{number(self.case.weights[sample])} * {in_product(term)}"
        return in_product(term)

    def gradient(self) -> Line:
        names = {"z": self.output.text, "y": "y"} | self._shown_parameters()
        latex = {"z": self.output.latex, "y": "y"} | self._shown_parameters()
        text, tex = self.function.grad, self.function.latex_grad
        formula = Math(text.fill(names), tex.fill(latex))
        where = tuple(Math(*each) for each in zip(text.fill_where(names), tex.fill_where(latex)))
        if self.case.factor != 1:
            formula = Math(in_product(formula.text), rf"\left({formula.latex}\right)")
        why = "Every output stands in one term of the sum, so its gradient is that term's derivative."
        at = self._at(0)
        worked = self._times_factor(text.fill(at))
        return Line(self._scaled(formula), why, worked, (0,), where, tuple(text.fill_where(at)))

    def _shown_parameters(self) -> dict[str, str | float]:
        """Numbers in the places of parameters; vectors by name."""
        return {name: v for name, v in self.function.parameters.items() if not isinstance(v, tuple)}

    def _why(self) -> str:
        scale = self.case.call.scale
        if scale == 1:
            return "One number says how far the outputs are from where they should be."
        what = "samples and outputs" if getattr(self.loss, "mean_over", "") == "elements" else "samples"
        return f"One number says how far the outputs are from where they should be: the mean over {what}."


class SoftmaxWriting(LossWriting):
    """Softmax cross-entropy, of class indices or probabilities."""

    kind = "softmax"

    def value(self) -> Line:
        z, y = self._z, self._target
        _, log_total = functions.terms_of_softmax(z)
        where = Math("sum_k y[k] (log sum exp $z - $z[k])", r"\sum_k y_k \left(\log \sum e^{$z} - {$z}_k\right)")
        formula = self._scaled(math(where.text, where.latex, z=self.output))
        if self.case.samples > 1:
            formula = math("sum over samples of $f", r"\sum_{\text{samples}} $f", f=formula)
        true = np.nonzero(y)[0]
        terms = [f"{number(log_total, SUM)} - {number(z[k])}" for k in true]
        terms = [term if y[k] == 1 else f"{number(y[k])} * ({term})" for k, term in zip(true, terms)] or ["0"]
        worked = self._times_factor(total(terms))
        why = "Minus the logarithm of the probability softmax(z)[k] = exp(z[k]) / sum exp z of what is true."
        if self.case.samples > 1:
            worked += f" for sample {self.case.sample}"
        return Line(formula, why, worked, ())

    def gradient(self) -> Line:
        p, _ = functions.terms_of_softmax(self._z)
        y = self._target
        whole = "" if np.isclose(y.sum(), 1) else f"{number(y.sum())} * "
        formula = math("(softmax($z) - y)", r"\left(\operatorname{softmax}\left($z\right) - y\right)", z=self.output)
        if whole:
            formula = math(
                "(sum(y) * softmax($z) - y)",
                r"\left(\sum y \cdot \operatorname{softmax}\left($z\right) - y\right)",
                z=self.output,
            )
        why = "log sum exp z has the derivative softmax(z), and z[k] is taken away where k is true."
        return Line(self._scaled(formula), why, self._times_factor(f"{whole}{number(p[0])} - {number(y[0])}"))

    @property
    def _target(self) -> np.ndarray:
        """The probabilities of the sample that is shown."""
        targets = self.case.targets
        assert targets is not None
        if targets.ndim == 2:
            return targets[self.case.sample]
        return (np.arange(self._z.size) == targets[self.case.sample]).astype(float)


def writing(case: Case) -> LossWriting:
    """How the loss of this call is written."""
    loss: Any = case.call.loss
    if (function := functions.of_loss(loss)) is not None:
        return ElementwiseWriting(case, function)
    if type(loss) is SoftmaxCrossEntropy and not loss.settings:
        return SoftmaxWriting(case)
    return LossWriting(case)


def _fraction(scale: float) -> tuple[str, str]:
    """A scale in text and in LaTeX: 1/12 where it is one over a whole number."""
    if scale and abs(1 / scale - round(1 / scale)) < 1e-9 and scale < 1:
        return f"1/{round(1 / scale)}", rf"\frac{{1}}{{{round(1 / scale)}}}"
    return number(scale), number(scale)
