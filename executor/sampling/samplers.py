"""Samplers: from noise to a latent, a few evaluations of a denoiser at a time.

Each is a generator written like its paper, with one signature: a denoiser, the noisy latent ``x``
at ``sigmas[0]``, the falling ``sigmas`` (a 1-d CPU tensor, often ending in 0) and a source of
noise; it returns the latent at ``sigmas[-1]``. Further parameters are keywords, which ``partial``
fixes. They hold no state outside their frames, know nothing of guidance, masks or models, and never
write to ``x``. Variance-exploding notation throughout (Karras et al. 2022): x = x₀ + σ·noise,
λ = −log σ, and D(x; σ) is the denoiser.
"""

from collections.abc import Mapping
from functools import partial

from executor.errors import InputError, nearest
from executor.sampling import ancestral, cfg_pp, dpm_solver, multistep, sa_solver, sde, single_step
from executor.sampling.uni_pc import uni_pc, uni_pc_bh2
from executor.sampling_ports import Sampler

SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler(single_step.euler),
    "euler_cfg_pp": Sampler(cfg_pp.euler_cfg_pp, uses_unguided=True),
    "euler_ancestral": Sampler(ancestral.euler_ancestral, "gaussian"),
    "euler_ancestral_cfg_pp": Sampler(
        cfg_pp.euler_ancestral_cfg_pp, "gaussian", uses_unguided=True
    ),
    "heun": Sampler(single_step.heun),
    "heunpp2": Sampler(single_step.heunpp2),
    "dpm_2": Sampler(single_step.dpm_2, drops_penultimate=True),
    "dpm_2_ancestral": Sampler(ancestral.dpm_2_ancestral, "gaussian", drops_penultimate=True),
    "lms": Sampler(multistep.lms),
    "dpm_fast": Sampler(dpm_solver.dpm_fast),
    "dpm_adaptive": Sampler(dpm_solver.dpm_adaptive),
    "dpmpp_2s_ancestral": Sampler(ancestral.dpmpp_2s_ancestral, "gaussian"),
    "dpmpp_2s_ancestral_cfg_pp": Sampler(
        cfg_pp.dpmpp_2s_ancestral_cfg_pp, "gaussian", uses_unguided=True
    ),
    "dpmpp_sde": Sampler(ancestral.dpmpp_sde, "brownian"),
    "dpmpp_sde_gpu": Sampler(ancestral.dpmpp_sde, "brownian_on_device"),
    "dpmpp_2m": Sampler(multistep.dpmpp_2m),
    "dpmpp_2m_cfg_pp": Sampler(cfg_pp.dpmpp_2m_cfg_pp, uses_unguided=True),
    "dpmpp_2m_sde": Sampler(sde.dpmpp_2m_sde, "brownian"),
    "dpmpp_2m_sde_gpu": Sampler(sde.dpmpp_2m_sde, "brownian_on_device"),
    "dpmpp_2m_sde_heun": Sampler(sde.dpmpp_2m_sde_heun, "brownian"),
    "dpmpp_2m_sde_heun_gpu": Sampler(sde.dpmpp_2m_sde_heun, "brownian_on_device"),
    "dpmpp_3m_sde": Sampler(sde.dpmpp_3m_sde, "brownian"),
    "dpmpp_3m_sde_gpu": Sampler(sde.dpmpp_3m_sde, "brownian_on_device"),
    # Ancestral Euler is the posterior of Ho et al. (2020), eq. 7, in these variables.
    "ddpm": Sampler(ancestral.euler_ancestral, "gaussian"),
    "lcm": Sampler(ancestral.lcm, "gaussian"),
    "ipndm": Sampler(multistep.ipndm),
    "ipndm_v": Sampler(multistep.ipndm_v),
    "deis": Sampler(multistep.deis),
    "res_multistep": Sampler(multistep.res_multistep),
    "res_multistep_cfg_pp": Sampler(cfg_pp.res_multistep_cfg_pp, uses_unguided=True),
    "res_multistep_ancestral": Sampler(partial(multistep.res_multistep, eta=1.0), "gaussian"),
    "res_multistep_ancestral_cfg_pp": Sampler(
        partial(cfg_pp.res_multistep_cfg_pp, eta=1.0), "gaussian", uses_unguided=True
    ),
    "gradient_estimation": Sampler(multistep.gradient_estimation),
    "gradient_estimation_cfg_pp": Sampler(cfg_pp.gradient_estimation_cfg_pp, uses_unguided=True),
    "er_sde": Sampler(sde.er_sde, "gaussian"),
    "seeds_2": Sampler(sde.seeds_2, "gaussian"),
    "seeds_3": Sampler(sde.seeds_3, "gaussian"),
    "sa_solver": Sampler(sa_solver.sa_solver, "gaussian"),
    "sa_solver_pece": Sampler(sa_solver.sa_solver_pece, "gaussian"),
    # DDIM at η = 0 is Euler's method in these variables (Song et al. 2021, eq. 13).
    "ddim": Sampler(single_step.euler, has_own_mask_noise=True),
    "uni_pc": Sampler(uni_pc, drops_penultimate=True),
    "uni_pc_bh2": Sampler(uni_pc_bh2, drops_penultimate=True),
}
"""Samplers by their names on the wire, in ComfyUI's order."""


def sampler_named(name: str) -> Sampler:
    """Raises InputError for a name that no sampler has."""
    if name not in SAMPLERS:
        hint = nearest(name, SAMPLERS)
        raise InputError(f"there is no sampler {name!r}{hint or ': ' + ', '.join(SAMPLERS)}")
    return SAMPLERS[name]
