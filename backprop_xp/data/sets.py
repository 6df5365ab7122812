"""Where tables come from: scikit-learn's sets, and files.

A table is a pandas DataFrame whose index is what people call its rows: in a text file the line that an editor shows
where it begins, usually 2 for the first row of data; elsewhere 1, 2, 3 and so on.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ..distributed import World
from ..distributed.share import of_rank
from ..files import kind
from ..keywords import known_options
from ..messages import first_line, unknown
from ..training.checkpoints import UNREADABLE
from . import folders, parquet, reader
from .errors import DataError
from .frames import Frame

#: scikit-learn's functions by the names that the command line knows.
SETS = {
    "digits": "load_digits",
    "iris": "load_iris",
    "breast-cancer": "load_breast_cancer",
    "diabetes": "load_diabetes",
}
SET_TARGET = "target"
TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SUFFIXES = (".csv", ".tsv", ".npz", parquet.SUFFIX, ".csv.gz", ".tsv.gz")
#: Bytes of one text file or .npz from which on ranks have it in parts: rows of a smaller one needn't travel in each
#: step. Chosen, not measured.
LARGE = 64 << 20


@known_options
def read(
    source: str | Path, *, separator: str | None = None, encoding: str | None = None, world: World | None = None
) -> Frame:
    """The table of this name: one of :data:`SETS`, a file whose name ends as one of :data:`SUFFIXES`, or a folder.

    A folder is one table, of .parquet files or of text files, which may lie in folders whose names are those of columns
    and values, as year=2024. The cells of a text file are texts, as the file has them; what they mean is found
    out by whoever learns from them.

    Args:
        separator: of a text file's columns; found out if left out.
        encoding: of a text file; UTF-8, UTF-16 or Latin-1, whichever it is, if left out.
        world: ranks, each of which gets some of the rows of a file or a folder, rank 0 the first ones.

    Raises:
        DataError: the file's content; the message says where. ValueError: neither a set nor such a file.
    """
    pandas = need("pandas")
    if str(source) in SETS:
        return _set(pandas, str(source))
    path = Path(source)
    suffix = _suffix(path)
    folder = path.is_dir() and (suffix == parquet.SUFFIX or folders.is_table(path, (parquet.SUFFIX, *TEXTS)))
    if not suffix and not folder:
        raise ValueError(
            f"{unknown('data', str(source), SETS)}; a file must be {', '.join(SUFFIXES)}, and a folder have "
            f"{parquet.SUFFIX} files or text files"
        )
    # no such file is said here, nothing is ever fetched, and no pipe is waited for
    files = folders.files(path) if folder else [path]
    for file in files:
        if what := kind(file.stat()):
            raise DataError(f"{file} is {what}; a table must be in a regular file")
    texts = [file for file in files if folder and _suffix(file) in TEXTS]
    if texts and len(texts) < len(files):
        other = next(file for file in files if file not in texts)
        raise DataError(
            f"{path} has {texts[0].name} and {other.name}: all files of a folder must be text files, or none"
        )
    if texts:
        return reader.read_folder(path, separator, encoding, world)
    if suffix in TEXTS:
        return reader.read(path, separator, encoding, world)
    if separator or encoding:
        raise ValueError(f"a separator and an encoding are of text files ({', '.join(TEXTS)}), not of {path}")
    if suffix != ".npz":
        need("pyarrow")
        return parquet.read(path, world)
    return _npz(pandas, path, world)


def in_parts(source: str | Path) -> bool:
    """Whether ranks get some of the rows each: of a folder, a .parquet file, or another file of :data:`LARGE` bytes."""
    path = Path(source)
    if str(source) in SETS:
        return False
    return path.is_dir() or _suffix(path) == parquet.SUFFIX or (path.is_file() and path.stat().st_size >= LARGE)


def stem(source: str | Path) -> str:
    """What files about this table are called: its name without what it ends in."""
    name = Path(source).name
    return name[: len(name) - len(_suffix(Path(source)))]


def _suffix(path: Path) -> str:
    """The longest of the known ends of names that this one has; "" for another name."""
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default="")


def _set(pandas: Any, name: str) -> Frame:
    need("sklearn", "scikit-learn")
    from sklearn import datasets

    bunch = getattr(datasets, SETS[name])(as_frame=True)
    frame = bunch.frame.rename(columns={bunch.frame.columns[-1]: SET_TARGET})
    if "target_names" in bunch and bunch.frame.dtypes.iloc[-1].kind == "i":
        frame[SET_TARGET] = [str(bunch.target_names[k]) for k in frame[SET_TARGET]]
    frame.index = range(1, len(frame) + 1)
    return frame


def _npz(pandas: Any, path: Path, world: World | None) -> Frame:
    """Arrays of one length: (n,) is a column of the array's name, (n, k) is k columns NAME_0, NAME_1, ...

    With a ``world`` each rank reads one array after another, and keeps its rows of each.
    """
    columns: dict[str, np.ndarray] = {}
    lengths: set[int] = set()
    rows = range(0)
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if array.ndim not in (1, 2):
                    raise DataError(f"{path}: the array {name} has {array.ndim} dimensions; expected 1 or 2")
                lengths.add(len(array))
                if world is not None:
                    rows = of_rank(world.rank, world.size, len(array))
                    array = array[rows.start : rows.stop].copy()
                parts = (
                    {name: array} if array.ndim == 1 else {f"{name}_{j}": array[:, j] for j in range(array.shape[1])}
                )
                if twice := sorted(parts.keys() & columns.keys()):
                    raise DataError(f"{path}: its arrays make two columns {twice[0]!r}; give one of them another name")
                columns |= parts
    except DataError:
        raise
    except (*UNREADABLE, OSError) as error:
        raise DataError(f"{path} can't be read as .npz: {first_line(error)}") from None
    if len(lengths) > 1:
        raise DataError(f"{path}: its arrays must have one length, got {sorted(lengths)}")
    if not any(lengths):
        raise DataError(f"{path} has no rows")
    frame = pandas.DataFrame(columns)
    return frame.set_axis(range(rows.start + 1, rows.start + len(frame) + 1))


def need(module: str, package: str | None = None) -> Any:
    """The module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"real data needs {package or module}: pip install 'backprop-xp[data]'") from None
