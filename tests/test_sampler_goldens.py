"""Samplers against figures that other programs gave, so that the same workflow means the same.

Made in float64 by ComfyUI's own functions (of 2026; ``dpmpp_2s_ancestral_cfg_pp`` in the form of
its 0.3.64), those of DPM-Solver and DPM-Solver++ by k-diffusion 0.1.1, on the toys here: seven
steps of ``karras``, from ``START``, with ``waves`` for noise, and for CFG++ the negative side's
``shifted_blob``, from which the guidance is 1.7 times the way to ``two_blobs``.
"""

from functools import partial
from typing import Any

import pytest
import torch
from sampler_toys import SD, requesting, run, shifted_blob, two_blobs, waves
from torch import Tensor

from executor.sampling import ancestral, cfg_pp, dpm_solver, sa_solver, sde
from executor.sampling.samplers import SAMPLERS
from executor.sampling.schedules import SCHEDULERS
from executor.sampling_ports import Sample

SIGMAS = SCHEDULERS["karras"](SD, 7).double()
START = torch.tensor([[-1.5, -0.2, 0.4, 1.7]], dtype=torch.float64) * SIGMAS[0]

GOLDENS = {
    "heunpp2": (-1.3512502576, -0.3561577852, 0.6037321039, 1.4531637898),
    "ipndm": (-1.5859565590, -0.5098372022, 0.7781624678, 1.7078356635),
    "ipndm_v": (-1.5472873997, -0.4699211593, 0.7476720158, 1.6621781218),
    "deis": (-1.5238613285, -0.4558584758, 0.7358462499, 1.6314202312),
    "euler_cfg_pp": (-1.2166141516, 0.7988283180, 1.3048180107, 1.6476270439),
    "euler_ancestral_cfg_pp": (0.7782564055, 0.8005085062, 0.5468921911, 0.8685605834),
    "dpmpp_2s_ancestral_cfg_pp": (0.8403673476, 1.2129629729, 1.2851668657, 1.3119057531),
    "dpmpp_2m_cfg_pp": (-1.4390926651, 1.9758242714, 2.1442029493, 1.9577740687),
    "res_multistep": (-1.8163305628, -0.5789085411, 0.9141893521, 1.9435138622),
    "res_multistep_cfg_pp": (-1.7106285154, -0.0851976054, 1.0842845891, 2.3063976408),
    "res_multistep_ancestral": (0.8210180809, 0.2401868086, -0.9787720609, -0.3925175956),
    "res_multistep_ancestral_cfg_pp": (0.1077024656, -0.3811690557, -0.6165265504, -0.0750372280),
    "gradient_estimation": (-1.6691414143, -0.5420179571, 0.8361591064, 1.7923653483),
    "gradient_estimation_cfg_pp": (-1.5395340178, 0.1152919548, 1.2731587943, 1.9442857783),
    "er_sde": (-1.3375647066, -0.5947551395, 0.6826059698, 1.4393731549),
    "seeds_2": (-0.5418791504, -0.3495329027, 0.2409992512, 0.6179154382),
    "seeds_3": (-0.9752085061, -0.6530826301, 0.7714939266, 0.9626401318),
    "sa_solver": (-1.5073458560, 0.4579329087, 1.5473204263, 1.0263185254),
    "sa_solver_pece": (-1.3820253129, 0.4575772706, 1.3174690228, 1.0202666955),
    "ddpm": (0.0061284899, -0.1171986094, -0.2644140932, 0.2366808267),
    "dpm_fast": (-1.4586228665, -0.6099785089, 0.8242403344, 1.5848494636),
    "dpm_adaptive": (-1.5611889110, -0.5007929560, 0.7948829251, 1.6556550778),
    "dpmpp_2s_ancestral": (-0.3965179382, 0.2274316853, 0.0916067463, 0.4387766239),
    "dpmpp_sde": (-0.4260078170, -0.4326490021, -0.1579986922, 0.6177611434),
    "dpmpp_2m_sde": (0.5272711031, 0.0665484936, -0.7051808052, -0.1171661216),
    "dpmpp_2m_sde_heun": (0.8210180809, 0.2401868086, -0.9787720609, -0.3925175956),
    "dpmpp_3m_sde": (1.2790381432, 0.2979326338, -1.6392778829, -0.6881669860),
}

# Where they compute scalars in float32 (DEIS' constants, DPM-Solver's times and tolerances).
IN_FLOAT32 = {"deis": 1e-7, "dpm_fast": 2e-6, "dpm_adaptive": 2e-9}


def reverse_time(sigma: Tensor) -> Tensor:
    return sigma**1.7


def ode(sigma: Tensor) -> Tensor:
    return sigma


OPTIONS: dict[str, tuple[Sample, Any]] = {
    "euler_ancestral, half": (
        partial(ancestral.euler_ancestral, eta=0.4, s_noise=0.7),
        (-1.2199745441, -0.4041248053, 0.5435902157, 1.3144249207),
    ),
    "dpmpp_2s_ancestral, half": (
        partial(ancestral.dpmpp_2s_ancestral, eta=0.5, s_noise=0.8),
        (-1.3614428387, -0.5146216739, 0.7048359454, 1.4597697808),
    ),
    "dpmpp_sde, near": (
        partial(ancestral.dpmpp_sde, eta=0.5, s_noise=0.8, r=0.3),
        (-1.3209402873, -0.4844394047, 0.7539772453, 1.3382791990),
    ),
    "dpmpp_2m_sde, less": (
        partial(sde.dpmpp_2m_sde, eta=0.4, s_noise=0.7),
        (-1.0934832651, -0.4215322272, 0.3603758934, 1.1987508467),
    ),
    "dpmpp_3m_sde, less": (
        partial(sde.dpmpp_3m_sde, eta=0.4, s_noise=0.7),
        (-1.2522139872, -0.5531827320, 0.2437304956, 1.4479016802),
    ),
    "er_sde, reverse time": (
        partial(sde.er_sde, scale=reverse_time, order=2, s_noise=0.8),
        (-0.4456236927, -0.1731264875, -0.1077088179, 0.6169817726),
    ),
    "er_sde, ODE": (
        partial(sde.er_sde, scale=ode, s_noise=0.0),
        (-1.4772843815, -0.4111599370, 0.6831080098, 1.5866257990),
    ),
    "seeds_2, near": (
        partial(sde.seeds_2, eta=0.5, r=0.3, s_noise=0.9),
        (-0.8967492551, -0.5549891149, 0.4457579974, 0.9690316090),
    ),
    "sa_solver, simple": (
        partial(
            sa_solver.sa_solver,
            predictor_order=2,
            corrector_order=2,
            is_simple=True,
            s_noise=0.7,
            tau=sa_solver.noisy_between(10.0, 0.3, 0.6),
        ),
        (-1.2160476750, -0.4457141995, 0.3802341606, 1.4217792776),
    ),
    "sa_solver, uncorrected": (
        partial(sa_solver.sa_solver, predictor_order=1, corrector_order=0),
        (-1.1055701686, 0.0712776815, 0.9588703624, 0.8667808400),
    ),
    "dpm_adaptive, of order 2": (
        partial(dpm_solver.dpm_adaptive, order=2, rtol=0.01, pcoeff=0.2, icoeff=0.6, dcoeff=0.1),
        (-1.5642735129, -0.5033209935, 0.7560634645, 1.6836566120),
    ),
    "dpm_adaptive, noisy": (
        partial(dpm_solver.dpm_adaptive, eta=0.6, s_noise=0.9),
        (-1.2636842565, -0.5692670615, 0.7241912488, 1.3342597358),
    ),
    "euler_ancestral_cfg_pp, half": (
        partial(cfg_pp.euler_ancestral_cfg_pp, eta=0.4, s_noise=0.9),
        (-1.1814886432, 0.6231020765, 1.2985506163, 1.6132794306),
    ),
}


def guided(x: Tensor, sigma: Any) -> Tensor:
    away = shifted_blob(x, sigma)
    return away + 1.7 * (two_blobs(x, sigma) - away)


def result(sample: Sample, *, is_guided: bool) -> Tensor:
    model = requesting(guided if is_guided else two_blobs, shifted_blob)
    return run(sample, SIGMAS, model, waves(START), START)[0]


@pytest.mark.parametrize("name", GOLDENS)
def test_results_are_those_of_comfyui(name: str):
    sampler = SAMPLERS[name]
    expected = torch.tensor([GOLDENS[name]], dtype=torch.float64)
    made = result(sampler.sample, is_guided=sampler.uses_unguided)
    # Figures are rounded to ten decimals.
    torch.testing.assert_close(made, expected, rtol=0, atol=IN_FLOAT32.get(name, 1e-10))


@pytest.mark.parametrize("name", OPTIONS)
def test_results_with_options_are_those_of_comfyui(name: str):
    sample, figures = OPTIONS[name]
    expected = torch.tensor([figures], dtype=torch.float64)
    made = result(sample, is_guided="cfg_pp" in name)
    # 1e-10 for rounding; for the adaptive one, whose tolerances they round to float32, 1e-7.
    tolerance = 1e-7 if name.startswith("dpm_adaptive") else 1e-10
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", GOLDENS)
def test_float32_is_float64_up_to_rounding(name: str):
    sampler = SAMPLERS[name]
    model = requesting(guided if sampler.uses_unguided else two_blobs, shifted_blob)
    start = START.float()
    made, _ = run(sampler.sample, SIGMAS.float(), model, waves(start), start)
    assert made.dtype == torch.float32
    expected = torch.tensor([GOLDENS[name]])
    # 5e-6: a latent of 25 is rounded to 1e-6 on its way; the adaptive one steps elsewhere, too.
    tolerance = 1e-3 if name == "dpm_adaptive" else 5e-6
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance)
