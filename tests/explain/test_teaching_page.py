"""The page docs/teaching.md does what it says."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "teaching.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text, names = PAGE.read_text(encoding="utf-8"), {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a page that warns of what it shows confuses
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["report"].ok and names["walk"].ok
    assert (tmp_path / "walk.html").exists() and (tmp_path / "net.svg").exists()
    printed = " ".join(capsys.readouterr().out.split())
    for line in re.findall(r"^    +(\d+\. grad.*|grad t_1.*)$", text, re.MULTILINE):
        assert line in printed
