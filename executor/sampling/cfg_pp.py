"""CFG++: samplers that go towards the guided estimate, but along the unguided noise.

Chung et al. (2024), algorithm 2: what guidance adds to the noise leads off the path, so the noise
that stays is the negative prompts' own. Guidance scales are small, 1 at most in the paper's terms.
Further samplers apply it to their steps as ComfyUI does.
"""

from itertools import pairwise

import torch
from torch import Tensor

from executor.sampling.ancestral import ancestral_step
from executor.sampling.multistep import res_weights
from executor.sampling_ports import AddedNoise, Denoiser
from executor.steps import Steps


def euler_cfg_pp(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """Chung et al. (2024), algorithm 2: DDIM whose noise is unguided."""
    return (yield from euler_ancestral_cfg_pp(model, x, sigmas, noise, eta=0.0))


def euler_ancestral_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """The same with a part ``eta`` of the noise made anew (Song et al. 2021, eq. 12)."""
    for sigma, sigma_next in pairwise(sigmas):
        guided, unguided = yield from model.both(x, sigma)
        if sigma_next == 0:
            return guided
        down, up = ancestral_step(sigma, sigma_next, eta)
        x = guided + (x - unguided) / sigma * down
        if eta > 0 and s_noise > 0:
            x = x + noise(sigma, sigma_next) * s_noise * up
    return x


def dpmpp_2s_ancestral_cfg_pp(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise
) -> Steps[Tensor]:
    """``dpmpp_2s_ancestral`` from a latent that guidance has moved, so that its noise is unguided.

    Within the step it goes towards guided estimates.
    """
    for sigma, sigma_next in pairwise(sigmas):
        guided, unguided = yield from model.both(x, sigma)
        down, up = ancestral_step(sigma, sigma_next)
        if down == 0:
            x = guided
        else:
            half = (sigma.log() - down.log()) / 2  # of the step in λ
            middle = (sigma.log() - half).exp()
            moved = x + (guided - unguided)
            guess = (middle / sigma) * moved - torch.expm1(-half) * guided
            guided = yield from model(guess, middle)
            x = (down / sigma) * moved - torch.expm1(-2 * half) * guided
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * up
    return x


def dpmpp_2m_cfg_pp(model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise) -> Steps[Tensor]:
    """``euler_cfg_pp`` with the second-order term of DPM-Solver++(2M).

    The term is the change from the last unguided estimate to the guided one, as ComfyUI has it.
    """
    previous: tuple[Tensor, Tensor] | None = None  # sigma and the unguided estimate one step back
    for sigma, sigma_next in pairwise(sigmas):
        guided, unguided = yield from model.both(x, sigma)
        ratio = sigma_next / sigma
        following = guided + ratio * (x - unguided)
        if previous is not None and sigma_next > 0:
            sigma_previous, unguided_previous = previous
            r = (sigma_previous / sigma).log() / (sigma / sigma_next).log()
            following = following + (1 - ratio) / (2 * r) * (guided - unguided_previous)
        previous = sigma, unguided
        x = following
    return x


def res_multistep_cfg_pp(
    model: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    noise: AddedNoise,
    *,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Steps[Tensor]:
    """``res_multistep`` on unguided estimates, from a latent that guidance has moved."""
    previous: tuple[Tensor, Tensor, Tensor] | None = None  # unguided D, and from where to where
    for sigma, sigma_next in pairwise(sigmas):
        guided, unguided = yield from model.both(x, sigma)
        down, up = ancestral_step(sigma, sigma_next, eta)
        if down == 0 or previous is None:
            x = guided + (x - unguided) / sigma * down
        else:
            unguided_previous, *step_previous = previous
            now, before, decay = res_weights(sigma, down, step_previous)
            x = decay * (x + (guided - unguided)) + now * unguided + before * unguided_previous
        if sigma_next > 0 and eta > 0:
            x = x + noise(sigma, sigma_next) * s_noise * up
        previous = unguided, sigma, down
    return x


def gradient_estimation_cfg_pp(
    model: Denoiser, x: Tensor, sigmas: Tensor, noise: AddedNoise, *, gamma: float = 2.0
) -> Steps[Tensor]:
    """``euler_cfg_pp`` with the correction of Permenter & Yuan (2024), algorithm 2."""
    slope_previous: Tensor | None = None
    for sigma, sigma_next in pairwise(sigmas):
        guided, unguided = yield from model.both(x, sigma)
        if sigma_next == 0:
            return guided
        slope = (x - unguided) / sigma
        x = guided + slope * sigma_next
        if slope_previous is not None:
            x = x + (gamma - 1) * (slope - slope_previous) * (sigma_next - sigma)
        slope_previous = slope
    return x
