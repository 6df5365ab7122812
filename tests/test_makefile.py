"""`make gpu` from end to end, at a small size."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_gpu(tmp_path):
    test = "tests/formulas/test_device.py::test_parameters_reach_a_float_kernel_as_floats"
    variables = {
        "NO_INSTALL": "1", "PYTHON": sys.executable, "TESTS": test, "RESULTS": str(tmp_path),
        "BENCH": "--net 3-2 --batch 32 --seconds 0.01",
    }  # fmt: skip
    command = ["make", "-C", str(REPOSITORY), "gpu", *(f"{name}={value}" for name, value in variables.items())]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    assert "compute-sanitizer" in result.stdout
    assert "gradients equal PyTorch's" in result.stdout or "PyTorch is not installed" in result.stdout
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]
