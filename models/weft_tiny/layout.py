"""Names of weights in a Stable Diffusion 1.x file, and in diffusers and transformers.

The file has three parts: ``model.diffusion_model``, ``first_stage_model`` and
``cond_stage_model.transformer``. The pairs (ours, theirs) are prefixes; the longest that fits wins.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Pairs = list[tuple[str, str]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
POSITIONS = TEXT + "embeddings.position_ids"

RESNET: Pairs = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]
ATTENTION: Pairs = [
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
]


def below(ours: str, theirs: str, pairs: Pairs) -> Pairs:
    """The pairs, each under a prefix."""
    return [(f"{ours}.{a}", f"{theirs}.{b}") for a, b in pairs]


def unet_pairs(has_attention: Sequence[bool], layers: int) -> Pairs:
    """The U-Net's names; ``has_attention`` is said for each level, finest first."""
    levels = len(has_attention)
    pairs: Pairs = [
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("mid_block.attentions.0", "middle_block.1"),
        *below("mid_block.resnets.0", "middle_block.0", RESNET),
        *below("mid_block.resnets.1", "middle_block.2", RESNET),
    ]
    block = 1
    for level in range(levels):
        for layer in range(layers):
            at = f"down_blocks.{level}"
            pairs += below(f"{at}.resnets.{layer}", f"input_blocks.{block}.0", RESNET)
            if has_attention[level]:
                pairs.append((f"{at}.attentions.{layer}", f"input_blocks.{block}.1"))
            block += 1
        if level < levels - 1:
            pairs.append((f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{block}.0.op"))
            block += 1
    block = 0
    for up, has_cross in enumerate(reversed(has_attention)):
        for layer in range(layers + 1):
            at, there = f"up_blocks.{up}", f"output_blocks.{block}"
            pairs += below(f"{at}.resnets.{layer}", f"{there}.0", RESNET)
            if has_cross:
                pairs.append((f"{at}.attentions.{layer}", f"{there}.1"))
            if layer == layers and up < levels - 1:
                pairs.append((f"{at}.upsamplers.0.conv", f"{there}.{1 + has_cross}.conv"))
            block += 1
    return pairs


def vae_pairs(levels: int, layers: int) -> Pairs:
    """The autoencoder's names; the file counts the decoder's levels from the finest."""
    pairs: Pairs = [("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")]
    for part in ("encoder", "decoder"):
        pairs += [
            (f"{part}.conv_in", f"{part}.conv_in"),
            (f"{part}.conv_out", f"{part}.conv_out"),
            (f"{part}.conv_norm_out", f"{part}.norm_out"),
            (f"{part}.mid_block.resnets.0", f"{part}.mid.block_1"),
            (f"{part}.mid_block.resnets.1", f"{part}.mid.block_2"),
            *below(f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1", ATTENTION),
        ]
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        ours_down, ours_up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        for blocks, ours, theirs in ((layers, ours_down, down), (layers + 1, ours_up, up)):
            for block in range(blocks):
                at, there = f"{ours}.resnets.{block}", f"{theirs}.block.{block}"
                pairs += [(at, there), (f"{at}.conv_shortcut", f"{there}.nin_shortcut")]
        if level < levels - 1:
            pairs.append((f"{ours_down}.downsamplers.0.conv", f"{down}.downsample.conv"))
            pairs.append((f"{ours_up}.upsamplers.0.conv", f"{up}.upsample.conv"))
    return pairs


def renamed(weights: Weights, pairs: Iterable[tuple[str, str]]) -> Weights:
    """The weights under their new names; every name must fit a pair."""
    by_length = sorted(pairs, key=lambda pair: -len(pair[0]))
    result: Weights = {}
    for name, weight in weights.items():
        old, new = next(pair for pair in by_length if name.startswith(pair[0] + "."))
        result[new + name.removeprefix(old)] = weight
    return result


def under(weights: Weights, prefix: str) -> Weights:
    """The part of a file's weights below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def unet_to_file(weights: Weights, has_attention: Sequence[bool], layers: int) -> Weights:
    named = renamed(weights, unet_pairs(has_attention, layers))
    return {UNET + name: weight for name, weight in named.items()}


def unet_from_file(weights: Weights, has_attention: Sequence[bool], layers: int) -> Weights:
    pairs = unet_pairs(has_attention, layers)
    return renamed(under(weights, UNET), ((theirs, ours) for ours, theirs in pairs))


def is_projection(name: str) -> bool:
    """Whether a weight, by its name in the file, is one of the autoencoder's attention layers."""
    return "attn_1" in name and name.endswith(".weight") and ".norm." not in name


def vae_to_file(weights: Weights, levels: int, layers: int) -> Weights:
    """The autoencoder's part; attention weights become 1 × 1 convolutions."""
    named = renamed(weights, vae_pairs(levels, layers))
    return {
        VAE + name: weight[:, :, None, None] if is_projection(name) else weight
        for name, weight in named.items()
    }


def vae_from_file(weights: Weights, levels: int, layers: int) -> Weights:
    flat = {
        name: weight.flatten(1) if is_projection(name) else weight
        for name, weight in under(weights, VAE).items()
    }
    return renamed(flat, ((theirs, ours) for ours, theirs in vae_pairs(levels, layers)))


def text_to_file(weights: Weights) -> Weights:
    """The text encoder's part; transformers 5 leaves out the prefix ``text_model``."""
    named = {TEXT + k.removeprefix("text_model."): v for k, v in weights.items()}
    length = named[TEXT + "embeddings.position_embedding.weight"].shape[0]
    return named | {POSITIONS: torch.arange(length)[None]}


def text_from_file(weights: Weights, like: Iterable[str]) -> Weights:
    """The text encoder's weights, named ``text_model.…`` if the names in ``like`` are."""
    prefix = "text_model." if next(iter(like)).startswith("text_model.") else ""
    part = under({k: v for k, v in weights.items() if k != POSITIONS}, TEXT)
    return {prefix + name: weight for name, weight in part.items()}
