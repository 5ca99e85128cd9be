"""How files keep ControlNets and T2I-Adapters: tensor names, and sizes read from shapes.

As in ``layout``, one direction is written down: from the names of the networks here (diffusers) to
those of the authors' own files. As in ``configs``, widths and depths come from the shapes; what is
of no such network raises KeyError, IndexError or ValueError. Light: no torch.
"""

import re
from collections.abc import Iterable

from executor.models import layout
from executor.models.configs import Config, Shapes, check_divides, check_not_empty, unet_levels
from executor.models.model_file import Hints

CONTROL = "control_model."
"""What the names in some files begin with; others have the bare names."""

ADAPTER_SIGNS = (
    "body.0.block1.weight",
    "body.0.in_conv.weight",
    "adapter.body.0.resnets.0.block1.weight",
)
"""Names that T2I-Adapters have and nothing else."""

_ADAPTER_LEVELS = 4
_HEADS = 8  # of every attention in SD 1.x; later families have one for every 64 channels
_GROUPS = 32
_PIXELS = 8  # of the picture, for one of the latent
_HINT = re.compile(r"controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.(.+)")
_ADAPTER = re.compile(r"adapter\.body\.(\d+)\.(?:resnets\.(\d+)\.)?(.+)")


def control_names(names: Iterable[str]) -> dict[str, str]:
    """The file's name (without ``CONTROL``) of every tensor of a ``ControlNetModel``."""
    names = list(names)
    hint = [match for match in map(_HINT.fullmatch, names) if match]
    blocks = 1 + max(int(match[2] or 0) for match in hint)
    own = {name: _control_name(name, blocks) for name in names if name.startswith("controlnet_")}
    return own | layout.unet_names(name for name in names if name not in own)


def _control_name(name: str, blocks: int) -> str:
    """A name outside of what a ControlNet has in common with a U-Net."""
    match = _HINT.fullmatch(name)
    if match is None:
        name = name.replace("controlnet_mid_block.", "middle_block_out.0.")
        return re.sub(r"controlnet_down_blocks\.(\d+)\.", r"zero_convs.\1.0.", name)
    part, block, rest = match.groups()
    layer = {"conv_in": 0, "conv_out": blocks + 1}.get(part, int(block or 0) + 1)
    return f"input_hint_block.{2 * layer}.{rest}"  # an activation stands between every two


def adapter_names(names: Iterable[str]) -> dict[str, str]:
    """The authors' name of every tensor of a ``T2IAdapter``; the light form's differ by a level."""
    names = list(names)
    matches = {name: _ADAPTER.fullmatch(name) for name in names}
    blocks = 1 + max(int(match[2] or 0) for match in matches.values() if match)
    is_light = any(".out_conv." in name for name in names)
    found: dict[str, str] = {}
    for name, match in matches.items():
        if match is None:
            found[name] = name.removeprefix("adapter.")
            continue
        level, block, rest = int(match[1]), match[2], match[3]
        if is_light:
            found[name] = f"body.{level}.{f'body.{block}.' if block else ''}{rest}"
        else:
            found[name] = f"body.{blocks * level + int(block or 0)}.{rest}"
    return found


def control_config(shapes: Shapes, hints: Hints) -> Config:
    """The ``ControlNetModel`` with these tensors (by the file's names, without prefix)."""
    check_not_empty(shapes)
    levels = unet_levels(shapes)
    if any(len(level) != len(levels[0]) or len(set(level)) > 1 for level in levels):
        raise ValueError("its levels are irregular")
    widths = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    middle = len({name.split(".")[3] for name in shapes if _is_middle_attention(name)})
    is_linear = any(
        len(shape) == 2 for name, shape in shapes.items() if name.endswith(".1.proj_in.weight")
    )
    heads = [max(1, width // 64) for width in widths] if is_linear else [_HEADS] * len(widths)
    heads = [hints.unet_heads] * len(widths) if hints.unet_heads else heads
    groups = hints.unet_norm_groups or min(_GROUPS, widths[0] // 4)
    check_divides("ControlNet norm groups", [groups], widths)
    check_divides("ControlNet heads", heads, widths)
    vector = shapes.get("label_emb.0.0.weight")
    colours = shapes["input_hint_block.0.weight"][1]
    if colours not in (1, 3):
        raise ValueError(f"it reads pictures of {colours} channels")
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "conditioning_channels": colours,
        "conditioning_embedding_out_channels": hint_widths(shapes),
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": context_of(shapes) or 1,  # without attention, nothing reads it
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "norm_num_groups": groups,
        "use_linear_projection": is_linear,
        "transformer_layers_per_block": [depth or middle or 1 for depth in depths],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "class_embed_type": "projection" if vector else None,
        "projection_class_embeddings_input_dim": vector[1] if vector else None,
    }


def context_of(shapes: Shapes) -> int | None:
    """How wide the prompts are that its attention reads; None if it has none."""
    return next((s[1] for name, s in shapes.items() if name.endswith("attn2.to_k.weight")), None)


def _is_middle_attention(name: str) -> bool:
    return name.startswith("middle_block.1.transformer_blocks.")


def hint_widths(shapes: Shapes) -> list[int]:
    """Channels of the layers that read the picture, each half as large as the one before."""
    numbers = sorted(
        int(name.split(".")[1])
        for name in shapes
        if name.startswith("input_hint_block.") and name.endswith(".weight")
    )
    widths = [shapes[f"input_hint_block.{number}.weight"][0] for number in numbers[:-1:2]]
    if 2 ** (len(widths) - 1) != _PIXELS or len(numbers) != 2 * len(widths):
        raise ValueError(f"it does not read {_PIXELS} pixels for each of the latent")
    return widths


def adapter_config(shapes: Shapes) -> Config:
    """The ``T2IAdapter`` with these tensors (by the authors' names)."""
    check_not_empty(shapes)
    is_light = "body.0.out_conv.weight" in shapes
    stem = shapes["body.0.in_conv.weight" if is_light else "conv_in.weight"][1]
    pixels = 2 * _PIXELS if stem in (256, 768) else _PIXELS  # 16 × 16 of 1 or 3 channels: SDXL's
    bodies = sorted({int(name.split(".")[1]) for name in shapes if name.startswith("body.")})
    per_level = 1 if is_light else len(bodies) // _ADAPTER_LEVELS
    if len(bodies) != _ADAPTER_LEVELS * per_level or stem % pixels**2 or not per_level:
        raise ValueError("its levels are irregular")
    last = "out_conv" if is_light else "block2"
    widths = [shapes[f"body.{body}.{last}.weight"][0] for body in bodies[::per_level]]
    if is_light:
        if widths.pop() != widths[-1]:
            raise ValueError("its last two levels differ in width")
        found = [re.match(r"body\.0\.body\.(\d+)\.", name) for name in shapes]
        per_level = len({match[1] for match in found if match})
    is_large = pixels != _PIXELS
    return {
        "in_channels": stem // pixels**2,
        "channels": widths,
        "num_res_blocks": per_level,
        "downscale_factor": pixels,
        "adapter_type": "light_adapter"
        if is_light
        else "full_adapter_xl"
        if is_large
        else "full_adapter",
    }
