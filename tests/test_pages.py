"""Pages of the documentation: their programs run, what they say of numbers is so, and the site is built without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from backprop_xp.toolchain import compiler

ROOT = Path(__file__).parents[1]
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = {"__name__": page.stem}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_is_short_and_runs(page, tmp_path, monkeypatch):
    if page.stem == "compile-ahead" and compiler.missing():
        pytest.skip(compiler.missing())
    (block,) = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert block.count("\n") < 20
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["index", "training"])
def test_a_page_runs(name, tmp_path, monkeypatch):
    names = run(ROOT / "docs" / f"{name}.md", tmp_path, monkeypatch)
    assert names["history"].epochs


def test_the_first_losses_are_those_that_the_start_says():
    import numpy as np

    from backprop_xp import Net

    random = np.random.default_rng(0)
    x, y = random.normal(size=(500, 64)), random.integers(0, 10, 500)
    options = {"loss": "softmax_cross_entropy", "reduction": "mean", "backend": "numpy", "engine": "layered"}
    sizes, activations = (64, 128, 128, 10), ("relu", "relu", None)
    first = [
        Net(sizes, activations, init=init, rng=0, **options).loss_and_grad(x, y) for init in (None, "glorot_uniform")
    ]
    assert [f"{loss:.0f}" for loss in first[:1]] + [f"{loss:.1f}" for loss in first[1:]] == ["824", "2.4"]


def test_the_site_is_built_without_a_warning(tmp_path):
    """Every link and every anchor leads somewhere, and every page is in the navigation, also one that is new."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "-q",
        "-f",
        str(ROOT / "mkdocs.yml"),
        "-d",
        str(tmp_path / "site"),
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").rglob("*.md"), Path("changelog.md"), Path("benchmark.md")]:
        name = page.relative_to(ROOT / "docs") if page.is_absolute() else page
        assert (tmp_path / "site" / name.with_suffix(".html")).exists(), name
        assert f'href="{name.with_suffix(".html").as_posix()}"' in start, name
    nets = (tmp_path / "site" / "reference" / "nets.html").read_text(encoding="utf-8")
    assert 'id="backprop_xp.Net.loss_and_grad"' in nets and ":class:" not in nets
