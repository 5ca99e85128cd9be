"""What is given up when memory runs out, and in which order, before a job fails."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_workflows import Prompt, node, sampled
from PIL import Image
from torch import Tensor

import nodes
from executor import devices as devices_module
from executor.devices import Devices, in_batches, in_parts
from executor.errors import InputError, WeftError
from executor.models import vae as vae_module
from executor.models.load import load_checkpoint
from executor.models.unet import UNet
from executor.models.vae import Autoencoder
from executor.ports import Tiling
from executor.presence import present
from executor.residency import Residency, residence_of
from executor.session import Session
from executor.settings import Settings
from executor.testing import write_tiny_checkpoint

assert nodes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with two models."""
    base = tmp_path_factory.mktemp("base")
    for seed, name in enumerate(("one", "two")):
        write_tiny_checkpoint(base / "models/checkpoints" / f"{name}.safetensors", seed=seed)
    return base


def session(base: Path, **settings: Any) -> Session:
    return Session(Settings(base_directory=base, device="cpu", **settings))


def rungs(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    """What was done about a shortage, in order."""
    marked = f"out of memory {what}; "
    return [r.getMessage().removeprefix(marked) for r in caplog.records if marked in r.getMessage()]


def text_to_picture(
    model: str = "one.safetensors", *, batch_size: int = 1, **sampler: Any
) -> Prompt:
    prompt = sampled(**sampler)
    prompt["4"]["inputs"]["ckpt_name"] = model
    prompt["5"]["inputs"]["batch_size"] = batch_size
    return prompt


def latents(session: Session) -> Tensor:
    """What the newest sampling in a session gave."""
    entries = list(session.engine.cache._entries.values())
    return next(
        value.samples
        for entry in reversed(entries)
        for value in entry.outputs.values
        if hasattr(value, "samples")
    )


def networks(session: Session, name: str) -> tuple[Any, Any, Any]:
    """Those of a model that a session has loaded."""
    model, clip, vae = session.workspace.models.checkpoint(name)
    assert isinstance(model, UNet)
    assert isinstance(vae, Autoencoder)
    return model.network, clip.towers[0].network, vae.network  # pyright: ignore[reportAttributeAccessIssue]


def test_an_evaluation_goes_down_the_ladder_rung_by_rung_and_its_job_succeeds(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = session(base)
    here.run(text_to_picture())
    unet, text, _ = networks(here, "one.safetensors")
    assert here.engine.cache.used_bytes[0] > 10_000
    residence = residence_of(unet)
    assert residence is not None

    def is_full(module: Any, args: Any) -> None:
        # Each rung gives a little, and only all of them together are enough.
        text_is_here = not text.get_parameter("embeddings.token_embedding.weight").isnan().any()
        if len(args[0]) > 1 or text_is_here or residence.in_bytes > residence.nbytes // 2:
            raise torch.OutOfMemoryError("out of memory")

    expected = session(base)
    expected.run(text_to_picture(seed=5, batch_size=2))
    with caplog.at_level(logging.INFO), unet.conv_norm_out.register_forward_pre_hook(is_full):
        here.run(text_to_picture(seed=5, batch_size=2))
    told = rungs(caplog, "evaluating a diffusion model")
    assert told[:5] == [
        "dropped the results kept for later jobs",
        "going on with 2 at once",  # of 4 rows: two pictures, each with and without the prompt
        "going on with 1 at once",
        "moved other models off the device",
        "going on with its model part by part",
    ]
    # Alone and in a batch other kernels round otherwise, which guidance enlarges.
    found, wanted = latents(here), latents(expected)
    assert (found - wanted).norm() < 1e-4 * wanted.norm()


def test_what_memory_allowed_once_is_not_tried_again_until_the_jobs_are_over(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = session(base)
    here.run(text_to_picture())
    unet, _, _ = networks(here, "one.safetensors")
    rows: list[int] = []

    def is_full(module: Any, args: Any) -> None:
        rows.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("out of memory")

    with unet.conv_in.register_forward_pre_hook(is_full):
        here.run(text_to_picture(seed=6, batch_size=2, steps=3))
        assert rows == [4, 4, 2, 2, 2, 2, 2, 2]  # again when the cache is dropped, then in halves
        here.run(text_to_picture(seed=7, batch_size=2, steps=1))
    assert rows[8:] == [4, 4, 2, 2]


def test_a_job_that_nothing_helps_fails_with_what_would_do_and_the_next_one_runs(
    base: Path,
) -> None:
    here = session(base)
    here.run(text_to_picture())
    unet, _, _ = networks(here, "one.safetensors")

    def is_full(module: Any, args: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with (
        unet.conv_in.register_forward_pre_hook(is_full),
        pytest.raises(WeftError, match=r"KSampler \(node 3\): out of memory .* a smaller picture"),
    ):
        here.run(text_to_picture(seed=8))
    here.run(text_to_picture(seed=8))


def test_a_picture_is_decoded_in_tiles_before_models_leave(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vae_module, "FALLBACK", Tiling(size=32, overlap=8))
    devices = Devices(CPU).limited(10**9)
    model, _, vae = load_checkpoint(base / "models/checkpoints/one.safetensors", devices)
    assert isinstance(vae, Autoencoder)
    assert isinstance(model, UNet)
    with present(model.network):
        pass
    residence = residence_of(model.network)
    assert residence is not None

    def is_full(module: Any, args: Any) -> None:
        if args[0][0, 0].numel() > 4 * 4 or residence.in_bytes:
            raise torch.OutOfMemoryError("out of memory")

    samples = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))
    devices.residency.on_shortage = iter([True, False, False, False]).__next__
    with caplog.at_level(logging.INFO), vae.network.decoder.register_forward_pre_hook(is_full):
        decoded = vae.decode(samples)
    assert decoded.shape == (2, 80, 64, 3)
    assert rungs(caplog, "decoding a latent of 0.0 megapixels") == [
        "dropped the results kept for later jobs",
        "going on with 1 at once",
        "going on in tiles",
        "moved other models off the device",
    ]


def test_a_node_that_ran_out_of_memory_runs_again_when_there_is_some(base: Path) -> None:
    here = session(base)
    here.run(text_to_picture())
    _, text, _ = networks(here, "one.safetensors")
    times = 2

    def is_full(module: Any, args: Any) -> None:
        nonlocal times
        if times:
            times -= 1
            raise torch.OutOfMemoryError("out of memory")

    prompt = text_to_picture(seed=9)
    prompt["6"]["inputs"]["text"] = "a blue square"
    with text.final_layer_norm.register_forward_pre_hook(is_full):
        here.run(prompt)
    assert not times


def test_other_errors_go_down_no_ladder(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(start: int, stop: int) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        in_parts(
            8, broken, at_once=8, what="testing", residency=Residency(), advice="do something else"
        )
    assert not caplog.records


def test_models_leave_for_a_computation_that_is_known_not_to_fit(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    devices = Devices(CPU).limited(10**9)
    model, clip, vae = load_checkpoint(base / "models/checkpoints/one.safetensors", devices)
    clip.encode("")
    assert isinstance(model, UNet)
    assert isinstance(vae, Autoencoder)
    with present(model.network):
        pass
    all_bytes = devices.residency.used_bytes
    free = 1_000_000

    def free_bytes(device: torch.device) -> int:
        return free + all_bytes - devices.residency.used_bytes

    monkeypatch.setattr(devices_module, "free_bytes", free_bytes)
    needed = free + 3 * 10**6
    with caplog.at_level(logging.INFO):
        rows = in_batches(
            torch.ones(1, 2),
            lambda rows: rows + 1,
            row_bytes=needed,
            what="testing",
            in_tiles=lambda rows: rows * 0,
            network=vae.network,
        )
    assert torch.equal(rows, torch.full((1, 2), 2.0))  # not in tiles
    assert all_bytes - devices.residency.used_bytes >= 3 * 10**6
    assert "of the text encoder of one.safetensors off the device" in caplog.text
    assert "U-Net" not in caplog.text


# Models that share a device


def test_switching_between_two_models_that_fit_loads_nothing_again(base: Path) -> None:
    here = session(base)
    residency = here.workspace.devices.residency
    for seed in range(3):
        for name in ("one.safetensors", "two.safetensors"):
            here.run(text_to_picture(name, seed=seed))
    assert residency.admitted == 6  # three networks each


def test_switching_between_two_models_that_do_not_fit_moves_them_and_loads_nothing(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    free, here = session(base), session(base, model_bytes=12_000_000)
    residency = here.workspace.devices.residency
    for seed in range(2):
        for name in ("one.safetensors", "two.safetensors"):
            with caplog.at_level(logging.INFO):
                here.run(text_to_picture(name, seed=seed))
            free.run(text_to_picture(name, seed=seed))
            assert torch.equal(latents(here), latents(free))
    assert residency.admitted == 6
    assert residency.peak_bytes <= 12_000_000
    assert "off the device, to make room for the U-Net of two.safetensors" in caplog.text


def test_a_whole_job_fits_into_a_limit_smaller_than_its_model(base: Path) -> None:
    # The table of CLIP's tokens is the largest tensor there is.
    free, here = session(base), session(base, model_bytes=6_400_000)
    prompt = text_to_picture(seed=3) | {"10": node("VAEEncode", pixels=["8", 0], vae=["4", 2])}
    prompt |= {"11": node("VAEDecode", samples=["10", 0], vae=["4", 2])}
    prompt |= {"12": node("SaveImage", images=["11", 0], filename_prefix="again")}
    expected, found = free.run(prompt), here.run(prompt)
    for node_id, (made,) in found.items():
        (as_expected,) = expected[node_id]
        with Image.open(made) as picture, Image.open(as_expected) as other:
            assert picture.tobytes() == other.tobytes()
    assert torch.equal(latents(here), latents(free))
    assert here.workspace.devices.residency.peak_bytes <= 6_400_000


def test_no_rung_is_left_is_an_input_error() -> None:
    def full(start: int, stop: int) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(InputError, match="out of memory testing, one at a time; buy more"):
        in_parts(2, full, at_once=2, what="testing", residency=Residency(), advice="buy more")
