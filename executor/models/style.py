"""The style adapter beside T2I-Adapter (Mou et al. 2023): a picture's style as tokens of a prompt.

A few learned tokens attend to the states of a CLIP vision model and are then seen behind those of
the prompt.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.configs import check_divides
from executor.models.model_file import FOLDER_OF, Kind, ModelFile
from executor.models.part import Part
from executor.ports import EncodedPicture

_HEADS = 8
_LAYERS = "transformer_layes."  # so their authors spell it


class _Block(nn.Module):
    """A transformer block, normed before each of its halves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, _HEADS, batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )
        self.activation = QuickGELUActivation()

    def forward(self, states: Tensor) -> Tensor:
        normed = self.ln_1(states)
        states = states + self.attn(normed, normed, normed, need_weights=False)[0]
        inner = self.activation(self.mlp["c_fc"](self.ln_2(states)))
        return states + self.mlp["c_proj"](inner)


class StyleLayers(nn.Module):
    """The network of a file."""

    def __init__(self, width: int, context: int, tokens: int, layers: int) -> None:
        super().__init__()
        check_divides("style heads", [_HEADS], [width])
        self.style_embedding = nn.Parameter(torch.empty(1, tokens, width))
        self.proj = nn.Parameter(torch.empty(width, context))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Block(width) for _ in range(layers))

    def forward(self, states: Tensor) -> Tensor:
        """Of a vision model (B, N, D) to tokens (B, T, context)."""
        learned = self.style_embedding.expand(len(states), -1, -1)
        states = self.ln_pre(torch.cat((states, learned), dim=1))
        for layer in self.layers:
            states = layer(states)
        return self.ln_post(states[:, -learned.shape[1] :]) @ self.proj


class StyleModel:
    """A style adapter (``executor.ports.StyleReader``)."""

    def __init__(self, network: StyleLayers, name: str) -> None:
        self.network, self.name = network, name

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(weight.nbytes for weight in self.network.parameters())

    @torch.no_grad()
    def style_tokens(self, picture: EncodedPicture) -> Tensor:
        """The tokens (1, B · T, D) of encoded pictures, one after the other.

        Raises InputError for pictures that another vision model has encoded.
        """
        width = self.network.style_embedding.shape[-1]
        if picture.last.shape[-1] != width:
            raise InputError(
                f"the picture is encoded {picture.last.shape[-1]} wide inside, and {self.name} "
                f"reads {width}: encode it with the CLIP vision model that it was made with"
            )
        states = picture.last.to(self.network.proj.device, self.network.proj.dtype)
        return self.network(states).flatten(0, 1)[None].float()


def load_style(file: ModelFile, devices: Devices) -> StyleModel:
    """The style adapter of a file. Raises ModelFileError."""
    if file.kind is not Kind.STYLE_MODEL:
        folder = FOLDER_OF.get(file.kind)
        belongs = f"; such files belong in the folder {folder}" if folder else ""
        raise ModelFileError(f"{file.path.name} is {file.kind}, not a style model{belongs}")
    shapes = {name: entry.shape for name, entry in file.header.tensors.items()}

    def make() -> StyleLayers:
        _, tokens, width = shapes["style_embedding"]
        layers = {name.split(".")[1] for name in shapes if name.startswith(_LAYERS)}
        return StyleLayers(width, shapes["proj"][1], tokens, len(layers))

    part = Part("style adapter", file.header, _names)
    network = part.build(make)
    part.fill(network, devices, devices.text_dtype)
    return StyleModel(network, file.path.name)


def _names(names: Iterable[str]) -> Mapping[str, str]:
    """The file's name of every tensor."""
    return {name: name.replace("layers.", _LAYERS, 1) for name in names}
