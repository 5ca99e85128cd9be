"""From what a network predicts to a denoised latent, and what it is shown to predict it from.

``x`` (B, C, h, w) has noise of standard deviation ``sigma`` (B, 1, 1, 1) on data of standard
deviation ``data_std``. All in float32.
"""

from typing import TYPE_CHECKING

from executor.ports import Prediction

if TYPE_CHECKING:
    from torch import Tensor

_BOUNDARY_STD = 0.5  # of the data, in a consistency model's boundary condition
_BOUNDARY_SCALE = 10.0  # of its timesteps there


def data_std(prediction: Prediction) -> float:
    """Standard deviation of the data that networks of this kind were trained with."""
    return 0.5 if prediction == "edm" else 1.0


def shown(prediction: Prediction, x: "Tensor", sigma: "Tensor") -> "Tensor":
    """What the network sees: ``x`` scaled to the variance of data (Karras et al. 2022, eq. 8)."""
    return x / (sigma**2 + data_std(prediction) ** 2) ** 0.5


def denoised(
    prediction: Prediction, x: "Tensor", sigma: "Tensor", timesteps: "Tensor", predicted: "Tensor"
) -> "Tensor":
    """The denoised latent that a prediction (B, C, h, w) at ``timesteps`` (B,) stands for.

    Of the noise, D = x − σ ε; of v (Salimans & Ho 2022), D = x / (σ² + 1) − v σ / √(σ² + 1); of
    Karras et al.'s F, with the data's own deviation s, D = x s² / (σ² + s²) + F σ s / √(σ² + s²).
    A consistency model's D is mixed with x so that it is x at timestep 0 (Luo et al. 2023, eq. 9).
    """
    if prediction == "x0":
        return predicted
    if prediction in ("v", "edm"):
        std = data_std(prediction)
        sign = 1 if prediction == "edm" else -1
        variance = sigma**2 + std**2
        return x * (std**2 / variance) + predicted * (sign * sigma * std / variance**0.5)
    found = x - predicted * sigma
    if prediction == "epsilon":
        return found
    scaled = timesteps.reshape(sigma.shape) * _BOUNDARY_SCALE
    variance = scaled**2 + _BOUNDARY_STD**2
    return found * (scaled / variance**0.5) + x * (_BOUNDARY_STD**2 / variance)
