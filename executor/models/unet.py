"""A diffusion U-Net as samplers see it: noisy latent and sigma in, denoised latent out.

Scaling and the step from the network's prediction to a denoised latent are float32, outside the
network; the network itself computes in its own precision.
"""

from collections.abc import Hashable

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from executor.models.families import Family, Prediction
from executor.models.latent_rgb import LatentRgb
from executor.ports import NoiseSchedule
from executor.steps import Inputs


class UNet:
    """A U-Net with its noise schedule (``executor.ports.DiffusionModel``)."""

    def __init__(
        self,
        network: UNet2DConditionModel,
        *,
        family: Family,
        prediction: Prediction,
        schedule: NoiseSchedule,
        key: Hashable,
        latent_rgb: LatentRgb | None = None,
    ) -> None:
        self.network = network
        self.family = family
        self.prediction: Prediction = prediction
        self.schedule = schedule
        self.key = key
        # What it computes in. Asked for at every step, and diffusers looks for 0.65 ms each time.
        self.dtype: torch.dtype = network.dtype
        self.latent_rgb = latent_rgb  # of a latent space of its own; None: the family's

    @property
    def latent_channels(self) -> int:
        """Channels of the latents that it denoises."""
        return int(self.network.config["out_channels"])

    @property
    def latent_scale(self) -> float:
        """What unscaled latents are multiplied with."""
        return self.family.latent_scale

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.network.device

    @property
    def memory(self) -> object:
        """What holds its weights: the cache counts them once, whoever else holds them."""
        return self.network

    @property
    def nbytes(self) -> int:
        """How much its weights take."""
        return sum(weight.nbytes for weight in self.network.parameters())

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        """The denoised latent for each row of ``x`` (B, C, h, w), float32, at its ``sigma`` (B,).

        The network sees x / √(σ² + 1) and the nearest training timestep. From its prediction of
        the noise, D = x − σ ε; of v (Salimans & Ho 2022), D = x / (σ² + 1) − v σ / √(σ² + 1).
        """
        x, sigma = x.float(), sigma.float()
        timesteps = self.schedule.timestep(sigma)  # (B,)
        sigma = sigma[:, None, None, None]
        variance = sigma**2 + 1
        seen = x / variance**0.5
        if inputs.concat is not None:
            seen = torch.cat((seen, inputs.concat.to(seen)), dim=1)
        vector = inputs.vector
        with torch.no_grad():
            (predicted,) = self.network(
                seen.to(self.dtype),
                timesteps,
                encoder_hidden_states=inputs.tokens.to(self.dtype),
                class_labels=None if vector is None else vector.to(self.dtype),
                return_dict=False,
            )
        predicted = predicted.float()
        if self.prediction == "v":
            return x / variance - predicted * sigma / variance**0.5
        return x - predicted * sigma
