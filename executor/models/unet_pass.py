"""One forward pass of a U-Net, with all that acts in it: controls, phrases at places, patches.

The network is shared: what a pass puts into it is taken out again. Patches that hold for some rows
only make several passes of one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from executor.models.unet_blocks import blocks
from executor.patches import NetworkPatch, Rows
from executor.ports import Residuals
from executor.presence import present
from executor.steps import Inputs


def predicted(
    network: UNet2DConditionModel,
    dtype: torch.dtype,
    patches: Sequence[NetworkPatch],
    *,
    seen: Tensor,
    sigma: Tensor,
    timesteps: Tensor,
    inputs: Inputs,
) -> Tensor:
    """What a network says of rows ``seen`` (B, C, h, w) at ``timesteps`` (B,), and patches report.

    Float32, (B, C + k, h, w). The network computes in ``dtype``.
    """
    groups = _alike(patches, sigma) if patches else [((), None)]
    parts: list[Tensor] = []
    for holding, places in groups:
        if places is None:
            return _pass(network, dtype, holding, seen, sigma, timesteps, inputs)
        at = torch.tensor(places, device=seen.device)
        parts.append(
            _pass(network, dtype, holding, seen[at], sigma[at], timesteps[at], inputs.rows(at))
        )
    order = torch.tensor([place for _, places in groups for place in places or ()])
    return torch.cat(parts)[order.argsort().to(seen.device)]


def _alike(
    patches: Sequence[NetworkPatch], sigma: Tensor
) -> list[tuple[tuple[NetworkPatch, ...], list[int] | None]]:
    """The patches that hold, and for which rows; None for all."""
    groups: dict[tuple[NetworkPatch, ...], list[int]] = {}
    for place, now in enumerate(sigma.tolist()):
        holding = tuple(patch for patch in patches if patch.holds(now))
        groups.setdefault(holding, []).append(place)
    if len(groups) == 1:
        return [(next(iter(groups)), None)]
    return list(groups.items())


def _pass(
    network: UNet2DConditionModel,
    dtype: torch.dtype,
    patches: Iterable[NetworkPatch],
    seen: Tensor,
    sigma: Tensor,
    timesteps: Tensor,
    inputs: Inputs,
) -> Tensor:
    vector, grounding = inputs.vector, inputs.grounding
    rows = Rows(sigma, seen.shape[-2], seen.shape[-1], reports=[])
    added = [
        control.network.residuals(seen, timesteps, inputs, control) for control in inputs.controls
    ]
    if inputs.concat is not None:
        seen = torch.cat((seen, inputs.concat.to(seen)), dim=1)
    total = _summed(added, dtype)
    further: dict[str, Any] = {}
    if total.skips:
        further["down_block_additional_residuals"] = total.skips
        further["mid_block_additional_residual"] = total.middle
    with ExitStack() as stack:
        stack.enter_context(present(network))
        for handle in _added_inside(network, total):  # before patches, which see the sums
            stack.callback(handle.remove)
        if grounding is not None:
            objects = grounding.objects.to(dtype)
            further["cross_attention_kwargs"] = {"gligen": {"objects": objects}}
            stack.enter_context(grounding.network.fused(network))
        for patch in reversed(list(patches)):  # the first is outermost: it sees tokens first
            stack.enter_context(patch.applied(network, rows))
        (said,) = network(
            seen.to(dtype),
            timesteps,
            encoder_hidden_states=inputs.tokens.to(dtype),
            class_labels=None if vector is None else vector.to(dtype),
            return_dict=False,
            **further,
        )
    if not rows.reports:
        return said.float()
    return torch.cat([part.float() for part in (said, *rows.reports)], dim=1)


def _summed(added: Sequence[Residuals], dtype: torch.dtype) -> Residuals:
    """The sums of what control networks add; a middle wherever there are skips."""
    skipping = [one.skips for one in added if one.skips]
    skips = [_sum(same, dtype) for same in zip(*skipping, strict=True)]
    middles = [one.middle for one in added if one.middle is not None]
    middle = _sum(middles, dtype) if middles else torch.zeros_like(skips[-1]) if skips else None
    places = sorted({place for one in added for place in one.features})
    features = {
        place: _sum([one.features[place] for one in added if place in one.features], dtype)
        for place in places
    }
    return Residuals(skips, middle, features)


def _sum(same: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return reduce(torch.add, same).to(dtype)


def _added_inside(network: Any, total: Residuals) -> Iterator[RemovableHandle]:
    """Hooks that add what diffusers' U-Net takes no argument for, at ComfyUI's places.

    Its argument for adapters would add behind a level's change of size where the level does not
    attend, and to the middle only what they bring.
    """
    if total.middle is not None and not total.skips:
        yield network.mid_block.register_forward_hook(_adding(total.middle))
    inputs = blocks(network).inputs if total.features else ()
    for place, feature in total.features.items():
        yield inputs[place].last.register_forward_hook(_adding(feature))


def _adding(residual: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
    """Adds to what a module gives, where that is of the same size: patches may make it smaller."""

    def hook(module: nn.Module, args: Any, given: Any) -> Any:
        features = given[0] if isinstance(given, tuple) else given
        if features.shape[-2:] != residual.shape[-2:]:
            return given  # ComfyUI leaves out what does not fit, too
        total = features + residual
        return (total, *given[1:]) if isinstance(given, tuple) else total

    return hook
