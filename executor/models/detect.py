"""What a model file is, told from its header: kind, family, precision, size.

Names and shapes of the tensors decide, and the file's own metadata where those say nothing; of its
weights none is read but a few numbers that tell what it predicts (``objective``). ``inspect`` tells
any file apart, so that an error can say what a file is instead. Light: no torch.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from executor.errors import ModelFileError
from executor.models import lora_names
from executor.models.control_layout import ADAPTER_SIGNS
from executor.models.families import FAMILIES, FOREIGN, Family, family_with, supported_titles
from executor.models.folder import inspect_folder, is_network, network_header
from executor.models.header import BYTES, Header, read_header
from executor.models.layout import EMA, UNET, VAE
from executor.models.model_file import FOLDER_OF, Hints, Kind, ModelFile
from executor.models.objective import objective_of
from executor.models.text_place import text_place
from executor.models.unet_place import UnetPlace, unet_place
from executor.ports import Objective

_HAS_TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_SIGNS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.LATENT, ("latent_tensor",)),
    (Kind.IP_ADAPTER, ("ip_adapter.", "image_proj.")),
    (Kind.GLIGEN, (".fuser.linear.",)),
    (Kind.CONTROLNET, ("control_model.", "zero_convs.", "controlnet")),
    (Kind.T2I_ADAPTER, ADAPTER_SIGNS),
    (Kind.UPSCALER, ("model.1.sub.", "body.0.rdb1.", "RRDB_trunk.", "conv_first.weight")),
    (Kind.PREVIEW_VAE, ("taesd_", "decoder.layers.0.weight")),
    (Kind.STYLE_MODEL, ("style_embedding",)),
    (Kind.CLIP_VISION, ("vision_model.encoder.", "visual.transformer.")),
)
"""Pieces of tensor names that give other kinds of file away."""
_TAESD = {"1.weight", "3.conv.0.weight"}  # its authors number the layers, nothing more
_COMPACT = {"body.0.weight", "body.1.weight", "body.2.weight"}  # Real-ESRGAN's small networks
_EMBEDDING = {"emb_params", "string_to_param", "clip_l", "clip_g"}
_BARE_UNET = ("input_blocks.", "diffusion_model.", "down_blocks.", "double_blocks.")


def inspect(path: Path) -> ModelFile:
    """Tell what a file, or a diffusers folder, is. Raises ModelFileError if it is neither."""
    if path.is_dir() and not is_network(path):
        return inspect_folder(path)
    header = network_header(path) if path.is_dir() else read_header(path)
    kind = _kind(header)
    is_diffusion = kind in (Kind.CHECKPOINT, Kind.UNET)
    hints = _hints(header)
    unet = unet_place(header) if is_diffusion else None
    family = _family(header, unet, hints) if unet else None
    return ModelFile(
        path=path,
        kind=kind,
        family=family,
        architecture=_architecture(header, unet, family) if is_diffusion else "",
        objective=objective_of(header, unet, family) if unet and family else Objective(),
        resolution=_resolution(header, family),
        dtypes=_dtypes(header),
        parameters=sum(math.prod(entry.shape) for entry in header.tensors.values()),
        size_bytes=header.size_bytes,
        parts=_parts(header, unet, family),
        metadata=header.metadata,
        hints=hints,
        headers={"": header},
    )


def family_of(file: ModelFile) -> Family:
    """The family of a checkpoint, if Weft can run it. Raises ModelFileError."""
    if file.kind is not Kind.CHECKPOINT:
        raise ModelFileError(f"{_is_a(file)}, not a checkpoint{_belongs(file)}")
    if file.family is None or not file.family.is_supported:
        raise ModelFileError(
            f"{file.path.name} is a checkpoint of {file.architecture}; "
            f"Weft runs {supported_titles()} so far"
        )
    return file.family


def family_of_unet(file: ModelFile) -> Family:
    """The family of a U-Net, alone or in a checkpoint, if Weft runs it. Raises ModelFileError."""
    if file.kind not in (Kind.UNET, Kind.CHECKPOINT) or file.is_folder:
        raise ModelFileError(f"{_is_a(file)}, not a diffusion model{_belongs(file)}")
    if file.family is None or not file.family.is_supported:
        raise ModelFileError(
            f"{file.path.name} is a diffusion model of {file.architecture}; "
            f"Weft runs {supported_titles()} so far"
        )
    return file.family


def require_vae(file: ModelFile) -> None:
    """Raises ModelFileError if a file holds no VAE."""
    if not file.parts.get("vae"):
        raise ModelFileError(f"{_is_a(file)}, not a VAE{_belongs(file)}")


def require_lora(file: ModelFile) -> None:
    """Raises ModelFileError if a file is no LoRA."""
    if file.kind is not Kind.LORA:
        raise ModelFileError(f"{_is_a(file)}, not a LoRA{_belongs(file)}")


def require_upscaler(file: ModelFile) -> None:
    """Raises ModelFileError if a file is something else; what is none we know may yet be one."""
    if file.kind not in (Kind.UPSCALER, Kind.UNKNOWN):
        raise ModelFileError(f"{_is_a(file)}, not an upscaler{_belongs(file)}")


def require_control(file: ModelFile) -> None:
    """Raises ModelFileError if a file holds nothing that steers."""
    if file.kind not in (Kind.CONTROLNET, Kind.T2I_ADAPTER):
        raise ModelFileError(f"{_is_a(file)}, not a ControlNet or T2I-Adapter{_belongs(file)}")


def require_gligen(file: ModelFile) -> None:
    """Raises ModelFileError if a file holds no layers of GLIGEN's."""
    if file.kind is not Kind.GLIGEN:
        raise ModelFileError(f"{_is_a(file)}, not a GLIGEN network{_belongs(file)}")


def _is_a(file: ModelFile) -> str:
    return f"{file.path.name} is {file.kind}"


def _belongs(file: ModelFile) -> str:
    folder = FOLDER_OF.get(file.kind)
    return f"; such files belong in the folder {folder}" if folder else ""


def vae_prefix(header: Header) -> str | None:
    """Under which prefix a file keeps an autoencoder; files of a VAE alone often have none."""
    return next((p for p in (VAE, "") if p + "decoder.conv_in.weight" in header.tensors), None)


def _kind(header: Header) -> Kind:
    names = header.tensors.keys()
    if any(name.endswith(lora_names.SIGNS) for name in names):
        return Kind.LORA
    if any(name.startswith((UNET, EMA)) for name in names):
        has_text = any(name.startswith(_HAS_TEXT) for name in names)
        return Kind.CHECKPOINT if has_text else Kind.UNET
    if names and names <= _EMBEDDING:
        return Kind.EMBEDDING
    if names >= _TAESD:
        return Kind.PREVIEW_VAE
    if names >= _COMPACT:
        return Kind.UPSCALER
    for kind, signs in _SIGNS:
        if _any_holds(names, signs):
            return kind
    if vae_prefix(header) is not None:
        return Kind.VAE
    if any(name.endswith(("token_embedding.weight", "shared.weight")) for name in names):
        return Kind.TEXT_ENCODER
    if any(name.startswith(_BARE_UNET) for name in names):
        return Kind.UNET
    if len(names) == 1 and all(len(entry.shape) in (1, 2) for entry in header.tensors.values()):
        return Kind.EMBEDDING  # the oldest ones hold nothing but their vectors, named at will
    return Kind.UNKNOWN


def _any_holds(names: Collection[str], pieces: tuple[str, ...]) -> bool:
    return any(piece in name for name in names for piece in pieces)


def _family(header: Header, unet: UnetPlace, hints: Hints) -> Family | None:
    """The row of the table that a checkpoint's text encoders and U-Net fit."""
    if hints.family is not None:
        return next(family for family in FAMILIES if family.name == hints.family)
    if not any(name.startswith(_HAS_TEXT) for name in header.tensors):
        return family_with(unet.shapes(), None)
    return family_with(unet.shapes(), lambda tower: text_place(header, tower.prefixes) is not None)


def _architecture(header: Header, unet: UnetPlace | None, family: Family | None) -> str:
    """What a diffusion model is called, be it of a family or not."""
    if family is not None:
        return family.title
    whole = family_with(unet.shapes(), None) if unet else None
    if whole is not None:
        return f"{whole.title} without all of its text encoders"
    known = (title for sign, title in FOREIGN if _any_holds(header.tensors, (sign,)))
    return next(known, "an architecture that Weft does not know")


def _hints(header: Header) -> Hints:
    """What the metadata say: in Weft's own keys, and in those of the ModelSpec standard."""

    def whole(key: str) -> int | None:
        said = header.metadata.get(f"weft.{key}")
        if said is None:
            return None
        if not (said.isascii() and said.isdigit() and 0 < len(said) < 5 and int(said)):
            raise ModelFileError(
                f"{header.path.name}: its metadata say weft.{key} = {said!r:.40}; "
                "it must be a whole number from 1 to 9999"
            )
        return int(said)

    family = header.metadata.get("weft.family")
    if family is not None and family not in {row.name for row in FAMILIES}:
        raise ModelFileError(
            f"{header.path.name}: its metadata say weft.family = {family!r:.40}; "
            f"it must be one of {', '.join(row.name for row in FAMILIES)}"
        )
    heads = {name: whole(f"{name}_heads") for name in ("clip_l", "clip_h", "clip_g")}
    heads["clip_l"] = heads["clip_l"] or whole("clip_heads")
    return Hints(
        unet_heads=whole("unet_heads"),
        unet_norm_groups=whole("unet_norm_groups"),
        vae_norm_groups=whole("vae_norm_groups"),
        text_heads={name: count for name, count in heads.items() if count},
        family=family,
    )


def _resolution(header: Header, family: Family | None) -> int | None:
    """The side of the pictures it was trained on, in pixels."""
    said = header.metadata.get("modelspec.resolution", "").partition("x")[0]
    if said.isascii() and said.isdigit() and len(said) < 6:
        return int(said)
    return family.resolution if family else None


def _dtypes(header: Header) -> Mapping[str, int]:
    """Numbers by type, most first."""
    counts: Counter[str] = Counter()
    for entry in header.tensors.values():
        counts[entry.dtype] += (entry.end - entry.start) // BYTES[entry.dtype]
    return dict(counts.most_common())


def _parts(header: Header, unet: UnetPlace | None, family: Family | None) -> Mapping[str, int]:
    """Parameters of each part that is there."""
    towers = [text_place(header, tower.prefixes) for tower in (family.text if family else ())]
    vae = vae_prefix(header)
    parts = {
        "unet": sum(map(math.prod, unet.shapes().values())) if unet else 0,
        "text": sum(place.parameters for place in towers if place),
        "vae": header.parameters(vae) if vae is not None else 0,
    }
    return {name: parameters for name, parameters in parts.items() if parameters}
