"""The model files that a workflow names, looked at before it runs: from their headers alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.cli.terminal import as_seen_from_here
from executor.errors import Kind, ModelFileError, Problem
from executor.graph import Graph, NamedFile
from executor.models import detect
from executor.models.model_file import ModelFile
from executor.models.text_file import place_alone
from executor.node import NodeId
from executor.paths import Folders
from executor.provenance import is_model_folder

_HELD_TO: Mapping[str, Callable[[ModelFile], object]] = {
    "checkpoints": detect.family_of,
    "diffusers": detect.family_of,
    "diffusion_models": detect.family_of_unet,
    "text_encoders": place_alone,
    "vae": detect.require_vae,
    "controlnet": detect.require_control,
    "gligen": detect.require_gligen,
    "upscale_models": detect.require_upscaler,
}
"""What the files of a folder must be, for their nodes to work with them."""


def model_problems(graph: Graph | None, folders: Folders) -> Iterator[Problem]:
    """What is wrong with the files of models that a graph's nodes will load."""
    for node_id, node in graph.nodes.items() if graph else ():
        for name, folder, file in node.files():
            if folder not in _HELD_TO:
                continue
            try:
                _HELD_TO[folder](detect.inspect(folders.find(folder, file)))
            except ModelFileError as error:
                words = f"{name}: {error}"
                yield Problem(Kind.INVALID_VALUE, words, node_id, type(node).__name__, name, file)


@dataclass(frozen=True, slots=True)
class NeededModel:
    """A model that nodes of a workflow name: where it is, or where it should be put."""

    folder: str
    name: str
    nodes: tuple[NodeId, ...]
    path: Path | None
    put_into: Path
    like_it: Sequence[str] = ()  # what is there and has a similar name, where it is missing

    def as_object(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "folder": self.folder,
            "name": self.name,
            "nodes": list(self.nodes),
            "path": None if self.path is None else str(self.path),
            "put_into": None if self.path else str(self.put_into),
            "like_it": list(self.like_it),
        }

    @property
    def advice(self) -> str:
        """What to do where it is missing."""
        like_it = f", or use {' or '.join(self.like_it)}" if self.like_it else ""
        place = as_seen_from_here(self.put_into)
        return f"{self.folder}/{self.name}: put it into {place}{like_it}"


def needed_models(files: Sequence[NamedFile], folders: Folders) -> list[NeededModel]:
    """The models among the files that a workflow names, each once, in the order of its nodes."""
    found: dict[tuple[str, str], list[NamedFile]] = {}
    for file in files:
        if is_model_folder(file.folder):
            found.setdefault((file.folder, file.name), []).append(file)
    return [
        NeededModel(
            folder,
            name,
            tuple(dict.fromkeys(file.node_id for file in same)),
            same[0].path,
            folders.put_into(folder),
            () if same[0].path else folders.like(folder, name),
        )
        for (folder, name), same in found.items()
    ]
