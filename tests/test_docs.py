"""What the documentation names is there: links, files, constants and environment variables."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

import backprop_xp

ROOT = Path(__file__).parents[1]
SKIPPED = {".git", ".venv", ".venv-lowest", "build", "dist", "__pycache__"}
FILES = [
    path
    for path in ROOT.rglob("*")
    if path.is_file() and not SKIPPED & set(path.relative_to(ROOT).parts) and path.suffix != ".pyc"
]
NAMES = {f"/{path.relative_to(ROOT).as_posix()}" for path in FILES}
PAGES = sorted(path for path in FILES if path.suffix == ".md")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def heading_links(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not heading or heading in heading_links(found), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page):
    """`toolchain/cache.py` is some file of that name, `engines/` some folder; NAME stands for a name."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for name in re.findall(r"`([\w./-]+(?:\.(?:py|h|md|toml|cpp|json|yml|yaml|cff)|/))`", text):
        if re.search(r"NAME|/results/<", name) or name.startswith("bench/results"):
            continue
        if name.endswith("/"):
            assert any(f"/{name}" in known for known in NAMES), name
        else:
            assert any(known.endswith(f"/{name}") for known in NAMES), name


def test_named_constants_exist():
    source = "\n".join(path.read_text(encoding="utf-8") for path in FILES if path.suffix in (".py", ".h"))
    for page in (ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")):
        for name in re.findall(r"`([A-Z][A-Z_]{4,})`", page.read_text(encoding="utf-8")):
            if not name.startswith("BACKPROP_XP_"):
                assert re.search(rf"^{name}\b.*=|, {name}\b.* = |[\"']{name}[\"']", source, re.MULTILINE), (page, name)


def test_every_environment_variable_is_in_the_table():
    pattern = r"BACKPROP_XP_[A-Z_]*[A-Z]"
    folders = ("backprop_xp", "bench", "kernels")
    sources = [path for path in FILES if path.relative_to(ROOT).parts[0] in folders and path.suffix in (".py", ".h")]
    read = {name for path in sources for name in re.findall(pattern, path.read_text(encoding="utf-8"))}
    rows = [
        line for line in (ROOT / "docs/environment.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "
    ]
    listed = {name for row in rows for name in re.findall(rf"^\| `({pattern})` \|", row)}
    assert read == listed
    assert {"`CXX`", "`XDG_CACHE_HOME`"} <= {row.split(" | ")[0].removeprefix("| ") for row in rows}


def test_every_module_is_on_the_way_through_the_house():
    """Whoever adds a room says what it is for."""
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("docs/developer/house.md", "README.md"))
    for path in sorted((ROOT / "backprop_xp").iterdir()):
        if path.name.startswith("_") or path.name == "py.typed":
            continue
        assert path.name in text, path.name


def test_the_changelog_has_the_version_and_room_for_the_next():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([\w.]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and backprop_xp.__version__ in versions


def test_hosted_ci_runs_what_ci_run_runs():
    """Every make target of .ci/run, on three systems and the Pythons that pyproject.toml allows."""
    ours = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    hosted = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    wanted = {target for line in re.findall(r"^make ([a-z ]+)", ours, re.MULTILINE) for target in line.split()}
    found = {target for line in re.findall(r"run: make ([a-z ]+)", hosted) for target in line.split()}
    assert wanted == {"lint", "types", "wheel", "test"} and wanted | {"lowest", "coverage"} == found
    assert all(word in hosted for word in ("ubuntu", "macos", "windows", '"3.11"', '"3.12"', '"3.13"', '"3.14"'))


def test_hosted_ci_brings_a_browser_and_ci_run_needs_none():
    hosted = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    installed = re.findall(r"-m playwright install.* chromium$", hosted, re.MULTILINE)
    assert len(installed) == 2  # on Windows, and elsewhere
    assert hosted.index("playwright install") < hosted.index("run: make test")
    assert "playwright" not in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "module", ["", "data", "distributed", "exchange", "explain", "graph", "pictures", "sklearn", "training"]
)
def test_every_public_name_is_in_the_reference(module):
    if module in ("data", "sklearn"):
        pytest.importorskip("sklearn")
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    place = importlib.import_module(f"backprop_xp.{module}".rstrip("."))
    described = {line.rpartition(".")[2] for line in re.findall(r"^::: (\S+)", text, re.MULTILINE)}
    tables = {name for name in place.__all__ if f"`{place.__name__}.{name}`" in text}
    assert set(place.__all__) - described - tables == set()


def test_make_knows_the_documented_targets():
    named = re.findall(r"`?make ([a-z-]+)`?", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    for target in set(named):
        result = subprocess.run(["make", "-C", str(ROOT), "-n", target], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


@pytest.mark.parametrize(
    "folder",
    ["", "engines", "exchange", "formulas", "graph", "passes", "programs", "ready", "sklearn", "sums", "toolchain"],
)
def test_a_docstring_needs_no_other_docstring(folder):
    """It names its noun, and numbers by the name of the argument."""
    unclear = re.compile(r"^(The same\b(?! \w+ as)|Those\b|Its\b|And back)|\bso many\b(?! \w+ that)")
    for path in sorted((ROOT / "backprop_xp" / folder).glob("*.py")):
        for name, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            assert not unclear.search(text), f"{path.name}, {name}: {text}"
