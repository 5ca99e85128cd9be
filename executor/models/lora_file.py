"""A LoRA's file: what it does to which module of which network, whatever trainer wrote it.

Only the header is believed, and the factors stay mapped: reading a file of a gigabyte takes
milliseconds. What no Stable Diffusion has is kept by name, so that an error can say what the file
is for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from executor.errors import ModelFileError
from executor.models import adapters, lora_names
from executor.models.adapters import Adapter
from executor.models.families import FAMILIES
from executor.models.lora_names import NetworkName, Role
from executor.models.model_file import ModelFile

_FOREIGN = (  # pieces of names, dots written as underscores, the more telling first
    ("single_transformer_blocks", "Flux"),
    ("double_blocks", "Flux"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("transformer_transformer_blocks", "Stable Diffusion 3"),
    ("lora_prior_", "Stable Cascade"),
    ("motion_modules", "AnimateDiff"),
    ("cross_attn", "Wan or another video transformer"),
)
_TEXT_WIDTHS = {768: "CLIP ViT-L", 1024: "CLIP ViT-H", 1280: "CLIP ViT-bigG"}


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """What a file does to one tensor of a network."""

    module: str  # flat, as ``lora_names`` has it
    leaf: Literal["weight", "bias"]
    adapter: Adapter
    tensor: str  # one of the file's that it is made of, for messages


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoraFile:
    """A parsed file. Two are equal as long as nobody has replaced it."""

    name: str = field(compare=False)
    identity: tuple[str, int, int]
    entries: Mapping[NetworkName, Sequence[Entry]] = field(compare=False)
    unread: Sequence[str] = field(compare=False)  # tensors that are nothing we know
    metadata: Mapping[str, str] = field(compare=False)

    @property
    def context(self) -> int | None:
        """How wide the prompts are that its cross-attention reads."""
        return next(
            (
                entry.adapter.shape[1]
                for entry in self.entries.get("unet", ())
                if entry.module.endswith(("attn2_to_k", "attn2_to_v"))
            ),
            None,
        )

    @property
    def purpose(self) -> str:
        """What it was made for, in words that fit after "a LoRA for"."""
        if self.context is not None:
            return family_title(self.context)
        flat = [name.replace(".", "_") for name in self.unread]
        for sign, title in _FOREIGN:
            if any(sign in name for name in flat):
                return title
        said = self.metadata.get("modelspec.architecture")
        if said:
            return f"{said[:60]!r}, as its metadata say"
        if "unet" not in self.entries and "text_2" in self.entries:
            return "the text encoders of SDXL"
        width = next((e.adapter.shape[1] for e in self.entries.get("text", ())), None)
        if "unet" not in self.entries and width is not None:
            return f"the text encoder {_TEXT_WIDTHS.get(width, f'of width {width}')}"
        return "a model that its names do not tell"


def family_title(context: int) -> str:
    """The models whose prompts are so wide."""
    found = next((family.title for family in FAMILIES if family.context == context), None)
    return found or "an unknown family"


def read_lora(file: ModelFile) -> LoraFile:
    """Parse a file. Raises ModelFileError if its tensors do not fit each other."""
    header, path = file.header, file.path
    modules: dict[tuple[NetworkName, str], dict[Role, str]] = {}
    unread: list[str] = []
    for name in header.tensors:
        said = lora_names.read_name(name)
        if said is None or said.network is None:
            unread.append(name)
        else:
            modules.setdefault((said.network, said.module), {})[said.role] = name
    entries: dict[NetworkName, list[Entry]] = {}
    try:
        with safe_open(path, framework="pt") as opened:
            for (network, module), names in modules.items():
                found = _entries(
                    path.name, module, {r: opened.get_tensor(n) for r, n in names.items()}, names
                )
                if found:
                    entries.setdefault(network, []).extend(found)
                else:
                    unread += names.values()
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path.name} cannot be read: {error}") from error
    return LoraFile(path.name, file.identity, entries, unread, header.metadata)


def _entries(
    file: str, module: str, tensors: Mapping[Role, Tensor], names: Mapping[Role, str]
) -> list[Entry]:
    """What a module's tensors do to its weight and to its bias. Raises ModelFileError."""
    tensor = next(iter(names.values()))
    found: list[Entry] = []
    try:
        change = _change(tensors)
    except (ValueError, KeyError, IndexError) as error:
        is_missing = isinstance(error, KeyError)
        why = f"{lora_names.ending(error.args[0])} is missing" if is_missing else str(error)
        raise ModelFileError(
            f"{file}: {tensor} cannot be used: {why}; download it again"
        ) from error
    if change is not None:
        found.append(Entry(module, "weight", change, tensor))
    if "bias_difference" in tensors:
        bias = adapters.Difference(tensors["bias_difference"])
        found.append(Entry(module, "bias", bias, names["bias_difference"]))
    return found


def _change(tensors: Mapping[Role, Tensor]) -> Adapter | None:
    """What tensors of these roles do to a weight, or None if they say nothing.

    Raises KeyError with the role that is missing, ValueError for factors that have no product.
    """
    change = _plain_change(tensors)
    if change is None:
        return None
    if "magnitude" in tensors:
        return adapters.Decomposed(change, tensors["magnitude"])
    if "peft_magnitude" in tensors:
        return adapters.Decomposed(change, tensors["peft_magnitude"], is_by_new_norm=True)
    return change


def _plain_change(tensors: Mapping[Role, Tensor]) -> Adapter | None:
    alpha = _number(tensors["alpha"]) if "alpha" in tensors else None

    def scale(down: Tensor) -> float:
        if down.numel() == 0:
            raise ValueError("its rank is 0")
        return 1.0 if alpha is None else alpha / down.shape[0]

    if "up" in tensors or "down" in tensors:
        up, down = tensors["up"], tensors["down"]
        return adapters.LowRank(up, down, scale(down), tensors.get("core"))
    if "w1_a" in tensors:
        first, second = (tensors["w1_a"], tensors["w1_b"]), (tensors["w2_a"], tensors["w2_b"])
        cores = (tensors["t1"], tensors["t2"]) if "t1" in tensors else None
        return adapters.HadamardProduct(first, second, scale(first[1]), cores)
    if any(role.startswith("kron") for role in tensors):
        left = _factors(tensors, "kron_1", "kron_1_a", "kron_1_b")
        right = _factors(tensors, "kron_2", "kron_2_a", "kron_2_b")
        # as in ComfyUI: the second one's rank if it has one; without ranks alpha says nothing
        ranked = [factors[1] for factors in (left, right) if len(factors) == 2]
        rank_scale = scale(ranked[-1]) if ranked else 1.0
        return adapters.KroneckerProduct(left, right, rank_scale, tensors.get("kron_t2"))
    if "blocks" in tensors:
        return adapters.Rotation(tensors["blocks"], alpha)
    if "difference" in tensors:
        return adapters.Difference(tensors["difference"])
    if "scaling" in tensors and "on_input" in tensors:
        return adapters.Scaling(tensors["scaling"], bool(_number(tensors["on_input"])))
    return None


def _factors(
    tensors: Mapping[Role, Tensor], whole: Role, left: Role, right: Role
) -> tuple[Tensor] | tuple[Tensor, Tensor]:
    return (tensors[whole],) if whole in tensors else (tensors[left], tensors[right])


def _number(tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise ValueError(f"{adapters.size(tensor.shape)} numbers where one should be")
    return float(tensor.item())
