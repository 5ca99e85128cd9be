"""A diffusion U-Net as samplers see it: noisy latent and sigma in, denoised latent out.

Scaling and the step from the network's prediction to a denoised latent (``prediction``) are
float32, outside the network; the network itself computes in its own precision.
"""

from collections.abc import Hashable, Mapping
from copy import copy
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from executor.errors import InputError
from executor.models import further_inputs, unet_pass
from executor.models import prediction as predictions
from executor.models.families import Family
from executor.models.latent_rgb import LatentRgb
from executor.models.lora_names import NetworkName
from executor.models.unclip import PictureNoise
from executor.models.weights import Weights
from executor.patches import NetworkPatch, Patch
from executor.ports import Canvas, Cond, Objective
from executor.sampling.noise_schedules import schedule_for
from executor.steps import Inputs


class UNet:
    """A U-Net with its noise schedule (``executor.ports.DiffusionModel``)."""

    def __init__(
        self,
        network: UNet2DConditionModel,
        *,
        family: Family,
        objective: Objective,
        key: Hashable,
        latent_rgb: LatentRgb | None = None,
        picture_noise: PictureNoise | None = None,
    ) -> None:
        self.weights = Weights(network)
        self.config = network.config
        self.family = family
        self.objective = objective
        self.schedule = schedule_for(objective)
        # What CosXL edits it sees scaled; models that diffusers trains, as the VAE gives it.
        self._edited_scale = 1.0 if objective.sigmas is None else family.latent_scale
        self.patches: tuple[Patch, ...] = ()
        self._file_key = key
        self.key = self._key  # kept: it is asked for at every step
        # What it computes in. Asked for at every step, and diffusers looks for 0.65 ms each time.
        self.dtype: torch.dtype = network.dtype
        self.latent_rgb = latent_rgb  # of a latent space of its own; None: the family's
        self.picture_noise = picture_noise  # for unCLIP's pictures; None: of mean 0, deviation 1

    @property
    def network(self) -> UNet2DConditionModel:
        """What computes; its configuration is at hand as ``config``, before weights are merged."""
        return self.weights.network

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return self.family.title

    @property
    def networks(self) -> Mapping[NetworkName, Weights[Any]]:
        """Its weights, for what changes them (``executor.models.lora``)."""
        return {"unet": self.weights}

    def with_networks(self, networks: Mapping[NetworkName, Weights[Any]]) -> "UNet":
        """The same model with changed weights, which share a batch with equal ones only."""
        return self._with(weights=networks["unet"])

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that it denoises."""
        return int(self.config["out_channels"])

    @property
    def latent_scale(self) -> float:
        """What unscaled latents are multiplied with."""
        return self.family.latent_scale

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.weights.device

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.weights

    @property
    def nbytes(self) -> int:
        """How much its weights take, without what they share with ``base``."""
        return self.weights.nbytes

    @property
    def base(self) -> object:
        """Whose weights it shares, if its own are changed ones."""
        return self.weights.base

    def with_objective(self, objective: Objective) -> "UNet":
        """The same network, taken to have been trained otherwise; its key is another."""
        return self._with(objective=objective, schedule=schedule_for(objective))

    def patched(self, patch: Patch) -> "UNet":
        """The same with one patch more; of its key only if that acts inside the network."""
        return self._with(patches=(*self.patches, patch))

    @property
    def weights_key(self) -> Hashable:
        """Equal for equal weights, whatever is done with them."""
        return self._file_key, self.weights.key

    @property
    def _network_patches(self) -> tuple[NetworkPatch, ...]:
        return tuple(patch for patch in self.patches if isinstance(patch, NetworkPatch))

    @property
    def _key(self) -> Hashable:
        return self.weights_key, self.objective, self._network_patches

    def _with(self, **attributes: Any) -> "UNet":
        other = copy(self)
        vars(other).update(attributes)
        other.key = other._key
        return other

    def inputs(self, cond: Cond, canvas: Canvas, *, is_negative: bool) -> Inputs:
        """What the network is given for a prompt, one row for each of the canvas.

        Raises InputError for a prompt that another model's text encoder has encoded.
        """
        context = int(self.config["cross_attention_dim"])
        if cond.tokens.shape[-1] != context:
            raise InputError(
                f"the prompt is encoded {cond.tokens.shape[-1]} wide, and this model "
                f"({self.family.title}) reads {context}: encode it with the model's own text "
                "encoder (CLIP of the same loader)"
            )
        rows = len(canvas.clean)
        turns = -(-rows // len(cond.tokens))
        tokens = cond.tokens.repeat(turns, 1, 1)[:rows].to(canvas.clean.device)
        vector = concat = None
        if self.family.vector_says == "picture":
            noise = self.picture_noise or PictureNoise(self._vector_width // 2)
            self._check_pictures(cond, noise.width)
            vector = further_inputs.pictures(cond, noise, canvas)
        elif self.family.vector_says is not None:
            sizes = further_inputs.EMBEDDED * further_inputs.NUMBERS[self.family.vector_says]
            self._check_pictures(cond, self._vector_width - sizes)
            vector = further_inputs.vector(cond, self.family, canvas, is_negative=is_negative)
            self._check_vector(vector)
        further_channels = self.family.in_channels - self.latent_channels
        if further_channels == 5:
            concat = further_inputs.masked_picture(cond, self.latent_scale, canvas)
        elif further_channels == 4:
            concat = further_inputs.edited_picture(cond, self._edited_scale, canvas)
        return Inputs(tokens, vector, concat)

    @property
    def _vector_width(self) -> int:
        return int(self.config["projection_class_embeddings_input_dim"])

    def _check_pictures(self, cond: Cond, width: int) -> None:
        for prompt in cond.pictures:
            encoded = prompt.picture.embeds.shape[-1]
            if encoded != width:
                raise InputError(
                    f"the picture is encoded {encoded} wide, and this model ({self.family.title}) "
                    f"reads {width}: encode it with the CLIP vision model that it was trained with"
                )

    def _check_vector(self, vector: Tensor) -> None:
        numbers = self._vector_width - vector.shape[1]
        if numbers:
            raise InputError(
                f"the prompt's pooled output is {'too short' if numbers > 0 else 'too long'} by "
                f"{abs(numbers)} for this model ({self.family.title}): encode it with the model's "
                "own text encoders (CLIP of the same loader)"
            )

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        """The denoised latent for each row of ``x`` (B, C, h, w), float32, at its ``sigma`` (B,).

        The network is also told the training timestep of the sigma. What patches report comes as
        further channels (``executor.patches``).
        """
        x, sigma = x.float(), sigma.float()
        timesteps = self.schedule.timestep(sigma)  # (B,)
        sigmas = sigma[:, None, None, None]
        kind = self.objective.prediction
        with torch.no_grad():
            seen = predictions.shown(kind, x, sigmas)
            said = unet_pass.predicted(
                self.network,
                self.dtype,
                self._network_patches,
                seen=seen,
                sigma=sigma,
                timesteps=timesteps,
                inputs=inputs,
            )
        predicted, report = said[:, : x.shape[1]], said[:, x.shape[1] :]
        denoised = predictions.denoised(kind, x, sigmas, timesteps, predicted)
        return torch.cat((denoised, report), dim=1) if report.shape[1] else denoised
