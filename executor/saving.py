"""Keeping files: whole or not at all, never outside their folder, never over another unless meant.

A file is written under a hidden name beside its place, flushed to the disk, and only then given its
name. ``save_new`` numbers its names, ``save_beside`` does if need be; where another writer took
a name meanwhile, the next number is tried. ``save_as`` replaces what has the name.
"""

import filecmp
import os
import re
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import BinaryIO, TypeAlias

from executor.errors import FileError, NameTaken, PathError
from executor.paths import inside, parts_of

Write: TypeAlias = Callable[[BinaryIO], None]


def save_new(directory: Path, prefix: str, suffix: str, write: Write) -> Path:
    """Keep a new file ``prefix_00001_suffix`` below ``directory``, and say where.

    Numbers go on after the highest that is there. Raises PathError for a prefix that leads out of
    the directory, FileError if the disk fails, and whatever ``write`` raises; then nothing is left
    behind.
    """
    *folders, stem = parts_of(f"{prefix}_00001_{suffix}")
    stem = stem.removesuffix(f"_00001_{suffix}")
    folder = directory.joinpath(*folders)
    if not folder.resolve().is_relative_to(directory.resolve()):
        raise PathError(f"{prefix!r} leads through a link out of the folder {directory.name!r}")
    with _hidden(directory, folder, prefix, write) as hidden:
        return _named(hidden, folder, stem, suffix)


def save_beside(directory: Path, name: str, write: Write) -> Path:
    """Keep a file of this name, or as ``name (1)`` and so on where another has it, and say where.

    One that is there already, byte for byte, is not kept twice. Raises as ``save_new``.
    """
    path = inside(directory, name)
    with _hidden(directory, path.parent, name, write) as hidden:
        for number in count(1):
            try:
                _give_name(hidden, path)
            except FileExistsError:
                if path.is_file() and filecmp.cmp(hidden, path, shallow=False):
                    break
                path = inside(directory, name)
                path = path.with_name(f"{path.stem} ({number}){path.suffix}")
            else:
                _flush_folder(path.parent)
                break
    return path


def save_as(directory: Path, name: str, write: Write, *, may_replace: bool = True) -> Path:
    """Keep a file under just this name, and say where.

    Raises NameTaken if another has it and must not be replaced, else as ``save_new``.
    """
    path = inside(directory, name)
    with _hidden(directory, path.parent, name, write) as hidden:
        _put(hidden, path, may_replace=may_replace)
    return path


def privately(content: bytes) -> Write:
    """Write this into a file that nobody else may read: before it is in there, and ever after."""

    def write(stream: BinaryIO) -> None:
        Path(stream.name).chmod(0o600)
        stream.write(content)

    return write


def rename(directory: Path, name: str, new_name: str, *, may_replace: bool = True) -> Path:
    """Give a file of a folder another name in it, and say where it is. Raises as ``save_as``."""
    path = inside(directory, new_name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _put(inside(directory, name), path, may_replace=may_replace)
    except OSError as error:
        words = f"cannot move {name!r} to {new_name!r}: {error.strerror or error}"
        raise FileError(words) from error
    return path


def _put(file: Path, path: Path, *, may_replace: bool) -> None:
    """Move a file to its name. Raises NameTaken, OSError."""
    if may_replace:
        file.replace(path)
    else:
        try:
            _give_name(file, path)
        except FileExistsError as error:
            raise NameTaken(f"there is a file {path.name!r} already") from error
        file.unlink(missing_ok=True)
    _flush_folder(path.parent)


@contextmanager
def _hidden(directory: Path, folder: Path, name: str, write: Write) -> Generator[Path]:
    """A file with its whole content, to be given its name; gone afterwards if it was not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{secrets.token_hex(8)}.part"
        try:
            with hidden.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            yield hidden
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot keep {name!r} in the folder {directory.name!r}: {error.strerror or error}"
        ) from error


def _named(hidden: Path, folder: Path, stem: str, suffix: str) -> Path:
    """Give a finished file the first free name."""
    number = _highest(folder, stem) + 1
    while True:
        path = folder / f"{stem}_{number:05}_{suffix}"
        try:
            _give_name(hidden, path)
        except FileExistsError:
            number += 1
        else:
            _flush_folder(folder)
            return path


def _highest(folder: Path, stem: str) -> int:
    """The highest number among the files of that stem, whatever their suffix; 0 if none."""
    pattern = re.compile(re.escape(os.path.normcase(stem)) + "_([0-9]{1,15})_")
    with os.scandir(folder) as entries:
        matches = (pattern.match(os.path.normcase(entry.name)) for entry in entries)
        return max((int(match[1]) for match in matches if match), default=0)


def _give_name(hidden: Path, path: Path) -> None:
    """Move a file to a name that must be free. Raises FileExistsError."""
    try:
        path.hardlink_to(hidden)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name first, then fill it
        path.open("xb").close()
        hidden.replace(path)


def _flush_folder(folder: Path) -> None:
    """Have the new name itself survive a power cut, where the system can say so."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
