"""What a latent will look like: near the picture that it becomes, and never in the way of it."""

import json
import logging
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d
from toy_model import ToyModel

from executor import testing
from executor.devices import Devices
from executor.errors import InputError, ModelFileError, PathError
from executor.models.detect import inspect
from executor.models.families import FAMILIES
from executor.models.latent_rgb import KEY, PUBLISHED, LatentRgb
from executor.models.load import load_checkpoint, load_preview_decoder
from executor.models.model_file import Kind
from executor.models.preview import Painter, colours, decoded, fit, jpeg
from executor.models.unet import UNet
from executor.models.vae import Autoencoder
from executor.paths import SHIPPED_MODELS
from executor.ports import Latent, Tiling
from executor.sampling.ksampler import sample

CPU = Devices.choose("cpu")
OWN = LatentRgb(((1.0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)), (0.5, 0.5, 0.5))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def opened(data: bytes) -> Image.Image:
    picture = Image.open(BytesIO(data))
    assert picture.format == "JPEG"
    assert picture.mode == "RGB"
    return picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> UNet:
    return loaded(tmp_path_factory.mktemp("model") / "x.safetensors")


def loaded(path: Path, **metadata: str) -> UNet:
    testing.write_tiny_checkpoint(path, metadata=metadata)
    model = load_checkpoint(path, CPU).model
    assert isinstance(model, UNet)
    return model


def painter(folder: Path) -> Painter:
    def find(name: str) -> Path:
        if not (folder / name).is_file():
            raise PathError(f"vae_approx: there is no file {name!r}")
        return folder / name

    return Painter(CPU, find)


# --- the linear map ----------------------------------------------------------------------------


def test_the_map_is_linear_and_acts_on_each_latent_pixel_alone() -> None:
    one, other = randn(2, 4, 3, 5).numpy(), randn(2, 4, 3, 5, seed=1).numpy()
    for latent_rgb in (OWN, *PUBLISHED.values()):
        bias = np.asarray(latent_rgb.bias)
        both = colours(latent_rgb, 2 * one + other)
        assert both.shape == (2, 3, 5, 3)
        parts = 2 * (colours(latent_rgb, one) - bias) + colours(latent_rgb, other)
        # float32: sums in another order
        np.testing.assert_allclose(both, parts, rtol=0, atol=1e-5)
        row, column = colours(latent_rgb, one)[1, 2, 4], one[1, :, 2, 4]
        expected = [
            sum(x * f[c] for x, f in zip(column, latent_rgb.factors, strict=True)) + bias[c]
            for c in range(3)
        ]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)


def test_a_map_survives_the_file_that_carries_it() -> None:
    for latent_rgb in (OWN, PUBLISHED["sd"]):
        assert LatentRgb.from_text(latent_rgb.text(), 4) == latent_rgb


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "7",
        "null",
        '"text"',
        "[]",
        "[[1, 2, 3]]",
        "[" * 100_000,
        json.dumps([[1, 2, 3]] * 4),
        json.dumps([[1, 2, 3]] * 6),
        json.dumps([[1, 2]] * 5),
        json.dumps([[1, 2, "3"]] * 5),
        json.dumps([[1, 2, True]] * 5),
        "[[1,2,3],[1,2,3],[1,2,3],[1,2,3],[1,2,NaN]]",
        "[[1,2,3],[1,2,3],[1,2,3],[1,2,3],[1,2," + "9" * 5000 + "]]",
    ],
)
def test_what_is_no_map_is_refused_with_its_key(text: str) -> None:
    with pytest.raises(InputError, match=KEY):
        LatentRgb.from_text(text, 4)


def test_a_file_s_own_map_is_taken_and_a_broken_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loaded(tmp_path / "own.safetensors", **{KEY: OWN.text()}).latent_rgb == OWN
    assert not caplog.records
    assert loaded(tmp_path / "broken.safetensors", **{KEY: "[[1]]"}).latent_rgb is None
    assert KEY in caplog.text
    assert "broken.safetensors" in caplog.text


def test_every_family_has_a_published_map() -> None:
    spaces = {family.name: family.latent_space for family in FAMILIES}
    assert all(space in PUBLISHED for space in spaces.values())
    assert {spaces[name] for name in spaces if "sdxl" in name} == {"sdxl"}
    assert {spaces[name] for name in spaces if "sdxl" not in name} == {"sd"}


class LinearAutoencoder:
    """Latents whose every pixel is a block of one colour, by ``OWN`` at the scale 0.5."""

    def encode(self, pixels: Tensor, tiling: Tiling | None = None) -> Tensor:
        rgb = avg_pool2d(pixels.movedim(-1, 1), 8) - 0.5
        return torch.cat((rgb, randn(len(rgb), 1, *rgb.shape[2:])), dim=1) / 0.5

    def decode(self, samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        blocks = samples[:, :3].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
        return (blocks * 0.5 + 0.5).movedim(1, -1)


def test_fitting_finds_the_map_where_there_is_one() -> None:
    pictures = torch.rand(3, 32, 40, 3, generator=torch.Generator().manual_seed(0))
    found = fit(LinearAutoencoder(), pictures, 0.5)
    np.testing.assert_allclose(found.factors, OWN.factors, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.bias, OWN.bias, rtol=0, atol=1e-4)


def correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


@pytest.mark.timeout(120)  # thirteen steps of the shipped model
def test_previews_resemble_the_picture_that_comes_out() -> None:
    checkpoint = load_checkpoint(SHIPPED_MODELS / "checkpoints" / "weft-tiny.safetensors", CPU)
    model, vae = checkpoint.model, checkpoint.vae
    assert isinstance(model, UNet)
    assert isinstance(vae, Autoencoder)
    steps = sample(
        model,
        checkpoint.clip.encode("a red heart on a yellow background"),
        checkpoint.clip.encode(""),
        Latent(torch.zeros(1, 4, 16, 16)),
        seed=1,
        steps=12,
        cfg=4,
        sampler_name="dpmpp_2m",
        scheduler="karras",
    )
    seen: list[Tensor] = []

    def watched() -> Any:
        with torch.no_grad():
            request = next(steps)
            while True:
                if request.denoised is not None:
                    seen.append(request.denoised)
                answer = model.denoise(request.x, request.sigma, request.inputs)
                try:
                    request = steps.send(answer)
                except StopIteration as end:
                    return end.value

    picture = vae.decode(watched().samples)
    small = avg_pool2d(picture.movedim(-1, 1), 8).movedim(1, -1)
    means = model.latent_rgb or fit(vae, drawn(), model.latent_scale)
    found = [correlation(colours(means, latent.numpy()), small) for latent in seen]
    # Measured: 0.79 to 0.87 in the first steps, when it is little more than two colours, then
    # rising to 0.99; another model's map gives less than 0.
    assert min(found) > 0.7
    assert found[-1] > 0.95


def drawn() -> Tensor:
    """Discs of all colours on backgrounds of all colours, of the kind that the model knows."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.rand(2, 8, 1, 1, 3, generator=generator)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 28) ** 2 < 20**2)[None, ..., None]
    return torch.where(disc, *colour)


# --- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (1, 1, (256, 256)),
        (2, 8, (256, 64)),
        (1, 2000, (512, 1)),
        (64, 48, (192, 256)),
        (300, 200, (200, 300)),
        (512, 512, (512, 512)),
        (1024, 512, (256, 512)),
    ],
)
def test_small_pictures_are_enlarged_and_large_ones_shrunk(
    height: int, width: int, size: tuple[int, int]
) -> None:
    assert opened(jpeg(np.zeros((1, height, width, 3), np.float32))).size == size


def test_colours_out_of_range_are_clamped_and_what_is_no_number_is_black() -> None:
    pixels = np.zeros((1, 2, 4, 3), np.float32)
    pixels[0, :, :, 0] = [7, -7, float("nan"), float("inf")]
    found = np.asarray(opened(jpeg(pixels)))[64]
    # JPEG is not exact: 30 of 255
    np.testing.assert_allclose(found[[20, 96, 160, 240], 0], [255, 0, 0, 255], atol=30)


def test_of_a_batch_the_first_is_shown(model: UNet, tmp_path: Path) -> None:
    paint = painter(tmp_path)
    batch = randn(3, 4, 8, 8)
    first, whole = (paint.draw(model, latent, "auto") for latent in (batch[:1], batch))
    assert first
    assert whole
    assert first.jpeg == whole.jpeg
    assert 0 < whole.cost_s < 10


def test_drawing_leaves_the_latent_as_it_is(model: UNet, tmp_path: Path) -> None:
    latent = randn(1, 4, 8, 8)
    painter(tmp_path).draw(model, latent, "auto")
    assert torch.equal(latent, randn(1, 4, 8, 8))


def test_a_model_of_an_unknown_latent_space_has_no_preview(tmp_path: Path) -> None:
    assert painter(tmp_path).draw(ToyModel(), randn(1, 4, 8, 8), "auto") is None


# --- tiny decoders -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> AutoencoderTiny:
    """A tiny autoencoder as diffusers builds it, with random weights."""
    torch.manual_seed(0)
    return AutoencoderTiny().eval()


def original(reference: AutoencoderTiny) -> dict[str, Tensor]:
    """Its decoder under its authors' names: layer 0 is a clamp without weights."""
    layers = {
        name.removeprefix("decoder.layers."): weight
        for name, weight in reference.state_dict().items()
        if name.startswith("decoder.layers.")
    }
    found: dict[str, Tensor] = {}
    for name, weight in layers.items():
        index, rest = name.split(".", 1)
        found[f"{int(index) + 1}.{rest}"] = weight.contiguous()
    return found


def test_a_tiny_decoder_is_loaded_from_its_authors_layout(
    reference: AutoencoderTiny, tmp_path: Path
) -> None:
    weights = original(reference)
    # Names and shapes of the published files.
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    assert shapes["1.weight"] == (64, 4, 3, 3)
    assert shapes["3.conv.4.bias"] == (64,)
    assert shapes["7.weight"] == (64, 64, 3, 3)
    assert shapes["19.weight"] == (3, 64, 3, 3)
    assert "7.bias" not in shapes
    assert len(shapes) == 67
    save_file(weights, tmp_path / "taesd_decoder.safetensors")
    assert inspect(tmp_path / "taesd_decoder.safetensors").kind is Kind.PREVIEW_VAE
    decoder = load_preview_decoder(tmp_path / "taesd_decoder.safetensors", CPU)
    latents = randn(2, 4, 3, 5)
    with torch.no_grad():
        expected = reference.decode(latents, return_dict=False)[0]  # in [-1, 1]
        found = decoded(decoder, latents)
    assert found.shape == (2, 24, 40, 3)
    torch.testing.assert_close(found, (expected.movedim(1, -1) + 1) / 2, rtol=1e-5, atol=1e-5)


def test_only_who_wants_it_gets_the_tiny_decoder(
    model: UNet, reference: AutoencoderTiny, tmp_path: Path
) -> None:
    save_file(original(reference), tmp_path / "taesd_decoder.safetensors")
    paint, latent = painter(tmp_path), randn(1, 4, 4, 4)
    linear = jpeg(colours(PUBLISHED["sd"], latent.numpy()))
    by = {method: paint.draw(model, latent, method) for method in ("latent2rgb", "auto", "taesd")}
    assert by["latent2rgb"]
    assert by["auto"]
    assert by["taesd"]
    assert by["latent2rgb"].jpeg == by["auto"].jpeg == linear  # on a CPU
    with torch.no_grad():
        expected = reference.decode(latent, return_dict=False)[0].movedim(1, -1) / 2 + 0.5
    found = np.asarray(opened(by["taesd"].jpeg)).astype(int)
    wanted = np.asarray(opened(jpeg(expected.numpy()))).astype(int)
    assert np.abs(found - wanted).max() <= 8  # float32 of another order, rounded and compressed
    assert by["taesd"].jpeg != linear


def test_a_model_with_a_map_of_its_own_is_never_shown_by_a_decoder_of_others(
    reference: AutoencoderTiny, tmp_path: Path
) -> None:
    save_file(original(reference), tmp_path / "taesd_decoder.safetensors")
    own, latent = loaded(tmp_path / "own.safetensors", **{KEY: OWN.text()}), randn(1, 4, 4, 4)
    drawing = painter(tmp_path).draw(own, latent, "taesd")
    assert drawing
    assert drawing.jpeg == jpeg(colours(OWN, latent.numpy()))


def test_without_the_file_it_says_once_what_is_missing(
    model: UNet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint, latent = painter(tmp_path), randn(1, 4, 4, 4)
    for method in ("auto", "taesd", "taesd"):
        drawing = paint.draw(model, latent, method)
        assert drawing
        assert drawing.jpeg == jpeg(colours(PUBLISHED["sd"], latent.numpy()))
    (record,) = caplog.records
    assert "taesd_decoder.safetensors" in record.getMessage()
    assert "latent2rgb" in record.getMessage()


def test_a_broken_file_is_said_once_and_a_whole_one_in_its_place_is_taken(
    model: UNet, reference: AutoencoderTiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "taesd_decoder.safetensors"
    weights = original(reference)
    del weights["19.bias"]
    save_file(weights, path)
    os.utime(path, (1, 1))
    paint, latent = painter(tmp_path), randn(1, 4, 4, 4)
    linear = jpeg(colours(PUBLISHED["sd"], latent.numpy()))
    for _ in range(2):
        drawing = paint.draw(model, latent, "taesd")
        assert drawing
        assert drawing.jpeg == linear
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "19.bias" in record.getMessage()
    assert "taesd_decoder.safetensors" in record.getMessage()
    save_file(original(reference), path)
    drawing = paint.draw(model, latent, "taesd")
    assert drawing
    assert drawing.jpeg != linear
    assert len(caplog.records) == 1


def test_other_files_are_no_tiny_decoders(tmp_path: Path) -> None:
    path = tmp_path / "taesd_decoder.safetensors"
    testing.write_tiny_vae(path)
    with pytest.raises(ModelFileError, match="preview decoder cannot be loaded"):
        load_preview_decoder(path, CPU)
    path.write_bytes(b"PK\3\4 a pickle")
    with pytest.raises(ModelFileError, match="pickle"):
        load_preview_decoder(path, CPU)


def test_large_latents_are_decoded_small(reference: AutoencoderTiny, tmp_path: Path) -> None:
    save_file(original(reference), tmp_path / "taesd_decoder.safetensors")
    decoder = load_preview_decoder(tmp_path / "taesd_decoder.safetensors", CPU)
    with torch.no_grad():
        assert decoded(decoder, randn(1, 4, 2, 512)).shape == (1, 8, 1024, 3)
