"""The page: its own passes against the library's, in a real browser, and what a person does there."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from arrays import target

from backprop_xp import ACTIVATIONS, LOSSES, Activation, Elementwise, ElementwiseLoss, Net, SoftmaxCrossEntropy
from backprop_xp.explain import html_page
from backprop_xp.explain.operations import Writing
from backprop_xp.graph import Graph, GraphNet, Input, Linear
from backprop_xp.operations import kinds

#: All that the page computed, as lists of numbers.
NUMBERS = """() => {
  const { result } = backprop.state, lists = (arrays) => arrays.map((a) => [...a]);
  return {
    loss: result.loss, values: lists(result.values), grads: lists(result.grads), tensors: lists(result.tensors),
  };
}"""


def assert_equal(page, explanation):
    """That the page's loss, values and gradients are those of the library, to 1e-12 of the largest of an array.

    Where terms of about 1 cancel, 1e-14 is as near as two orders of summation come.
    """
    case, found = explanation.case, page.evaluate(NUMBERS)
    names = list(case.nodes)
    pairs = [(np.array([found["loss"]]), np.array([explanation.loss]))]
    pairs += [(np.array(got), case.rows(name).ravel()) for got, name in zip(found["values"], names)]
    pairs += [(np.array(got), case.grad_rows(name).ravel()) for got, name in zip(found["grads"], names)]
    pairs += [(np.array(g), explanation.gradient(t).ravel()) for g, t in zip(found["tensors"], case.tensors)]
    assert len(pairs) == 1 + 2 * len(names) + len(case.tensors)
    for got, expected in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max(initial=1e-2))


def article():
    return Net(rng=np.random.RandomState(100)).explain([1.0, -0.5, 0.25, 2.0, -1.5])


def residual(random, training=True):
    """A net with every operation, of a batch."""
    g = Graph()
    x, z = g.input(4, "x"), g.input(2, "z")
    h = g.linear(x, 4, name="h")
    a = g.layer_norm(g.apply("gelu", h, name="a") * h + x, name="norm")
    b = g.batch_norm(g.dropout(a, 0.2, name="drop"), name="bn")
    s = g.linear(b, 4, share=h, name="s")
    net = g.net(g.linear(g.concatenate(s, z, x, name="cat"), 3, name="out"), loss="softmax_cross_entropy", rng=3)
    given = {"x": random.normal(size=(5, 4)), "z": random.normal(size=(5, 2))}
    return net.explain(given, [0, 1, 2, 1, 0], sample_weight=[1, 2, 0, 0.5, 1], training=training)


def test_the_articles_net(opened):
    explanation = article()
    assert_equal(opened(explanation), explanation)
    assert len(explanation.html.encode()) < 400_000


@pytest.mark.parametrize("training", [True, False])
def test_a_graph_with_everything(opened, random, training):
    explanation = residual(random, training)
    assert_equal(opened(explanation), explanation)


def test_softmax_as_a_node(opened, random):
    net = Net((3, 4, 3), ("tanh", ["softmax"]), "mse", True, rng=0)
    explanation = net.explain(random.normal(size=(4, 3)), random.dirichlet(np.ones(3), 4))
    page = opened(explanation)
    assert_equal(page, explanation)
    assert page.locator("#descend").is_enabled() and "Python code" not in page.locator("#live").inner_text()
    page.get_by_label("x[1]", exact=True).fill("2.5")
    page.get_by_label("x[1]", exact=True).press("Tab")
    given = np.array(explanation.case.rows("x"))
    given[0, 1] = 2.5
    assert_equal(page, net.explain(given, explanation.case.targets))
    page.click("#last")
    page.locator("#steps button", has_text="z_1 = exp(t_1) / sum exp(t_1)").click()
    assert page.locator("#formula").inner_text() == "z_1 = exp(t_1) / sum exp(t_1)"
    assert re.match(r"z_1\[0\] = exp\(.* - .*\) = ", lines(page)[-1])


def test_every_built_in_operation_is_written():
    assert {*Writing._known} == {*kinds().values()}


def test_every_activation(opened, random):
    names = list(ACTIVATIONS)
    own = Elementwise(
        "own", "exp(-width * t ** 2) + erf(t) * sqrt(abs(t) + 1) / log(abs(t) + 2)", params={"width": 2.0}
    )
    description = {"x": Input(9)} | {name: (name, "x") for name in names} | {"own": (own, "x")}
    net = GraphNet(description | {"y": ("concatenate", *names, "own")}, rng=0)
    x = np.array([[-9.0, -3.0, -0.4, 0.0, 0.3, 1.0, 2.5, 5.0, 8.0], random.normal(size=9)])
    explanation = net.explain(x)
    assert_equal(opened(explanation), explanation)


def test_every_loss(opened, random):
    losses = [(LOSSES[name](), target(name, 4, 3, random)) for name in LOSSES]
    losses.append((LOSSES["softmax_cross_entropy"](), random.dirichlet(np.ones(3), 4)))
    losses.append((SoftmaxCrossEntropy(weight=[1, 2, 0.5], label_smoothing=0.1), np.array([0, 2, 1, 1])))
    losses.append(
        (ElementwiseLoss("poisson", "exp(z) - a * y * z", params={"a": [1.0, 2.0, 3.0]}), random.uniform(0, 1, (4, 3)))
    )
    losses.append((LOSSES["huber"](delta=0.3), random.normal(size=(4, 3))))
    for i, (loss, y) in enumerate(losses):
        net = Net((2, 3), ("tanh",), loss, True, rng=1, reduction=("mean", "sum")[i % 2])
        explanation = net.explain(random.normal(size=(4, 2)), y)
        assert_equal(opened(explanation), explanation)


def test_shared_tensors_and_a_gradient_step(opened, random):
    net = Net((3, 3, 3), ("tanh", "sigmoid"), "mse", True, rng=0, reduction="mean")
    net.weights[1] = net.weights[0]
    x, y = random.normal(size=(4, 3)), random.normal(size=(4, 3))
    page = opened(net.explain(x, y))
    page.fill("#rate", "0.25")
    page.click("#descend")
    page.click("#descend")
    for _ in range(2):
        net.loss_and_grad(x, y)
        for tensor in net.parameters:
            tensor.data = tensor.data - 0.25 * tensor.grad
    assert_equal(page, net.explain(x, y))
    assert page.locator("#history polyline").count() == 1
    page.click("#reset")
    assert page.locator("#history polyline").count() == 0


def test_what_is_changed_is_followed(opened):
    net = Net((2, 3, 2), loss="softmax_cross_entropy", bias=True, rng=0)
    page = opened(net.explain([1.0, -0.5], 1))
    page.get_by_label("x[1]", exact=True).fill("2.5")
    page.get_by_label("class", exact=True).fill("0")
    page.locator("details").nth(0).locator("summary").click()
    page.get_by_label("W_0[2,1]", exact=True).fill("-0.75")
    page.get_by_label("W_0[2,1]", exact=True).press("Tab")
    net.weights[0].data[2, 1] = -0.75
    assert_equal(page, net.explain([1.0, 2.5], 0))
    page.get_by_label("class", exact=True).fill("7")  # there is none
    page.get_by_label("class", exact=True).press("Tab")
    assert_equal(page, net.explain([1.0, 2.5], 1))
    page.get_by_label("x[1]", exact=True).fill("")  # no number: what was there stays
    page.get_by_label("x[1]", exact=True).press("Tab")
    assert_equal(page, net.explain([1.0, 2.5], 1))
    page.click("#reset")
    net.weights[0].data[:] = Net((2, 3, 2), rng=0).weights[0].data
    assert_equal(page, net.explain([1.0, -0.5], 1))


def test_steps_forward_and_back(opened):
    explanation = article()
    page = opened(explanation)
    assert page.locator("#phase").inner_text() == "Given: input, target, weights"
    assert page.locator("#net .value").count() == 5  # the input alone
    for step in explanation.steps:
        page.click("#forward")
        assert step.symbol.text in page.locator("#phase").inner_text()
        assert page.locator("#formula").inner_text().startswith(f"{step.symbol.text} = {step.formula.text}")
        assert page.locator("#why").inner_text() == step.why
    assert page.locator("#forward").is_disabled()
    page.keyboard.press("Home")
    assert page.locator("#back").is_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert "t_0 (step 1 of 17)" in page.locator("#phase").inner_text()
    page.locator("#scrubber").fill("7")
    assert "The loss" in page.locator("#phase").inner_text()
    page.locator("#steps button").nth(11).click()
    assert "grad t_1 (step 12" in page.locator("#phase").inner_text()


def lines(page):
    return page.locator("#detail .line").all_inner_texts()


def test_the_arithmetic_is_the_texts(opened):
    """Of every step the page says of the first number what the text says."""
    random = np.random.default_rng(5)
    for explanation in (
        article(),
        residual(random),
        Net((2, 2), ("silu",), "bce_with_logits", rng=0).explain([1, 2], [0, 1]),
        Net((2, 3), (["tanh", "softmax"],), "mse", rng=0).explain([1, 2], [0.5, 0.25, 0.25]),
    ):
        page = opened(explanation)
        for step in explanation.steps:
            page.click("#forward")
            if step.phase == "loss" and explanation.case.call.loss.name == "softmax_cross_entropy":
                continue  # the page shows the number alone
            if step.worked and step.worked != f"{step.number:.4g}":
                assert f"{step.element.text} = {step.worked} = " in lines(page)[-1], step


def test_pointing_and_keeping(opened):
    page = opened(article())
    page.keyboard.press("End")
    neuron = page.get_by_role("button", name=re.compile(r"^z_1\[2\]"))
    neuron.hover()
    assert lines(page)[0].startswith("z_1[2] = 1 / (1 + exp(-1.791)) = 0.8571")
    assert lines(page)[1].startswith("grad z_1[2] = ")
    neuron.click()
    page.mouse.move(5, 5)
    assert lines(page)[0].startswith("z_1[2]")  # kept
    weight = page.locator("#net .weight .reach").nth(7)
    box = weight.bounding_box()
    page.evaluate(
        """() => document.querySelectorAll("#net .weight")[7].dispatchEvent(new PointerEvent("pointerenter"))"""
    )
    assert lines(page)[1].startswith("grad W_0[1,2] = ") and box


def test_keys_alone_are_enough(opened):
    page = opened(article())
    page.keyboard.press("End")
    page.locator("#net .neuron[tabindex='0']").focus()
    said = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert said.startswith("x[0] 1, grad x[0] 6.57")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    label = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.match(r"t_0\[\d\] ", label)
    page.keyboard.press("Enter")
    assert page.locator("#net .kept").count() == 1
    assert lines(page)[0].split(" = ")[0] == label.split(" ")[0]
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, [role=button]:not([aria-hidden])")]
      .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length)).length""")
    assert nameless == 0


def test_the_batch_as_a_heat_map(opened, random):
    explanation = residual(random)
    page = opened(explanation)
    assert page.locator("#heatmap tbody tr").count() == len(explanation.case.nodes)
    norms = np.linalg.norm(explanation.case.grad_rows("h"), axis=1)
    titles = page.locator("#heatmap tbody tr").nth(2).locator("td").evaluate_all("cells => cells.map((c) => c.title)")
    assert [float(title.split(": ")[1]) for title in titles] == pytest.approx(norms, rel=1e-3)
    page.get_by_role("button", name="3", exact=True).click()
    page.keyboard.press("End")
    assert page.evaluate("backprop.state.sample") == 3
    assert "of sample 3" in page.locator("#editors").inner_text()
    page.get_by_label("x[0]", exact=True).fill("9")
    page.get_by_label("x[0]", exact=True).press("Tab")
    values = page.evaluate(NUMBERS)["values"][0]
    assert values[3 * 4] == 9 and values[0] == explanation.case.rows("x")[0, 0]


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window(opened, random, width, scheme):
    """Nothing but tables and the drawing, which scroll within themselves, is wider than the window; texts can be read."""
    page = opened(residual(random), viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.keyboard.press("End")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []


#: Elements with text whose colour and background differ by less than 4.5 to 1, the least for readers with weak eyes.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  return [...document.querySelectorAll("main *:not(svg *), header *")].filter((e) => {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.disabled || !e.getClientRects().length || ["SCRIPT", "OPTION", "TITLE"].includes(e.tagName)) return false;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  }).map((e) => `${e.tagName} ${e.className} ${e.textContent.slice(0, 30)}`);
}"""


def test_code_of_the_users_is_shown_and_not_run(opened):
    class Cube(Activation):
        def __call__(self, x):
            return x**3

        def grad(self, x):
            return 3 * x**2

    explanation = Net((2, 2), (Cube(),), rng=0).explain([1, 2])
    page = opened(explanation)
    assert_equal(page, explanation)
    assert page.locator("#descend").is_disabled()
    assert "Python code" in page.locator("#live").inner_text()
    page.keyboard.press("End")


def test_what_is_not_finite(opened):
    net = Net((2, 2), ("identity",), rng=0)
    net.weights[0].data[0, 0] = np.inf
    page = opened(net.explain([1.0, 2.0]))
    page.keyboard.press("End")
    assert page.locator("#loss").inner_text() == "inf"


def test_names_are_text_whatever_they_say(opened):
    name = "</script><img src=x onerror=alert(1)>"
    net = GraphNet({"<b>&": Input(2), name: (Linear(2), "<b>&")}, rng=0)
    page = opened(net.explain([1.0, 2.0]))
    page.keyboard.press("End")
    assert page.locator("img").count() == 0
    assert name in page.locator("#formula").inner_text()


def test_a_wide_net_is_cut_and_a_large_one_refused():
    page = Net((40, 30, 10), rng=0).explain(np.ones(40)).html
    description = json.loads(re.search(r'id="model">(.*?)</script>', page, re.DOTALL)[1])
    assert description["nodes"][1]["width"] == 30 and description["most"] == 16
    with pytest.raises(ValueError, match=r"a page holds up to 24,000 numbers .* this is 40,"):
        Net((200, 200), rng=0).explain(np.ones(200)).html  # noqa: B018


def test_the_largest_page_stays_small():
    side = int((html_page.MOST_NUMBERS / 2) ** 0.5) - 1
    explanation = Net((side, side, side), rng=0).explain(np.ones(side))
    assert explanation.numbers > 0.95 * html_page.MOST_NUMBERS
    assert len(explanation.html.encode()) < 400_000


def test_a_page_of_many_nodes_is_refused():
    net = Net((2,) * 300, rng=0)
    with pytest.raises(ValueError, match="a page has up to 400,000 bytes, this has"):
        net.explain([1, 2]).html  # noqa: B018


def test_a_notebook_shows_the_page():
    shown = Net((2, 2), rng=0).explain([1, 2])._repr_html_()
    assert shown.startswith("<iframe") and "&lt;!DOCTYPE html&gt;" in shown
