"""What the tensors of a LoRA file are called: of which network, of which module, in which role.

Trainers name them in many ways: ``lora_unet_down_blocks_0_…`` and ``lora_unet_input_blocks_1_…``
(kohya), ``unet.down_blocks.0.….lora_A.weight`` (peft), ``….processor.to_q_lora.up.weight`` (early
diffusers). All come down to a network, a module's name with underscores for dots, and a role. The
modules of a network are listed by all names that they go by. Light: no torch.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, TypeAlias

from executor.models import layout

NetworkName: TypeAlias = Literal["unet", "text", "text_2"]
"""The networks of a model: its U-Net, its only or first text encoder, its second one."""

Role: TypeAlias = Literal[
    "up",
    "down",
    "core",
    "alpha",
    "magnitude",
    "peft_magnitude",
    "w1_a",
    "w1_b",
    "w2_a",
    "w2_b",
    "t1",
    "t2",
    "kron_1",
    "kron_1_a",
    "kron_1_b",
    "kron_2",
    "kron_2_a",
    "kron_2_b",
    "kron_t2",
    "difference",
    "bias_difference",
    "blocks",
    "scaling",
    "on_input",
]
"""What a tensor is to its module; ``executor.models.adapters`` says what each does."""

_ENDINGS: Mapping[str, Role] = {
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".alpha": "alpha",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    ".lora_mid.weight": "core",
    ".dora_scale": "magnitude",
    ".lora_magnitude_vector": "peft_magnitude",
    ".lora_magnitude_vector.weight": "peft_magnitude",
    ".lora_magnitude_vector.default.weight": "peft_magnitude",
    ".hada_w1_a": "w1_a",
    ".hada_w1_b": "w1_b",
    ".hada_w2_a": "w2_a",
    ".hada_w2_b": "w2_b",
    ".hada_t1": "t1",
    ".hada_t2": "t2",
    ".lokr_w1": "kron_1",
    ".lokr_w1_a": "kron_1_a",
    ".lokr_w1_b": "kron_1_b",
    ".lokr_w2": "kron_2",
    ".lokr_w2_a": "kron_2_a",
    ".lokr_w2_b": "kron_2_b",
    ".lokr_t2": "kron_t2",
    ".diff": "difference",
    ".w_norm": "difference",
    ".diff_b": "bias_difference",
    ".b_norm": "bias_difference",
    ".oft_blocks": "blocks",
    ".on_input": "on_input",
    ".weight": "scaling",  # (IA)³; last, since others end so too
}
SIGNS = tuple(ending for ending, role in _ENDINGS.items() if role not in ("alpha", "scaling"))
"""Ends of tensor names that only LoRA files have."""

_BEGINNINGS: Mapping[str, NetworkName] = {
    "lora_unet_": "unet",
    "lora_te_": "text",
    "lora_te1_": "text",
    "lora_te2_": "text_2",
    "unet.": "unet",
    "text_encoder.": "text",
    "text_encoder_2.": "text_2",
    "diffusion_model.": "unet",
    layout.UNET: "unet",
    "text_encoders.clip_l.transformer.": "text",  # as ComfyUI saves what it trained
    "text_encoders.clip_h.transformer.": "text",
    "text_encoders.clip_g.transformer.": "text_2",
    "lycoris_": "unet",
}
_BARE: Mapping[str, NetworkName] = {  # a network's own names, where a file has one network only
    **dict.fromkeys(("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out"), "unet"),
    **dict.fromkeys(("input_blocks", "middle_block", "output_blocks"), "unet"),
    **dict.fromkeys(("time_embed", "add_embedding", "label_emb"), "unet"),
    **dict.fromkeys(("text_model", "encoder.layers"), "text"),
}
_PEFT = "base_model.model."


class Named(NamedTuple):
    """What a tensor's name says."""

    network: NetworkName | None  # None: of one that no Stable Diffusion has
    module: str  # with underscores for dots
    role: Role


def read_name(name: str) -> Named | None:
    """What a tensor's name says, or None if it is no LoRA's."""
    found = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
    if found is None:
        return None
    network, module = _network(name.removesuffix(found).removeprefix(_PEFT))
    return Named(network, module, _ENDINGS[found])


def ending(role: Role) -> str:
    """How the name of a tensor in this role most often ends."""
    return next(ending for ending, meant in _ENDINGS.items() if meant == role)


def _network(module: str) -> tuple[NetworkName | None, str]:
    """Of which network a module is, and its flat name there."""
    for beginning, network in _BEGINNINGS.items():
        if module.startswith(beginning):
            return network, _flat(module.removeprefix(beginning), network)
    for beginning, network in _BARE.items():
        if module.startswith(beginning):
            return network, _flat(module, network)
    return None, module


def _flat(module: str, network: NetworkName) -> str:
    flat = module.replace(".", "_")
    if network != "unet":
        return flat.removeprefix("text_model_")
    flat = flat.replace("_processor_to_", "_to_")
    return f"{flat}_0" if flat.endswith("_to_out") else flat


def unet_modules(parameters: Iterable[str]) -> dict[str, str]:
    """The modules of a ``UNet2DConditionModel`` by the flat names that LoRA files give them.

    Each goes by its own name and by that of the original layout.
    """
    found: dict[str, str] = {}
    for name, original in layout.unet_names(parameters).items():
        module, _, leaf = name.rpartition(".")
        own = module.replace(".", "_")
        found[own] = module
        found[original.removesuffix(f".{leaf}").replace(".", "_")] = module
        if own.startswith("class_embedding_"):  # diffusers calls SDXL's so
            found[own.replace("class", "add", 1)] = module
    return found


def text_modules(parameters: Iterable[str]) -> dict[str, str]:
    """The modules of a CLIP text encoder by their flat names, today's and early diffusers'."""
    found: dict[str, str] = {}
    for name in parameters:
        module = name.rpartition(".")[0]
        flat = module.removeprefix("text_model.").replace(".", "_")
        found[flat] = module
        for old, new in (("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj")):
            if flat.endswith(f"self_attn_{new}"):
                found[flat.replace(new, old)] = module
        if flat.endswith("self_attn_out_proj"):
            found[flat.replace("out_proj", "to_out")] = module
    return found
