"""``weft models``: which model files there are, and what each of them is."""

from pathlib import Path
from typing import Any

from executor.cli import Exit
from executor.cli.terminal import say, say_json, say_table
from executor.errors import ModelFileError, PathError, nearest
from executor.models.detect import inspect
from executor.models.model_file import FOLDER_OF, ModelFile
from executor.paths import MODEL_FOLDERS, Folders
from executor.settings import Settings


def models(wanted: str | None, *, as_json: bool) -> int:
    """List all model files, or describe one. Raises PathError, ModelFileError."""
    folders = Folders(Settings.from_environment())
    if wanted is not None:
        found = inspect(_located(wanted, folders))
        say_json(_as_object(found)) if as_json else _describe(found)
        return Exit.DONE
    names = [(folder, name) for folder in _folders() for name in folders.names(folder)]
    if as_json:
        files = [_listed(folder, name, folders) for folder, name in names]
        say_json({"models": files})
    elif names:
        say_table((folder, name, *_line(folders.find(folder, name))) for folder, name in names)
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


def _line(path: Path) -> tuple[str, str, str]:
    """What a file is, its precision and its size; or what is wrong with it."""
    try:
        found = inspect(path)
    except ModelFileError as error:
        return "cannot be used", "", str(error)
    return _title(found), "+".join(found.dtypes), _size(found.size_bytes)


def _describe(found: ModelFile) -> None:
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
    for key, value in found.metadata.items():  # some files carry whole pictures there
        rows.append((f"metadata {key}", value if len(value) <= 100 else f"{value[:100]}…"))
    say_table(rows)


def _listed(folder: str, name: str, folders: Folders) -> dict[str, Any]:
    path = folders.find(folder, name)
    try:
        return {"folder": folder, "name": name, **_as_object(inspect(path))}
    except ModelFileError as error:
        return {"folder": folder, "name": name, "path": str(path), "error": str(error)}


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
