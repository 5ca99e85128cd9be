"""Control-LoRAs: ControlNets kept as low-rank changes of the U-Net that they steer.

Where the file has a tensor, the ControlNet has it; where it has two factors, the U-Net's weight and
their product (Hu et al. 2021, eq. 3); everywhere else the U-Net's weight. So what it is depends on
the U-Net, and it is put together when a sampling with one begins.
"""

from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from executor.devices import Devices
from executor.errors import InputError, ModelFileError
from executor.models.control import ControlNet
from executor.models.control_file import ControlFile
from executor.models.control_layout import control_names, hint_widths
from executor.models.unet import UNet
from executor.ports import DiffusionModel, Residuals
from executor.presence import state_of
from executor.steps import ControlInput, Inputs

OF_THE_UNET = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "cross_attention_dim",
    "attention_head_dim",
    "norm_num_groups",
    "use_linear_projection",
    "transformer_layers_per_block",
    "class_embed_type",
    "projection_class_embeddings_input_dim",
)
"""What a ControlNet's configuration has in common with its U-Net's."""


class ControlLora:
    """A ControlNet that is not one yet (``executor.ports.ControlNetwork``)."""

    def __init__(self, file: ControlFile, changes: Mapping[str, Tensor]) -> None:
        self.name = file.path.name
        self.key: Hashable = ("control-lora", file.identity)
        self.changes = changes  # by the names in the file
        self._file = file
        self._fitted: WeakValueDictionary[Hashable, ControlNet] = WeakValueDictionary()

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.changes

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(change.nbytes for change in self.changes.values())

    def fitted(self, model: DiffusionModel) -> ControlNet:
        """The ControlNet that it makes of a model. Raises InputError if their sizes differ."""
        if not isinstance(model, UNet):
            raise InputError(f"{self.name} is a control-LoRA, which changes a U-Net's weights")
        made = self._fitted.get(model.weights_key)
        if made is None:
            made = self._fitted[model.weights_key] = self._made_of(model)
        return made

    def _made_of(self, model: UNet) -> ControlNet:
        shapes = self._file.shapes
        with torch.device("meta"):
            config = {key: model.config[key] for key in OF_THE_UNET}
            network = ControlNetModel(
                in_channels=model.latent_channels,
                conditioning_channels=shapes["input_hint_block.0.weight"][1],
                conditioning_embedding_out_channels=tuple(hint_widths(shapes)),
                **config,
            )
        weights: Mapping[str, Tensor] = state_of(model.network)
        wanted = network.state_dict()
        try:
            state = {
                name: self._weight(key, weights.get(name)).reshape(wanted[name].shape)
                for name, key in control_names(wanted).items()
            }
        except (KeyError, RuntimeError) as error:  # RuntimeError: of other shapes
            raise InputError(
                f"{self.name} is a control-LoRA for another family than {model.family.title} "
                f"(its tensors do not fit those of this model: {error}); use one made for it"
            ) from error
        state = {n: w.to(model.device, model.dtype) for n, w in state.items()}
        network.load_state_dict(state, assign=True)
        network.eval().requires_grad_(False)
        key = (self.key, model.weights_key)
        return ControlNet(network, name=self.name, key=key, is_pooled=self._file.is_pooled)

    @torch.no_grad()
    def _weight(self, key: str, base: Tensor | None) -> Tensor:
        """One of the ControlNet's weights, from the file, from the U-Net or from both."""
        own = self.changes.get(key)
        if own is not None:
            return own
        if base is None:
            raise KeyError(key)
        stem = key.removesuffix(".weight")
        up, down = self.changes.get(f"{stem}.up"), self.changes.get(f"{stem}.down")
        if up is None or down is None or not key.endswith(".weight"):
            return base
        product = up.float().flatten(1) @ down.float().flatten(1)
        return base.float() + product.reshape(base.shape)

    def hints(self, picture: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Only what it makes of a model reads pictures."""
        raise AssertionError("a control-LoRA is fitted to a model before it is used")

    def residuals(
        self, seen: Tensor, timesteps: Tensor, inputs: Inputs, control: ControlInput
    ) -> Residuals:
        """Only what it makes of a model steers."""
        raise AssertionError("a control-LoRA is fitted to a model before it is used")


def load_control_lora(file: ControlFile, devices: Devices) -> ControlLora:
    """The changes that a file holds. Raises ModelFileError."""
    changes: dict[str, Tensor] = {}
    try:
        hint_widths(file.shapes)
        with safe_open(file.header.path, framework="pt") as source:
            for name in file.header.tensors:
                tensor: Any = source.get_tensor(name)
                changes[name] = tensor.to(devices.device)
    except (KeyError, ValueError) as error:
        raise ModelFileError(
            f"{file.path.name}: its control-LoRA is incomplete ({error}); download it again"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{file.path.name} cannot be read: {error}") from error
    return ControlLora(file, changes)
