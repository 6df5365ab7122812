"""`make gpu` from end to end, at a small size, with tools that only say what they were asked for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from backprop_xp.bench import gpu

REPOSITORY = Path(__file__).parent.parent
TEST = "tests/formulas/test_device.py::test_parameters_reach_a_float_kernel_as_floats"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
]

#: Runs the program behind its own options, which are such with a value, and writes down what it was asked for.
FAKE = """#!/bin/sh
echo "$0 $*" >> "{log}"
while [ "${{1#-}}" != "$1" ]; do shift 2; done
"$@" || exit {code}
echo "========= ERROR SUMMARY: 0 errors"
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make gpu, with fake tools; what it prints, the folder of its output, and what the tools were asked for."""
    log = tmp_path / "asked"
    for name in ("compute-sanitizer", "ncu"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FAKE.format(log=log, code=gpu.FOUND), encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")

    def made():
        variables = {
            "NO_INSTALL": "1", "PYTHON": sys.executable, "PRESENT": tmp_path / "present", "MINUTES": 60, "SMALL": 1,
            "TESTS": TEST, "BENCH": "--net 3-2 --batch 32 --seconds 0.01", "RESULTS": tmp_path / "results", "OUT": tmp_path / "out",
        }  # fmt: skip
        command = ["make", "-C", str(REPOSITORY), "gpu", *(f"{name}={value}" for name, value in variables.items())]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout, tmp_path / "out", log.read_text(encoding="utf-8")

    return made


def test_all_stages(make, tmp_path):
    before = _present(REPOSITORY / "build" / "present")
    out, folder, asked = make()
    assert "all is well" in out
    assert (folder / "summary.txt").read_text(encoding="utf-8").strip() in out
    assert "every engine agrees" in (folder / "facts.txt").read_text(encoding="utf-8")
    assert "1 passed" in (folder / "tests.txt").read_text(encoding="utf-8")
    for check in gpu.CHECKS:
        assert f"--tool {check.tool} " in asked
        assert "1 passed" in (folder / f"{check.tool}-{check.what}.txt").read_text(encoding="utf-8")
    assert "-k bpx_backprop" in asked and "-k bpx_block" in asked
    bench = (folder / "bench.txt").read_text(encoding="utf-8")
    assert "gradients equal PyTorch's" in bench or "PyTorch is not installed" in bench
    assert sorted(path.suffix for path in (tmp_path / "results").iterdir()) == [".json", ".md"]
    assert _present(REPOSITORY / "build" / "present") == before


def test_links_that_are_right_are_left_alone(tmp_path):
    present = tmp_path / "present"

    def make():
        subprocess.run(
            ["make", "-C", str(REPOSITORY), "present", f"PRESENT={present}"], check=True, capture_output=True
        )
        return _present(present)

    first = make()
    folder = present / "backprop_xp"
    assert {"__init__.py", "kernels", "bench"} <= {path.name for path in folder.iterdir()}
    assert make() == first
    (folder / "gone.py").symlink_to(tmp_path / "gone.py")
    (folder / "net.py").unlink()
    (folder / "net.py").symlink_to(tmp_path)
    again = make()
    assert again.keys() == first.keys()
    assert [name for name in first if again[name] != first[name]] == ["net.py"]
    assert (folder / "net.py").samefile(REPOSITORY / "backprop_xp" / "net.py")


def _present(folder):
    """When each link was made."""
    links = (folder / "backprop_xp").iterdir() if folder.exists() else ()
    return {path.name: path.lstat().st_ctime_ns for path in links}
