"""Keeping new files: whole or not at all, never over another, never outside their folder.

A file is written under a hidden name beside its place, flushed to the disk, and only then given its
name, which fails if another writer took it meanwhile; then the next number is tried. Numbers go on
after the highest that is there.
"""

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from executor.errors import FileError, PathError
from executor.paths import parts_of


def save_new(directory: Path, prefix: str, suffix: str, write: Callable[[BinaryIO], None]) -> Path:
    """Keep a new file ``prefix_00001_suffix`` below ``directory``, and say where.

    Raises PathError for a prefix that leads out of the directory, FileError if the disk fails, and
    whatever ``write`` raises; then nothing is left behind.
    """
    *folders, stem = parts_of(f"{prefix}_00001_{suffix}")
    stem = stem.removesuffix(f"_00001_{suffix}")
    folder = directory.joinpath(*folders)
    if not folder.resolve().is_relative_to(directory.resolve()):
        raise PathError(f"{prefix!r} leads through a link out of the folder {directory.name!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = folder / f".{secrets.token_hex(8)}.part"
        try:
            with hidden.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            return _named(hidden, folder, stem, suffix)
        finally:
            hidden.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"cannot keep {prefix!r} in the folder {directory.name!r}: {error.strerror or error}"
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
