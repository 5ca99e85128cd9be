"""``weft models``: which model files there are, and what each of them is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor.cli import Exit
from executor.cli.terminal import say, say_json, say_table
from executor.digests import Digests
from executor.errors import ModelFileError, PathError, nearest
from executor.models.detect import inspect
from executor.models.model_file import FOLDER_OF, ModelFile
from executor.paths import MODEL_FOLDERS, Folders
from executor.settings import Settings


def models(wanted: str | None, *, as_json: bool, with_hash: bool = False) -> int:
    """List all model files, or describe one. Raises PathError, ModelFileError, FileError."""
    folders = Folders(Settings.from_environment())
    digests = Digests(folders.user) if with_hash else None
    if wanted is not None:
        path = _located(wanted, folders)
        found = inspect(path)
        hashes = {} if digests is None else {"sha256": digests.of(path).sha256}
        say_json(_as_object(found) | hashes) if as_json else _describe(found, hashes)
        return Exit.DONE
    names = [(folder, name) for folder in _folders() for name in folders.names(folder)]
    if digests is not None:
        digests.begin(folders.find(folder, name) for folder, name in names)
    if as_json:
        files = [_listed(folder, name, folders, digests) for folder, name in names]
        say_json({"models": files})
    elif names:
        say_table((*name, *_line(folders.find(*name), digests)) for name in names)
    else:
        say("there are no model files; checkpoints belong into models/checkpoints")
    return Exit.DONE


def _folders() -> list[str]:
    """The folders of models, without their second names."""
    first: dict[tuple[str, ...], str] = {}
    for folder, below in MODEL_FOLDERS.items():
        first.setdefault(below, folder)
    return list(first.values())


def _located(wanted: str, folders: Folders) -> Path:
    """The file that a path, or a name in a folder of models, means."""
    path = Path(wanted)
    if path.exists():
        return path
    for folder in _folders():
        found = folders.find_or_none(folder, wanted)
        if found is not None:  # of any kind: of a pickle it is said why it is refused
            return found
    hint = nearest(wanted, (name for folder in _folders() for name in folders.names(folder)))
    raise PathError(f"there is no file {wanted!r}, here or in the folders of models{hint}")


def _line(path: Path, digests: Digests | None) -> tuple[str, ...]:
    """What a file is, its precision and size, if wanted its short hash; or what is wrong."""
    hashes = () if digests is None else (digests.of(path).short,)
    try:
        found = inspect(path)
    except ModelFileError as error:
        return ("cannot be used", "", *hashes, str(error))
    return (_title(found), "+".join(found.dtypes), *hashes, _size(found.size_bytes))


def _describe(found: ModelFile, hashes: Mapping[str, str]) -> None:
    say(f"{found.path} is {found.kind.value}")
    rows = [("parameters", f"{found.parameters:,}")]
    rows += [(f"  {part}", f"{count:,}") for part, count in found.parts.items()]
    rows += [("numbers", ", ".join(f"{n:,} {dtype}" for dtype, n in found.dtypes.items()))]
    rows += [("size", _size(found.size_bytes))]
    if found.architecture:
        usable = found.family is not None and found.family.is_supported
        can = "" if usable else " (which Weft cannot run)"
        rows.insert(0, ("architecture", f"{found.architecture}{can}"))
    if found.family:
        rows.append(("predicts", found.prediction))
    if found.resolution:
        rows.append(("made for", f"{found.resolution} px"))
    if found.kind in FOLDER_OF:
        rows.append(("belongs in", FOLDER_OF[found.kind]))
    rows += hashes.items()
    for key, value in found.metadata.items():  # some files carry whole pictures there
        rows.append((f"metadata {key}", value if len(value) <= 100 else f"{value[:100]}…"))
    say_table(rows)


def _listed(folder: str, name: str, folders: Folders, digests: Digests | None) -> dict[str, Any]:
    path = folders.find(folder, name)
    hashes = {} if digests is None else {"sha256": digests.of(path).sha256}
    try:
        return {"folder": folder, "name": name, **_as_object(inspect(path)), **hashes}
    except ModelFileError as error:
        told = {"folder": folder, "name": name, "path": str(path), "error": str(error)}
        return {**told, **hashes}


def _as_object(found: ModelFile) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "kind": found.kind.name.lower(),
        "family": found.family.name if found.family else None,
        "architecture": found.architecture or None,
        "is_supported": found.family is not None and found.family.is_supported,
        "prediction": found.prediction if found.family else None,
        "resolution": found.resolution,
        "dtypes": dict(found.dtypes),
        "parameters": found.parameters,
        "parts": dict(found.parts),
        "size_bytes": found.size_bytes,
        "metadata": dict(found.metadata),
    }


def _title(found: ModelFile) -> str:
    return found.architecture or found.kind.value.partition(" ")[2]


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
