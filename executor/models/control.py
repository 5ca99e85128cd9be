"""ControlNets (Zhang et al. 2023): a copy of a U-Net's encoder that reads a picture beside it.

The picture is read once for a whole sampling; at every step the copy sees the noisy latent and the
prompt that the U-Net sees, and what it finds is added to the U-Net's skip connections and middle.
Rows in one batch may have pictures and strengths of their own. Rules of size and time are
ComfyUI's.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor, nn

from executor.devices import Devices, in_batches
from executor.errors import InputError, ModelFileError
from executor.models.control_file import ControlFile, ControlKind
from executor.models.control_layout import control_config
from executor.models.control_picture import control_picture
from executor.models.families import FAMILIES
from executor.models.part import Part
from executor.models.unet import UNet
from executor.ports import DiffusionModel, Residuals
from executor.presence import lasting_bytes, present, state_of
from executor.residency import Turn
from executor.steps import ControlInput, Inputs

_PIXELS = 8  # of the picture, for one of the latent


class ControlNet:
    """A ControlNet (``executor.ports.ControlNetwork``); it takes the network over."""

    def __init__(
        self, network: ControlNetModel, *, name: str, key: Hashable, is_pooled: bool = False
    ) -> None:
        self.name = name  # of its file, for messages
        self.key = key
        self.is_pooled = is_pooled
        self.config = network.config
        self.reader = network.controlnet_cond_embedding
        # What the reader gives is worth keeping for all steps, so the rest is handed it as it is.
        network.register_module("controlnet_cond_embedding", nn.Identity())
        self.network = network
        self.dtype: torch.dtype = network.dtype

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take, without what a file holds for as long as they can leave."""
        return lasting_bytes(self.network, self.reader)

    def fitted(self, model: DiffusionModel) -> "ControlNet":
        """Itself. Raises InputError for a model of other widths than it was trained beside."""
        if isinstance(model, UNet):
            own, others = _interface(self.config), _interface(model.config)
            if not self._attends:
                own["context"] = others["context"]
            if own["vector"] is None:  # it looks at no more than the prompt: unCLIP's is SD 2.x's
                own["vector"] = others["vector"]
            if own != others:
                raise InputError(
                    f"{self.name} is a ControlNet for {_described(own)}; this model is "
                    f"{model.family.title}, {_widths(others)}: use a ControlNet made for that"
                )
        return self

    @property
    def _attends(self) -> bool:
        return any("CrossAttn" in kind for kind in self.config["down_block_types"])

    def hints(self, picture: Tensor, height: int, width: int) -> tuple[Tensor]:
        """A picture (B, H, W, C) as features (B, D, h, w) of a latent of this size."""
        pixels = control_picture(
            picture, _PIXELS * height, _PIXELS * width, self.config["conditioning_channels"]
        )
        device = self.network.device
        first: int = self.config["conditioning_embedding_out_channels"][0]

        @torch.no_grad()
        def read(rows: Tensor) -> Tensor:
            with present(self.network):
                return self.reader(rows.to(device, self.dtype))

        layer_bytes = first * pixels[0, 0].numel() * self.dtype.itemsize
        what = "while a ControlNet reads pictures"
        network = self.network
        return (in_batches(pixels, read, row_bytes=3 * layer_bytes, what=what, network=network),)

    def residuals(
        self, seen: Tensor, timesteps: Tensor, inputs: Inputs, control: ControlInput
    ) -> Residuals:
        """What it adds at each skip connection and in the middle, float32."""
        vector = inputs.vector
        with present(self.network):
            skips, middle = self.network(
                seen.to(self.dtype),
                timesteps,
                encoder_hidden_states=inputs.tokens.to(self.dtype),
                controlnet_cond=control.hints[0],
                class_labels=None if vector is None else vector.to(self.dtype),
                return_dict=False,
            )
        scale = control.strength.float()[:, None, None, None]
        *skips, middle = (self._pooled(part) * scale for part in (*skips, middle))
        return Residuals(skips=skips, middle=middle)

    def _pooled(self, residual: Tensor) -> Tensor:
        return residual.mean(dim=(2, 3), keepdim=True) if self.is_pooled else residual


def load_controlnet(
    file: ControlFile, devices: Devices, base: DiffusionModel | None = None
) -> ControlNet:
    """The ControlNet of a file; of a difference, with the weights of ``base`` added to it.

    Raises ModelFileError for a file that cannot be loaded, InputError for a ``base`` that does not
    fit.
    """
    made = load_network(file, devices)
    if file.kind is not ControlKind.DIFFERENCE:
        return made
    if not isinstance(base, UNet):
        raise ModelFileError(
            f"{file.path.name} is {file.kind}, not a ControlNet by itself: load it with "
            "DiffControlNetLoader, which adds the model's weights to it"
        )
    made.fitted(base)
    _add(made.network, state_of(base.network))
    made.key = (made.key, base.weights_key)
    return made


def load_network(file: ControlFile, devices: Devices) -> ControlNet:
    """The ControlNet among a file's tensors, as it is there. Raises ModelFileError."""
    part = Part("ControlNet", file.header, file.keys)
    network = part.build(lambda: ControlNetModel(**control_config(file.shapes, file.hints)))
    dtype = devices.unet_dtype(part.stored_dtype(network))
    # To what is only a difference, another network's weights will be added.
    turn = Turn.NEVER if file.kind is ControlKind.DIFFERENCE else Turn.CONTROL
    part.fill(network, devices, dtype, turn=turn)
    key: Hashable = ("controlnet", file.identity, dtype, file.is_pooled)
    return ControlNet(network, name=file.path.name, key=key, is_pooled=file.is_pooled)


@torch.no_grad()
def _add(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Add what a U-Net has under the same names."""
    own = network.state_dict()
    same = {
        name: weight + weights[name].to(weight)
        for name, weight in own.items()
        if name in weights and weights[name].shape == weight.shape
    }
    network.load_state_dict(own | same, assign=True)
    network.requires_grad_(False)


def _interface(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a ControlNet and its U-Net must agree on."""
    return {
        "widths": list(config["block_out_channels"]),
        "layers": config["layers_per_block"],
        "context": config["cross_attention_dim"],
        "vector": config["projection_class_embeddings_input_dim"],
    }


def _described(interface: Mapping[str, Any]) -> str:
    """The family that networks of this interface belong to, as far as it can be told."""
    wanted = interface["context"], interface["vector"]
    titles = (f.title for f in FAMILIES if (f.context, f.vector) == wanted)
    return f"{next(titles, 'a model of another family')}, {_widths(interface)}"


def _widths(interface: Mapping[str, Any]) -> str:
    widths: Sequence[int] = interface["widths"]
    return f"{interface['context']} wide in its prompts and {', '.join(map(str, widths))} inside"
