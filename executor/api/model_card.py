"""What a model is: from the settings, its file's header, and what its trainer wrote into it.

Metadata have the names of Stability AI's ModelSpec, or those of kohya's scripts (``ss_…``). A file
may come from anywhere, so what it says of itself is shortened before it is shown.
"""

from collections.abc import Mapping
from typing import Any

from executor.digests import Digest
from executor.public_models import PublicModel
from executor.settings import ModelSettings

MOST_CHARACTERS = 2_000

_TITLE = ("modelspec.title", "ss_output_name")
_DESCRIPTION = ("modelspec.description", "ss_training_comment")
_BEST_USE = ("modelspec.usage_hint", "weft.best_use")
_TRIGGER = ("modelspec.trigger_phrase",)
_AUTHOR = ("modelspec.author",)
_LICENCE = ("modelspec.license",)


def card(model: PublicModel, digest: Digest | None) -> dict[str, Any]:
    """What is known of a model that can be run, and its file's digest if that is known."""
    file, metadata, family = model.file, model.file.metadata, model.file.family
    assert family is not None, "a public model has a family"
    said = about(model.said)
    side = {"width": model.resolution, "height": model.resolution}
    return {
        "title": _first(metadata, _TITLE) or model.name,
        "family": family.name,
        "family_title": family.title,
        "description": said["description"] or _first(metadata, _DESCRIPTION),
        "best_use": said["best_use"] or _first(metadata, _BEST_USE),
        "trigger_phrase": _first(metadata, _TRIGGER),
        "author": _first(metadata, _AUTHOR),
        "licence": _first(metadata, _LICENCE),
        "parameters": file.parameters,
        "dtype": next(iter(file.dtypes), None),
        "size_bytes": file.size_bytes,
        "sha256": digest.sha256 if digest else None,
        "size": side | {name: model.defaults[name] for name in side if name in model.defaults},
        "tasks": [task.value for task in model.templates],
        "price": said["price"],
    }


def absent_card(name: str, said: ModelSettings) -> dict[str, Any]:
    """The same of a model that the settings name, but whose file cannot be run."""
    unknown = ("family", "family_title", "trigger_phrase", "author", "licence", "parameters")
    unknown += ("dtype", "size_bytes", "sha256", "size")
    return {"title": name, **dict.fromkeys(unknown), "tasks": [], **about(said)}


def about(said: ModelSettings) -> dict[str, Any]:
    """What the settings say."""
    return {
        "description": said.description or None,
        "best_use": said.best_use or None,
        "price": said.price,
    }


def _first(metadata: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first of these that says something."""
    for name in names:
        if text := " ".join(metadata.get(name, "")[: 2 * MOST_CHARACTERS].split()):
            return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    return None
