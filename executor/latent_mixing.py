"""Two latents become one: sums and mixtures, one laid on another.

Nothing here knows a model or writes to its arguments. The rules are ComfyUI's, so that its
workflows give the same latents; masks and the places of noise are those of the first.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from executor.compositing import paste
from executor.errors import InputError
from executor.latents import PIXELS, sized_like
from executor.masks import as_many
from executor.ports import Latent


def combined(
    first: Latent, second: Latent, operation: Callable[[Tensor, Tensor], Tensor]
) -> Latent:
    """What an operation makes of both, the second in the size and the number of the first."""
    other = as_many(sized_like(second.samples, first.samples), len(first.samples))
    return replace(first, samples=operation(first.samples, other))


def interpolated(first: Tensor, second: Tensor, share: float) -> Tensor:
    """So much of the first: directions are mixed, then lengths; both are those of the channels."""
    length = first.norm(dim=1, keepdim=True) * share
    length = length + second.norm(dim=1, keepdim=True) * (1 - share)
    return _direction(_direction(first) * share + _direction(second) * (1 - share)) * length


def _direction(samples: Tensor) -> Tensor:
    """Channels divided by their length; nothing where that is 0."""
    length = samples.norm(dim=1, keepdim=True)
    return torch.where(length == 0, 0, samples / length)


def blended(first: Latent, second: Latent, share: float) -> Latent:
    """So much of the first, the rest of the second, which is resized to it."""
    other = sized_like(second.samples, first.samples, "bicubic")
    count = max(len(first.samples), len(other))
    mixed = as_many(first.samples, count) * share + as_many(other, count) * (1 - share)
    return replace(first, samples=mixed)


def masked(
    onto: Latent, pasted: Latent, *, x: int, y: int, mask: Tensor | None, resize_source: bool
) -> Latent:
    """``pasted`` laid on ``onto`` with its corner at (x, y), where a mask (B, H, W) lets it show.

    The corner is given in pixels of the picture.
    """
    if pasted.samples.shape[1] != onto.samples.shape[1]:
        raise _other_channels(pasted.samples, "source", onto.samples, "destination")
    samples = paste(
        onto.samples.movedim(1, -1),
        pasted.samples.movedim(1, -1),
        x=x // PIXELS,
        y=y // PIXELS,
        mask=mask,
        resize_source=resize_source,
    )
    return replace(onto, samples=samples.movedim(-1, 1).contiguous())


def composite(onto: Latent, pasted: Latent, *, x: int, y: int, feather: int) -> Latent:
    """``pasted`` laid over ``onto`` with its corner at (x, y), cut at the border.

    Over ``feather`` latent pixels its edges fade in, but for those on the picture's border.
    """
    if pasted.samples.shape[1] != onto.samples.shape[1]:
        raise _other_channels(pasted.samples, "samples_from", onto.samples, "samples_to")
    if pasted.samples.shape[0] not in (1, onto.samples.shape[0]):
        raise InputError(
            f"samples_from holds {pasted.samples.shape[0]} latents and samples_to "
            f"{onto.samples.shape[0]}; give one, or as many"
        )
    height, width = onto.samples.shape[-2:]
    patch = pasted.samples[..., : max(0, height - y), : max(0, width - x)].to(onto.samples)
    bottom, right = y + patch.shape[-2], x + patch.shape[-1]
    down = _ramp(patch.shape[-2], feather, first=y > 0, last=bottom < height)
    across = _ramp(patch.shape[-1], feather, first=x > 0, last=right < width)
    weight = (down[:, None] * across[None, :]).to(patch)
    samples = onto.samples.clone()
    under = samples[..., y:bottom, x:right]
    samples[..., y:bottom, x:right] = patch * weight + under * (1 - weight)
    return replace(onto, samples=samples)


def _other_channels(one: Tensor, name: str, other: Tensor, other_name: str) -> InputError:
    return InputError(
        f"{name} has {one.shape[1]} channels and {other_name} {other.shape[1]}; both must come "
        "from the same kind of VAE"
    )


def _ramp(length: int, feather: int, *, first: bool, last: bool) -> Tensor:
    """Weights (length,) that climb to 1 within ``feather`` steps from the ends that ask for it."""
    climb = torch.ones(length)
    if feather > 0:
        from_start = torch.arange(1, length + 1) / feather
        climb = climb * from_start.clamp(max=1) if first else climb
        climb = climb * from_start.flip(0).clamp(max=1) if last else climb
    return climb
