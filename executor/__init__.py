"""What authors of nodes import; the only public promise of this package.

    from executor import Context, Image, Node

    class Negative(Node, category="image"):
        \"\"\"Invert the colours.\"\"\"

        image: Image

        def run(self, ctx: Context) -> Image:
            return 1 - self.image

Light: a name is imported when somebody first asks for it, and none loads torch or diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor.context import Checkpoint, Context, SavedFile
    from executor.errors import (
        FileError,
        InputError,
        ModelFileError,
        PathError,
        PictureError,
        WeftError,
        WorkflowError,
    )
    from executor.node import Link, Node
    from executor.ports import (
        Area,
        Clip,
        ClipVision,
        ClipVisionOutput,
        Cond,
        Conditioning,
        Control,
        ControlNet,
        EncodedPicture,
        FileChoice,
        Gligen,
        Grounding,
        Image,
        Latent,
        Mask,
        Model,
        Objective,
        Phrase,
        PicturePrompt,
        PictureSize,
        Port,
        Prediction,
        Seed,
        StyleModel,
        Text,
        Tiling,
        UpscaleModel,
        Vae,
        Widget,
    )
    from executor.sampling_ports import Denoiser, Guider, Noise, Sampler, Sigmas
    from executor.steps import Eval, Inputs, Steps
    from executor.workflow import Workflow

__version__ = "0.1.0"

__all__ = [
    "Area",
    "Checkpoint",
    "Clip",
    "ClipVision",
    "ClipVisionOutput",
    "Cond",
    "Conditioning",
    "Context",
    "Control",
    "ControlNet",
    "Denoiser",
    "EncodedPicture",
    "Eval",
    "FileChoice",
    "FileError",
    "Gligen",
    "Grounding",
    "Guider",
    "Image",
    "InputError",
    "Inputs",
    "Latent",
    "Link",
    "Mask",
    "Model",
    "ModelFileError",
    "Node",
    "Noise",
    "Objective",
    "PathError",
    "Phrase",
    "PictureError",
    "PicturePrompt",
    "PictureSize",
    "Port",
    "Prediction",
    "Sampler",
    "SavedFile",
    "Seed",
    "Sigmas",
    "Steps",
    "StyleModel",
    "Text",
    "Tiling",
    "UpscaleModel",
    "Vae",
    "WeftError",
    "Widget",
    "Workflow",
    "WorkflowError",
]

_VOCABULARY = ("context", "errors", "node", "ports", "sampling_ports", "steps", "workflow")


def __getattr__(name: str) -> Any:
    """Find a promised name in the vocabulary.

    Late, since pydantic takes 0.1 s to import and ``weft --help`` has no use for it.
    """
    if name in __all__:
        for module in _VOCABULARY:
            found = getattr(import_module(f"executor.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
