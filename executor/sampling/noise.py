"""Where the randomness of a picture comes from: its seed, and nothing else.

Initial noise is drawn on the CPU whatever the device, so that a seed means the same picture
everywhere. What samplers add on their way is drawn where the latent is (gaussian) or from a
Brownian path on the CPU, or on the device if their name ends in ``_gpu``, as ComfyUI does; all take
part in agreement with it to the last bit. No global generator is touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from executor.errors import InputError
from executor.ports import Latent
from executor.sampling_ports import AddedNoise, NoiseKind


@dataclass(frozen=True, slots=True)
class SeededNoise:
    """First noise from a seed (``sampling_ports.FirstNoise``)."""

    seed: int

    def draw(self, latent: Latent) -> Tensor:
        """Noise for each picture of the latent, on the CPU."""
        return initial(latent.samples.shape, self.seed, latent.batch_index)


@dataclass(frozen=True, slots=True)
class NoNoise:
    """Takes a latent as noised already; samplers that add noise on their way draw it from 0."""

    seed: int = 0

    def draw(self, latent: Latent) -> Tensor:
        """Zeros."""
        return torch.zeros(latent.samples.shape)


def initial(shape: Sequence[int], seed: int, batch_index: Sequence[int] | None = None) -> Tensor:
    """Unit noise (B, C, h, w) on the CPU, drawn for the whole batch at once.

    With ``batch_index`` row i gets what row ``batch_index[i]`` of a larger batch would get; indices
    may repeat. (Where a row's size is no multiple of 16, torch draws rows one by one differently
    from together; so ComfyUI too.)
    """
    generator = _generator(seed, "cpu")
    if batch_index is None:
        return torch.randn(tuple(shape), generator=generator)
    if len(batch_index) != shape[0] or min(batch_index) < 0:
        raise InputError(
            f"batch_index must name a place ≥ 0 for each of the {shape[0]} latents,"
            f" got {list(batch_index)}"
        )
    row = (1, *shape[1:])
    wanted = set(batch_index)
    rows: dict[int, Tensor] = {}
    for index in range(max(wanted) + 1):  # rows that nobody wants move the generator on
        drawn = torch.randn(row, generator=generator)
        if index in wanted:
            rows[index] = drawn
    return torch.cat([rows[index] for index in batch_index])


def for_sampler(
    kind: NoiseKind, x: Tensor, sigmas: Tensor, seed: int, *, ancestral_seed_offset: int = 1
) -> AddedNoise:
    """What a sampler that needs this kind of noise is given."""
    if kind == "gaussian":
        return gaussian(x, seed, offset=ancestral_seed_offset)
    if kind == "brownian":
        return brownian(x, sigmas, seed)
    if kind == "brownian_on_device":
        return brownian(x, sigmas, seed, device=x.device)
    return _none


def gaussian(x: Tensor, seed: int, *, offset: int = 1) -> AddedNoise:
    """Independent noise at each call, from a generator on the device of ``x``.

    On the CPU, where that generator would repeat the initial noise of the same seed, ``offset`` is
    added to the seed.
    """
    generator = _generator(seed + (offset if x.device.type == "cpu" else 0), x.device)

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    return draw


def brownian(
    x: Tensor, sigmas: Tensor, seed: int, *, device: torch.device | str = "cpu"
) -> AddedNoise:
    """Increments of one Brownian path W(σ) for the whole batch, scaled to unit variance.

    The path is a binary tree of seeds (Li et al. 2020, "Scalable gradients for stochastic
    differential equations", §4), so that noise between two sigmas does not depend on which other
    sigmas were asked for: more steps refine the same picture. ``device`` is where it is drawn:
    another kind of device draws another path.
    """
    import torchsde  # here, as it loads scipy, and most samplers need neither

    low, high = sigmas[sigmas > 0].min(), sigmas.max()
    if low == high:  # a single step, straight to 0: nobody draws
        return _none
    tree: Any = torchsde.BrownianTree(low, torch.zeros(x.shape, device=device), high, entropy=seed)
    first, last = (round(float(sigma), 6) for sigma in (low, high))  # as the tree keeps its ends

    def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
        start, end = sorted((sigma.cpu(), sigma_next.cpu()))
        if start == end:
            return torch.zeros_like(x)
        sign = 1 if sigma < sigma_next else -1
        # Asked beyond its ends the tree would take them too, but not without a warning.
        increment: Tensor = tree(max(float(start), first), min(float(end), last))
        return (increment * sign / (end - start).sqrt()).to(x.device)

    return draw


def _none(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    raise AssertionError("a sampler declared without noise asked for some")


def _generator(seed: int, device: torch.device | str) -> torch.Generator:
    """A generator of its own; seeds wrap around at 2⁶⁴."""
    return torch.Generator(device).manual_seed(seed % 2**64)
