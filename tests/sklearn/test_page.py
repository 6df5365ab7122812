"""The page on estimators says what its code prints."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

PAGE = Path(__file__).parents[2] / "docs" / "sklearn.md"


def test_the_blocks_print_what_they_say():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict = {}
    for block in blocks:
        said = re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            exec(compile(block, str(PAGE), "exec"), names)
        assert printed.getvalue().splitlines() == said
