"""The only place where user text becomes a path.

``Folders`` knows the named folders (``checkpoints``, ``input`` …), finds files in them by name and
lists what they hold. A name is relative and written with ``/``; it never leads out of its folder,
neither by ``..`` nor by a link. Reading and writing the files is not done here; new files are
``executor.saving``'s.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Literal

from executor.errors import OutsideError, PathError, did_you_mean, near_names, nearest
from executor.model_paths import read_model_paths
from executor.settings import Settings

_SHIPPED = Path(__file__).resolve().parent.parent
SHIPPED_MODELS = _SHIPPED / "models"
SHIPPED_WORKFLOWS = _SHIPPED / "workflows"
SHIPPED_INPUTS = SHIPPED_WORKFLOWS / "input"  # what the example workflows load

# Where each kind of model may lie below a models root; some have had two names.
MODEL_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "checkpoints": ("checkpoints",),
    "loras": ("loras",),
    "vae": ("vae",),
    "embeddings": ("embeddings",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "gligen": ("gligen",),
    "upscale_models": ("upscale_models",),
    "text_encoders": ("text_encoders", "clip"),
    "clip": ("text_encoders", "clip"),
    "diffusion_models": ("diffusion_models", "unet"),
    "unet": ("diffusion_models", "unet"),
    "clip_vision": ("clip_vision",),
    "style_models": ("style_models",),
    "vae_approx": ("vae_approx",),
    "diffusers": ("diffusers",),
}
PLACES = ("input", "output", "temp")

MODEL_KINDS = frozenset({".safetensors", ".sft"})
PICTURE_KINDS = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".mpo", ".png", ".ppm", ".pgm"}
    | {".tif", ".tiff", ".webp"}
)
LATENT_KINDS = frozenset({".latent"})
_MODEL_SUFFIXES = MODEL_KINDS | {".bin", ".ckpt", ".pt", ".pth"}  # as models are named elsewhere

# Folders whose files may be named with the place that they lie in: ``x.png [output]``.
_ANNOTATED = ("input", "latents")
# What marks a folder in these as a model itself.
_FOLDER_MARKS: Mapping[str, str] = {
    "checkpoints": "model_index.json",
    "diffusers": "model_index.json",
    "controlnet": "config.json",
}

# File systems stamp a directory with a clock that ticks this rarely, FAT's being the slowest.
_TICK_NS = 2_000_000_000

_MOST_BYTES = 255  # of one part of a path, on every file system that matters
_MOST_BYTES_IN_ALL = 1000  # macOS takes paths of 1024, Linux of 4096
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parts_of(name: str) -> tuple[str, ...]:
    """The folders and the file of a name. Raises PathError if it could mean anything else."""
    fault = None
    if _CONTROL.search(name):
        fault = "holds a control character"
    elif any("\ud800" <= character <= "\udfff" for character in name):
        fault = "is no valid text"
    elif "\\" in name:
        fault = "holds a backslash; write / between folders"
    if fault:
        raise PathError(f"{_shown(name)} {fault}")
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise OutsideError(f"{_shown(name)} is absolute; names are relative to their folder")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if not parts or name.endswith("/"):
        raise PathError(f"{_shown(name)} names no file")
    if len(name.encode()) > _MOST_BYTES_IN_ALL:
        raise PathError(f"{_shown(name)} is too long: {_MOST_BYTES_IN_ALL} bytes is the most")
    for part in parts:
        if part == "..":
            raise OutsideError(f"{_shown(name)} leads upwards; '..' is never followed")
        if _DEVICES.fullmatch(part):
            raise PathError(f"{_shown(name)}: {part!r} is a device on some systems")
        if os.name == "nt" and (":" in part or part.endswith((".", " "))):
            raise PathError(f"{_shown(name)}: {part!r} cannot be a file's name on Windows")
        if len(part.encode()) > _MOST_BYTES:
            raise PathError(f"{_shown(name)} is too long: {_MOST_BYTES} bytes is the most")
    return parts


def inside(directory: Path, name: str) -> Path:
    """Where a name leads below a directory, be something there or not yet.

    Raises PathError for what is no name, OutsideError if it leads out, by itself or by a link.
    """
    path = directory.joinpath(*parts_of(name))
    try:
        is_outside = not path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError) as error:  # too long as a whole, or a loop of links
        raise PathError(f"{_shown(name)} cannot be a file's name here: {error}") from error
    if is_outside:
        raise OutsideError(f"{_shown(name)} leads through a link out of its folder")
    return path


def fingerprint(path: Path) -> str:
    """Changes when a file does, by its size and time; of a folder, by those of all its files.

    A model's changes with its configuration too, the file of its name in YAML.
    """
    if not path.is_dir():
        beside = path.with_suffix(".yaml") if path.suffix.lower() in MODEL_KINDS else path
        files = [path, beside] if beside != path and beside.is_file() else [path]
        stats = [file.stat() for file in files]
        return " ".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats)
    lines = [
        f"{file.relative_to(path).as_posix()} {fingerprint(file)}"
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """The files of a named folder, and by what can be seen that others are there now."""

    names: tuple[str, ...]
    stamps: Mapping[Path, int]  # when each directory was last changed; 0 if it is not there
    made_ns: int

    @property
    def is_current(self) -> bool:
        """Whether no directory has changed since, nor can have without its stamp's telling."""
        newest = max(self.stamps.values(), default=0)
        return newest + _TICK_NS < self.made_ns and all(
            _stamp(directory) == stamp for directory, stamp in self.stamps.items()
        )


class Folders:
    """The named folders of one user's settings, each with the directories that it consists of."""

    def __init__(self, settings: Settings) -> None:
        base = settings.base_directory.absolute()
        models = dict.fromkeys(
            (base / "models", *(d.absolute() for d in settings.model_directories), SHIPPED_MODELS)
        )
        directories = {
            folder: tuple(root / below for root in models for below in belows)
            for folder, belows in MODEL_FOLDERS.items()
        }
        for place in PLACES:
            chosen: Path | None = getattr(settings, f"{place}_directory")
            directories[place] = ((chosen or base / place).absolute(),)
        directories["input"] += (SHIPPED_INPUTS,)  # behind the user's own
        directories["latents"] = directories["input"]
        self._base = base
        self.user = (settings.user_directory or base / "user").absolute()
        self.custom_nodes: tuple[Path, ...] = (base / "custom_nodes",)
        configs = dict.fromkeys((base / "extra_model_paths.yaml", *settings.extra_model_paths))
        for config in configs:
            if config in settings.extra_model_paths or config.is_file():
                self._extend(directories, config.absolute())
        self._listings: dict[str, Listing] = {}
        self.directories: Mapping[str, tuple[Path, ...]] = directories

    def place(self, place: Literal["input", "output", "temp"]) -> Path:
        """The one directory of a place that is written to."""
        return self.directories[place][0]

    def put_into(self, folder: str) -> Path:
        """The directory to put a file into that a named folder lacks. Raises PathError."""
        return self._of(folder)[0]

    def find(self, folder: str, name: str) -> Path:
        """The file of that name in a named folder.

        Pictures and latents may be named with their place, like ``x.png [output]``; an embedding
        without its suffix. Raises PathError if there is none, or if the name leads out of the
        folder.
        """
        found = self.find_or_none(folder, name)
        if found is not None:
            return found
        place, plain = self.placed(folder, name)
        where = ", ".join(self._relative(directory) for directory in self._of(place))
        none = "" if self.names(place) else "; there is none at all"
        hint = did_you_mean(self.like(place, plain)) or none
        raise PathError(f"{place}: there is no file {_shown(plain)} (looked in {where}){hint}")

    def find_or_none(self, folder: str, name: str) -> Path | None:
        """As ``find``, but None if there is no such file: no names are listed to suggest others."""
        place, plain = self.placed(folder, name)
        parts = parts_of(plain)
        implied = sorted(MODEL_KINDS) if folder == "embeddings" else []
        for directory in self._of(place):
            for suffix in ("", *implied):
                path = directory.joinpath(*parts[:-1], parts[-1] + suffix)
                found = self._inside(directory, path)
                if found is None:
                    continue
                if found.is_file() or self._is_folder_model(place, found):
                    return found
        return None

    def placed(self, folder: str, name: str) -> tuple[str, str]:
        """The folder that a name is really of, and the name without the mark that says so."""
        if folder in _ANNOTATED:
            for place in PLACES:
                if name.endswith(f"[{place}]"):
                    plain = name.removesuffix(f"[{place}]").rstrip(" ")
                    return (folder if place == "input" else place), plain
        return folder, name

    def like(self, folder: str, name: str) -> list[str]:
        """What a folder has of similar names, whatever their suffixes; the nearest first."""
        offered = {_without_suffix(other): other for other in self.names(folder)}
        return [offered[near] for near in near_names(_without_suffix(name), offered)]

    def names(self, folder: str) -> list[str]:
        """The names of all files of the folder's kind, in its subfolders too, sorted."""
        return list(self.listing(folder).names)

    def listing(self, folder: str) -> Listing:
        """The same, as it was last found if nothing has changed since."""
        listing = self._listings.get(folder)
        if listing is None or not listing.is_current:
            listing = self._listings[folder] = self._list(folder)
        return listing

    def _list(self, folder: str) -> Listing:
        kinds = {"input": PICTURE_KINDS, "latents": LATENT_KINDS, "output": None, "temp": None}
        wanted = kinds.get(folder, MODEL_KINDS)
        made_ns, found, stamps = time_ns(), set[str](), dict[Path, int]()
        for directory in self._of(folder):
            for path in self._walk(directory, folder, stamps):
                if wanted is None or path.suffix.lower() in wanted or path.is_dir():
                    found.add(path.relative_to(directory).as_posix())
        names = tuple(sorted(found, key=lambda name: (name.casefold(), name)))
        return Listing(names, stamps, made_ns)

    def _extend(self, directories: dict[str, tuple[Path, ...]], config: Path) -> None:
        """Add the directories that a file names: before the user's own, or before the shipped."""
        for extra in read_model_paths(config):
            if extra.folder == "custom_nodes":
                self.custom_nodes += (extra.directory,)
                continue
            belows = MODEL_FOLDERS.get(extra.folder, (extra.folder,))
            same = {folder for folder, others in MODEL_FOLDERS.items() if others == belows}
            for folder in same | {extra.folder}:
                old = directories.get(folder, ())
                end = next(
                    (i for i, path in enumerate(old) if path.is_relative_to(SHIPPED_MODELS)),
                    len(old),
                )
                at = 0 if extra.is_default else end
                directories[folder] = (*old[:at], extra.directory, *old[at:])

    def fingerprint(self, path: Path) -> str:
        """Changes when a file does; what the content key of a node that reads it holds."""
        return fingerprint(path)

    def _of(self, folder: str) -> tuple[Path, ...]:
        if folder not in self.directories:
            raise PathError(f"there is no folder {folder!r}{nearest(folder, self.directories)}")
        return self.directories[folder]

    def _inside(self, directory: Path, path: Path) -> Path | None:
        """Where a path really leads, or None if nothing is there."""
        found = _resolved(path)
        if found and not found.is_relative_to(directory.resolve()):
            name = path.relative_to(directory).as_posix()
            raise OutsideError(
                f"{_shown(name)} is a link that leads out of {self._relative(directory)}; "
                "copy the file there, or add its folder to the model directories"
            )
        return found

    def _is_folder_model(self, folder: str, path: Path) -> bool:
        mark = _FOLDER_MARKS.get(folder)
        return mark is not None and (path / mark).is_file()

    def _walk(self, directory: Path, folder: str, stamps: dict[Path, int]) -> Iterator[Path]:
        """Files below a directory that ``find`` would find; hidden ones are left out.

        Stamps each directory that it looks into, before it does.
        """
        top, waiting, seen = directory.resolve(), [directory], set[Path]()
        while waiting:
            current = waiting.pop()
            stamps[current] = _stamp(current)
            real = _resolved(current)
            if real is None or real in seen:  # not there, or a link that leads back
                continue
            seen.add(real)
            try:
                entries = list(current.iterdir())
            except OSError:  # not ours to read
                continue
            for path in entries:
                if path.name.startswith("."):
                    continue
                if path.is_symlink():
                    found = _resolved(path)
                    if found is None or not found.is_relative_to(top):
                        continue
                if path.is_file():
                    yield path
                elif path.is_dir() and self._is_folder_model(folder, path):
                    stamps[path] = _stamp(path)
                    yield path
                elif path.is_dir():
                    waiting.append(path)

    def _relative(self, directory: Path) -> str:
        """A directory as messages show it: below the user's own folder where it is."""
        if directory.is_relative_to(self._base):
            return directory.relative_to(self._base).as_posix()
        if directory.is_relative_to(_SHIPPED):
            return f"Weft's {directory.relative_to(_SHIPPED).as_posix()}"
        return directory.as_posix()


def _stamp(directory: Path) -> int:
    """When entries were last added to a directory or taken away; 0 if it is not there."""
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0


def _resolved(path: Path) -> Path | None:
    """Where a path really leads; None if nothing is there, or not for us."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return None


def _without_suffix(name: str) -> str:
    """A name without the suffix that says what kind of file it is."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in _MODEL_SUFFIXES else name


def _shown(name: str) -> str:
    """A name as messages show it: quoted, control characters escaped, not endless."""
    return repr(name if len(name) <= 100 else name[:100] + "…")
