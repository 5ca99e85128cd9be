"""A Stable Diffusion 1.5 file of random weights: the real layout and widths, from a seed.

    python -m tests.agreement.checkpoint FILE

2 GB in fp16, always the same bytes: each tensor is drawn with a seed made of its own name, and
scaled so that activations neither vanish nor explode and the prompt is felt. It takes about two
minutes.
"""

import argparse
import hashlib
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from executor.models import layout

SHA256 = "2c18f920859ffa415cfcc44ef11fd1db756f39af5bbad9c5ae40656a0c0e55b9"
SEED = 20240607
TEXT = "cond_stage_model.transformer.text_model."

_NORM = re.compile(
    r"(norm\w*|layer_norm\d|in_layers\.0|out_layers\.0|diffusion_model\.out\.0)\.(weight|bias)$"
)


def shapes() -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the file, by name."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae_config: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)  # its other defaults are SD 1.5's
        vae = AutoencoderKL(**vae_config)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
            )
        )
    found: dict[str, tuple[int, ...]] = {}
    for module, prefix, names in (
        (unet, layout.UNET, layout.unet_names),
        (vae, layout.VAE, layout.vae_names),
        (text, "", lambda names: layout.text_names(names, TEXT)),
    ):
        tensors = module.state_dict()
        for name, file_name in names(tensors).items():
            shape = tuple(tensors[name].shape)
            if layout.is_vae_attention(file_name):
                shape = (*shape, 1, 1)
            found[prefix + file_name] = shape
    found.pop(TEXT + "embeddings.position_ids", None)
    return found


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The values of one tensor, float32."""
    digest = hashlib.sha256(f"{SEED}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    x = torch.randn(shape, generator=generator)
    if _NORM.search(name):
        return 1 + 0.1 * x if name.endswith("weight") else 0.05 * x
    if "embedding" in name and "time_embed" not in name:
        return x * (0.5 if "token" in name else 0.1)  # the token must outweigh its position
    if len(shape) < 2:
        return 0.05 * x
    gain = 2.0 if re.search(r"\.attn2\.to_(out|q|k)\.", name) else 1.0  # the prompt must be felt
    if name == layout.UNET + "out.2.weight":
        # Samplers sum up what the network predicts: it must have no large mean.
        x = x - x.mean(dim=(2, 3), keepdim=True)
    return x * (gain / math.sqrt(math.prod(shape[1:])))


def write(path: Path) -> None:
    """Write the file."""
    state = {name: drawn(name, shape).half() for name, shape in sorted(shapes().items())}
    state[TEXT + "embeddings.position_ids"] = torch.arange(77).reshape(1, -1)
    save_file(state, path, metadata={"format": "pt"})


def is_whole(path: Path) -> bool:
    """Whether the file is there with the bytes that it must have."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == SHA256


def main() -> None:
    """Write the file that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.agreement.checkpoint")
    parser.add_argument("file", type=Path, help="where to write it")
    path: Path = parser.parse_args().file
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    if not is_whole(path):
        raise SystemExit(f"{path}: not the expected bytes; is this another version of torch?")


if __name__ == "__main__":
    main()
