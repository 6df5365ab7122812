"""The README's programs run, one after another, and each kind of reader is led to a page whose programs run too."""

import inspect
import re
import sys
from pathlib import Path

import pytest
from backprop_xp.bench import own

from backprop_xp import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
#: A piece of the source that is shown, not run.
SHOWN = "class Sigmoid(BuiltIn)"
#: Who reads: the page that is for them, and the test that runs it.
READERS = {
    "teaching": "tests/explain/test_teaching_page.py",
    "sklearn": "tests/sklearn/test_page.py",
    "pytorch": "tests/test_torch_page.py",
    "tables": "tests/data/test_page.py",
    "derivatives": "tests/derivatives/test_page.py",
    "training": "tests/test_pages.py",
    "your-own-benchmark": "tests/test_readme.py",
}


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What short blocks take for granted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")
    return {"__name__": "readme"}


def test_every_program_runs(names, tmp_path, capsys):
    for needed in ("pandas", "sklearn", "matplotlib", "safetensors"):
        pytest.importorskip(needed)
    first = {}
    for block in BLOCKS:
        if SHOWN in block:
            continue
        if "x_held" in block or "world=world" in block:  # lines of a longer program
            names |= first | {"x_held": first["x"], "y_held": first["y"]}
        quick = block.replace("60_000", "600").replace("epochs=30", "epochs=3")
        exec(compile(quick, str(README), "exec"), names)
        first = first or {name: names[name] for name in ("net", "x", "y")}
    assert SHOWN in "".join(BLOCKS) and len(BLOCKS) >= 10
    assert (tmp_path / "digits.safetensors").exists() and (tmp_path / "digits.png").exists()
    assert "accuracy 0.98" in capsys.readouterr().out


@pytest.mark.parametrize("page", READERS)
def test_every_reader_finds_a_page_that_runs(page):
    begin = README.read_text(encoding="utf-8").partition("## Where to begin")[2].partition("\n## ")[0]
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert f"(docs/{page}.md)" in begin and f"({page}.md)" in start
    assert page in (ROOT / READERS[page]).read_text(encoding="utf-8")


def test_the_page_on_ones_own_benchmark(monkeypatch):
    """Its calls are such as the function takes; what comes of them, tests/test_bench_own.py looks at."""
    called, takes = [], inspect.signature(own.compare)
    monkeypatch.setattr(
        sys.modules["backprop_xp.bench.own"],
        "compare",
        lambda *given, **options: called.append(takes.bind(*given, **options)),
    )
    text = (ROOT / "docs" / "your-own-benchmark.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, dict.fromkeys(("net", "module", "x", "y")))
    assert len(called) == 2


def test_who_has_a_gpu_is_told_what_it_is_used_for(capsys):
    """Also where there is none."""
    assert cli.main(["info"]) == 0
    assert re.search(r"^(CuPy|cupy|backend|GPU|device)", capsys.readouterr().out, re.MULTILINE)
