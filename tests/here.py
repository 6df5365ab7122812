"""Who runs the tests, and what the machine has for them."""

import os

import pytest

from backprop_xp.toolchain import compiler

#: Whether it is root, who may do everything; Windows has no such user.
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

needs_compiler = pytest.mark.skipif(bool(compiler.missing()), reason="no C++ compiler on this machine")


def failing_compiler(folder):
    """The path of a program that calls itself a compiler, and compiles nothing."""
    broken = folder / "broken"
    lines = "#!/bin/sh", '[ "$1" = --version ] && echo broken 1.0 && exit 0', 'echo "error: broken" >&2', "exit 1", ""
    broken.write_text("\n".join(lines), encoding="utf-8")
    broken.chmod(0o755)
    return str(broken)
