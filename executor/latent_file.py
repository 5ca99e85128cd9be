"""Latents in files, as ComfyUI writes them: ``NAME_00001_.latent``.

A safetensors file with the tensor ``latent_tensor`` in the VAE's unscaled space and an empty one,
``latent_format_version_0``, that says so: files from before it hold scaled latents. Its metadata
carries the workflow.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from executor.errors import FileError

SUFFIX = ".latent"
_TENSOR, _UNSCALED = "latent_tensor", "latent_format_version_0"
_OLD_SCALE = (
    0.18215  # of Stable Diffusion 1, the only family when files without the marker were written
)


def to_bytes(samples: Tensor, metadata: Mapping[str, Any]) -> bytes:
    """The file's content, with each value of ``metadata`` as JSON."""
    tensors = {_TENSOR: samples.detach().cpu().contiguous(), _UNSCALED: torch.empty(0)}
    return save(tensors, {name: json.dumps(value) for name, value in metadata.items()})


def read(path: Path) -> Tensor:
    """The latents (B, C, h, w), float32 and unscaled.

    Raises:
        FileError: it is no safetensors file, or one without latents.
    """
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path.name}: not a latent file ({error}); save it again with SaveLatent"
        ) from error
    samples = tensors.get(_TENSOR)
    if samples is None or samples.ndim != 4:
        found = ", ".join(sorted(tensors)) if samples is None else f"shape {tuple(samples.shape)}"
        raise FileError(
            f"{path.name}: a latent file holds {_TENSOR!r} of shape (B, C, h, w); this one has "
            f"{found or 'nothing'}"
        )
    scale = 1.0 if _UNSCALED in tensors else 1 / _OLD_SCALE
    return samples.float() * scale
