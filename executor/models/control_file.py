"""What a file of ``controlnet`` holds, told from its header: its kind, its names, its sizes.

A file keeps a ControlNet under its authors' names or diffusers', or a T2I-Adapter, alone or in a
diffusers folder. Kinds that cannot be used are refused with what they are. Light: no torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from executor.errors import ModelFileError
from executor.models import control_layout, detect
from executor.models.configs import Shapes
from executor.models.folder import read_json
from executor.models.header import Header
from executor.models.model_file import Hints

_POOLED = ("_shuffle", "_shuffle_fp16")  # ComfyUI's sign, at the end of the name
_REFUSED: tuple[tuple[str, str], ...] = (
    ("controlnet_blocks.0.weight", "a ControlNet for Stable Diffusion 3 or Flux"),
    ("controlnet_x_embedder.weight", "a ControlNet for Flux"),
    ("backbone.0.0.weight", "a ControlNet for Stable Cascade"),
)


class ControlKind(StrEnum):
    """What steers a U-Net."""

    CONTROLNET = "a ControlNet"
    DIFFERENCE = "the difference between a ControlNet and a U-Net"
    UNION = "a union ControlNet"
    LORA = "a control-LoRA"
    ADAPTER = "a T2I-Adapter"


@dataclass(frozen=True, slots=True)
class ControlFile:
    """A file that steers, before it is loaded."""

    path: Path  # as its user names it
    kind: ControlKind
    header: Header
    hints: Hints
    is_diffusers: bool  # in its names
    is_pooled: bool  # its residuals are means over the picture

    @property
    def identity(self) -> tuple[str, int, int]:
        """Equal as long as nobody has replaced the file."""
        return str(self.path.resolve()), self.header.size_bytes, self.header.modified_ns

    @property
    def prefix(self) -> str:
        """What the names in it begin with."""
        prefix = control_layout.CONTROL
        return prefix if f"{prefix}zero_convs.0.0.weight" in self.header.tensors else ""

    def keys(self, names: Iterable[str]) -> Mapping[str, str]:
        """Under which key each of a network's tensors is there."""
        if self.is_diffusers:
            return {name: self._diffusers_name(name) for name in names}
        return {name: self.prefix + key for name, key in self._authors_names(names).items()}

    def _diffusers_name(self, name: str) -> str:
        added = name.replace("class_embedding.", "add_embedding.")  # SDXL's sizes and pooled prompt
        return added if added in self.header.tensors else name

    def _authors_names(self, names: Iterable[str]) -> Mapping[str, str]:
        """What the authors' files call a network's tensors."""
        if self.kind is ControlKind.ADAPTER:
            return control_layout.adapter_names(names)
        return control_layout.control_names(names)

    @property
    def shapes(self) -> Shapes:
        """Of its tensors, by their names in the authors' files; empty where those make no sense."""
        there = {
            name.removeprefix(self.prefix): entry.shape
            for name, entry in self.header.tensors.items()
            if name.startswith(self.prefix)
        }
        if not self.is_diffusers:
            return there
        there = {n.replace("add_embedding.", "class_embedding."): s for n, s in there.items()}
        try:
            names = self._authors_names(there)
        except ValueError:  # not one block of the kind that tells its depth
            return {}
        return {names[name]: shape for name, shape in there.items()}


def read_control_file(path: Path) -> ControlFile:
    """Tell what a file or diffusers folder is. Raises ModelFileError for what steers nothing."""
    file = detect.inspect(path)
    config = read_json(path, "config.json") if path.is_dir() and not file.is_folder else {}
    names = next(iter(file.headers.values())).tensors.keys()
    for sign, refused in _REFUSED:
        if sign in names:
            raise ModelFileError(
                f"{path.name} is {refused}, which Weft does not run; use a ControlNet or "
                "T2I-Adapter for Stable Diffusion 1.x, 2.x or SDXL"
            )
    detect.require_control(file)
    return ControlFile(
        path=path,
        kind=_kind(file.header),
        header=file.header,
        hints=_hints(config) if config else file.hints,
        is_diffusers=any(name.startswith(("controlnet_cond", "adapter.")) for name in names),
        is_pooled=bool(config.get("global_pool_conditions")) or path.stem.endswith(_POOLED),
    )


def _kind(header: Header) -> ControlKind:
    names = header.tensors.keys()
    if "lora_controlnet" in names:
        return ControlKind.LORA
    if names & set(control_layout.ADAPTER_SIGNS):
        return ControlKind.ADAPTER
    if "task_embedding" in names:
        return ControlKind.UNION
    return ControlKind.DIFFERENCE if "difference" in names else ControlKind.CONTROLNET


def _hints(config: Mapping[str, Any]) -> Hints:
    """What a folder's configuration says beyond the shapes."""

    def whole(key: str) -> int | None:
        value = config.get(key)
        return value if type(value) is int and 0 < value < 10_000 else None

    return Hints(
        unet_heads=whole("attention_head_dim"),  # diffusers' name for the number of heads
        unet_norm_groups=whole("norm_num_groups"),
    )
