"""How large the networks of a file are, read from the shapes of its tensors.

What shapes cannot tell (attention heads, norm groups) is said by the file's own hints, else by the
rule of the family. The results are arguments of ``UNet2DConditionModel``, ``AutoencoderKL`` and
``CLIPTextConfig``. Shapes that are of no such network raise KeyError, IndexError or ValueError,
which ``load`` puts into words. Light: no torch.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from executor.models.families import Family, TextTower
from executor.models.model_file import Hints

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Config: TypeAlias = dict[str, Any]

PREVIEW_DECODER: Config = {  # as every TAESD of a family with four latent channels is
    "in_channels": 4,
    "out_channels": 3,
    "num_blocks": (3, 3, 3, 1),
    "block_out_channels": (64, 64, 64, 64),
    "upsampling_scaling_factor": 2,
    "act_fn": "relu",
    "upsample_fn": "nearest",
}

_GROUPS = 32  # of every norm in every real family


def unet_config(shapes: Shapes, family: Family, hints: Hints) -> Config:
    """The U-Net with these tensors (by the file's names, without prefix)."""
    check_not_empty(shapes)
    levels = unet_levels(shapes)
    if any(len(level) != len(levels[0]) or len(set(level)) > 1 for level in levels):
        raise ValueError("its levels are irregular")
    widths = [level[0][0] for level in levels]
    depths = [level[0][1] for level in levels]
    heads = hints.unet_heads or family.heads or [max(1, width // 64) for width in widths]
    groups = hints.unet_norm_groups or min(_GROUPS, widths[0] // 4)
    middle = _count(shapes, r"middle_block\.1\.transformer_blocks\.(\d+)\.")
    projections = [s for n, s in shapes.items() if n.endswith(".1.proj_in.weight")]
    context = next(s[1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight"))
    vector = shapes.get("label_emb.0.0.weight")
    check_divides("U-Net norm groups", [groups], widths)
    check_divides("U-Net heads", heads if isinstance(heads, list) else [heads], widths)
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": len(levels[0]),
        "cross_attention_dim": context,
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "norm_num_groups": groups,
        "use_linear_projection": any(len(shape) == 2 for shape in projections),
        # the middle is as deep as the last level, or, where that has no attention, deeper alone
        "transformer_layers_per_block": [depth or middle or 1 for depth in depths],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "class_embed_type": "projection" if vector else None,
        "projection_class_embeddings_input_dim": vector[1] if vector else None,
    }


def unet_levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """Width and transformer depth of each residual block on the way down, by level."""
    levels: list[list[tuple[int, int]]] = [[]]
    for block in _indices(shapes, r"input_blocks\.(\d+)\.")[1:]:
        name = f"input_blocks.{block}"
        if f"{name}.0.op.weight" in shapes:
            levels.append([])
            continue
        width = shapes[f"{name}.0.out_layers.3.weight"][0]
        depth = _count(shapes, rf"input_blocks\.{block}\.1\.transformer_blocks\.(\d+)\.")
        levels[-1].append((width, depth))
    if not all(levels):
        raise ValueError("one of its levels has no residual block")
    return levels


def vae_config(shapes: Shapes, hints: Hints) -> Config:
    """The autoencoder with these tensors (by the file's names, without prefix)."""
    check_not_empty(shapes)
    levels = _indices(shapes, r"decoder\.up\.(\d+)\.")
    widths = [shapes[f"decoder.up.{level}.block.0.conv2.weight"][0] for level in levels]
    groups = hints.vae_norm_groups or min(_GROUPS, widths[0] // 4)
    check_divides("VAE norm groups", [groups], widths)
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "norm_num_groups": groups,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


class _TextNames(NamedTuple):
    """The tensors of a text encoder that tell its size."""

    tokens: str
    positions: str
    first_linear: str
    layers: str  # a pattern


_CLIP = _TextNames(
    "embeddings.token_embedding.weight",
    "embeddings.position_embedding.weight",
    "encoder.layers.0.mlp.fc1.weight",
    r"encoder\.layers\.(\d+)\.",
)
_OPEN_CLIP = _TextNames(
    "token_embedding.weight",
    "positional_embedding",
    "transformer.resblocks.0.mlp.c_fc.weight",
    r"transformer\.resblocks\.(\d+)\.",
)


def text_config(shapes: Shapes, tower: TextTower, hints: Hints, *, is_open_clip: bool) -> Config:
    """The text encoder with these tensors (by the file's names, without prefix)."""
    check_not_empty(shapes)
    names = _OPEN_CLIP if is_open_clip else _CLIP
    vocabulary, width = shapes[names.tokens]
    heads = hints.text_heads.get(tower.name) or max(1, width // 64)
    check_divides("text encoder heads", [heads], [width])
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[names.first_linear][0],
        "num_hidden_layers": _count(shapes, names.layers),
        "num_attention_heads": heads,
        "max_position_embeddings": shapes[names.positions][0],
        "hidden_act": tower.activation,
        "projection_dim": width,
        # special tokens are the tokenizer's business; the defaults would be checked against it
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def check_not_empty(shapes: Shapes) -> None:
    """Every tensor has numbers in it."""
    empty = next((name for name, shape in shapes.items() if 0 in shape), None)
    if empty is not None:
        raise ValueError(f"{empty} is empty")


def _indices(shapes: Shapes, pattern: str) -> list[int]:
    """The numbers that a pattern finds at the beginning of names, rising."""
    return sorted({int(m[1]) for name in shapes if (m := re.match(pattern, name))})


def _count(shapes: Shapes, pattern: str) -> int:
    return len(_indices(shapes, pattern))


def check_divides(what: str, parts: Sequence[int], widths: Sequence[int]) -> None:
    """Each width can be cut into so many parts."""
    pairs = zip(parts, widths, strict=True) if len(parts) > 1 else ((parts[0], w) for w in widths)
    for part, width in pairs:
        if part < 1 or width % part:
            raise ValueError(f"{what}: {width} channels cannot be cut into {part}")
