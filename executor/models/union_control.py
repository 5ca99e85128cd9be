"""Union ControlNets (Xin Qi's ControlNet++): one network for several kinds of picture, told which.

The kind has an embedding that joins the timestep's, and another that makes a token with the mean of
the picture's features; what a small transformer makes of that token is added to the features. As in
ComfyUI the token is alone: diffusers puts one for the latent beside it, across which it does not
attend either, for a batch of one. Without a kind only the timestep is told so.
"""

from collections.abc import Hashable, Mapping
from copy import copy

import torch
from diffusers.models.controlnets.controlnet_union import ResidualAttentionBlock
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from torch import Tensor, nn

from executor.devices import Devices
from executor.errors import InputError
from executor.models.configs import Shapes, check_not_empty
from executor.models.control import ControlNet, load_network
from executor.models.control_file import ControlFile
from executor.models.part import Part
from executor.ports import ControlNetwork, Residuals
from executor.steps import ControlInput, Inputs

KINDS: Mapping[str, int] = {
    "openpose": 0,
    "depth": 1,
    "hed/pidi/scribble/ted": 2,
    "canny/lineart/anime_lineart/mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}
"""The kinds of picture by ComfyUI's names; some networks know only the first six."""

_HEADS = 8
_WAVES = 256  # numbers that each kind's 0 or 1 is spread over, as a timestep is


class KindLayers(nn.Module):
    """What a union ControlNet has that others have not, by the names in its files."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        check_not_empty(shapes)
        kinds, width = shapes["task_embedding"]
        depth = len({n.split(".")[1] for n in shapes if n.startswith("transformer_layes.")})
        time_width = shapes["control_add_embedding.linear_1.weight"][0]
        self.task_embedding = nn.Parameter(torch.empty(kinds, width))
        self.transformer_layes = nn.ModuleList(  # so they are spelled
            ResidualAttentionBlock(width, _HEADS) for _ in range(depth)
        )
        self.spatial_ch_projs = nn.Linear(width, width)
        self.control_add_embedding = TimestepEmbedding(_WAVES * kinds, time_width)

    def timestep_shift(self, kind: int | None) -> Tensor:
        """What is added to the timestep's embedding, (1, D)."""
        wanted = torch.zeros(len(self.task_embedding))
        if kind is not None:
            wanted[kind] = 1
        waves = get_timestep_embedding(wanted, _WAVES, flip_sin_to_cos=True, downscale_freq_shift=0)
        return self.control_add_embedding(waves.reshape(1, -1).to(self.task_embedding))

    def told(self, features: Tensor, kind: int) -> Tensor:
        """The features (B, C, h, w) of pictures of this kind."""
        tokens = (features.mean(dim=(2, 3)) + self.task_embedding[kind])[None]  # (1, B, C)
        for layer in self.transformer_layes:
            tokens = layer(tokens)
        return features + self.spatial_ch_projs(tokens[0])[:, :, None, None]


class UnionControlNet(ControlNet):
    """A ControlNet that is told the kind of its pictures."""

    def __init__(self, net: ControlNet, layers: KindLayers, kind: int | None = None) -> None:
        vars(self).update(vars(net))
        self.layers = layers
        self._net_key = net.key
        self._tell(kind)

    def _tell(self, kind: int | None) -> None:
        self.kind = kind
        self.key: Hashable = ("union", self._net_key, kind)

    def of_kind(self, name: str) -> "UnionControlNet":
        """The same for pictures of a kind; for any other name than ``KINDS`` of none.

        Raises InputError for a kind that it does not know.
        """
        kind = KINDS.get(name)
        known = len(self.layers.task_embedding)
        if kind is not None and kind >= known:
            offered = [name for name, number in KINDS.items() if number < known]
            raise InputError(f"{self.name} knows no kind {name!r}; it knows {', '.join(offered)}")
        other = copy(self)
        other._tell(kind)
        return other

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return super().nbytes + sum(weight.nbytes for weight in self.layers.parameters())

    @torch.no_grad()
    def hints(self, picture: Tensor, height: int, width: int) -> tuple[Tensor]:
        """A picture (B, H, W, C) as features (B, D, h, w) of a latent of this size."""
        (features,) = super().hints(picture, height, width)
        return (features if self.kind is None else self.layers.told(features, self.kind),)

    def residuals(
        self, seen: Tensor, timesteps: Tensor, inputs: Inputs, control: ControlInput
    ) -> Residuals:
        """What it adds at each skip connection and in the middle, float32."""
        shift = self.layers.timestep_shift(self.kind)

        def shifted(module: nn.Module, args: object, embedded: Tensor) -> Tensor:
            return embedded + shift

        with self.network.time_embedding.register_forward_hook(shifted):
            return super().residuals(seen, timesteps, inputs, control)


def of_kind(network: ControlNetwork, name: str) -> ControlNetwork:
    """A union ControlNet for pictures of a kind; any other network as it is, as in ComfyUI."""
    return network.of_kind(name) if isinstance(network, UnionControlNet) else network


def load_union(file: ControlFile, devices: Devices) -> UnionControlNet:
    """The union ControlNet of a file. Raises ModelFileError for one that cannot be loaded."""
    net = load_network(file, devices)
    shapes = {name: entry.shape for name, entry in file.header.tensors.items()}
    part = Part("union ControlNet", file.header, lambda names: {name: name for name in names})
    layers = part.build(lambda: KindLayers(shapes))
    part.fill(layers, devices, net.dtype)
    return UnionControlNet(net, layers)
