"""Nodes that leave pictures behind, or give them to whoever waits for them."""

from functools import partial
from io import BytesIO
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from executor import Context, Image, Mask, Node, PathError, Widget


def _fit(prefix: str) -> str:
    """A prefix that can become a file's name: better refused now than when the picture is there."""
    from executor.paths import parts_of

    try:
        parts_of(f"{prefix}_")
    except PathError as error:
        raise PydanticCustomError("path", "{fault}", {"fault": str(error)}) from error
    return prefix


FilenamePrefix = Annotated[str, AfterValidator(_fit)]
Rate = Annotated[float, Field(ge=0.01, le=1000), Widget({"step": 0.01})]
METHODS = {"default": 4, "fastest": 0, "slowest": 6}  # libwebp's effort


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


class MaskPreview(Node, category="mask", is_output=True, display_name="Preview Mask"):
    """Show masks; they are not kept for long."""

    mask: Mask

    def run(self, ctx: Context) -> None:
        _save(ctx, self.mask[..., None].expand(-1, -1, -1, 3), "ComfyUI_temp", is_temporary=True)


class SaveImageWebsocket(
    Node,
    category="api/image",
    is_output=True,
    always_runs=True,
    display_name="Save Image (Websocket)",
):
    """Send pictures, as PNGs, to the client that submitted the job; they are not kept."""

    images: Image

    def run(self, ctx: Context) -> None:
        from executor.pictures import write_png

        for pixels in self.images:
            stream = BytesIO()
            write_png(stream, pixels, {}, compress_level=1)  # sent at once: fast before small
            ctx.send(stream.getvalue())


class SaveAnimatedWEBP(Node, category="image/animation", is_output=True):
    """Keep pictures as one animated WebP that carries the workflow."""

    images: Image
    filename_prefix: FilenamePrefix = "ComfyUI"
    fps: Rate = 6.0
    lossless: bool = True
    quality: Annotated[int, Field(ge=0, le=100)] = 80
    method: Literal["default", "fastest", "slowest"] = "default"

    def run(self, ctx: Context) -> None:
        from executor.animation import write_webp

        write = partial(
            write_webp,
            images=self.images,
            texts=_texts(ctx),
            fps=self.fps,
            lossless=self.lossless,
            quality=self.quality,
            method=METHODS[self.method],
        )
        size = (self.images.shape[2], self.images.shape[1])
        prefix = self.filename_prefix.replace("%batch_num%", "0")
        ctx.save(prefix, ".webp", write, is_animated=len(self.images) > 1, size=size)


class SaveAnimatedPNG(Node, category="image/animation", is_output=True):
    """Keep pictures as one animated PNG that carries the workflow."""

    images: Image
    filename_prefix: FilenamePrefix = "ComfyUI"
    fps: Rate = 6.0
    compress_level: Annotated[int, Field(ge=0, le=9)] = 4

    def run(self, ctx: Context) -> None:
        from executor.animation import write_png

        write = partial(
            write_png,
            images=self.images,
            texts=_texts(ctx),
            fps=self.fps,
            compress_level=self.compress_level,
        )
        size = (self.images.shape[2], self.images.shape[1])
        prefix = self.filename_prefix.replace("%batch_num%", "0")
        ctx.save(prefix, ".png", write, is_animated=True, size=size)


def _texts(ctx: Context) -> dict[str, Any]:
    """What kept pictures carry."""
    return {"prompt": ctx.prompt, **ctx.extra_pnginfo}


def _save(ctx: Context, images: Image, prefix: str, *, is_temporary: bool = False) -> None:
    from executor.pictures import write_png

    texts = _texts(ctx)
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
