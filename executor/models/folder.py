"""A diffusers folder: ``unet``, ``vae`` and ``text_encoder``, each weights and a ``config.json``.

Its networks are built from the shapes of their tensors, like those of a single file; of a
``config.json`` only what shapes cannot tell is taken. Light: no torch.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from executor.errors import ModelFileError
from executor.models.families import FAMILIES, Family, Prediction
from executor.models.header import BYTES, Header, read_header
from executor.models.model_file import Hints, Kind, ModelFile

MARK = "model_index.json"
MOST_JSON_BYTES = 2**20

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


def inspect_folder(path: Path) -> ModelFile:
    """Tell what a diffusers folder holds. Raises ModelFileError."""
    if not (path / MARK).is_file():
        raise ModelFileError(
            f"{path.name} is a folder without {MARK}; "
            "give a .safetensors file or a diffusers folder"
        )
    index = read_json(path, MARK)
    headers = {part: _header(path, part) for part in _WEIGHTS if (path / part).is_dir()}
    for part in ("unet", "text_encoder"):
        if part not in headers:
            raise ModelFileError(f"{path.name} has no {part}; it is not a whole Stable Diffusion")
    unet = read_json(path, "unet/config.json")
    family = _family(index, unet)
    hints = _hints(path, unet)
    counts: Counter[str] = Counter()
    for header in headers.values():
        for entry in header.tensors.values():
            counts[entry.dtype] += (entry.end - entry.start) // BYTES[entry.dtype]
    parts = {part.removesuffix("_encoder"): _count(header) for part, header in headers.items()}
    return ModelFile(
        path=path,
        kind=Kind.CHECKPOINT,
        family=family,
        architecture=family.title if family else str(index.get("_class_name", "unknown"))[:60],
        prediction=hints.prediction or (family.prediction if family else "epsilon"),
        resolution=family.resolution if family else None,
        dtypes=dict(counts.most_common()),
        parameters=sum(parts.values()),
        size_bytes=sum(header.size_bytes for header in headers.values()),
        parts=parts,
        metadata={},
        hints=hints,
        headers=headers,
    )


def read_json(folder: Path, name: str) -> Mapping[str, Any]:
    """A JSON object in a file of the folder. Raises ModelFileError."""
    where = f"{folder.name}/{name}"
    try:
        with (folder / name).open("rb") as file:
            text = file.read(MOST_JSON_BYTES + 1)
        if len(text) > MOST_JSON_BYTES:
            raise ModelFileError(f"{where} is larger than any such file; download it again")
        parsed: Any = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{where} cannot be read ({error}); download it again") from error
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{where} is no JSON object; download it again")
    return cast("dict[str, Any]", parsed)


def _header(path: Path, part: str) -> Header:
    """The header of a part's weights: in full precision if they are there in several."""
    stem = _WEIGHTS[part]
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (path / part / name).is_file():
            return read_header(path / part / name)
    raise ModelFileError(
        f"{path.name}/{part} holds no {stem}.safetensors; pickles (.bin) and weights in several "
        "pieces are not loaded. Save the model again with safe_serialization=True, in one piece"
    )


def _family(index: Mapping[str, Any], unet: Mapping[str, Any]) -> Family | None:
    """The row of the table that the folder's U-Net and number of text encoders fit."""
    towers = sum(index.get(part) is not None for part in ("text_encoder", "text_encoder_2"))
    has_linear = bool(unet.get("use_linear_projection", False))
    return next(
        (
            family
            for family in FAMILIES
            if family.in_channels == unet.get("in_channels", 4)
            and len(family.text) == towers
            and (family.heads is None) == has_linear
            and (family.vector is None) == (unet.get("addition_embed_type") is None)
        ),
        None,
    )


def _hints(path: Path, unet: Mapping[str, Any]) -> Hints:
    """What the folder's configurations say beyond the shapes."""
    vae = read_json(path, "vae/config.json") if (path / "vae").is_dir() else {}
    text = read_json(path, "text_encoder/config.json")
    has_scheduler = (path / "scheduler/scheduler_config.json").is_file()
    scheduler = read_json(path, "scheduler/scheduler_config.json") if has_scheduler else {}
    predictions: dict[str, Prediction] = {"v_prediction": "v", "epsilon": "epsilon"}
    return Hints(
        unet_heads=_whole(unet, "attention_head_dim"),  # diffusers' name for the number of heads
        unet_norm_groups=_whole(unet, "norm_num_groups"),
        vae_norm_groups=_whole(vae, "norm_num_groups"),
        clip_heads=_whole(text, "num_attention_heads"),
        prediction=predictions.get(str(scheduler.get("prediction_type"))),
    )


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    """A positive number of a configuration, if it is one: lists are what the family's rule says."""
    value = config.get(key)
    return value if type(value) is int and 0 < value < 10_000 else None


def _count(header: Header) -> int:
    return sum(math.prod(entry.shape) for entry in header.tensors.values())
