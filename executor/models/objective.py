"""What a file's network was trained to predict, and at which noise, as far as the file tells.

In this order: a configuration beside it (``x.yaml`` for ``x.safetensors``, as Stable Diffusion 2
came with), metadata, tensors that are there as a mark, and for Stable Diffusion 2 one that training
to predict v has made larger. Light: no torch.
"""

import re
import struct
from pathlib import Path
from statistics import pstdev

from executor.errors import ModelFileError
from executor.models.families import Family
from executor.models.header import Header
from executor.models.unet_place import UnetPlace
from executor.ports import Objective, Prediction

PREDICTIONS: dict[str, Prediction] = {
    "v": "v",
    "v_prediction": "v",
    "epsilon": "epsilon",
    "eps": "epsilon",
    "sample": "x0",
    "x0": "x0",
}
"""What metadata and configurations call them."""

_LARGER_IF_V = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_LARGER_THAN = 0.09  # standard deviation: ComfyUI's, for lack of anything better
_EDM_SIGMA_MIN = 0.002
_MOST_CONFIG_BYTES = 2**16
_MOST_NUMBERS = 2**16


def objective_of(header: Header, place: UnetPlace, family: Family) -> Objective:
    """Raises ModelFileError for marks of an objective that is not supported."""
    prediction = _beside(header.path) or PREDICTIONS.get(
        header.metadata.get("modelspec.prediction_type", "").lower()
    )
    marks = header.tensors
    if "edm_mean" in marks and "edm_std" in marks:
        raise ModelFileError(
            f"{header.path.name} is of Playground 2.5's kind, whose latents are scaled channel by "
            "channel; Weft does not run it. Use another SDXL model"
        )
    if "edm_vpred.sigma_max" in marks:
        largest = numbers(header, "edm_vpred.sigma_max")[0]
        least = _EDM_SIGMA_MIN
        if "edm_vpred.sigma_min" in marks:
            least = numbers(header, "edm_vpred.sigma_min")[0]
        return Objective(prediction or "v", sigmas=(least, largest))
    if prediction is None and "v_pred" in marks:
        prediction = "v"
    if prediction is None and family.tells_v_by_norm and (key := place.key(_LARGER_IF_V)) in marks:
        prediction = "v" if pstdev(numbers(header, key)) > _LARGER_THAN else "epsilon"
    has_zero_terminal_snr = "ztsnr" in marks and prediction == "v"
    return Objective(prediction or "epsilon", has_zero_terminal_snr)


def numbers(header: Header, name: str) -> list[float]:
    """The numbers of one small tensor. Raises ModelFileError."""
    entry = header.tensors[name]
    path = header.path_of(name)
    count = (entry.end - entry.start) // {"F32": 4, "F16": 2, "BF16": 2}.get(entry.dtype, 1)
    if entry.dtype not in ("F32", "F16", "BF16") or not 0 < count <= _MOST_NUMBERS:
        raise ModelFileError(
            f"{path.name}: tensor {name} is {entry.dtype} with {count} numbers, which cannot be; "
            "download the file again"
        )
    try:
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")  # behind the header
            file.seek(start + entry.start)
            packed = file.read(entry.end - entry.start)
    except OSError as error:
        raise ModelFileError(f"{path.name} cannot be read: {error}") from error
    if entry.dtype == "BF16":  # the upper half of a float32
        packed = b"".join(b"\0\0" + packed[at : at + 2] for at in range(0, len(packed), 2))
    return list(struct.unpack(f"<{count}{'e' if entry.dtype == 'F16' else 'f'}", packed))


def _beside(path: Path) -> Prediction | None:
    """What a configuration beside the file says, if there is one."""
    try:
        with path.with_suffix(".yaml").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_CONFIG_BYTES)
    except OSError:
        return None
    said = re.search(r"^\s*parameterization:\s*[\"']?(\w+)", text, re.MULTILINE)
    return PREDICTIONS.get(said[1]) if said else None
