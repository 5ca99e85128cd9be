"""The tiny autoencoder: Stable Diffusion's, with few channels.

Pictures (B, 3, S, S) in [-1, 1] become latents (B, 4, S/8, S/8), unscaled as in Stable Diffusion:
times ``LATENT_SCALE`` they have a standard deviation of one. Training starts near a linear map
(residual branches at zero, 2 × 2 means down, copies up), which saves the first thousand steps.
"""

import math
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

LATENT_SCALE = 0.18215
WIDTHS = (32, 32, 64, 96)
LAYERS = 1
# With 32 groups on 32 channels it learnt half as fast.
NORM_GROUPS = 8
FIRST_LOG_VARIANCE = -6.0


def new_autoencoder() -> AutoencoderKL:
    """An untrained autoencoder, at diffusers' own random start."""
    config: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * len(WIDTHS),
        "up_block_types": ("UpDecoderBlock2D",) * len(WIDTHS),
        "block_out_channels": WIDTHS,
        "layers_per_block": LAYERS,
        "latent_channels": 4,
        "norm_num_groups": NORM_GROUPS,
        "sample_size": 128,
        "scaling_factor": LATENT_SCALE,
    }
    return AutoencoderKL(**config)


def posterior(vae: AutoencoderKL, pictures: Tensor) -> DiagonalGaussianDistribution:
    """The distribution of a picture's latents."""
    result: Any = vae.encode(pictures)  # type: ignore[arg-type]
    return result.latent_dist


def decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The pictures that latents stand for."""
    result: Any = vae.decode(latents)  # type: ignore[arg-type]
    return result.sample


def set_to_zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_near_linear(vae: Any) -> None:
    """Sets the weights so that the autoencoder pools and spreads again, and adds nothing yet."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            set_to_zero(module.conv2)
            shortcut: Any = module.conv_shortcut
            if shortcut is not None:
                nn.init.orthogonal_(shortcut.weight.flatten(1))
                nn.init.zeros_(shortcut.bias)
        elif isinstance(module, Downsample2D | Upsample2D):
            conv: Any = module.conv
            set_to_zero(conv)
            channels = torch.arange(conv.weight.shape[0])
            if isinstance(module, Downsample2D):
                conv.weight[channels, channels, :2, :2] = 0.25
            else:
                conv.weight[channels, channels, 1, 1] = 1.0
    for coder in (vae.encoder, vae.decoder):
        set_to_zero(coder.mid_block.attentions[0].to_out[0])
        conv = coder.conv_in
        conv.weight.mul_(0.3)
        conv.weight[:, :, 1, 1] += 2 * nn.init.orthogonal_(torch.empty(conv.weight.shape[:2]))
        conv.bias.normal_(0, 0.5)
    vae.quant_conv.weight[4:] = 0
    vae.quant_conv.bias[4:] = FIRST_LOG_VARIANCE


@torch.no_grad()
def whiten(vae: Any, pictures: Tensor) -> None:
    """Folds ZCA whitening of the latents into the 1 × 1 convolutions on both sides of them.

    Afterwards latents × ``LATENT_SCALE`` have mean zero and covariance one over the pictures; what
    is decoded stays the same.
    """
    means = [posterior(vae, part).mean for part in pictures.split(16)]
    flat = torch.cat(means).transpose(0, 1).flatten(1).double()  # (4, B * h * w)
    mean = flat.mean(1)
    variances, axes = torch.linalg.eigh(torch.cov(flat))
    forward = (axes * variances.rsqrt()) @ axes.T / LATENT_SCALE
    back = torch.linalg.inv(forward)
    before, after = vae.quant_conv, vae.post_quant_conv
    weight, bias = before.weight[:4, :, 0, 0].double(), before.bias[:4].double()
    before.weight[:4, :, 0, 0] = (forward @ weight).float()
    before.bias[:4] = (forward @ (bias - mean)).float()
    before.bias[4:] += 2 * forward.diagonal().log().float()
    weight = after.weight[:, :, 0, 0].double()
    after.weight[:, :, 0, 0] = (weight @ back).float()
    after.bias += (weight @ mean).float()


def psnr_db(pictures: Tensor, decoded: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, (B,), both in [-1, 1]."""
    error = (pictures - decoded.clamp(-1, 1)).square().mean((1, 2, 3)) / 4
    return -10 / math.log(10) * error.log()
