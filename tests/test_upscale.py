"""Upscalers: their files, their networks against another way to compute them, and tiles."""

import pickle
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import left_alone, noise
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from executor import ModelFileError, devices
from executor.devices import Devices
from executor.errors import InputError
from executor.models import detect, upscale
from executor.models.library import Library
from executor.models.upscale import Upscaler, load_upscaler
from executor.testing_upscale import RRDB, Layout, tiny_weights, write_tiny_upscaler
from executor.workspace import NodeContext
from nodes.upscale import ImageUpscaleWithModel, UpscaleModelLoader

# float32 rounding of another order of sums; measured: 1e-6
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def load(path: Path) -> Upscaler:
    return load_upscaler(detect.inspect(path), Devices.choose("cpu"))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Upscaler:
    path = tmp_path_factory.mktemp("models") / "x4.safetensors"
    write_tiny_upscaler(path)
    return load(path)


# -- networks --------------------------------------------------------------------------------------


def esrgan(x: Tensor, weights: dict[str, Tensor], unshuffle: int) -> Tensor:
    """ESRGAN's generator as its paper draws it, from the bare weights."""

    def conv(name: str, x: Tensor) -> Tensor:
        # as a product of matrices, which no module here computes
        rows, columns = x.shape[2:]
        patches = F.unfold(x, 3, padding=1)
        weight = weights[f"{name}.weight"].flatten(1)
        made = weight @ patches + weights[f"{name}.bias"][:, None]
        return made.unflatten(2, (rows, columns))

    def rise(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    height, width = x.shape[2:]
    if unshuffle > 1:
        x = F.pad(x, (0, -width % 4, 0, -height % 4), mode="reflect")
        x = torch.cat(
            [
                x[:, c : c + 1, v::unshuffle, u::unshuffle]
                for c in range(3)
                for v in range(unshuffle)
                for u in range(unshuffle)
            ],
            dim=1,
        )
    first = y = conv("conv_first", x)
    blocks = len({name.split(".")[1] for name in weights if name.startswith("body.")})
    for block in range(blocks):
        before_block = y
        for dense in (1, 2, 3):
            name, seen = f"body.{block}.rdb{dense}.conv", [y]
            for index in (1, 2, 3, 4):
                seen.append(rise(conv(f"{name}{index}", torch.cat(seen, 1))))
            y = y + 0.2 * conv(f"{name}5", torch.cat(seen, 1))
        y = before_block + 0.2 * y
    y = first + conv("conv_body", y)
    for doubling in (1, 2):
        y = rise(conv(f"conv_up{doubling}", y.repeat_interleave(2, 2).repeat_interleave(2, 3)))
    y = conv("conv_last", rise(conv("conv_hr", y)))
    scale = 4 // unshuffle
    return y[:, :, : height * scale, : width * scale].clamp(0, 1)


@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_esrgan_is_what_its_paper_draws(tmp_path: Path, unshuffle: int) -> None:
    weights = write_tiny_upscaler(tmp_path / "x.safetensors", unshuffle=unshuffle)
    upscaler = load(tmp_path / "x.safetensors")
    assert upscaler.scale == 4 // unshuffle
    pixels = noise(2, 9, 14, 3)
    expected = esrgan(pixels.movedim(-1, 1), weights, unshuffle).movedim(1, -1)
    assert float(expected.std()) > 0.01
    with left_alone(pixels):
        assert_close(upscaler.upscale(pixels), expected)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_compact_network_is_a_stack_on_top_of_the_nearest_pixels(
    tmp_path: Path, scale: int
) -> None:
    weights = write_tiny_upscaler(tmp_path / "x.safetensors", "compact", scale=scale)
    weights = {name.removeprefix("body."): tensor for name, tensor in weights.items()}
    pixels = noise(1, 5, 7, 3)
    x = pixels.movedim(-1, 1)
    for index in range(7):
        if f"{index}.bias" in weights:
            x = F.conv2d(x, weights[f"{index}.weight"], weights[f"{index}.bias"], padding=1)
        else:
            slope = weights[f"{index}.weight"][:, None, None]
            x = torch.where(x > 0, x, slope * x)
    # of scale² channels for each colour, every one is the pixel of one place
    x = x.view(3, scale, scale, 5, 7).permute(0, 3, 1, 4, 2).reshape(3, 5 * scale, 7 * scale)
    nearest = pixels[0].repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    expected = (x.movedim(0, -1) + nearest).clamp(0, 1)
    assert_close(load(tmp_path / "x.safetensors").upscale(pixels)[0], expected)


@pytest.mark.parametrize(
    ("layout", "config"),
    [
        ("bsrgan", {}),
        ("bsrgan", {"blocks": 3, "doublings": 1}),
        ("esrgan", {}),
        ("esrgan", {"blocks": 1, "doublings": 0}),
        ("esrgan", {"blocks": 1, "doublings": 3}),
        ("esrgan", {"unshuffle": 2}),
        ("real-esrgan", {"filters": 6, "growth": 3, "prefix": "params_ema."}),
    ],
)
def test_every_layout_of_a_file_holds_the_same_network(
    tmp_path: Path, layout: Layout, config: dict[str, Any]
) -> None:
    write_tiny_upscaler(tmp_path / "other.safetensors", layout, **config)
    config.pop("prefix", None)
    write_tiny_upscaler(tmp_path / "usual.safetensors", **config)
    other, usual = load(tmp_path / "other.safetensors"), load(tmp_path / "usual.safetensors")
    whole = {**RRDB, "unshuffle": 1, **config}
    assert other.scale == usual.scale == 2 ** whole["doublings"] // whole["unshuffle"]
    assert torch.equal(other.upscale(noise(1, 8, 6, 3)), usual.upscale(noise(1, 8, 6, 3)))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2)])
@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_the_smallest_pictures_become_larger(
    tmp_path: Path, unshuffle: int, size: tuple[int, int]
) -> None:
    write_tiny_upscaler(tmp_path / "x.safetensors", unshuffle=unshuffle)
    scale = 4 // unshuffle
    large = load(tmp_path / "x.safetensors").upscale(noise(1, *size, 3))
    assert large.shape == (1, size[0] * scale, size[1] * scale, 3)


# -- pictures and tiles ----------------------------------------------------------------------------


def test_alpha_is_left_out_and_grey_is_all_colours(upscaler: Upscaler) -> None:
    pixels = noise(1, 6, 5, 4)
    assert torch.equal(upscaler.upscale(pixels), upscaler.upscale(pixels[..., :3]))
    grey = pixels[..., :1]
    assert torch.equal(upscaler.upscale(grey), upscaler.upscale(grey.repeat(1, 1, 1, 3)))
    with pytest.raises(InputError, match="channels, got 2"):
        upscaler.upscale(pixels[..., :2])


def test_a_batch_is_each_picture_by_itself(upscaler: Upscaler) -> None:
    pixels = noise(3, 6, 5, 3)
    alone = torch.cat([upscaler.upscale(one[None]) for one in pixels])
    assert torch.equal(upscaler.upscale(pixels), alone)


def test_tiles_give_the_whole_but_where_a_network_looks_over_their_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_upscaler(tmp_path / "x.safetensors", "compact")
    upscaler = load(tmp_path / "x.safetensors")
    pixels = noise(1, 80, 70, 3)
    whole = upscaler.upscale(pixels)
    monkeypatch.setattr(upscale, "TILES", (48,))
    in_tiles = upscaler.upscale(pixels)
    # Tiles of 48 begin every 16 pixels; four convolutions look 4 pixels over a border.
    is_near = torch.zeros(80, dtype=torch.bool)
    for border in range(16, 80, 16):
        is_near[border - 4 : border + 4] = True
    is_near = is_near.repeat_interleave(2)
    away = ~is_near[:, None] & ~is_near[:140]
    assert_close(in_tiles[:, away], whole[:, away])
    assert not torch.allclose(in_tiles[:, ~away], whole[:, ~away], rtol=1e-4, atol=1e-4)


def test_what_runs_out_of_memory_is_done_in_smaller_tiles(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    def limited(rows: Tensor) -> Tensor:
        asked.append(rows.shape[3])
        if rows.shape[3] > 128:
            raise torch.OutOfMemoryError("out of memory")
        return rows.repeat_interleave(4, 2).repeat_interleave(4, 3)

    monkeypatch.setattr(upscaler, "_compute", limited)
    pixels = noise(1, 4, 300, 3)
    large = upscaler.upscale(pixels)
    # float32 rounding of weights that sum to 1
    assert_close(large, pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert asked == [300, 256, 128, 128, 108]
    assert "out of memory upscaling a picture of 300×4 pixels by 4 in tiles of 256" in caplog.text


def test_tiles_are_small_from_the_start_where_memory_is_short(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(devices, "free_bytes", lambda device: 2 * 256 * 4 * 16 * 900)
    monkeypatch.setattr(
        upscaler,
        "_compute",
        lambda rows: seen.append(rows.shape[3]) or torch.zeros(1, 3, 16, 4 * rows.shape[3]),
    )
    upscaler.upscale(noise(1, 4, 500, 3))
    assert max(seen) == 256


def test_what_does_not_fit_even_in_the_smallest_tiles_is_an_error(
    upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(rows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(upscaler, "_compute", exhausted)
    with pytest.raises(InputError, match=r"upscaling .* even in tiles of 128 pixels"):
        upscaler.upscale(noise(1, 4, 4, 3))


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_in_memory_once(tmp_path: Path) -> None:
    write_tiny_upscaler(tmp_path / "x.safetensors")
    library = Library(Devices.choose("cpu"))
    first = library.upscaler(tmp_path / "x.safetensors")
    assert library.upscaler(tmp_path / "x.safetensors") is first
    assert first.nbytes == sum(tensor.nbytes for tensor in tiny_weights().values())


def test_a_node_loads_one_and_another_upscales_with_it(ctx: NodeContext, tmp_path: Path) -> None:
    write_tiny_upscaler(tmp_path / "models" / "upscale_models" / "x2.safetensors", "compact")
    model = UpscaleModelLoader(model_name="x2.safetensors").run(ctx)
    image = noise(2, 4, 6, 3)
    large = ImageUpscaleWithModel(upscale_model=model, image=image).run(ctx)
    assert large.shape == (2, 8, 12, 3)
    assert float(large.min()) >= 0
    assert float(large.max()) <= 1
    wires = [output.wire for output in UpscaleModelLoader.outputs()]
    assert wires == [ImageUpscaleWithModel.inputs()["upscale_model"].wire] == ["UPSCALE_MODEL"]


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        Library(Devices.choose("cpu")).upscaler(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    return message


def test_a_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "RealESRGAN_x4plus.pth"
    path.write_bytes(pickle.dumps({"params_ema": 1}, protocol=4))
    assert "is a pickle" in refused(path)
    assert "safetensors.torch.save_file" in refused(path)


def test_a_file_of_another_kind_is_refused_with_its_folder(tmp_path: Path) -> None:
    lora = {"lora_unet_x.lora_up.weight": torch.ones(2, 2), "lora_unet_x.alpha": torch.ones(1)}
    save_file(lora, tmp_path / "lora.safetensors")
    assert "is a LoRA, not an upscaler; such files belong in the folder loras" in refused(
        tmp_path / "lora.safetensors"
    )


def test_a_network_that_only_spandrel_may_know_says_what_to_install(tmp_path: Path) -> None:
    save_file({"conv_first.weight": torch.ones(8, 3, 3, 3)}, tmp_path / "swin.safetensors")
    is_there = find_spec("spandrel") is not None
    words = "that Weft or spandrel knows" if is_there else "pip install 'weft[upscale]'"
    assert words in refused(tmp_path / "swin.safetensors")


@pytest.mark.parametrize("lost", ["body.1.rdb2.conv3.weight", "conv_hr.bias"])
def test_an_incomplete_file_is_refused_with_what_is_missing(tmp_path: Path, lost: str) -> None:
    weights = tiny_weights()
    del weights[lost]
    save_file(weights, tmp_path / "half.safetensors")
    assert f"1 of its tensors are missing: {lost}" in refused(tmp_path / "half.safetensors")
