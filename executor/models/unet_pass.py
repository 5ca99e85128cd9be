"""One forward pass of a U-Net, with all that acts in it: controls, phrases at places, patches.

The network is shared: what a pass puts into it is taken out again. Patches that hold for some rows
only make several passes of one.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

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
    further = _additional(added, dtype)
    with ExitStack() as stack:
        stack.enter_context(present(network))
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


def _additional(added: Sequence[Residuals], dtype: torch.dtype) -> dict[str, Any]:
    """The sums of what control networks add, as arguments of the network."""
    middles = [[one.middle] for one in added if one.middle is not None]
    sums = {
        "down_block_additional_residuals": _summed([one.skips for one in added], dtype),
        "mid_block_additional_residual": next(iter(_summed(middles, dtype)), None),
        "down_intrablock_additional_residuals": _summed([one.features for one in added], dtype),
    }
    return {name: value for name, value in sums.items() if value is not None and len(value)}


def _summed(sequences: Sequence[Sequence[Tensor]], dtype: torch.dtype) -> list[Tensor]:
    """The sums place by place, of those sequences that hold anything."""
    present = [sequence for sequence in sequences if sequence]
    return [reduce(torch.add, same).to(dtype) for same in zip(*present, strict=True)]
