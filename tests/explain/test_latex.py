"""LaTeX documents: compiled where there is a LaTeX, and looked through everywhere."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from arrays import target
from own import Cube

from backprop_xp import ACTIVATIONS, LOSSES, Elementwise, ElementwiseLoss, Graph, GraphNet, Input, Net
from backprop_xp.explain.latex import PREAMBLE
from backprop_xp.formulas.notation import escaped, latex_name

ODD = r"\ ^ ~ _ { } % & # $ < > | é Δ 中 ł"
OPTIONS = {"rng": 0, "backend": "numpy"}

#: Commands of LaTeX and amsmath that documents are made of.
ANYWHERE = {"text", "textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"}
IN_TEXT = ANYWHERE | {"section", "subsection", "noindent", "small", "ttfamily", "raggedright", "par"}
IN_FORMULAS = ANYWHERE | {
    "Phi", "begin", "beta", "cdot", "cos", "dots", "end", "exp", "frac",
    "gamma", "ge", "le", "left", "log", "mathrm", "max", "min", "mu",
    "ne", "neg", "odot", "operatorname", "overline", "partial", "right", "sigma", "sin",
    "sqrt", "sum", "tanh", "top", "varphi", "vdots",
}  # fmt: skip


def graph(random, training):
    g = Graph()
    x, z = g.input(4, "x_in%"), g.input(2, "z & {y}")
    h = g.linear(x, 4, name="h#1")
    a = g.layer_norm(g.apply("gelu", h, name="a^b~") * h + x, name="norm\\x")
    b = g.batch_norm(g.dropout(a, 0.2, name="d$rop"), name=ODD)
    s = g.linear(b, 4, share=h, name="s<>|")
    net = g.net(g.linear(g.concatenate(s, z, x, name="中"), 3, name="é"), loss="softmax_cross_entropy", **OPTIONS)
    given = {"x_in%": random.normal(size=(5, 4)), "z & {y}": random.normal(size=(5, 2))}
    return net.explain(given, [0, 1, 2, 1, 0], sample_weight=[1, 2, 0, 0.5, 1], training=training)


def activations(random):
    own = Elementwise("own_%^", "exp(-width_a * t ** 2) + erf(t) / log(abs(t) + 2)", params={"width_a": 2.0})
    nodes = {"x": Input(3)} | {name: (name, "x") for name in ACTIVATIONS} | {"own": (own, "x"), "cube": (Cube(), "x")}
    net = GraphNet(nodes | {"y": ("concatenate", *ACTIVATIONS, "own", "cube")}, **OPTIONS)
    return net.explain(random.normal(size=(2, 3)))


def not_finite(random):
    net = Net((2, 2), ("identity",), **OPTIONS)
    net.weights[0].data[0, 0] = np.inf
    return net.explain([1.0, 2.0])


def of_loss(loss, y, random):
    return Net((2, 3), ("tanh",), loss, True, **OPTIONS).explain(random.normal(size=(2, 2)), y)


CASES = {
    "article": lambda random: Net(**OPTIONS).explain([1.0, -0.5, 0.25, 2.0, -1.5]),
    "wide": lambda random: Net((30, 40, 3), **OPTIONS).explain(random.normal(size=(30, 30))),
    "graph": lambda random: graph(random, True),
    "graph in use": lambda random: graph(random, False),
    "activations": activations,
    "not finite": not_finite,
    "loss of one's own": lambda random: of_loss(
        ElementwiseLoss("poi_sson#", "exp(z) - a * y * z", params={"a": [1.0, 2.0, 3.0]}), np.ones((2, 3)), random
    ),
} | {name: lambda random, name=name: of_loss(name, target(name, 2, 3, random), random) for name in LOSSES}


def check(document):
    """That it is LaTeX with balanced parts, escaped characters, and commands that its packages have."""
    head, body = document.split("\\begin{document}\n")
    assert body.endswith("\\end{document}\n")
    assert re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", head) == ["amsmath", "geometry"]
    body = body.removesuffix("\\end{document}\n")
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        assert kind == "begin" or opened.pop() == name
        opened += [name] * (kind == "begin")
    assert not opened
    for line in body.splitlines():
        bare = re.sub(r"\\[\\{}]", "", line)
        depths = np.cumsum([(character == "{") - (character == "}") for character in bare] or [0])
        assert depths[-1] == 0 and depths.min() == 0, line
        assert all(c.isascii() or c in "é" for c in line), line
        formula = re.fullmatch(r"\\\[ (.*) \\\]", line)
        if formula:
            check_formula(formula[1])
        else:
            text = re.sub(r"(?<!\\)\$(.*?)(?<!\\)\$", lambda found: check_formula(found[1]), line)
            assert not re.search(r"(?<!\\)[_^&#$%~]|\\\[|\\\]", text), line
            assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= IN_TEXT, line
            assert not re.search(r"[<>|]", text), line


def check_formula(formula):
    assert not re.search(r"(?<!\\)[#$%~]", formula), formula
    outside, count = formula, 1
    while count:  # from the innermost on
        outside, count = re.subn(r"\\begin\{(pmatrix|cases)\}((?!\\begin).)*?\\end\{\1\}", "", outside)
    assert not re.search(r"(?<!\\)&", outside), formula
    assert formula.count(r"\left") == formula.count(r"\right"), formula
    assert set(re.findall(r"\\([a-zA-Z]+)", re.sub(r"\\\\", "", formula))) <= IN_FORMULAS, formula
    return ""


@pytest.mark.parametrize("name", CASES)
def test_a_document_is_balanced_and_escaped(name, random):
    with np.errstate(all="ignore"):
        check(CASES[name](random).latex)


def test_the_check_finds_what_is_wrong():
    document = Net(**OPTIONS).explain(np.ones(5)).latex
    for right, wrong in (
        (r"\end{pmatrix}", ""),
        (r"\subsection*{Given}", r"\subsection*{Given"),
        (r"\subsection*{Given}", r"\subsection*{50 %}"),
        (r"\subsection*{Given}", r"\subsection*{a_b}"),
        (r"\subsection*{Given}", r"\subsection*{\backslash}"),
        (r"\frac", r"\dfrak"),
        (r"\usepackage{amsmath}", ""),
    ):
        assert right in document
        with pytest.raises((AssertionError, IndexError)):
            check(document.replace(right, wrong, 1))


def compiled(command, folder):
    options = ["-draftmode", "-halt-on-error", "-interaction=nonstopmode"] if command.endswith("pdflatex") else []
    command = [command, *options, "told.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")


@pytest.fixture(scope="module")
def latex(tmp_path_factory):
    """The command of a LaTeX that has the packages; a test that needs one is skipped where there is none."""
    folder = tmp_path_factory.mktemp("latex")
    (folder / "told.tex").write_text(f"{PREAMBLE}x\n\\end{{document}}\n", encoding="utf-8")
    for command in filter(None, map(shutil.which, ("pdflatex", "tectonic"))):
        if compiled(command, folder).returncode == 0:
            return command
    return pytest.skip("no LaTeX on this machine")


@pytest.mark.parametrize("name", CASES)
def test_a_document_compiles(name, latex, random, tmp_path):
    with np.errstate(all="ignore"):
        CASES[name](random).save(tmp_path / "told.tex")
    result = compiled(latex, tmp_path)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "Missing character" not in result.stdout and "invalid in math mode" not in result.stdout


def test_every_character_is_shown():
    assert escaped("a_b^c") == r"a\_b\text{\textasciicircum}c"
    assert escaped("é中ł") == r"\text{é}\text{U+4E2D}\text{U+0142}"
    assert latex_name("é") == r"\mathrm{\text{é}}" and latex_name("x") == "x"
