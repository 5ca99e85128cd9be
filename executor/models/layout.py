"""Tensor names of the networks here (diffusers, transformers), and in Stable Diffusion's own files.

One direction is written down, from the networks' names to the file's; loading looks the file's
tensors up with it, writing renames with it. The file numbers the U-Net's blocks through, the
decoder's levels from the finest, and keeps the autoencoder's attention as 1×1 convolutions.
Light: no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

UNET = "model.diffusion_model."
VAE = "first_stage_model."
EMA = "model_ema."

_BLOCK = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnet|attention|downsampler|upsampler)s\.(\d+)\.(.+)"
)

_UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",  # what diffusers itself calls SDXL's
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_OUTER = {"conv_norm_out": "norm_out"}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_OLD_ATTENTION = {  # diffusers' own names before its version 0.18
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}


_OPEN_CLIP = {  # without the layer's number, and without q, k and v, which share a matrix
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPEN_CLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(?:self_attn\.([qkv])_proj\.)?(.+)")


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a file keeps a tensor of a network: under a name of its own, or inside another."""

    key: str
    third: int | None = None  # which third of the rows it is; None: all
    is_transposed: bool = False

    def shape(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """What the file's tensor should measure for the network's to have this shape."""
        wanted = wanted[::-1] if self.is_transposed else wanted
        return wanted if self.third is None else (3 * wanted[0], *wanted[1:])


def unet_names(names: Iterable[str]) -> dict[str, str]:
    """The file's name (without ``UNET``) of every tensor of a ``UNet2DConditionModel``."""
    names = list(names)
    found = [m for m in map(_BLOCK.fullmatch, names) if m]
    layers = 1 + max(int(m[4]) for m in found if m[1] == "down" and m[3] == "resnet")
    attending = {int(m[2]) for m in found if m[1] == "up" and m[3] == "attention"}
    return {name: _unet_name(name, layers, attending) for name in names}


def _unet_name(name: str, layers: int, attending: set[int]) -> str:
    """One name; a level has so many ``layers``, and the up levels in ``attending`` attend."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return _renamed(name, _UNET_OUTER)
    side, level, part, index, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if part == "resnet":
        rest = _renamed(rest, _UNET_RESNET)
    if side == "mid":
        return f"middle_block.{2 * index if part == 'resnet' else 1}.{rest}"
    block = (layers + 1) * level
    if part == "downsampler":
        return f"input_blocks.{block + layers + 1}.0.{rest.replace('conv', 'op', 1)}"
    if part == "upsampler":
        return f"output_blocks.{block + layers}.{2 if level in attending else 1}.{rest}"
    slot = 0 if part == "resnet" else 1
    if side == "down":
        return f"input_blocks.{block + 1 + index}.{slot}.{rest}"
    return f"output_blocks.{block + index}.{slot}.{rest}"


def vae_names(names: Iterable[str]) -> dict[str, str]:
    """The file's name (without ``VAE``) of every tensor of an ``AutoencoderKL``."""
    names = list(names)
    levels = 1 + max(
        int(m[2]) for n in names if (m := _BLOCK.fullmatch(n.split(".", 1)[1])) and m[2]
    )
    return {name: _vae_name(name, levels) for name in names}


def _vae_name(name: str, levels: int) -> str:
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    network, inner = name.split(".", 1)  # encoder, decoder
    match = _BLOCK.fullmatch(inner)
    if match is None:
        return f"{network}.{_renamed(inner, _VAE_OUTER)}"
    side, level, part, index, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    rest = rest.replace("conv_shortcut", "nin_shortcut")
    if side == "mid":
        if part == "attention":
            return f"{network}.mid.attn_1.{_renamed(rest, _VAE_ATTENTION)}"
        return f"{network}.mid.block_{index + 1}.{rest}"
    where = f"{network}.{side}.{level if side == 'down' else levels - 1 - level}"
    return (
        f"{where}.block.{index}.{rest}"
        if part == "resnet"
        else f"{where}.{part.removesuffix('r')}.{rest}"
    )


def old_vae_names(names: Iterable[str]) -> dict[str, str]:
    """What early diffusers files call the tensors of an ``AutoencoderKL``, where it differs."""
    result: dict[str, str] = {}
    for name in names:
        head, attention, rest = name.partition(".attentions.0.")
        if attention and (old := _renamed(rest, _VAE_OLD_ATTENTION)) != rest:
            result[name] = head + attention + old
    return result


def preview_decoder_names(names: Iterable[str]) -> dict[str, str]:
    """TAESD's name of every tensor of a ``DecoderTiny``, whose first layer (a clamp) has none."""
    found: dict[str, str] = {}
    for name in names:
        _, index, rest = name.split(".", 2)  # layers.<index>.<rest>
        found[name] = f"{int(index) + 1}.{rest}"
    return found


def text_names(names: Iterable[str], prefix: str) -> dict[str, str]:
    """The file's name of every tensor of a ``CLIPTextModel``, with projection or without."""
    beside = prefix.removesuffix("text_model.")
    return {
        name: (beside if name.startswith("text_projection.") else prefix)
        + name.removeprefix("text_model.")
        for name in names
    }


def open_clip_names(names: Iterable[str], prefix: str) -> dict[str, Stored]:
    """Where a file in OpenCLIP's layout keeps every tensor of a ``CLIPTextModel``."""
    return {name: _open_clip_name(name.removeprefix("text_model."), prefix) for name in names}


def _open_clip_name(name: str, prefix: str) -> Stored:
    if name == "text_projection.weight":  # it is multiplied with from the other side
        return Stored(f"{prefix}text_projection", is_transposed=True)
    match = _OPEN_CLIP_LAYER.fullmatch(name)
    if match is None:
        return Stored(prefix + _renamed(name, _OPEN_CLIP))
    layer, part, rest = match.groups()
    where = f"{prefix}transformer.resblocks.{layer}"
    if part is None:
        return Stored(f"{where}.{_renamed(rest, _OPEN_CLIP)}")
    return Stored(f"{where}.attn.in_proj_{rest}", third="qkv".index(part))


def is_vae_attention(file_name: str) -> bool:
    """Whether the file keeps this linear map as a 1×1 convolution."""
    return file_name.endswith(".weight") and ".attn_1." in file_name and ".norm." not in file_name


def ema_name(unet_name: str) -> str:
    """Under which name training keeps the running mean of a U-Net tensor: it drops the dots."""
    return EMA + f"{UNET}{unet_name}".removeprefix("model.").replace(".", "")


_EMA_PIECES = re.compile(
    r"(?P<blocks>(?:input|output)_blocks)(?P<block>\d+)(?P<slot>\d)(?=\D|$)"
    r"|(?P<middle>middle_block)(?P<at>\d)"
    r"|(?P<outer>label_emb|time_embed|out(?=\d))(?P<places>\d+)"
    r"|(?P<layers>transformer_blocks|in_layers|out_layers|emb_layers|to_out|net)(?P<layer>\d+)"
    r"|(?P<piece>skip_connection|attn[12]|norm[123]|norm|to_[qkv]|proj_in|proj_out|proj|ff|op|conv"
    r"|weight|bias)"
)


def unet_name_of_ema(name: str) -> str | None:
    """The U-Net tensor (without ``UNET``) whose running mean this is: ``ema_name`` undone."""
    flat = name.removeprefix(EMA + "diffusion_model")
    pieces: list[str] = []
    at = 0
    while at < len(flat):
        match = _EMA_PIECES.match(flat, at)
        if match is None:
            return None
        at = match.end()
        found = {key: value for key, value in match.groupdict().items() if value}
        places = found.pop("places", "")
        pieces += [*found.values(), *places]
    result = ".".join(pieces)
    return result if name == ema_name(result) else None


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """``name`` with the beginning that ``names`` knows, if any, put in its other words."""
    for old, new in names.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return name
