"""Files that are written whole or not at all: every file of this package is written by :func:`replacing`.

What a path names stays what it is, and only its content changes. Symbolic links are followed, as ``open`` does; a file
keeps its mode, owner, group and all of its names; folders, pipes, sockets and devices are refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import BinaryIO

StrPath = str | os.PathLike[str]

TEMPORARY = "writing-"  # how the names of unfinished files begin; one that lasts is of a process that was killed
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _Enough(Exception):
    """Ends a block of :func:`replacing` that was a trial."""


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """A file to write to; its content becomes that of ``path`` if the block ends without an error.

    Until then, and for good if the block fails, what stands at ``path`` is untouched, and nothing is left beside it.
    A file of this name is replaced by renaming, by one of the same mode, owner and group. Where that would cut one of
    several names (hard links) off, or lose an owner whom this process can't name, the complete new content is
    copied into the old file instead, which gets its old content back if that fails: only a process that is killed
    meanwhile leaves it half-written, with the complete content beside it in a file ``writing-...``.

    Raises:
        OSError: it can't be written; ``filename`` is the path as given, and ``strerror`` says why.
    """
    named = os.fsdecode(path)
    target = temporary = None
    try:
        target, standing = _target(named)
        temporary = os.path.join(os.path.dirname(target), TEMPORARY + os.urandom(8).hex())
        mode = 0o666 if standing is None else 0o600  # what is private is so from its first byte on
        with open(temporary, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if standing is None or (standing.st_nlink == 1 and _made_alike(temporary, standing)):
            os.replace(temporary, target)
        else:
            _copy(temporary, target)
        _sync_folder(os.path.dirname(target))
    except OSError as error:
        if error.errno is None or error.filename not in (None, target, temporary):
            raise
        where = "its folder takes no new file: " if error.filename == temporary else ""
        raise OSError(error.errno, f"{where}{error.strerror}", named) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def check_outputs(
    outputs: Mapping[str, StrPath], inputs: Mapping[str, StrPath] | None = None, replace: bool = True
) -> None:
    """Refuse, before the work whose results they are to hold, files that could not be written after it.

    Args:
        outputs: what will be written with :func:`replacing`, by what users call it.
        inputs: what is read, files and folders, and must not be written over.
        replace: whether a file that is there already may be written over.

    Raises:
        OSError: one can't be written. ValueError: one is the same file as an input or another output, by whatever name,
            or in a folder that is an input.
    """
    others = dict(inputs or {})
    for name, path in outputs.items():
        for other, beside in others.items():
            if same_file(path, beside):
                raise ValueError(f"{name} would write over {other}: {path} and {beside} are one file")
            if os.path.isdir(beside) and _is_within(path, beside):
                raise ValueError(f"{name} would write into {other}: {path} is in the folder {beside}")
        with contextlib.suppress(_Enough), replacing(path):
            raise _Enough
        if not replace and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "this file is there already; --force writes over it", os.fspath(path))
        others[name] = path


def same_file(a: StrPath, b: StrPath) -> bool:
    """Whether two names are those of one file, which need not exist yet."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.normcase(os.path.realpath(a)) == os.path.normcase(os.path.realpath(b))


def _is_within(path: StrPath, folder: StrPath) -> bool:
    """Whether a file, which need not exist yet, is in this folder or one in it, or is one of its files."""
    where, top = os.path.realpath(path), os.path.realpath(folder)
    if os.path.normcase(where).startswith(os.path.join(os.path.normcase(top), "")):
        return True
    return any(same_file(path, os.path.join(at, name)) for at, _, names in os.walk(top) for name in names)


def kind(state: os.stat_result) -> str:
    """What stands there, "" for a regular file."""
    return "" if stat.S_ISREG(state.st_mode) else KINDS.get(stat.S_IFMT(state.st_mode), "something else")


def _target(path: str) -> tuple[str, os.stat_result | None]:
    """Where a file of this name is, behind symbolic links, and what stands there: None where nothing does."""
    try:
        standing = os.stat(path)
    except FileNotFoundError:
        target = os.path.realpath(path)
        if not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, "this names no file", path) from None
        if not os.path.isdir(os.path.dirname(target)):
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {os.path.dirname(target)}", path) from None
        return target, None
    if what := kind(standing):
        code = errno.EISDIR if what == "a folder" else errno.EINVAL
        raise OSError(code, f"{what} stands there, and only regular files are written", path)
    target = os.path.realpath(path)
    if not (os.path.exists(target) and os.path.samestat(os.stat(target), standing)):
        raise FileNotFoundError(errno.ENOENT, "the file it stands for has no name any more", path)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the file is write-protected", path)
    return target, standing


def _made_alike(path: str, standing: os.stat_result) -> bool:
    """Give a file the owner, group and mode of another; whether that is permitted."""
    new = os.stat(path)
    try:
        if (new.st_uid, new.st_gid) != (standing.st_uid, standing.st_gid):
            os.chown(path, standing.st_uid, standing.st_gid)
        os.chmod(path, stat.S_IMODE(standing.st_mode))
    except OSError:
        return False
    return True


def _copy(source: str, target: str) -> None:
    """Put the content of one file into another that stays the same file, or leave it as it is."""
    with open(source, "rb") as file:
        new = file.read()
    with open(target, "rb+", buffering=0) as file:
        old = file.read()
        try:
            _fill(file.fileno(), new)
        except BaseException:
            _fill(file.fileno(), old)
            raise


def _fill(handle: int, content: bytes) -> None:
    os.lseek(handle, 0, os.SEEK_SET)
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]
    os.ftruncate(handle, len(content))
    os.fsync(handle)


def _sync_folder(path: str) -> None:
    """Force a new name to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
