"""What holds for the package as a whole: its version, its imports, and a clone that nothing was installed from."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import backprop_xp
from backprop_xp.toolchain import compiler

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("backprop_xp", "kernels") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The folders of a clone, where no finder of an editable installation finds them."""
    root = tmp_path_factory.mktemp("clone")
    for folder in ("backprop_xp", "kernels", "bench"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def run(clone, program, packages=True):
    """The program in the clone, with or without the packages of this environment."""
    path = [p for p in sys.path if "site-packages" in p] if packages else []
    # -S: no .pth files, and so no editable installation
    lines = [f"import sys; sys.path += {path!r}", program]
    command = [sys.executable, "-S", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True)


def test_a_clone_works_without_installing(clone):
    program = """
import backprop_xp, backprop_xp.kernels, backprop_xp.bench.cases
net = backprop_xp.Net(rng=0, backend="numpy")
print(backprop_xp.__file__, backprop_xp.kernels.__file__, net.loss_and_grad([1.0] * 5))
"""
    result = run(clone, program)
    assert result.returncode == 0, result.stderr
    package, kernels, loss = result.stdout.split()
    assert Path(package).parents[1] == Path(kernels).parents[1] == clone
    assert float(loss) > 0


def test_a_clone_without_numpy_says_what_to_install(clone):
    result = run(clone, "import backprop_xp", packages=False)
    assert result.stderr.splitlines()[-1] == (
        f"ModuleNotFoundError: backprop_xp needs numpy: pip install -e . in {clone}"
    )


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" not in project and project["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", backprop_xp.__version__)
    assert importlib.metadata.version("backprop-xp") == backprop_xp.__version__
    written = [path for path in SOURCES if backprop_xp.__version__ in path.read_text(encoding="utf-8")]
    assert written == [ROOT / "backprop_xp" / "__init__.py"]


def test_every_folder_of_the_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("backprop_xp/**/__init__.py")}
    there = {".".join(folder.parts) for folder in folders} | {"backprop_xp.kernels", "backprop_xp.bench"}
    assert set(listed) == there


def test_only_the_shim_imports_cupy():
    """And nobody else finds the module by a detour: what needs it is handed it, or asks backend.py."""
    importing = {str(path.relative_to(ROOT)) for path in SOURCES if _imports_cupy(ast.parse(path.read_text("utf-8")))}
    assert importing == {"backprop_xp/backend.py"}


#: Packages that may be missing, which those who need them import where they do.
OPTIONAL = {
    *("cupy", "jax", "matplotlib", "mpi4py", "nvidia", "onnx", "pandas", "pyarrow", "safetensors", "sklearn", "torch"),
    *("tqdm",),
}


def test_functions_import_nothing_but_packages_that_may_be_missing():
    """Whatever else is not to be imported with its module is said at the module's top, see later.py."""
    found = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in [*SOURCES, *(ROOT / "bench").rglob("*.py")]
        for function in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if not _packages(node) <= OPTIONAL
    }
    assert not found


def test_only_these_import_modules_by_name():
    calls = {
        str(path.relative_to(ROOT))
        for path in [*SOURCES, *(ROOT / "bench").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    # the package for names asked of it; tables of packages, and examples, which stand in no package
    assert calls == {
        "backprop_xp/__init__.py",
        "backprop_xp/later.py",
        "backprop_xp/data/sets.py",
        "bench/tables.py",
        "bench/examples.py",
    }


def _packages(node):
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {"." * node.level or node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def test_no_module_imports_itself_by_a_detour():
    """At its top, later and for types: what a room needs lies below it."""
    modules = {_module(path): path for path in SOURCES}
    below = {name: set(_with_folders(_imported(name, path, modules), name)) - {name} for name, path in modules.items()}
    while free := [name for name, needed in below.items() if not needed & below.keys()]:
        for name in free:
            del below[name]
    assert not {name: sorted(needed & below.keys()) for name, needed in below.items()}


def _module(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "backprop_xp" else ["backprop_xp", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(name, path, modules):
    """The modules of the package that a file names in its imports, wherever they stand."""
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            origin = ".".join([*base, node.module or ""]).rstrip(".")
            for alias in node.names:
                yield next((m for m in (f"{origin}.{alias.name}", origin) if m in modules), name)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("later."):
            yield from {node.args[0].value} & modules.keys()


def _with_folders(imported, name):
    """With a module its folders are imported, unless the one who imports it stands in them."""
    for each in imported:
        parts = each.split(".")
        yield each
        yield from (f for f in (".".join(parts[:k]) for k in range(1, len(parts))) if not name.startswith(f))


def _imports_cupy(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = any(alias.name.split(".")[0] == "cupy" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found = not node.level and (node.module or "").split(".")[0] == "cupy"
        elif isinstance(node, ast.Call):
            named = any(isinstance(argument, ast.Constant) and argument.value == "cupy" for argument in node.args)
            found = named and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__", "get")
        else:
            found = isinstance(node, ast.Subscript) and ast.unparse(node) == "sys.modules['cupy']"
        if found:
            return True
    return False


def test_windows_runs_without_a_compiler(monkeypatch):
    monkeypatch.setattr(compiler.platform, "system", lambda: "Windows")
    compiler._find.cache_clear()
    try:
        assert compiler.missing() == "kernels are compiled on Linux and macOS, not on Windows"
        net = backprop_xp.Net((3, 4, 2), rng=0, backend="numpy")
        assert str(net.plan([[1.0] * 3] * 5)).startswith("layered: not fused: kernels are compiled on Linux and macOS")
        assert float(net.loss_and_grad([1.0] * 3)) > 0
    finally:
        compiler._find.cache_clear()


LATER = ("bench", "check", "data", "exchange", "graph", "sklearn", "torch_layer", "training")


@pytest.mark.parametrize("name", LATER)
def test_modules_are_there_after_the_package_is_imported(name):
    program = f"import backprop_xp; print(backprop_xp.{name}.__name__, {name!r} in dir(backprop_xp))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == f"backprop_xp.{name} True\n", result.stderr


def test_an_attribute_that_is_not_there_is_said_as_of_any_module():
    with pytest.raises(AttributeError, match=r"^module 'backprop_xp' has no attribute 'trainig'$"):
        print(backprop_xp.trainig)


#: What takes long to import, and a first forward and backward pass of a chain on the CPU needs none of.
HEAVY = [
    "cupy", "difflib", "email", "graphlib", "hashlib", "html", "http", "importlib.abc", "importlib.metadata", "locale",
    "matplotlib", "pandas", "secrets", "shlex", "shutil", "sklearn", "socket", "ssl", "statistics", "subprocess", "tempfile",
    "threadpoolctl", "torch", "traceback", "urllib.request", "zipfile",
]  # fmt: skip
HEAVY += [f"backprop_xp.{name}" for name in (
    "ahead", "by_sample", "derivatives.equation", "derivatives.graph", "derivatives.loops", "derivatives.of_outputs",
    "derived", "distributed", "drawn", "engines.cooperative", "engines.fused.equation", "engines.fused_gpu", "equations",
    "exchange", "explain", "formulas.device", "graph", "notebook", "passes.per_sample", "passes.streamed", "plan.cost",
    "plan.devices", "plan.drawing", "programs.cublas", "programs.device_layers", "programs.stack", "ready.device",
    "repeated", "sums.chunk_sums", "toolchain.cuda", "toolchain.group", "training",
)]  # fmt: skip


def test_importing_brings_nothing_that_takes_long():
    program = f"""
import sys, numpy
before = set(sys.modules)
import backprop_xp
print([name for name in {HEAVY} if name in sys.modules and name not in before])
"""
    # -S and the path by hand: finders of editable installations import much
    path = [p for p in sys.path if "site-packages" in p] + [str(ROOT)]
    command = [sys.executable, "-S", "-c", f"import sys; sys.path += {path!r}\n{program}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stdout + result.stderr


def test_modules_that_take_long_are_named_as_they_are():
    ours = {name for name in HEAVY if name.startswith("backprop_xp.")}
    assert ours <= {_module(path) for path in SOURCES}


def test_names_that_stand_elsewhere_are_those_of_their_modules():
    from backprop_xp.derivatives.equation import Equation

    assert backprop_xp.Equation is Equation and {"Equation", "GraphNet"} <= {*dir(backprop_xp)}
    assert all(getattr(backprop_xp, name) is not None for name in backprop_xp.__all__)
