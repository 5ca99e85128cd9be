"""Nodes that leave pictures behind."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from executor import Context, Image, Node, PathError


def _fit(prefix: str) -> str:
    """A prefix that can become a file's name: better refused now than when the picture is there."""
    from executor.paths import parts_of

    try:
        parts_of(f"{prefix}_")
    except PathError as error:
        raise PydanticCustomError("path", "{fault}", {"fault": str(error)}) from error
    return prefix


FilenamePrefix = Annotated[str, AfterValidator(_fit)]


class SaveImage(Node, category="image", is_output=True, display_name="Save Image"):
    """Keep pictures as PNGs that carry the workflow.

    In the prefix, ``%date:yyyy-MM-dd%``, ``%width%``, ``%NodeTitle.input%`` and such are filled in.
    """

    images: Image
    filename_prefix: FilenamePrefix = "ComfyUI"

    def run(self, ctx: Context) -> None:
        _save(ctx, self.images, self.filename_prefix)


class PreviewImage(Node, category="image", is_output=True, display_name="Preview Image"):
    """Show pictures; they are not kept for long."""

    images: Image

    def run(self, ctx: Context) -> None:
        _save(ctx, self.images, "ComfyUI_temp", is_temporary=True)


def _save(ctx: Context, images: Image, prefix: str, *, is_temporary: bool = False) -> None:
    from executor.pictures import write_png

    texts = {"prompt": ctx.prompt, **ctx.extra_pnginfo}
    for index, pixels in enumerate(images):
        ctx.save(
            prefix.replace("%batch_num%", str(index)),
            ".png",
            partial(
                write_png,
                pixels=pixels,
                texts=texts,
                # Previews are looked at once: fast counts for more than small.
                compress_level=1 if is_temporary else 4,
            ),
            is_temporary=is_temporary,
            size=(pixels.shape[1], pixels.shape[0]),
        )
