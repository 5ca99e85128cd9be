"""Opening a picture file that may come from anywhere: known formats only, its size checked first.

What is no picture, is damaged or too large is refused with a ``PictureError``. What is done with
the pixels is others'. Light: Pillow is imported when a picture is opened.
"""

import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from executor.errors import PictureError

if TYPE_CHECKING:
    from PIL.Image import Image

# Formats that are decoded here and now; others call programs (EPS) or hold drawings, not pixels.
FORMATS = (
    "AVIF",
    "BMP",
    "GIF",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PNG",
    "PPM",
    "QOI",
    "TGA",
    "TIFF",
    "WEBP",
)

# What Pillow raises on damaged files, beside its own errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)


@contextmanager
def opened(
    path: Path | BinaryIO, max_pixels: int, *, name: str | None = None
) -> Generator["Image"]:
    """A picture whose frames may be decoded; ``name`` is what messages call it.

    Raises PictureError if the file is not a picture, is damaged (also when that is found while it
    is used), or has more than ``max_pixels``.
    """
    from PIL import Image, UnidentifiedImageError

    if name is None:
        name = path.name if isinstance(path, Path) else "the picture"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, on what is raised here or is harmless
        try:
            with Image.open(path, formats=known_formats()) as picture:
                _check_size(picture, name, max_pixels)
                yield picture
        except Image.DecompressionBombError as error:
            raise PictureError(
                f"{name} has too many pixels to be decoded; {max_pixels:,} is the most"
            ) from error
        except UnidentifiedImageError as error:
            raise PictureError(
                f"{name} is not a picture, or of no known format; these are read: "
                f"{', '.join(known_formats())}"
            ) from error
        except _DAMAGE as error:
            raise PictureError(
                f"{name} is damaged or cut off ({error or type(error).__name__})"
            ) from error


def frame_count(picture: "Image") -> int:
    """How many frames are read: of a JPEG with further pictures (MPO), the first."""
    return 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)


def known_formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(picture: "Image", name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise PictureError(f"{name} is empty: {width}×{height} pixels")
    count = frame_count(picture)
    if width * height * count > max_pixels:
        frames = f" in {count} frames" if count > 1 else ""
        raise PictureError(
            f"{name} has {width}×{height} pixels{frames}; {max_pixels:,} in all is the most "
            "(the setting max_picture_pixels)"
        )
