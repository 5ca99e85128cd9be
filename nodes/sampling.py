"""Nodes that denoise. The samplers themselves are generators in ``executor.sampling``."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Conditioning, Context, Latent, Model, Node, Seed, Steps, Widget

SamplerName = Literal[
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
SchedulerName = Literal[
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]
StepCount = Annotated[int, Field(ge=1, le=10_000)]
Guidance = Annotated[float, Field(ge=0, le=100), Widget({"step": 0.1, "round": 0.01})]
StepIndex = Annotated[int, Field(ge=0, le=10_000)]


class KSampler(Node, category="sampling"):
    """Denoise a latent, towards ``positive`` and away from ``negative``."""

    model: Model
    seed: Seed = 0
    steps: StepCount = 20
    cfg: Guidance = 8.0  # 1 means no guidance
    sampler_name: SamplerName = "euler"
    scheduler: SchedulerName = "simple"
    positive: Conditioning
    negative: Conditioning
    latent_image: Latent
    denoise: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Steps[Latent]:
        from executor.sampling.ksampler import sample

        return (
            yield from sample(
                self.model,
                self.positive,
                self.negative,
                self.latent_image,
                seed=self.seed,
                steps=self.steps,
                cfg=self.cfg,
                sampler_name=self.sampler_name,
                scheduler=self.scheduler,
                denoise=self.denoise,
                ancestral_seed_offset=ctx.ancestral_seed_offset,
            )
        )


class KSamplerAdvanced(Node, category="sampling", display_name="KSampler (Advanced)"):
    """Denoise a latent for a part of the steps, so that samplers can take turns."""

    model: Model
    add_noise: Literal["enable", "disable"] = "enable"
    noise_seed: Seed = 0
    steps: StepCount = 20
    cfg: Guidance = 8.0
    sampler_name: SamplerName = "euler"
    scheduler: SchedulerName = "simple"
    positive: Conditioning
    negative: Conditioning
    latent_image: Latent
    start_at_step: StepIndex = 0
    end_at_step: StepIndex = 10_000
    return_with_leftover_noise: Literal["disable", "enable"] = "disable"

    def run(self, ctx: Context) -> Steps[Latent]:
        from executor.sampling.ksampler import sample

        return (
            yield from sample(
                self.model,
                self.positive,
                self.negative,
                self.latent_image,
                seed=self.noise_seed,
                steps=self.steps,
                cfg=self.cfg,
                sampler_name=self.sampler_name,
                scheduler=self.scheduler,
                start_step=self.start_at_step,
                last_step=self.end_at_step,
                force_full_denoise=self.return_with_leftover_noise == "disable",
                disable_noise=self.add_noise == "disable",
                ancestral_seed_offset=ctx.ancestral_seed_offset,
            )
        )
