"""What is handed out: the source distribution has what its tests need, and the metadata are right."""

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """An unpacked source distribution of this folder."""
    pytest.importorskip("build")
    if not (ROOT / ".git").exists():
        pytest.skip("this is no repository")
    folder = tmp_path_factory.mktemp("sdist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0")[:-1]:  # a copy, for setuptools leaves folders where it builds
        if (ROOT / name).is_file():
            (folder / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "clone" / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "-q", "--sdist", "--no-isolation", "--outdir", str(folder), "."]
    result = subprocess.run(command, cwd=folder / "clone", capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "clone", next(path for path in folder.glob("backprop_xp-*") if path.is_dir())


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_has_every_file_of_the_repository(unpacked):
    clone, folder = unpacked
    made = {"PKG-INFO", "setup.cfg"}
    left_out = {name for name in names(clone) - names(folder) if ".egg-info/" not in name}
    added = {name for name in names(folder) - names(clone) - made if ".egg-info/" not in name}
    assert (left_out, added) == (set(), set())


def test_tests_of_the_source_distribution_find_what_they_need(unpacked):
    """Helpers, and the documentation; hosted CI runs all of them."""
    _, folder = unpacked
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["tests/test_dtypes.py", "tests/test_docs.py", "tests/training/test_defaults.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_classifiers_name_the_pythons_of_hosted_ci():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    hosted = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    named = [
        c.rpartition(" :: ")[2] for c in project["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    ]
    assert project["requires-python"] == f">={named[0]}"
    assert all(f'"{version}"' in hosted for version in named)
    assert "Typing :: Typed" in project["classifiers"] and (ROOT / "backprop_xp" / "py.typed").exists()


def test_only_the_benchmark_pins_a_version():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {name for name, needs in extras.items() if any("==" in need.partition(";")[0] for need in needs)} <= {
        "bench"
    }


def test_releases_are_tried_where_they_are_used():
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert all(system in text for system in ("ubuntu-latest", "ubuntu-24.04-arm", "macos-latest", "windows-latest"))
    assert "needs: [wheel, sdist]" in text and "password:" not in text


def test_a_release_says_where_it_is_from(tmp_path):
    """Links on PyPI, of the project and within the README."""
    for name in ("pyproject.toml", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    url = "https://example.org/someone/backprop_xp"
    subprocess.run([sys.executable, str(ROOT / ".ci" / "addresses.py"), url], cwd=tmp_path, check=True)
    urls = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert urls["Repository"] == url and urls["Issues"] == f"{url}/issues"
    assert {address for address in urls.values() if address.startswith(f"{url}/blob/main/")} == {
        f"{url}/blob/main/{page}" for page in ("docs/index.md", "CHANGELOG.md")
    }
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]*)\)", re.sub(r"```.*?```|`[^`]*`", "", readme, flags=re.DOTALL))
    for link in links:
        path = re.fullmatch(f"{url}/(?:blob|raw)/main/([^#]*)(?:#.*)?", link)
        assert not path or (ROOT / path[1]).exists(), link
        assert path or link.startswith(("https://", "#")), link
    assert f"({url}/raw/main/bench/results/digits.png)" in readme
    release = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    assert release.index("addresses.py") < release.index("python -m build")
