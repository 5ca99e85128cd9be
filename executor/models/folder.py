"""A diffusers folder: ``unet``, ``vae``, ``text_encoder`` …, each weights and a ``config.json``.

Its networks are built from the shapes of their tensors, like those of a single file; of a
``config.json`` only what shapes cannot tell is taken. Weights may be in several pieces. Light: no
torch.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from executor.errors import ModelFileError
from executor.models.families import Family, family_with
from executor.models.header import BYTES, Header, read_header
from executor.models.model_file import Hints, Kind, ModelFile
from executor.models.objective import PREDICTIONS
from executor.models.unet_place import unet_place
from executor.ports import Objective

MARK = "model_index.json"
MOST_JSON_BYTES = 2**20

_WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_NETWORK = "diffusion_pytorch_model"  # of a folder that holds one network alone


def inspect_folder(path: Path) -> ModelFile:
    """Tell what a diffusers folder holds. Raises ModelFileError."""
    if not (path / MARK).is_file():
        raise ModelFileError(
            f"{path.name} is a folder without {MARK}; "
            "give a .safetensors file or a diffusers folder"
        )
    index = read_json(path, MARK)
    headers = {part: _header(path, part) for part in _WEIGHTS if (path / part).is_dir()}
    if "unet" not in headers:
        raise ModelFileError(f"{path.name} has no unet; it is not a whole Stable Diffusion")
    if not any(part.startswith("text_encoder") for part in headers):
        raise ModelFileError(f"{path.name} has no text_encoder; it is not a whole Stable Diffusion")
    unet = unet_place(headers["unet"])
    family = family_with(unet.shapes(), lambda tower: tower.folder in headers) if unet else None
    counts: Counter[str] = Counter()
    for header in headers.values():
        for entry in header.tensors.values():
            counts[entry.dtype] += (entry.end - entry.start) // BYTES[entry.dtype]
    text = [header for part, header in headers.items() if part.startswith("text_encoder")]
    parts = {
        "unet": headers["unet"].parameters(),
        "text": sum(header.parameters() for header in text),
        "vae": headers["vae"].parameters() if "vae" in headers else 0,
    }
    return ModelFile(
        path=path,
        kind=Kind.CHECKPOINT,
        family=family,
        architecture=family.title if family else str(index.get("_class_name", "unknown"))[:60],
        objective=_objective(path),
        resolution=family.resolution if family else None,
        dtypes=dict(counts.most_common()),
        parameters=sum(parts.values()),
        size_bytes=sum(header.size_bytes for header in headers.values()),
        parts={part: count for part, count in parts.items() if count},
        metadata={},
        hints=_hints(path, headers, family),
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


def is_network(path: Path) -> bool:
    """Whether a folder holds one network with its configuration, as a ControlNet's does."""
    return (path / "config.json").is_file() and not (path / MARK).is_file()


def network_header(path: Path) -> Header:
    """The header of such a folder's weights. Raises ModelFileError."""
    return _header(path, "")


def _header(path: Path, part: str) -> Header:
    """The header of a part's weights: in full precision if they are there in several."""
    stem = _WEIGHTS.get(part, _NETWORK)
    for variant in ("", ".fp16"):
        whole = path / part / f"{stem}{variant}.safetensors"
        pieces = path / part / f"{stem}.safetensors.index{variant}.json"
        if whole.is_file():
            return read_header(whole)
        if pieces.is_file():
            return _header_of_pieces(path, pieces.relative_to(path).as_posix())
    where = f"{path.name}/{part}" if part else path.name
    raise ModelFileError(
        f"{where} holds no {stem}.safetensors; pickles (.bin) are not loaded. "
        "Save the model again with safe_serialization=True"
    )


def _header_of_pieces(folder: Path, name: str) -> Header:
    """What the headers of all files say that an index names, as if they were one."""
    index = read_json(folder, name)
    names = index.get("weight_map")
    directory = (folder / name).parent
    if not isinstance(names, dict) or not all(_is_plain(file) for file in names.values()):
        raise ModelFileError(
            f"{folder.name}/{name} names no files beside it; download the model again"
        )
    headers = {file: read_header(directory / file) for file in sorted(set(names.values()))}
    if not headers:
        raise ModelFileError(f"{folder.name}/{name} names no file; download the model again")
    return Header(
        path=folder / name,
        size_bytes=sum(header.size_bytes for header in headers.values()),
        modified_ns=max(header.modified_ns for header in headers.values()),
        tensors={
            key: entry for header in headers.values() for key, entry in header.tensors.items()
        },
        metadata={},
        shards={key: header.path for header in headers.values() for key in header.tensors},
    )


def _is_plain(file: object) -> bool:
    """Whether it is the name of a file in the same folder, and nothing that leads elsewhere."""
    return isinstance(file, str) and Path(file).name == file and file.endswith(".safetensors")


def _objective(path: Path) -> Objective:
    """What the folder's scheduler was configured for."""
    if not (path / "scheduler/scheduler_config.json").is_file():
        return Objective()
    said = read_json(path, "scheduler/scheduler_config.json")
    prediction = PREDICTIONS.get(str(said.get("prediction_type")), "epsilon")
    return Objective(prediction, said.get("rescale_betas_zero_snr") is True)


def _hints(path: Path, headers: Mapping[str, Header], family: Family | None) -> Hints:
    """What the folder's configurations say beyond the shapes."""
    configs = {part: read_json(path, f"{part}/config.json") for part in headers}
    heads = {
        tower.name: _whole(configs.get(tower.folder, {}), "num_attention_heads")
        for tower in (family.text if family else ())
    }
    return Hints(
        # diffusers' name for the number of heads
        unet_heads=_whole(configs["unet"], "attention_head_dim"),
        unet_norm_groups=_whole(configs["unet"], "norm_num_groups"),
        vae_norm_groups=_whole(configs.get("vae", {}), "norm_num_groups"),
        text_heads={name: count for name, count in heads.items() if count},
    )


def _whole(config: Mapping[str, Any], key: str) -> int | None:
    """A positive number of a configuration, if it is one: lists are what the family's rule says."""
    value = config.get(key)
    return value if type(value) is int and 0 < value < 10_000 else None
