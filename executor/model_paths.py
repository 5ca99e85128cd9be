"""Model folders elsewhere, as ComfyUI's users have them written down: ``extra_model_paths.yaml``.

Such a file has sections, one for each program that keeps models; a section says which of its
directories are which of our folders. Only read here; ``executor.paths`` puts them in their order.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from executor.errors import SettingsError

_OWN = frozenset({"input", "output", "temp", "latents", "user"})  # no folders of models


class ExtraFolder(NamedTuple):
    """A directory that is looked through for a named folder."""

    folder: str
    directory: Path
    is_default: bool  # looked through first


def read_model_paths(file: Path) -> list[ExtraFolder]:
    """All directories that a file names, in order. Raises SettingsError."""
    import yaml

    try:
        sections: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{file} is no YAML: {error}") from error
    if sections is None:
        return []
    return [
        extra
        for title, section in _pairs(sections, f"{file}: the file")
        if section is not None
        for extra in _extras(file, title, section)
    ]


def _extras(file: Path, title: str, section: Any) -> Iterator[ExtraFolder]:
    """The directories of one section."""
    where = f"{file}: {title}"
    entries = dict(_pairs(section, where))
    base, is_default = entries.pop("base_path", None), entries.pop("is_default", False)
    if not isinstance(is_default, bool):
        raise SettingsError(f"{where}: is_default must be true or false, got {is_default!r:.60}")
    root = file.parent
    if base is not None:
        root /= _expanded(_text(base, f"{where}: base_path"))
    for folder, lines in entries.items():
        if folder in _OWN:
            raise SettingsError(f"{where}: {folder} is no folder of models; it has a setting")
        if lines is None:
            continue
        for line in _text(lines, f"{where}: {folder}").splitlines():
            if line.strip():
                yield ExtraFolder(folder, root / _expanded(line.strip()), is_default)


def _pairs(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be a mapping of names, got {value!r:.60}")
    for name, item in cast("dict[Any, Any]", value).items():
        yield str(name), item


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SettingsError(
            f"{where} must be a directory, or several on lines of their own, got {value!r:.60}"
        )
    return value


def _expanded(text: str) -> Path:
    """A path with ``~`` and ``$NAME`` filled in."""
    return Path(os.path.expandvars(text)).expanduser()
