"""Models under a limit: the results of one without, and never more on the device than it allows."""

import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from executor.context import Checkpoint
from executor.devices import Devices
from executor.models.adapters import Difference
from executor.models.library import Library
from executor.models.load import load_checkpoint
from executor.models.text import ClipText
from executor.models.unet import UNet
from executor.models.vae import Autoencoder
from executor.models.weights import Change
from executor.presence import lasting_bytes, present, state_of, weight_of
from executor.residency import Residence, Residency, residence_of
from executor.steps import ControlInput, Inputs
from executor.testing import write_tiny_checkpoint
from executor.testing_control import write_tiny_adapter, write_tiny_controlnet
from executor.testing_upscale import write_tiny_upscaler
from executor.testing_vision import write_tiny_clip_vision

CPU = Devices(torch.device("cpu"))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose numbers are not those that are computed with: fp16, for float32."""
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    write_tiny_checkpoint(path, dtype=torch.float16)
    return path


@pytest.fixture(scope="module")
def free(path: Path) -> Checkpoint:
    return load_checkpoint(path, CPU)


def under(limit: int, path: Path) -> tuple[Residency, UNet, ClipText, Autoencoder]:
    """The parts of a file under a limit, and their residency."""
    devices = CPU.limited(limit)
    model, clip, vae = load_checkpoint(path, devices)
    assert isinstance(model, UNet)
    assert isinstance(clip, ClipText)
    assert isinstance(vae, Autoencoder)
    return devices.residency, model, clip, vae


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoised(model: Any) -> Tensor:
    return model.denoise(noise(2, 4, 8, 8), torch.tensor([3.0, 0.5]), Inputs(noise(2, 77, 32)))


def encoded(clip: Any) -> Tensor:
    return clip.encode("a (red:1.3) circle")[0].tokens


def decoded(vae: Any) -> Tensor:
    return vae.decode(noise(1, 4, 4, 4))


def encoded_picture(vae: Any) -> Tensor:
    return vae.encode(noise(1, 32, 32, 3).sigmoid())


def of(network: nn.Module) -> Residence:
    found = residence_of(network)
    assert found is not None
    return found


def largest_parameter(network: nn.Module) -> int:
    return max(weight.nbytes for weight in network.parameters())


# A network larger than its room


@pytest.mark.parametrize("share", [0.9, 0.3, 0.1])
def test_a_network_larger_than_the_limit_gives_the_bits_that_it_gives_without_one(
    path: Path, free: Checkpoint, share: float
) -> None:
    network = free.model.network  # pyright: ignore[reportAttributeAccessIssue]
    limit = int(share * sum(weight.nbytes for weight in network.parameters()))
    residency, model, _, _ = under(limit, path)
    for _ in range(3):  # the first pass learns the order, the next ones fetch ahead by it
        assert torch.equal(denoised(model), denoised(free.model))
        assert residency.used_bytes <= limit
    assert 0.3 * limit < residency.peak_bytes <= limit


@pytest.mark.parametrize("compute", [encoded, decoded, encoded_picture])
def test_so_do_text_encoders_and_autoencoders(
    path: Path, free: Checkpoint, compute: Callable[[Any], Tensor]
) -> None:
    is_text = compute is encoded
    whole = free.clip if is_text else free.vae
    network: Any = free.clip.towers[0].network if is_text else free.vae.network  # type: ignore[attr-defined]
    # As much as its largest tensor, which for CLIP is the table of all tokens.
    limit = max(largest_parameter(network), sum(w.nbytes for w in network.parameters()) // 3)
    residency, _, clip, vae = under(limit, path)
    for _ in range(2):
        assert torch.equal(compute(clip if is_text else vae), compute(whole))
        assert residency.peak_bytes <= limit


def upscaled(library: Library, path: Path) -> Tensor:
    write_tiny_upscaler(path)
    return library.upscaler(path).upscale(noise(1, 12, 9, 3).sigmoid())


def seen(library: Library, path: Path) -> Tensor:
    write_tiny_clip_vision(path)
    picture = noise(1, 32, 40, 3).sigmoid()
    found = library.clip_vision(path).encode_pictures(picture)
    return torch.cat([found.embeds.flatten(), found.penultimate.flatten()])


def steered(library: Library, path: Path) -> Tensor:
    """What a ControlNet and a T2I-Adapter make of a picture, one after the other."""
    found: list[Tensor] = []
    picture, x, sigma = noise(1, 64, 64, 3).sigmoid(), noise(1, 4, 8, 8), torch.tensor([500.0])
    for write in (write_tiny_controlnet, write_tiny_adapter):
        write(path.with_stem(write.__name__))
        network = library.controlnet(path.with_stem(write.__name__))
        hints = network.hints(picture, 8, 8)
        control = ControlInput(network, hints, torch.ones(1))
        made = network.residuals(x, sigma, Inputs(noise(1, 77, 32)), control)
        found += [*hints, *made.skips, *made.features.values()]
    return torch.cat([tensor.flatten() for tensor in found])


@pytest.mark.parametrize("compute", [upscaled, seen, steered])
def test_so_does_all_that_reads_and_steers(
    tmp_path: Path, compute: Callable[[Library, Path], Tensor]
) -> None:
    path = tmp_path / "x.safetensors"
    expected = compute(Library(CPU), path)
    for limit in (0, 20_000, 10**9):
        devices = CPU.limited(limit)
        assert torch.equal(compute(Library(devices), path), expected)
        assert devices.residency.came_bytes > 0


def test_no_limit_is_too_small(path: Path, free: Checkpoint) -> None:
    residency, model, clip, _ = under(0, path)
    assert torch.equal(denoised(model), denoised(free.model))
    # A tensor at a time, with its bias.
    assert residency.peak_bytes <= 1.1 * largest_parameter(model.network)
    assert torch.equal(encoded(clip), encoded(free.clip))


def test_what_is_counted_is_what_is_there(path: Path) -> None:
    limit = 400_000
    residency, model, _, _ = under(limit, path)
    most = 0

    def look(*_: object) -> None:
        nonlocal most
        storages = {
            w.untyped_storage().data_ptr(): w.untyped_storage().nbytes()
            for w in model.network.parameters()
            if w.stride() != (0,) * w.ndim  # what is away is one number, spread out
        }
        most = max(most, sum(storages.values()))
        # A weight of one dimension may look as one that is away; they are few.
        assert sum(storages.values()) <= residency.used_bytes <= limit

    for block in model.network.modules():
        block.register_forward_hook(look)
    denoised(model)
    assert most > 0.5 * limit


def test_parts_that_stay_do_not_come_again(path: Path) -> None:
    residency, model, _, _ = under(10**9, path)
    residence = of(model.network)
    residency.budget = lambda used: residence.nbytes * 3 // 4
    denoised(model)
    denoised(model)
    before = residency.came_bytes
    denoised(model)
    # What leaves for lack of a quarter, and for the parts that compute and are fetched meanwhile.
    assert residence.nbytes / 4 <= residency.came_bytes - before <= residence.nbytes * 0.8


def test_an_error_inside_a_part_leaves_no_mess(path: Path, free: Checkpoint) -> None:
    residency, model, _, _ = under(300_000, path)
    with pytest.raises(RuntimeError):
        model.denoise(noise(1, 4, 8, 8), torch.tensor([3.0]), Inputs(noise(1, 77, 31)))
    assert torch.equal(denoised(model), denoised(free.model))
    assert residency.peak_bytes <= 300_000
    assert not any(module._forward_hooks for module in model.network.modules())


def test_changed_weights_are_the_same_under_a_limit(path: Path, free: Checkpoint) -> None:
    assert isinstance(free.model, UNet)
    names = [n for n, w in free.model.network.named_parameters() if w.ndim == 2][::2]
    shapes = free.model.weights.shapes
    deltas = {name: Difference(0.1 * noise(*shapes[name], seed=i)) for i, name in enumerate(names)}
    change = Change("delta", deltas, 1.0)

    def changed(model: UNet) -> UNet:
        return model.with_networks({"unet": model.weights.changed(change)})

    expected = denoised(changed(free.model))
    limit = free.model.weights.nbytes // 2
    residency, model, _, _ = under(limit, path)
    other = changed(model)
    for _ in range(2):
        assert torch.equal(denoised(other), expected)
        assert torch.equal(denoised(model), denoised(free.model))
    assert residency.peak_bytes <= limit
    del other
    gc.collect()
    own = {id(place.parameter) for place in of(model.network).places.values()}
    assert {id(w) for w in model.network.parameters()} == own
    assert residency.used_bytes == of(model.network).in_bytes


# Several networks


def test_weights_come_when_they_are_computed_with(path: Path) -> None:
    residency, model, clip, vae = under(10**9, path)
    assert residency.used_bytes == 0
    encoded(clip)
    text = of(clip.towers[0].network).nbytes
    assert residency.used_bytes == text
    denoised(model)
    decoded(vae)
    parts = (clip.towers[0].network, model.network, vae.network)
    assert residency.used_bytes == sum(of(network).nbytes for network in parts)
    assert all(torch.isfinite(w).all() for network in parts for w in network.parameters())


def test_text_encoders_leave_first_then_autoencoders_then_what_was_unused_for_longest(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    residency, model, clip, vae = under(10**9, path)
    _, second, _, _ = (residency, *load_checkpoint(path, devices_of(residency)))
    denoised(second)
    decoded(vae)
    encoded(clip)
    denoised(model)
    networks = [clip.towers[0].network, vae.network, second.network, model.network]  # type: ignore[attr-defined]
    limits = [residency.used_bytes]
    for network in networks:
        limits.append(limits[-1] - of(network).nbytes)
    with caplog.at_level(logging.INFO):
        for at, limit in enumerate(limits[:-1]):
            residency.budget = lambda used, limit=limit: limit
            residency.make_room(0, of(model.network))
            here = [of(network).in_bytes == of(network).nbytes for network in networks]
            gone = [of(network).in_bytes == 0 for network in networks]
            assert here == [False] * at + [True] * (len(networks) - at)
            assert gone == [True] * at + [False] * (len(networks) - at)
    assert caplog.text.count("to make room for the U-Net of tiny.safetensors") == 3
    assert "moved 6.1 MiB of the text encoder of tiny.safetensors off the device" in caplog.text


def devices_of(residency: Residency) -> Devices:
    return Devices(torch.device("cpu"), residency=residency)


def test_no_more_leaves_than_is_needed_and_only_that_comes_back(path: Path) -> None:
    residency, model, clip, _ = under(10**9, path)
    encoded(clip)
    denoised(model)
    text = of(clip.towers[0].network)
    limit = residency.used_bytes - 1
    residency.budget = lambda used: limit
    residency.make_room(0, of(model.network))
    away = [place for place in text.places.values() if not place.is_in]
    assert len(away) == 1
    encoded(clip)
    assert text.in_bytes == text.nbytes
    assert residency.used_bytes <= limit


def test_results_are_dropped_before_a_network_comes_in_parts_if_that_gives_room(
    path: Path, free: Checkpoint
) -> None:
    results = 5_000_000
    dropped: list[int] = []

    def drop() -> bool:
        nonlocal results
        dropped.append(results)
        results, before = 0, results
        return before > 0

    residency = Residency(lambda used: 8_000_000 - results, is_shared=True)
    residency.on_shortage = drop
    model = load_checkpoint(path, devices_of(residency)).model
    assert torch.equal(denoised(model), denoised(free.model))
    assert dropped == [5_000_000]
    assert residency.used_bytes == of(model.network).nbytes  # type: ignore[attr-defined]
    residency.budget = lambda used: 1_000_000
    residency.leave_idle()
    residency.is_shared = False
    denoised(model)
    assert len(dropped) == 1


def test_what_computes_does_not_leave(path: Path) -> None:
    residency, model, clip, _ = under(10**9, path)
    encoded(clip)
    denoised(model)
    with present(clip.towers[0].network):
        assert residency.leave_idle()
        assert of(clip.towers[0].network).in_bytes == of(clip.towers[0].network).nbytes
        assert of(model.network).in_bytes == 0
    assert residency.leave_idle()
    assert not residency.leave_idle()


def test_a_weight_that_is_away_poisons_what_computes_with_it_unasked(path: Path) -> None:
    _, model, _, _ = under(10**9, path)
    x = noise(1, 4, 8, 8)
    (unasked,) = model.network(x, 5, noise(1, 77, 32), return_dict=False)
    assert unasked.isnan().all()


def test_weights_can_be_read_wherever_they_are(path: Path, free: Checkpoint) -> None:
    _, model, _, _ = under(0, path)
    whole = free.model.network.state_dict()  # pyright: ignore[reportAttributeAccessIssue]
    found = state_of(model.network)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    name = "conv_in.weight"
    assert torch.equal(weight_of(model.network, name), whole[name])
    assert model.network.get_parameter(name).isnan().all()
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)


def test_what_leaves_takes_no_memory_and_a_network_that_is_dropped_none_either(path: Path) -> None:
    residency, model, _, _ = under(10**9, path)
    denoised(model)
    assert residency.used_bytes > 0
    del model
    gc.collect()
    assert residency.used_bytes == 0


def test_a_cache_counts_what_only_memory_holds(path: Path, free: Checkpoint) -> None:
    _, model, _, _ = under(10**9, path)
    whole: Any = free.model
    assert whole.nbytes == sum(weight.nbytes for weight in whole.network.parameters())
    assert model.nbytes == lasting_bytes(model.network) == 5_000 * len(of(model.network).places)


# Memory runs out


class Full:
    """Lets the device run out of memory, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, *_: object) -> None:
        if self.times:
            self.times -= 1
            raise torch.OutOfMemoryError("out of memory")


def test_a_network_that_does_not_fit_after_all_comes_in_parts(
    path: Path, free: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from executor.weight_place import Place

    residency, model, clip, _ = under(10**9, path)
    encoded(clip)
    come, given = Place.come, list[int]()
    full = residency.used_bytes + of(model.network).nbytes // 2

    def comes(place: Place, value: Tensor | None = None) -> None:
        if residency.used_bytes + place.nbytes > full:
            raise torch.OutOfMemoryError("out of memory")
        come(place, value)

    def forget() -> bool:
        given.append(residency.used_bytes)
        return len(given) == 1

    monkeypatch.setattr(Place, "come", comes)
    residency.on_shortage = forget
    full = of(model.network).nbytes // 2
    with caplog.at_level(logging.INFO):
        assert torch.equal(denoised(model), denoised(free.model))
    assert len(given) == 3  # asked first of all, and again after each rung
    assert of(clip.towers[0].network).in_bytes == 0
    assert "its parts come when they compute" in caplog.text
    assert residency.used_bytes <= full
