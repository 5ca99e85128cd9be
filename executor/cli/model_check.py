"""The model files that a workflow names, looked at before it runs: from their headers alone."""

from collections.abc import Callable, Iterator, Mapping

from executor.errors import Kind, ModelFileError, Problem
from executor.graph import Graph
from executor.models import detect
from executor.models.model_file import ModelFile
from executor.models.text_file import place_alone
from executor.paths import Folders

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
