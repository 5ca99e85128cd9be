"""Custom sampling: its inputs on the wire, and that its parts make what KSampler makes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from laws import left_alone
from toy_model import ToyModel, drive, prompt

from executor import Context, InputError, Latent, Node, Sampler
from executor.sampling import noise as noises
from executor.sampling import schedules, sigma_lists
from executor.sampling.samplers import SAMPLERS
from executor.settings import Settings
from executor.workspace import Workspace
from nodes.custom_sampling import (
    AddNoise,
    BasicGuider,
    CFGGuider,
    DisableNoise,
    DualCFGGuider,
    RandomNoise,
    SampledLatents,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from nodes.samplers import (
    KSamplerSelect,
    SamplerDPMAdaptative,
    SamplerDPMPP_2M_SDE,
    SamplerDPMPP_2S_Ancestral,
    SamplerDPMPP_3M_SDE,
    SamplerDPMPP_SDE,
    SamplerER_SDE,
    SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP,
    SamplerLMS,
    SamplerSASolver,
)
from nodes.sampling import KSampler, SamplerName, SchedulerName
from nodes.schedulers import (
    AlignYourStepsScheduler,
    BasicScheduler,
    BetaSamplingScheduler,
    ExponentialScheduler,
    KarrasScheduler,
    LaplaceScheduler,
    PolyexponentialScheduler,
    SDTurboScheduler,
    VPScheduler,
)
from nodes.sigmas import (
    ExtendIntermediateSigmas,
    FlipSigmas,
    SamplingPercentToSigma,
    SetFirstSigma,
    SplitSigmas,
    SplitSigmasDenoise,
)

SD = ToyModel.schedule
MODEL: Any = ToyModel()
PROMPTS: dict[str, Any] = {"positive": (prompt(1.0),), "negative": (prompt(-0.5),)}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()


def picture(**more: Any) -> Latent:
    generator = torch.Generator().manual_seed(9)
    return Latent(torch.randn(2, 4, 8, 8, generator=generator), **more)


# --- the wire ----------------------------------------------------------------------------------

LOW_HIGH = {
    "steps": ("INT", 20, 1, 10000, None),
    "sigma_max": ("FLOAT", 14.614642, 0, 5000, 0.01),
    "sigma_min": ("FLOAT", 0.0291675, 0, 5000, 0.01),
}
AMOUNT = ("FLOAT", 1.0, 0, 100, 0.01)
SEED = ("INT", 0, 0, 2**64 - 1, None)
CFG = ("FLOAT", 8.0, 0, 100, 0.1)
DENOISE = ("FLOAT", 1.0, 0, 1, 0.01)
DEVICE = ("gpu", "cpu")

# ComfyUI 0.3.64: a link's type; the values of a combo; or type, default, least, most, step.
WIRE: Mapping[type[Node], tuple[dict[str, Any], dict[str, str]]] = {
    BasicScheduler: (
        {
            "model": "MODEL",
            "scheduler": get_args(SchedulerName),
            "steps": ("INT", 20, 1, 10000, None),
            "denoise": DENOISE,
        },
        {"SIGMAS": "SIGMAS"},
    ),
    KarrasScheduler: ({**LOW_HIGH, "rho": ("FLOAT", 7.0, 0, 100, 0.01)}, {"SIGMAS": "SIGMAS"}),
    ExponentialScheduler: (LOW_HIGH, {"SIGMAS": "SIGMAS"}),
    PolyexponentialScheduler: (
        {**LOW_HIGH, "rho": ("FLOAT", 1.0, 0, 100, 0.01)},
        {"SIGMAS": "SIGMAS"},
    ),
    LaplaceScheduler: (
        {
            **LOW_HIGH,
            "mu": ("FLOAT", 0.0, -10, 10, 0.1),
            "beta": ("FLOAT", 0.5, 0, 10, 0.1),
        },
        {"SIGMAS": "SIGMAS"},
    ),
    VPScheduler: (
        {
            "steps": ("INT", 20, 1, 10000, None),
            "beta_d": ("FLOAT", 19.9, 0, 5000, 0.01),
            "beta_min": ("FLOAT", 0.1, 0, 5000, 0.01),
            "eps_s": ("FLOAT", 0.001, 0, 1, 0.0001),
        },
        {"SIGMAS": "SIGMAS"},
    ),
    BetaSamplingScheduler: (
        {
            "model": "MODEL",
            "steps": ("INT", 20, 1, 10000, None),
            "alpha": ("FLOAT", 0.6, 0, 50, 0.01),
            "beta": ("FLOAT", 0.6, 0, 50, 0.01),
        },
        {"SIGMAS": "SIGMAS"},
    ),
    SDTurboScheduler: (
        {"model": "MODEL", "steps": ("INT", 1, 1, 10, None), "denoise": DENOISE},
        {"SIGMAS": "SIGMAS"},
    ),
    AlignYourStepsScheduler: (
        {
            "model_type": ("SD1", "SDXL", "SVD"),
            "steps": ("INT", 10, 1, 10000, None),
            "denoise": DENOISE,
        },
        {"SIGMAS": "SIGMAS"},
    ),
    SplitSigmas: (
        {"sigmas": "SIGMAS", "step": ("INT", 0, 0, 10000, None)},
        {"high_sigmas": "SIGMAS", "low_sigmas": "SIGMAS"},
    ),
    SplitSigmasDenoise: (
        {"sigmas": "SIGMAS", "denoise": DENOISE},
        {"high_sigmas": "SIGMAS", "low_sigmas": "SIGMAS"},
    ),
    FlipSigmas: ({"sigmas": "SIGMAS"}, {"SIGMAS": "SIGMAS"}),
    SetFirstSigma: (
        {"sigmas": "SIGMAS", "sigma": ("FLOAT", 136.0, 0, 20000, 0.001)},
        {"SIGMAS": "SIGMAS"},
    ),
    ExtendIntermediateSigmas: (
        {
            "sigmas": "SIGMAS",
            "steps": ("INT", 2, 1, 100, None),
            "start_at_sigma": ("FLOAT", -1.0, -1, 20000, 0.01),
            "end_at_sigma": ("FLOAT", 12.0, 0, 20000, 0.01),
            "spacing": ("linear", "cosine", "sine"),
        },
        {"SIGMAS": "SIGMAS"},
    ),
    SamplingPercentToSigma: (
        {
            "model": "MODEL",
            "sampling_percent": ("FLOAT", 0.0, 0, 1, 0.0001),
            "return_actual_sigma": ("BOOLEAN", False, None, None, None),
        },
        {"sigma_value": "FLOAT"},
    ),
    KSamplerSelect: ({"sampler_name": get_args(SamplerName)}, {"SAMPLER": "SAMPLER"}),
    SamplerEulerAncestral: ({"eta": AMOUNT, "s_noise": AMOUNT}, {"SAMPLER": "SAMPLER"}),
    SamplerEulerAncestralCFGPP: (
        {"eta": ("FLOAT", 1.0, 0, 1, 0.01), "s_noise": ("FLOAT", 1.0, 0, 10, 0.01)},
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerLMS: ({"order": ("INT", 4, 1, 100, None)}, {"SAMPLER": "SAMPLER"}),
    SamplerDPMPP_2S_Ancestral: ({"eta": AMOUNT, "s_noise": AMOUNT}, {"SAMPLER": "SAMPLER"}),
    SamplerDPMPP_SDE: (
        {
            "eta": AMOUNT,
            "s_noise": AMOUNT,
            "r": ("FLOAT", 0.5, 0, 100, 0.01),
            "noise_device": DEVICE,
        },
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerDPMPP_2M_SDE: (
        {
            "solver_type": ("midpoint", "heun"),
            "eta": AMOUNT,
            "s_noise": AMOUNT,
            "noise_device": DEVICE,
        },
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerDPMPP_3M_SDE: (
        {"eta": AMOUNT, "s_noise": AMOUNT, "noise_device": DEVICE},
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerDPMAdaptative: (
        {
            "order": ("INT", 3, 2, 3, None),
            "rtol": ("FLOAT", 0.05, 0, 100, 0.01),
            "atol": ("FLOAT", 0.0078, 0, 100, 0.01),
            "h_init": ("FLOAT", 0.05, 0, 100, 0.01),
            "pcoeff": ("FLOAT", 0.0, 0, 100, 0.01),
            "icoeff": ("FLOAT", 1.0, 0, 100, 0.01),
            "dcoeff": ("FLOAT", 0.0, 0, 100, 0.01),
            "accept_safety": ("FLOAT", 0.81, 0, 100, 0.01),
            "eta": ("FLOAT", 0.0, 0, 100, 0.01),
            "s_noise": AMOUNT,
        },
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerER_SDE: (
        {
            "solver_type": ("ER-SDE", "Reverse-time SDE", "ODE"),
            "max_stage": ("INT", 3, 1, 3, None),
            "eta": AMOUNT,
            "s_noise": AMOUNT,
        },
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerSASolver: (
        {
            "model": "MODEL",
            "eta": ("FLOAT", 1.0, 0, 10, 0.01),
            "sde_start_percent": ("FLOAT", 0.2, 0, 1, 0.001),
            "sde_end_percent": ("FLOAT", 0.8, 0, 1, 0.001),
            "s_noise": AMOUNT,
            "predictor_order": ("INT", 3, 1, 6, None),
            "corrector_order": ("INT", 4, 0, 6, None),
            "use_pece": ("BOOLEAN", False, None, None, None),
            "simple_order_2": ("BOOLEAN", False, None, None, None),
        },
        {"SAMPLER": "SAMPLER"},
    ),
    SamplerCustom: (
        {
            "model": "MODEL",
            "add_noise": ("BOOLEAN", True, None, None, None),
            "noise_seed": SEED,
            "cfg": CFG,
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        {"output": "LATENT", "denoised_output": "LATENT"},
    ),
    SamplerCustomAdvanced: (
        {
            "noise": "NOISE",
            "guider": "GUIDER",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        {"output": "LATENT", "denoised_output": "LATENT"},
    ),
    BasicGuider: ({"model": "MODEL", "conditioning": "CONDITIONING"}, {"GUIDER": "GUIDER"}),
    CFGGuider: (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "cfg": CFG},
        {"GUIDER": "GUIDER"},
    ),
    DualCFGGuider: (
        {
            "model": "MODEL",
            "cond1": "CONDITIONING",
            "cond2": "CONDITIONING",
            "negative": "CONDITIONING",
            "cfg_conds": CFG,
            "cfg_cond2_negative": CFG,
            "style": ("regular", "nested"),
        },
        {"GUIDER": "GUIDER"},
    ),
    RandomNoise: ({"noise_seed": SEED}, {"NOISE": "NOISE"}),
    DisableNoise: ({}, {"NOISE": "NOISE"}),
    AddNoise: (
        {"model": "MODEL", "noise": "NOISE", "sigmas": "SIGMAS", "latent_image": "LATENT"},
        {"LATENT": "LATENT"},
    ),
}


@pytest.mark.parametrize("cls", WIRE, ids=lambda cls: cls.__name__)
def test_inputs_and_outputs_are_comfyuis(cls: type[Node]) -> None:
    inputs, outputs = WIRE[cls]
    assert list(cls.inputs()) == list(inputs)
    for name, item in cls.inputs().items():
        if item.port is not None:
            assert inputs[name] == item.wire
        elif item.choices is not None:
            assert inputs[name] == item.choices
            assert item.default == item.choices[0]  # as ComfyUI's combos without a default
        else:
            limits = (item.at_least, item.at_most, item.step)
            assert inputs[name] == (item.wire, item.default, *limits)
    assert {output.name: output.wire for output in cls.outputs()} == outputs


# --- runs --------------------------------------------------------------------------------------


def sampler(name: Any, ctx: Context) -> Sampler:
    return KSamplerSelect(sampler_name=name).run(ctx)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "euler_ancestral_cfg_pp", "heun"])
def test_the_parts_together_make_what_ksampler_makes(ctx: Context, name: Any) -> None:
    latent = picture(noise_mask=torch.ones(1, 8, 8), batch_index=(3, 1))
    plain = KSampler(
        model=MODEL,
        seed=7,
        steps=5,
        cfg=2.0,
        sampler_name=name,
        scheduler="karras",
        **PROMPTS,
        latent_image=latent,
        denoise=0.7,
    )
    expected = drive(plain.run(ctx)).samples
    sigmas = BasicScheduler(model=MODEL, scheduler="karras", steps=5, denoise=0.7).run(ctx)
    rest: Any = {"sampler": sampler(name, ctx), "sigmas": sigmas, "latent_image": latent}
    custom = SamplerCustom(model=MODEL, noise_seed=7, cfg=2.0, **PROMPTS, **rest)
    guider = CFGGuider(model=MODEL, cfg=2.0, **PROMPTS).run(ctx)
    noise = RandomNoise(noise_seed=7).run(ctx)
    advanced = SamplerCustomAdvanced(noise=noise, guider=guider, **rest)
    with left_alone(latent, sigmas):
        for node in (custom, advanced):
            made = drive(node.run(ctx))
            assert isinstance(made, SampledLatents)
            assert torch.equal(made.output.samples, expected)
            # The run ends at 0, where output and prediction are the same, up to a rounding.
            torch.testing.assert_close(made.denoised_output.samples, expected, rtol=0, atol=1e-5)
            assert made.output.batch_index == made.denoised_output.batch_index == (3, 1)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_two_parts_of_the_sigmas_make_the_whole(ctx: Context, name: Any) -> None:
    guider = BasicGuider(model=MODEL, conditioning=(prompt(1.0),)).run(ctx)
    sigmas = KarrasScheduler(steps=6).run(ctx)
    high, low = SplitSigmas(sigmas=sigmas, step=4).run(ctx)
    noise, silence = RandomNoise(noise_seed=3).run(ctx), DisableNoise().run(ctx)

    def run(latent: Latent, sigmas: Any, noise: Any) -> SampledLatents:
        node = SamplerCustomAdvanced(
            noise=noise,
            guider=guider,
            sampler=sampler(name, ctx),
            sigmas=sigmas,
            latent_image=latent,
        )
        return drive(node.run(ctx))

    whole = run(picture(), sigmas, noise).output.samples
    first = run(picture(), high, noise)
    both = run(first.output, low, silence).output.samples
    # 1e-5: the latent was divided by its scale and multiplied again at the seam.
    torch.testing.assert_close(both, whole, rtol=1e-5, atol=1e-5)
    # A prediction regresses to the mean, 1 in a latent scaled by ½.
    noisy, predicted = first.output.samples - 2, first.denoised_output.samples - 2
    assert predicted.norm() < 0.9 * noisy.norm()


def test_without_noise_the_seed_counts_for_what_samplers_add(ctx: Context) -> None:
    def run(name: Any, seed: int) -> torch.Tensor:
        node = SamplerCustom(
            model=MODEL,
            add_noise=False,
            noise_seed=seed,
            **PROMPTS,
            sampler=sampler(name, ctx),
            sigmas=KarrasScheduler(steps=4).run(ctx),
            latent_image=picture(),
        )
        return drive(node.run(ctx)).output.samples

    assert torch.equal(run("euler", 1), run("euler", 2))
    assert not torch.equal(run("euler_ancestral", 1), run("euler_ancestral", 2))


def test_a_guider_of_two_scales_is_guidance_where_one_is_1(ctx: Context) -> None:
    def run(guider: Any) -> torch.Tensor:
        node = SamplerCustomAdvanced(
            noise=RandomNoise(noise_seed=3).run(ctx),
            guider=guider,
            sampler=sampler("euler", ctx),
            sigmas=KarrasScheduler(steps=4).run(ctx),
            latent_image=picture(),
        )
        return drive(node.run(ctx)).output.samples

    first, second, third = (prompt(1.0),), (prompt(0.5),), (prompt(-1.0),)
    dual = DualCFGGuider(
        model=MODEL, cond1=first, cond2=second, negative=third, cfg_cond2_negative=1.0
    )
    plain = CFGGuider(model=MODEL, positive=first, negative=second).run(ctx)
    # 1e-4: the same sums in another order, eight times as large as what is left of them.
    torch.testing.assert_close(run(dual.run(ctx)), run(plain), rtol=0, atol=1e-4)


def test_noise_is_added_to_a_latent_as_the_sigmas_say(ctx: Context) -> None:
    noise = RandomNoise(noise_seed=4).run(ctx)
    latent = picture(noise_mask=torch.ones(1, 8, 8))
    unit = noises.initial(latent.samples.shape, 4)
    for sigmas, scale in (([3.0], 3.0), ([5.0, 2.0, 1.0], 4.0), ([5.0, 0.0], 5.0)):
        node = AddNoise(model=MODEL, noise=noise, sigmas=torch.tensor(sigmas), latent_image=latent)
        made = node.run(ctx)
        expected = latent.samples + unit * scale / MODEL.latent_scale
        torch.testing.assert_close(made.samples, expected)
        assert made.noise_mask is latent.noise_mask
    nothing = AddNoise(model=MODEL, noise=noise, sigmas=torch.empty(0), latent_image=latent)
    assert nothing.run(ctx) is latent


# --- samplers with options ---------------------------------------------------------------------

SAME: Mapping[str, Node] = {
    "euler_ancestral": SamplerEulerAncestral(),
    "euler_ancestral_cfg_pp": SamplerEulerAncestralCFGPP(),
    "lms": SamplerLMS(),
    "dpmpp_2s_ancestral": SamplerDPMPP_2S_Ancestral(),
    "dpmpp_sde": SamplerDPMPP_SDE(noise_device="cpu"),
    "dpmpp_sde_gpu": SamplerDPMPP_SDE(),
    "dpmpp_2m_sde": SamplerDPMPP_2M_SDE(noise_device="cpu"),
    "dpmpp_2m_sde_gpu": SamplerDPMPP_2M_SDE(),
    "dpmpp_2m_sde_heun": SamplerDPMPP_2M_SDE(solver_type="heun", noise_device="cpu"),
    "dpmpp_3m_sde": SamplerDPMPP_3M_SDE(noise_device="cpu"),
    "dpmpp_3m_sde_gpu": SamplerDPMPP_3M_SDE(),
    "dpm_adaptive": SamplerDPMAdaptative(),
    "er_sde": SamplerER_SDE(),
    "sa_solver": SamplerSASolver(model=MODEL),
    "sa_solver_pece": SamplerSASolver(model=MODEL, use_pece=True),
}


def made_with(chosen: Sampler, ctx: Context, seed: int = 5) -> torch.Tensor:
    node = SamplerCustom(
        model=MODEL,
        noise_seed=seed,
        cfg=2.0,
        **PROMPTS,
        sampler=chosen,
        sigmas=KarrasScheduler(steps=5).run(ctx),
        latent_image=picture(),
    )
    return drive(node.run(ctx)).output.samples


@pytest.mark.parametrize("name", SAME)
def test_with_its_defaults_a_sampler_is_the_one_of_its_name(ctx: Context, name: str) -> None:
    chosen: Sampler = SAME[name].run(ctx)
    assert (chosen.noise, chosen.uses_unguided) == (
        SAMPLERS[name].noise,
        SAMPLERS[name].uses_unguided,
    )
    assert torch.equal(made_with(chosen, ctx), made_with(SAMPLERS[name], ctx))


@pytest.mark.parametrize(
    "node",
    [
        SamplerEulerAncestral(eta=0.5),
        SamplerEulerAncestralCFGPP(s_noise=0.5),
        SamplerLMS(order=2),
        SamplerDPMPP_2S_Ancestral(eta=0.5),
        SamplerDPMPP_SDE(r=0.3),
        SamplerDPMPP_2M_SDE(eta=0.5),
        SamplerDPMPP_3M_SDE(s_noise=0.5),
        SamplerDPMAdaptative(rtol=0.001),
        SamplerER_SDE(max_stage=1),
        SamplerER_SDE(solver_type="Reverse-time SDE"),
        SamplerSASolver(model=MODEL, simple_order_2=True, predictor_order=2, corrector_order=2),
    ],
    ids=lambda node: type(node).__name__,
)
def test_options_change_the_result(ctx: Context, node: Node) -> None:
    given: dict[str, Any] = {"model": MODEL} if "model" in node.inputs() else {}
    plain = type(node)(**given)
    changed, usual = made_with(node.run(ctx), ctx), made_with(plain.run(ctx), ctx)
    assert changed.isfinite().all()
    assert not torch.allclose(changed, usual, rtol=0, atol=1e-4)


def test_an_ode_replaces_no_noise_whatever_eta_says(ctx: Context) -> None:
    """Without noise of its own the result is the first noise's, moved as the flow moves it."""
    for node in (SamplerER_SDE(solver_type="ODE"), SamplerER_SDE(solver_type="ODE", eta=5.0)):
        chosen: Sampler = node.run(ctx)
        first = made_with(chosen, ctx)
        assert torch.equal(first, made_with(SamplerER_SDE(solver_type="ODE").run(ctx), ctx))
    none = SamplerER_SDE(solver_type="Reverse-time SDE", eta=0.0).run(ctx)
    assert torch.equal(made_with(none, ctx), first)


def test_a_second_look_at_no_distance_is_refused(ctx: Context) -> None:
    with pytest.raises(InputError, match=r"r must be above 0, got 0; 0\.5 is half-way"):
        SamplerDPMPP_SDE(r=0.0).run(ctx)


# --- sigmas ------------------------------------------------------------------------------------


def test_schedulers_make_what_their_formulas_make(ctx: Context) -> None:
    pairs = [
        (KarrasScheduler(steps=7, rho=5.0), sigma_lists.karras(7, 0.0291675, 14.614642, 5.0)),
        (ExponentialScheduler(steps=7), sigma_lists.exponential(7, 0.0291675, 14.614642)),
        (
            PolyexponentialScheduler(steps=7, rho=2.0),
            sigma_lists.polyexponential(7, 0.0291675, 14.614642, 2.0),
        ),
        (
            LaplaceScheduler(steps=7, mu=1.0, beta=0.2),
            sigma_lists.laplace(7, 0.0291675, 14.614642, 1.0, 0.2),
        ),
        (VPScheduler(steps=7), sigma_lists.variance_preserving(7)),
        (
            BetaSamplingScheduler(model=MODEL, steps=7, alpha=2.0),
            schedules.beta_shaped(SD, 7, 2.0, 0.6),
        ),
        (SDTurboScheduler(model=MODEL, steps=3, denoise=0.5), schedules.turbo(SD, 3, 0.5)),
        (
            AlignYourStepsScheduler(model_type="SDXL", steps=7, denoise=0.5),
            sigma_lists.align_your_steps("SDXL", 7, 0.5),
        ),
    ]
    for node, expected in pairs:
        made = node.run(ctx)
        assert torch.equal(made, expected), type(node).__name__
        assert made.dtype == torch.float32


def test_the_basic_scheduler_never_makes_more_steps_than_asked_for(ctx: Context) -> None:
    # ddim_uniform makes 31 for 30, of which KSampler takes all.
    sigmas = BasicScheduler(model=MODEL, scheduler="ddim_uniform", steps=30).run(ctx)
    assert torch.equal(sigmas, schedules.SCHEDULERS["ddim_uniform"](SD, 30)[-31:])
    assert len(BasicScheduler(model=MODEL, denoise=0.0).run(ctx)) == 0


def test_lists_are_cut_turned_and_changed(ctx: Context) -> None:
    sigmas = torch.tensor([9.0, 5.0, 3.0, 1.0, 0.0])
    with left_alone(sigmas):
        high, low = SplitSigmas(sigmas=sigmas, step=1).run(ctx)
        assert (high.tolist(), low.tolist()) == ([9, 5], [5, 3, 1, 0])
        high, low = SplitSigmasDenoise(sigmas=sigmas, denoise=0.25).run(ctx)
        assert (high.tolist(), low.tolist()) == ([9, 5, 3, 1], [1, 0])
        assert FlipSigmas(sigmas=sigmas).run(ctx).tolist() == pytest.approx([1e-4, 1, 3, 5, 9])
        assert SetFirstSigma(sigmas=sigmas).run(ctx).tolist() == [136, 5, 3, 1, 0]
        extended = ExtendIntermediateSigmas(sigmas=sigmas, end_at_sigma=5.0).run(ctx)
        assert extended.tolist() == [9, 7, 5, 4, 3, 1, 0]


def test_a_percent_of_sampling_is_a_sigma(ctx: Context) -> None:
    def sigma(percent: float, **more: Any) -> float:
        node = SamplingPercentToSigma(model=MODEL, sampling_percent=percent, **more)
        return node.run(ctx).sigma_value

    assert sigma(0.5) == SD.percent_to_sigma(0.5) == sigma(0.5, return_actual_sigma=True)
    assert (sigma(0.0), sigma(1.0)) == (999999999.9, 0.0)
    actual = sigma(0.0, return_actual_sigma=True), sigma(1.0, return_actual_sigma=True)
    assert actual == (SD.sigma_max, SD.sigma_min)
