"""A sampling node that steps with diffusers' own schedulers."""

from typing import Annotated, Literal

from pydantic import Field

from executor import Conditioning, Context, Latent, Model, Node, Seed, Steps, Widget
from nodes.sampling import Guidance, StepCount

SchedulerName = Literal[
    "DDIM",
    "DDPM",
    "DPM-M",
    "DPM-S",
    "EULER-A",
    "EULER-D",
    "HEUN",
    "IPNDM",
    "KDPM2-A",
    "KDPM2-D",
    "PNDM",
    "K-LMS",
]


class DiffusersSampler(Node, category="sampling", display_name="Sampler (diffusers)"):
    """Denoise a latent with one of diffusers' schedulers, to that library's numbers."""

    model: Model
    seed: Seed = 0
    steps: StepCount = 50
    cfg: Guidance = 7.5
    scheduler: SchedulerName = "K-LMS"
    positive: Conditioning
    negative: Conditioning
    latent_image: Latent
    denoise: Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})] = 1.0

    def run(self, ctx: Context) -> Steps[Latent]:
        from executor.sampling.diffusers_schedulers import sample
        from executor.sampling.guiders import CfgGuider

        return (
            yield from sample(
                CfgGuider(self.model, self.positive, self.negative, self.cfg),
                self.latent_image,
                scheduler=self.scheduler,
                steps=self.steps,
                seed=self.seed,
                denoise=self.denoise,
            )
        )
