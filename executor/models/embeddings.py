"""Textual inversions (Gal et al. 2022): the vectors that a name in a prompt stands for."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from executor.errors import ModelFileError
from executor.models.header import read_header


def read_embedding(path: Path, width: int, tower: str) -> Tensor:
    """The vectors (N, width) of an embedding file for a text encoder, float32.

    Trainers of SDXL name them for the encoder, like ``clip_g``; Automatic1111's converter calls
    them ``emb_params``. Raises ModelFileError.
    """
    tensors = read_header(path).tensors
    names = (tower, "emb_params")
    known = next((name for name in names if name in tensors), None)
    if known is None and len(tensors) != 1:
        raise ModelFileError(
            f"{path.name} is no textual inversion that Weft can read; "
            f"it should hold one tensor, or one called {' or '.join(names)}"
        )
    name = known or next(iter(tensors))
    shape = tensors[name].shape
    if len(shape) not in (1, 2) or shape[-1] != width:
        raise ModelFileError(
            f"{path.name} holds vectors of width {shape[-1] if shape else 0}, this text encoder "
            f"has {width}: it was made for another family of models"
        )
    with safe_open(path, framework="pt") as file:
        vectors: Tensor = file.get_tensor(name)
    return vectors.to(torch.float32).reshape(-1, width).clone()
