"""GLIGEN (Li et al. 2023): gated layers between a U-Net's attentions that put phrases at places.

Each phrase, with the rectangle that it is about, becomes an object token once for a whole sampling.
The layers are lent to the U-Net for the length of a forward pass: it is shared with jobs that have
none, and stays as it was. As in ComfyUI they take part in every step.
"""

import re
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention import GatedSelfAttentionDense
from diffusers.models.embeddings import GLIGENTextBoundingboxProjection
from torch import Tensor, nn

from executor.devices import Devices
from executor.errors import InputError
from executor.models import detect, layout
from executor.models.configs import Shapes, check_divides, check_not_empty
from executor.models.model_file import Hints
from executor.models.part import Part
from executor.models.unet import UNet
from executor.ports import DiffusionModel, Phrase

MOST_PHRASES = 30
"""So many object tokens it was trained with; the places of those that are not there are marked."""

_SD1_CONTEXT, _SD1_HEADS = 768, 8
_WIDTH_OF_HEAD = 64
_FUSER = re.compile(
    r"((input_blocks|middle_block|output_blocks)\.(\d+)\..+)\.fuser\.linear\.weight"
)
_NUMBERED = re.compile(r"^fusers\.(\d+)\.")
_BLOCK = ".attn2.to_q.weight"  # every transformer block of a U-Net has one


class Layers(nn.Module):
    """The layers of a file, one for each of its ``places`` in a U-Net, first to last."""

    def __init__(self, shapes: Shapes, places: Sequence[str], hints: Hints) -> None:
        super().__init__()
        check_not_empty(shapes)
        self.places = places
        self.widths = [shapes[f"{place}.fuser.linear.weight"][0] for place in places]
        self.position_net = GLIGENTextBoundingboxProjection(
            shapes["position_net.null_positive_feature"][0],
            shapes["position_net.linears.4.weight"][0],
        )
        self.fusers = nn.ModuleList()
        for place in places:
            width, context = shapes[f"{place}.fuser.linear.weight"]
            is_sd1 = context == _SD1_CONTEXT
            heads = hints.unet_heads or (_SD1_HEADS if is_sd1 else max(1, width // _WIDTH_OF_HEAD))
            check_divides("GLIGEN heads", [heads], [width])
            self.fusers.append(GatedSelfAttentionDense(width, context, heads, width // heads))


def gligen_names(names: Iterable[str], places: Sequence[str]) -> dict[str, str]:
    """The file's name of every tensor of ``Layers``."""
    return {
        name: _NUMBERED.sub(lambda match: f"{places[int(match[1])]}.fuser.", name) for name in names
    }


def gligen_places(shapes: Shapes) -> list[str]:
    """The transformer blocks that the layers stand in, in the order of a forward pass."""
    found = [match for match in map(_FUSER.fullmatch, shapes) if match]
    order = ("input_blocks", "middle_block", "output_blocks")
    found.sort(key=lambda match: (order.index(match[2]), int(match[3]), match[1]))
    return [match[1] for match in found]


class Gligen:
    """GLIGEN's layers (``executor.ports.GroundingNetwork``)."""

    def __init__(self, layers: Layers, *, name: str, key: Hashable) -> None:
        self.layers = layers
        self.name = name  # of its file, for messages
        self.key = key
        # Waves of up to 56 a picture's width: half precision would move the rectangles.
        self.layers.position_net.float()
        self._blocks: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.layers

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(weight.nbytes for weight in self.layers.parameters())

    def check(self, model: DiffusionModel) -> None:
        """Raises InputError for a U-Net with other transformer blocks."""
        if not isinstance(model, UNet):
            return
        own, others = self.layers.widths, _widths(model.config)
        if own != others:
            raise InputError(
                f"{self.name} is a GLIGEN network for {_described(own)}; this model is "
                f"{model.family.title}, of {_described(others)}: use the GLIGEN network of its "
                "family (those that there are were made for Stable Diffusion 1.x)"
            )

    @torch.no_grad()
    def objects(self, phrases: Sequence[Phrase], height: int, width: int) -> Tensor:
        """The object tokens (1, 30, D) for phrases in a latent of this size, float32."""
        net = self.layers.position_net
        if len(phrases) > MOST_PHRASES:
            raise InputError(
                f"GLIGEN puts {MOST_PHRASES} phrases at places at most, got {len(phrases)}"
            )
        for phrase in phrases:
            if phrase.pooled.shape[-1] != net.positive_len:
                raise InputError(
                    f"a phrase is encoded {phrase.pooled.shape[-1]} wide, and {self.name} reads "
                    f"{net.positive_len}: encode it with the model's own text encoder"
                )
        device = net.null_positive_feature.device
        boxes = torch.zeros(1, MOST_PHRASES, 4, device=device)
        there = torch.zeros(1, MOST_PHRASES, device=device)
        pooled = torch.zeros(1, MOST_PHRASES, net.positive_len, device=device)
        for place, phrase in enumerate(phrases):
            area = phrase.area
            left, right = area.x / width, (area.x + area.width) / width
            top, bottom = area.y / height, (area.y + area.height) / height
            boxes[0, place] = torch.tensor([left, top, right, bottom])
            there[0, place] = 1
            pooled[0, place] = phrase.pooled[0].to(pooled)
        return net(boxes, there, pooled)

    @contextmanager
    def fused(self, network: nn.Module) -> Generator[None]:
        """Lend the layers to a U-Net, which then takes ``objects`` as its argument ``gligen``."""
        blocks = self._blocks.get(network)
        if blocks is None:
            blocks = self._blocks[network] = _blocks(network, self.layers.places)
        network.register_module("position_net", _AsGiven())
        for block, fuser in zip(blocks, self.layers.fusers, strict=True):
            block.register_module("fuser", fuser)
        try:
            yield
        finally:
            del network.position_net
            for block in blocks:
                del block.fuser


class _AsGiven(nn.Module):
    """Stands where diffusers turns phrases into objects, which is done once and before."""

    def forward(self, objects: Tensor) -> Tensor:
        return objects


def _blocks(network: nn.Module, places: Sequence[str]) -> list[nn.Module]:
    """A U-Net's transformer blocks by their names in the original layout."""
    names = layout.unet_names(name for name, _ in network.named_parameters())
    at = {ldm.removesuffix(_BLOCK): name for name, ldm in names.items() if ldm.endswith(_BLOCK)}
    return [network.get_submodule(at[place].removesuffix(_BLOCK)) for place in places]


def _widths(config: Mapping[str, Any]) -> list[int]:
    """Channels of every transformer block of a U-Net, in the order of a forward pass."""
    depths = config["transformer_layers_per_block"]
    widths: Sequence[int] = config["block_out_channels"]
    depths = [depths] * len(widths) if isinstance(depths, int) else list(depths)
    layers: int = config["layers_per_block"]
    attending = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    levels = [
        (width, depth)
        for width, depth, attends in zip(widths, depths, attending, strict=True)
        if attends
    ]
    down = [width for width, depth in levels for _ in range(layers * depth)]
    up = [width for width, depth in levels[::-1] for _ in range((layers + 1) * depth)]
    return [*down, *[widths[-1]] * depths[-1], *up]


def _described(widths: Sequence[int]) -> str:
    return f"{len(widths)} transformer blocks, {min(widths)} to {max(widths)} wide"


def load_gligen(path: Path, devices: Devices) -> Gligen:
    """The layers of a file in the layout that ComfyUI's are published in. Raises ModelFileError."""
    file = detect.inspect(path)
    detect.require_gligen(file)
    shapes = {name: entry.shape for name, entry in file.header.tensors.items()}
    places = gligen_places(shapes)
    part = Part("GLIGEN network", file.header, lambda names: gligen_names(names, places))
    layers = part.build(lambda: Layers(shapes, places, file.hints))
    dtype = devices.unet_dtype(part.stored_dtype(layers))
    part.fill(layers, devices, dtype)
    return Gligen(layers, name=path.name, key=("gligen", file.identity, dtype))
