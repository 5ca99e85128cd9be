"""Files of one CLIP text encoder alone: which it is, and which make up a family's.

Light: no torch.
"""

from collections.abc import Mapping, Sequence

from executor.errors import ModelFileError
from executor.models.families import CLIP_H, CLIP_L, REFINER_CLIP_G, XL_TEXT, TextTower
from executor.models.model_file import Kind, ModelFile
from executor.models.text_place import TextPlace, text_places

_ALONE = {"clip_l": (CLIP_L,), "clip_h": (CLIP_H,), "clip_g": (REFINER_CLIP_G,)}
_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}  # of the real ones
_HINT = "weft.text_encoder"


def arranged(files: Sequence[ModelFile]) -> Mapping[TextTower, ModelFile]:
    """Which text encoder each file of its own holds, as the family with just these uses them.

    One is Stable Diffusion 1.x's, 2.x's or the SDXL refiner's, two are SDXL's, in any order. Raises
    ModelFileError.
    """
    found = {_name_of(file): file for file in files}
    rules = _ALONE.get(next(iter(found)), ()) if len(files) == 1 else XL_TEXT
    if found.keys() != {tower.name for tower in rules}:
        names = " and ".join(f"{file.path.name} is {name}" for name, file in found.items())
        raise ModelFileError(f"{names}; SDXL has two text encoders, clip_l and clip_g: give these")
    return {tower: found[tower.name] for tower in rules}


def place_alone(file: ModelFile) -> TextPlace:
    """Where a file of a text encoder alone keeps it. Raises ModelFileError."""
    places = [] if file.is_folder else text_places(file.header)
    if len(places) != 1:
        what = "holds several text encoders" if places else f"is {file.kind}"
        if not places and file.kind is Kind.TEXT_ENCODER:
            what += " of another architecture (T5, or a language model)"
        raise ModelFileError(
            f"{file.path.name} {what}, not one CLIP text encoder; give one in a file of its own, "
            "or load a whole checkpoint with CheckpointLoader"
        )
    return places[0]


def _name_of(file: ModelFile) -> str:
    """Which text encoder a file holds, by its width if it does not say. Raises ModelFileError."""
    shapes = place_alone(file).shapes()
    width = next(s[-1] for n, s in shapes.items() if n.endswith("token_embedding.weight"))
    name = file.metadata.get(_HINT) or _WIDTHS.get(width)
    if name not in _ALONE:
        raise ModelFileError(
            f"{file.path.name} is a CLIP text encoder {width} wide; those of Stable Diffusion are "
            "768, 1024 (2.x) or 1280 (SDXL's second) wide"
        )
    return name
