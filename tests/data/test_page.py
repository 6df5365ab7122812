"""The page on tables says what its commands and its code print."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from backprop_xp import cli

pytest.importorskip("sklearn")

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"


def test_the_blocks_print_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKPROP_XP_BACKEND", "numpy")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"sh", "text", "python"} and len(blocks) > 10
    names: dict = {}
    printed = ""
    for language, block in blocks:
        if language == "text":
            pattern = re.escape(block.rstrip("\n")).replace(r"\.\.\.", ".*?")
            assert re.match(pattern, printed, re.DOTALL), f"{block}\n is not what it prints:\n{printed}"
            continue
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            if language == "sh":
                for line in block.splitlines():
                    program, *arguments = shlex.split(line)
                    assert program == "backprop-xp" and cli.main(arguments) == 0, line
            else:
                exec(compile(block, str(PAGE), "exec"), names)
        printed = stream.getvalue()
        if language == "python":
            assert printed.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)
