"""Models as applications name them: a public name, and the workflows that make pictures with it.

Every checkpoint that Weft can run is a model by its file name, with its family's templates;
``[models.NAME]`` in ``weft.toml`` names others, or changes these. Light: no torch.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any

from executor.errors import FileError, InputError, PathError, SettingsError, nearest
from executor.models.detect import inspect
from executor.models.model_file import Kind, ModelFile
from executor.paths import SHIPPED_WORKFLOWS, Folders, Listing
from executor.settings import ModelSettings, Settings
from executor.templates import Template

SHIPPED_TEMPLATES = SHIPPED_WORKFLOWS / "templates"


class Task(StrEnum):
    """What an application wants of a model."""

    TEXT_TO_IMAGE = "text_to_image"
    IMAGE_TO_IMAGE = "image_to_image"
    INPAINT = "inpaint"


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model that applications can name."""

    name: str
    checkpoint: str  # its file's name below checkpoints
    file: ModelFile
    templates: Mapping[Task, Template]
    defaults: Mapping[str, Any]  # parameters that differ from the templates'
    said: ModelSettings  # what the settings say of it

    @property
    def resolution(self) -> int:
        """The side of its pictures in pixels, where nobody says."""
        return self.file.resolution or 512

    def workflow(self, task: Task, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The workflow for a task with these parameters, the rest as usual for the model.

        Raises InputError where the model has no such task or the template no such parameter.
        """
        template = self.templates.get(task)
        if template is None:
            tasks = ", ".join(self.templates)
            raise InputError(f"the model {self.name} cannot do {task}; it can do {tasks}")
        own = {"checkpoint": self.checkpoint, **self._size(), **self.defaults}
        usual = {name: value for name, value in own.items() if name in template.places}
        return template.filled({**usual, **values})

    def _size(self) -> dict[str, int]:
        return {"width": self.resolution, "height": self.resolution}


def public_names(files: Iterable[str]) -> dict[str, str]:
    """What checkpoints are called: by their file, and by their folder too where two are alike."""
    bare = {file: re.sub(r"\.(safetensors|sft)$", "", file) for file in files}
    short = Counter(PurePosixPath(name).name for name in bare.values())
    return {
        file: PurePosixPath(name).name if short[PurePosixPath(name).name] == 1 else name
        for file, name in bare.items()
    }


class PublicModels:
    """All models by name; looks at the disk, so it is asked in a thread."""

    def __init__(self, settings: Settings, folders: Folders) -> None:
        self._settings, self._folders = settings, folders
        self._seen: Listing | None = None
        self._models: dict[str, PublicModel] = {}

    def all(self) -> Mapping[str, PublicModel]:
        """Every model that can be run now. Raises SettingsError for one that cannot be made out.

        A file that is broken, or of a family that Weft does not run, is no model.
        """
        listing = self._folders.listing("checkpoints")
        if listing is not self._seen:
            named = {one.checkpoint for one in self._settings.models.values()}
            found = {
                name: ModelSettings(checkpoint=file)
                for file, name in public_names(listing.names).items()
                if file not in named
            }
            models = {
                name: model
                for name, said in found.items()
                if name not in self._settings.models and (model := self._read(name, said))
            }
            for name, said in self._settings.models.items():
                if model := self._read(name, said):
                    models[name] = model
            self._models = dict(sorted(models.items()))
            self._seen = listing  # last: another thread that sees it takes the models
        return self._models

    def named(self, name: str | None) -> PublicModel:
        """The model of a name; without one the default, or else the first. Raises InputError."""
        models = self.all()
        if name is None:
            name = self._settings.default_model or next(iter(models), None)
        if name is None:
            raise InputError("there is no model; put a checkpoint into models/checkpoints")
        if name not in models:
            raise InputError(f"there is no model {name[:100]!r}{nearest(name[:100], models)}")
        return models[name]

    def _read(self, name: str, said: ModelSettings) -> PublicModel | None:
        try:
            file = inspect(self._folders.find("checkpoints", said.checkpoint))
        except (PathError, FileError):
            return None
        if file.kind is not Kind.CHECKPOINT or not (file.family and file.family.is_supported):
            return None
        return PublicModel(
            name, said.checkpoint, file, self._templates(name, said, file), said.defaults, said
        )

    def _templates(
        self, name: str, said: ModelSettings, file: ModelFile
    ) -> Mapping[Task, Template]:
        """The model's own templates, and its family's for the other tasks."""
        usual = {task: SHIPPED_TEMPLATES / f"{task}.json" for task in Task}
        if file.family is not None and file.family.in_channels == 9:
            usual = {Task.INPAINT: SHIPPED_TEMPLATES / "inpaint_model.json"}
        own: dict[Task, Path] = {
            task: self._settings.base_directory / path
            for task in Task
            if (path := getattr(said, task.value)) is not None
        }
        templates: dict[Task, Template] = {}
        for task, path in {**usual, **own}.items():
            try:
                templates[task] = Template.read(path)
            except FileError as error:
                raise SettingsError(f"models.{name}.{task}: {error}") from error
        return templates
