"""Picture files: what people have is read, what could harm is refused, what is kept is exact."""

import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from executor.errors import InputError, PictureError
from executor.pictures import Picture, read, write_png
from executor.png_text import Embedded, read_workflow

LIMIT = 1_000_000
SIZE = (6, 4)  # width, height


def rgba(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(levels)


def saved(path: Path, picture: Image.Image, **how: Any) -> Path:
    picture.save(path, **how)
    return path


def levels_of(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture.convert("RGB"))) / 255


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, pixels: bytes = b"") -> bytes:
    """A PNG written by hand, with what Pillow would not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "qoi", "tga", "ppm"])
def test_lossless_formats_give_their_levels(tmp_path: Path, suffix: str) -> None:
    how: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    # Few colours, so that GIF's palette holds them all.
    picture = rgba().convert("RGB").point([level // 128 * 255 for level in range(256)] * 3)
    path = saved(tmp_path / f"x.{suffix}", picture, **how)
    found = read(path, LIMIT)
    assert found.frames.dtype == torch.float32
    assert torch.equal(found.frames[0], levels_of(picture))
    assert found.alpha is None


@pytest.mark.parametrize("suffix", ["jpg", "avif", "jp2"])
def test_lossy_formats_give_nearly_their_levels(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("RGB", (16, 16), (200, 100, 50))
    found = read(saved(tmp_path / f"x.{suffix}", picture), LIMIT)
    # One colour survives compression but for rounding in another colour space.
    assert (found.frames[0] - levels_of(picture)).abs().max() <= 4 / 255


def test_alpha_becomes_the_mask_and_leaves_the_colours_alone(tmp_path: Path) -> None:
    picture = rgba()
    found = read(saved(tmp_path / "x.png", picture), LIMIT)
    alpha = torch.from_numpy(np.array(picture)[..., 3]) / 255
    assert torch.equal(found.frames[0], torch.from_numpy(np.array(picture)[..., :3]) / 255)
    assert torch.equal(found.mask, 1 - alpha[None])


def test_without_alpha_the_mask_is_empty_and_64_pixels_wide_as_in_comfyui(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "x.png", rgba().convert("RGB")), LIMIT)
    assert found.mask.shape == (1, 64, 64)
    assert not found.mask.any()


def test_greyscale_has_three_equal_channels(tmp_path: Path) -> None:
    picture = rgba().convert("L")
    found = read(saved(tmp_path / "x.png", picture), LIMIT)
    assert torch.equal(found.frames[0], levels_of(picture))
    with_alpha = read(saved(tmp_path / "y.png", rgba().convert("LA")), LIMIT)
    assert torch.equal(with_alpha.mask, 1 - torch.from_numpy(np.array(rgba()))[None, ..., 3] / 255)


def test_black_and_white_files_are_read(tmp_path: Path) -> None:
    picture = rgba().convert("1")
    found = read(saved(tmp_path / "x.png", picture), LIMIT)
    assert torch.equal(found.frames[0], levels_of(picture))


@pytest.mark.parametrize("transparency", [1, bytes([255, 128, 0])])
def test_a_palettes_transparency_becomes_the_mask(
    tmp_path: Path, transparency: int | bytes
) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for index in range(3):
        picture.putpixel((index, 0), index)
    path = saved(tmp_path / "x.png", picture, transparency=transparency)
    found = read(path, LIMIT)
    opacity = [255, 0, 255] if isinstance(transparency, int) else list(transparency)
    assert found.frames[0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert torch.equal(found.mask[0, 0], 1 - torch.tensor(opacity) / 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_greyscale_keeps_all_its_levels(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 1, 255, 256, 32768, 65535]], np.uint16)
    found = read(saved(tmp_path / f"x.{suffix}", Image.fromarray(levels)), LIMIT)
    expected = torch.from_numpy(levels.astype(np.float32)) / 65535
    assert torch.equal(found.frames[0], expected[..., None].expand(-1, -1, 3))


def test_16_bit_colour_is_read_to_8_bits(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(
        png(1, 1, depth=16, pixels=b"\0" + struct.pack(">3H", 65535, 0x80FF, 0))
    )
    found = read(tmp_path / "x.png", LIMIT)
    assert found.frames[0, 0, 0].tolist() == pytest.approx([1, 0x80 / 255, 0])


def test_floating_point_greyscale_is_read_as_it_is(tmp_path: Path) -> None:
    levels = np.array([[0, 0.25, 1, 2, -1, np.nan]], np.float32)
    found = read(saved(tmp_path / "x.tif", Image.fromarray(levels)), LIMIT)
    assert found.frames[0, 0, :, 0].tolist() == [0, 0.25, 1, 1, 0, 0]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = read(saved(tmp_path / "x.tif", picture), LIMIT)
    assert found.frames[0, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # the camera was turned; this turns the pixels as it was
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = rgba().convert("RGB")
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(saved(tmp_path / "x.png", stored, exif=exif), LIMIT)
    assert torch.equal(found.frames[0], levels_of(upright))


@pytest.mark.parametrize(
    ("suffix", "how"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})]
)
def test_all_frames_of_an_animation_are_read(
    tmp_path: Path, suffix: str, how: dict[str, Any]
) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *rest = [Image.new("RGB", SIZE, colour) for colour in colours]
    path = saved(tmp_path / f"x.{suffix}", first, save_all=True, append_images=rest, **how)
    found = read(path, LIMIT)
    assert found.frames.shape == (3, 4, 6, 3)
    assert (found.frames[:, 0, 0] * 255).tolist() == [list(colour) for colour in colours]
    assert found.mask.shape[0] == 3


def test_frames_with_and_without_transparency_have_masks_of_one_size(tmp_path: Path) -> None:
    first, second = rgba(0).convert("RGB"), rgba(1)
    path = saved(tmp_path / "x.tif", first, save_all=True, append_images=[second])
    found = read(path, LIMIT)
    assert found.mask.shape == (2, 4, 6)
    assert not found.mask[0].any()
    assert torch.equal(found.mask[1], 1 - torch.from_numpy(np.array(second))[..., 3] / 255)


def test_pages_of_another_size_are_left_out(tmp_path: Path) -> None:
    pages = [rgba(0), rgba(1, (3, 3)), rgba(2)]
    path = saved(tmp_path / "x.tif", pages[0], save_all=True, append_images=pages[1:])
    found = read(path, LIMIT)
    assert torch.equal(found.frames, torch.stack([levels_of(pages[0]), levels_of(pages[2])]))


def test_of_a_jpeg_with_further_pictures_the_first_is_read(tmp_path: Path) -> None:
    grey = [Image.new("RGB", (8, 8), (level,) * 3) for level in (50, 200)]
    path = saved(tmp_path / "x.mpo", grey[0], save_all=True, append_images=grey[1:])
    assert read(path, LIMIT).frames.shape == (1, 8, 8, 3)


def test_channels_of_a_picture_as_masks() -> None:
    frames, alpha = torch.rand(2, 3, 4, 3), torch.rand(2, 3, 4)
    picture = Picture(frames, alpha)
    assert torch.equal(picture.channel("alpha"), 1 - alpha)
    assert torch.equal(picture.channel("green"), frames[..., 1])
    assert not Picture(frames, None).channel("alpha").any()
    assert Picture(frames, None).channel("alpha").shape == (2, 3, 4)


# -- refusing --------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    saved(path, rgba(size=(64, 64)))
    path.write_bytes(path.read_bytes()[:-2000])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is not a picture"),
    "text": (lambda path: path.write_text("hello"), "is not a picture"),
    "svg": (lambda path: path.write_text("<svg/>"), "is not a picture"),
    "postscript": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "is not a picture",
    ),
    "only a signature": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "x.png is"),
    "truncated": (truncated, "damaged or cut off"),
    "no pixels": (lambda path: path.write_bytes(png(4, 4)), "damaged or cut off"),
    "200 megapixels": (lambda path: path.write_bytes(png(20_000, 10_000)), "1,000,000 is the most"),
    "2 megapixels": (lambda path: path.write_bytes(png(2_000, 1_000)), "2000×1000 pixels; 1,000,"),
    "zero-sized": (lambda path: path.write_bytes(png(0, 4)), "x.png is"),
    "a wrong checksum": (
        lambda path: path.write_bytes(png(4, 4).replace(b"IHDR\0\0\0\4", b"IHDR\0\0\0\5")),
        "damaged|not a picture",
    ),
    "32-bit levels": (
        lambda path: saved(path, Image.fromarray(np.array([[70_000]], np.int32)), format="TIFF"),
        "32-bit samples",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_fit_picture_is_refused_and_says_why(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    make(tmp_path / "x.png")
    with pytest.raises(PictureError, match=words) as caught:
        read(tmp_path / "x.png", LIMIT)
    assert str(tmp_path) not in str(caught.value)


def test_many_small_frames_count_together(tmp_path: Path) -> None:
    frames = [rgba(seed, (20, 20)) for seed in range(5)]
    path = saved(tmp_path / "x.webp", frames[0], save_all=True, append_images=frames[1:])
    assert read(path, 2000).frames.shape[0] == 5
    with pytest.raises(PictureError, match="20×20 pixels in 5 frames; 1,999 in all is the most"):
        read(path, 1999)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp", "avif"])
def test_no_damage_gives_anything_but_a_picture_or_a_clear_error(
    tmp_path: Path, suffix: str
) -> None:
    """A file cut off, and with bytes changed, at many places: warnings would fail this too."""
    path = saved(tmp_path / f"x.{suffix}", rgba(size=(24, 24)).convert("RGB"))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged[: random.integers(1, len(whole))])
        try:
            found = read(path, LIMIT)
        except PictureError:
            continue
        assert found.frames.ndim == 4


def test_reading_warns_of_nothing(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2))
    path = saved(tmp_path / "x.png", picture, transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(path, LIMIT)


# -- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_what_is_written_is_read_again(tmp_path: Path, channels: int) -> None:
    levels = torch.randint(0, 256, (5, 7, channels), generator=torch.Generator().manual_seed(0))
    with (tmp_path / "x.png").open("wb") as stream:
        write_png(stream, levels / 255, {})
    found = read(tmp_path / "x.png", LIMIT)
    # levels / 255 * 255 may fall a hair below the level, and then cut off to the one below it.
    assert ((found.frames[0] * 255).round() - levels[..., :3]).abs().max() <= 1
    if channels == 4:
        assert found.alpha is not None
        assert ((found.alpha[0] * 255).round() - levels[..., 3]).abs().max() <= 1


def test_levels_are_cut_off_not_rounded_as_in_comfyui() -> None:
    values = [-0.5, 0, 0.999 / 255, 1 / 255, 127.9 / 255, 0.9999, 1, 7]
    stream = io.BytesIO()
    write_png(stream, torch.tensor(values)[None, :, None], {})
    assert np.asarray(Image.open(stream))[0].tolist() == [0, 0, 0, 1, 127, 254, 255, 255]


def test_writing_leaves_the_pixels_alone() -> None:
    pixels = torch.rand(4, 4, 3)
    version, before = pixels._version, pixels.clone()
    write_png(io.BytesIO(), pixels, {})
    assert pixels._version == version
    assert torch.equal(pixels, before)


def test_pixels_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no numbers"):
        write_png(io.BytesIO(), torch.full((2, 2, 3), torch.nan), {})


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (4, 4, 5), (1, 4, 4, 3)])
def test_what_is_no_picture_is_not_written(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="1, 3 or 4 channels"):
        write_png(io.BytesIO(), torch.zeros(shape), {})


# -- the workflow in a PNG -------------------------------------------------------------------------

PROMPT = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": 'é 狐 "\n\0 🦊', "n": 1.5}}}
GRAPH = {"nodes": [{"id": 1}], "version": 0.4}


def with_texts(path: Path, texts: dict[str, Any]) -> Path:
    with path.open("wb") as stream:
        write_png(stream, torch.zeros(2, 2, 3), texts)
    return path


def test_a_workflow_survives_the_way_through_a_file(tmp_path: Path) -> None:
    path = with_texts(tmp_path / "x.png", {"prompt": PROMPT, "workflow": GRAPH, "more": [1]})
    assert read_workflow(path) == Embedded(PROMPT, {"workflow": GRAPH, "more": [1]})


def test_pillow_finds_the_texts_where_comfyui_puts_them(tmp_path: Path) -> None:
    path = with_texts(tmp_path / "x.png", {"prompt": PROMPT, "workflow": GRAPH})
    with Image.open(path) as picture:
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        assert json.loads(picture.text["prompt"]) == PROMPT
        assert json.loads(picture.text["workflow"]) == GRAPH


def test_a_file_with_the_editors_graph_alone_gives_that(tmp_path: Path) -> None:
    path = with_texts(tmp_path / "x.png", {"workflow": GRAPH})
    assert read_workflow(path).prompt == GRAPH


def test_names_that_a_png_cannot_hold_are_left_out(tmp_path: Path) -> None:
    texts = {"prompt": PROMPT, "": 1, "x" * 80: 2, "狐": 3, "a\nb": 4}
    assert read_workflow(with_texts(tmp_path / "x.png", texts)) == Embedded(PROMPT, {})


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("text", ['{"1": "plain"}', '{"1": "狐"}'])
def test_texts_of_every_kind_are_read(tmp_path: Path, text: str, zipped: bool) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", text, zip=zipped)
    chunks.add_itxt("workflow", text, "en", "workflow", zip=zipped)
    path = saved(tmp_path / "x.png", Image.new("L", (1, 1)), pnginfo=chunks)
    assert read_workflow(path) == Embedded(json.loads(text), {"workflow": json.loads(text)})


def test_other_texts_need_not_be_json(tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("Software", "a camera")
    chunks.add_text("prompt", "{}")
    path = saved(tmp_path / "x.png", Image.new("L", (1, 1)), pnginfo=chunks)
    assert read_workflow(path) == Embedded({}, {})


def bomb() -> bytes:
    packed = zlib.compress(b" " * (65 << 20), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"prompt\0\0" + packed)


CARRIES_NOTHING = {
    "a picture without texts": (lambda: png(1, 1), "carries no workflow"),
    "another file": (lambda: b"GIF89a", "is no PNG"),
    "nothing": (lambda: b"", "is no PNG"),
    "half a chunk": (lambda: png(1, 1)[:12], "carries no workflow"),
    "text that is no JSON": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"prompt\0{"),
        "'prompt' is damaged",
    ),
    "endless nesting": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"prompt\0" + b"[" * 100_000),
        "'prompt' is damaged",
    ),
    "a wrong checksum": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"prompt\0{}")[:-1] + b"\0",
        "checksum",
    ),
    "no packed text": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"zTXt", b"prompt\0\0xyz"),
        "cannot be unpacked",
    ),
    "a text that unpacks to 65 megabytes": (bomb, "bytes unpacked"),
}


@pytest.mark.parametrize("case", CARRIES_NOTHING)
def test_a_file_without_a_workflow_says_so(tmp_path: Path, case: str) -> None:
    make, words = CARRIES_NOTHING[case]
    (tmp_path / "x.png").write_bytes(make())
    with pytest.raises(PictureError, match=words):
        read_workflow(tmp_path / "x.png")
