"""Where a file keeps a CLIP vision model, in whose names, and how large it is.

Light: no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from executor.models.configs import check_divides
from executor.models.header import Header
from executor.models.layout import Stored

IN_CHECKPOINT = "embedder.model.visual."
"""Below which prefix unCLIP's checkpoints keep theirs, in OpenCLIP's names."""

_HEADS = 16  # of every one that there is; a model's width says how wide they are
_QUICK = 1024  # the width of OpenAI's, whose activation is another than OpenCLIP's
_PREFIXES = {False: ("",), True: ("visual.", IN_CHECKPOINT, "")}
_ROOTS = {False: "vision_model.embeddings.class_embedding", True: "class_embedding"}
_LAYERS = {False: "vision_model.encoder.layers.", True: "transformer.resblocks."}

_OPEN_CLIP = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(?:self_attn\.([qkv])_proj\.)?(.+)")


@dataclass(frozen=True, slots=True)
class VisionPlace:
    """A CLIP vision model in a file."""

    header: Header
    prefix: str
    is_open_clip: bool  # OpenCLIP's and OpenAI's names, with q, k and v in one matrix

    def stored(self, names: Iterable[str]) -> Mapping[str, Stored]:
        """Where every tensor of a ``CLIPVisionModelWithProjection`` is."""
        return {name: self._stored(name) for name in names}

    def config(self) -> dict[str, Any]:
        """The arguments of ``CLIPVisionConfig``. Raises KeyError, IndexError or ValueError."""
        width, _, patch, _ = self._shape("vision_model.embeddings.patch_embedding.weight")
        places = self._shape("vision_model.embeddings.position_embedding.weight")[0]
        side = round((places - 1) ** 0.5)  # in patches; one place more is for all of them
        if side * side + 1 != places:
            raise ValueError(f"{places} places are of no square picture")
        check_divides("vision heads", [_HEADS], [width])
        return {
            "hidden_size": width,
            "intermediate_size": self._shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0],
            "num_hidden_layers": self._layers(),
            "num_attention_heads": _HEADS,
            "image_size": side * patch,
            "patch_size": patch,
            "projection_dim": self._shape("visual_projection.weight")[0],
            "hidden_act": "quick_gelu" if width == _QUICK else "gelu",
        }

    def _layers(self) -> int:
        root = re.escape(self.prefix + _LAYERS[self.is_open_clip])
        found = (re.match(rf"{root}(\d+)\.", name) for name in self.header.tensors)
        return len({match[1] for match in found if match})

    def _shape(self, name: str) -> tuple[int, ...]:
        at = self._stored(name)
        shape = self.header.tensors[at.key].shape
        return shape[::-1] if at.is_transposed else shape

    def _stored(self, name: str) -> Stored:
        if not self.is_open_clip:
            return Stored(self.prefix + name)
        if name == "visual_projection.weight":  # it is multiplied with from the other side
            return Stored(f"{self.prefix}proj", is_transposed=True)
        inner = name.removeprefix("vision_model.")
        match = _LAYER.fullmatch(inner)
        if match is None:
            return Stored(self.prefix + _renamed(inner))
        layer, part, rest = match.groups()
        where = f"{self.prefix}transformer.resblocks.{layer}"
        if part is None:
            return Stored(f"{where}.{_renamed(rest)}")
        return Stored(f"{where}.attn.in_proj_{rest}", third="qkv".index(part))


def vision_place(header: Header) -> VisionPlace | None:
    """The CLIP vision model of a file, if there is one."""
    for is_open_clip, prefixes in _PREFIXES.items():
        for prefix in prefixes:
            if prefix + _ROOTS[is_open_clip] in header.tensors:
                return VisionPlace(header, prefix, is_open_clip)
    return None


def _renamed(name: str) -> str:
    """OpenCLIP's name for the end of transformers' one."""
    for theirs, ours in _OPEN_CLIP.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
