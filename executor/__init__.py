"""What authors of nodes import; the only public promise of this package.

    from executor import Context, Image, Node

    class Negative(Node, category="image"):
        \"\"\"Invert the colours.\"\"\"

        image: Image

        def run(self, ctx: Context) -> Image:
            return 1 - self.image

Light: importing it loads neither torch nor diffusers.
"""

from executor.context import Checkpoint, Context, SavedFile
from executor.errors import (
    FileError,
    InputError,
    ModelFileError,
    NodeError,
    PathError,
    PictureError,
    WeftError,
    WorkflowError,
)
from executor.node import Link, Node
from executor.ports import (
    Area,
    Clip,
    Cond,
    Conditioning,
    FileChoice,
    Image,
    Latent,
    Mask,
    Model,
    Port,
    Seed,
    Text,
    Vae,
    Widget,
)
from executor.steps import Eval, Inputs, Steps

__all__ = [
    "Area",
    "Checkpoint",
    "Clip",
    "Cond",
    "Conditioning",
    "Context",
    "Eval",
    "FileChoice",
    "FileError",
    "Image",
    "InputError",
    "Inputs",
    "Latent",
    "Link",
    "Mask",
    "Model",
    "ModelFileError",
    "Node",
    "NodeError",
    "PathError",
    "PictureError",
    "Port",
    "SavedFile",
    "Seed",
    "Steps",
    "Text",
    "Vae",
    "WeftError",
    "Widget",
    "WorkflowError",
]
