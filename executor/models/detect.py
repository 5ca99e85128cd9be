"""What a model file is, told from its header alone: kind, family, precision, size.

Names and shapes of the tensors decide, and the file's own metadata where those say nothing; its
weights are not read. ``inspect`` tells any file apart, so that an error can say what a file is
instead. Light: no torch.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from executor.errors import ModelFileError
from executor.models.families import (
    FAMILIES,
    FOREIGN,
    Family,
    Prediction,
    TextTower,
    supported_titles,
)
from executor.models.folder import inspect_folder
from executor.models.header import BYTES, Header, read_header
from executor.models.layout import EMA, UNET, VAE, unet_name_of_ema
from executor.models.model_file import FOLDER_OF, Hints, Kind, ModelFile

Shapes = Mapping[str, tuple[int, ...]]

_HAS_TEXT = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_LORA = ("lora_up.", "lora_down.", "lora_A.", "lora_B.", ".hada_w1", ".lokr_w", ".oft_")
_SIGNS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    (Kind.LATENT, ("latent_tensor",)),
    (Kind.IP_ADAPTER, ("ip_adapter.", "image_proj.")),
    (Kind.CONTROLNET, ("control_model.", "input_hint_block.", "controlnet_")),
    (Kind.UPSCALER, ("model.1.sub.", "body.0.rdb1.", "RRDB_trunk.", "conv_first.weight")),
    (Kind.PREVIEW_VAE, ("taesd_", "decoder.layers.0.weight")),
)
"""Pieces of tensor names that give other kinds of file away."""
_TAESD = {"1.weight", "3.conv.0.weight"}  # its authors number the layers, nothing more
_EMBEDDING = {"emb_params", "string_to_param", "clip_l", "clip_g"}
_BARE_UNET = ("input_blocks.", "diffusion_model.", "down_blocks.", "double_blocks.")


def inspect(path: Path) -> ModelFile:
    """Tell what a file, or a diffusers folder, is. Raises ModelFileError if it is neither."""
    if path.is_dir():
        return inspect_folder(path)
    header = read_header(path)
    kind = _kind(header)
    is_diffusion = kind in (Kind.CHECKPOINT, Kind.UNET)
    family = _family(header) if is_diffusion else None
    hints = _hints(header)
    return ModelFile(
        path=path,
        kind=kind,
        family=family,
        architecture=family.title if family else _foreign(header.tensors) if is_diffusion else "",
        prediction=hints.prediction or (family.prediction if family else "epsilon"),
        resolution=_resolution(header, family),
        dtypes=_dtypes(header),
        parameters=sum(math.prod(entry.shape) for entry in header.tensors.values()),
        size_bytes=header.size_bytes,
        parts=_parts(header, family),
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


def require_vae(file: ModelFile) -> None:
    """Raises ModelFileError if a file holds no VAE."""
    if not file.parts.get("vae"):
        raise ModelFileError(f"{_is_a(file)}, not a VAE{_belongs(file)}")


def _is_a(file: ModelFile) -> str:
    return f"{file.path.name} is {file.kind}"


def _belongs(file: ModelFile) -> str:
    folder = FOLDER_OF.get(file.kind)
    return f"; such files belong in the folder {folder}" if folder else ""


def has_plain_unet(names: Iterable[str]) -> bool:
    """Whether the U-Net's own weights are there, not only the running means that training keeps."""
    return any(name.startswith(UNET) for name in names)


def tower_prefix(header: Header, tower: TextTower) -> str | None:
    """Under which of its prefixes a file keeps a text encoder."""
    root = "token_embedding.weight" if tower.is_open_clip else "embeddings.token_embedding.weight"
    return next((p for p in tower.prefixes if p + root in header.tensors), None)


def unet_shapes(header: Header) -> dict[str, tuple[int, ...]]:
    """Shapes of the U-Net's tensors by their bare names, from running means if need be."""
    if has_plain_unet(header.tensors):
        return shapes_below(header, UNET)
    return {
        name: entry.shape
        for key, entry in header.tensors.items()
        if key.startswith(EMA) and (name := unet_name_of_ema(key))
    }


def shapes_below(header: Header, prefix: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors below a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): entry.shape
        for name, entry in header.tensors.items()
        if name.startswith(prefix)
    }


def vae_prefix(header: Header) -> str | None:
    """Under which prefix a file keeps an autoencoder; files of a VAE alone often have none."""
    return next((p for p in (VAE, "") if p + "decoder.conv_in.weight" in header.tensors), None)


def _kind(header: Header) -> Kind:
    names = header.tensors.keys()
    if _any_holds(names, _LORA):
        return Kind.LORA
    if any(name.startswith((UNET, EMA)) for name in names):
        has_text = any(name.startswith(_HAS_TEXT) for name in names)
        return Kind.CHECKPOINT if has_text else Kind.UNET
    if names and names <= _EMBEDDING:
        return Kind.EMBEDDING
    if names >= _TAESD:
        return Kind.PREVIEW_VAE
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


def _family(header: Header) -> Family | None:
    """The row of the table that a checkpoint's text encoders and U-Net fit."""
    shapes = unet_shapes(header)
    stem = shapes.get("input_blocks.0.0.weight", ())
    if len(stem) != 4 or _any_holds(shapes, tuple(sign for sign, _ in FOREIGN)):
        return None
    fitting = [family for family in FAMILIES if family.in_channels == stem[1]]
    if any(name.startswith(_HAS_TEXT) for name in header.tensors):
        fitting = [f for f in fitting if all(tower_prefix(header, t) for t in f.text)]
        return max(fitting, key=lambda family: len(family.text), default=None)
    context = next((s[-1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), None)
    vector = shapes.get("label_emb.0.0.weight", (None,))[-1]
    return next((f for f in fitting if (f.context, f.vector) == (context, vector)), None)


def _foreign(names: Collection[str]) -> str:
    """What another architecture is called."""
    known = (title for sign, title in FOREIGN if _any_holds(names, (sign,)))
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

    predictions: dict[str, Prediction] = {
        "v": "v",
        "v_prediction": "v",
        "epsilon": "epsilon",
        "eps": "epsilon",
    }
    return Hints(
        unet_heads=whole("unet_heads"),
        unet_norm_groups=whole("unet_norm_groups"),
        vae_norm_groups=whole("vae_norm_groups"),
        clip_heads=whole("clip_heads"),
        prediction=predictions.get(header.metadata.get("modelspec.prediction_type", "").lower()),
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


def _parts(header: Header, family: Family | None) -> Mapping[str, int]:
    """Parameters of each part that is there."""
    towers = [p for t in (family.text if family else ()) if (p := tower_prefix(header, t))]
    vae = vae_prefix(header)
    parts = {
        "unet": _count(unet_shapes(header)),
        "text": sum(_count(shapes_below(header, prefix)) for prefix in towers),
        "vae": _count(shapes_below(header, vae)) if vae is not None else 0,
    }
    return {name: parameters for name, parameters in parts.items() if parameters}


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
