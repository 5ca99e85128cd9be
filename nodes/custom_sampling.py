"""Nodes that denoise with parts of their own: sampler, sigmas, noise and guider."""

from typing import Literal, NamedTuple

from executor import (
    Conditioning,
    Context,
    Guider,
    Latent,
    Model,
    Node,
    Noise,
    Sampler,
    Seed,
    Sigmas,
    Steps,
)
from nodes.sampling import Guidance


class SampledLatents(NamedTuple):
    output: Latent
    denoised_output: Latent  # what the last step took it to be without its noise


class SamplerCustom(Node, category="sampling/custom_sampling"):
    """Denoise a latent with a sampler along sigmas."""

    model: Model
    add_noise: bool = True
    noise_seed: Seed = 0
    cfg: Guidance = 8.0
    positive: Conditioning
    negative: Conditioning
    sampler: Sampler
    sigmas: Sigmas
    latent_image: Latent

    def run(self, ctx: Context) -> Steps[SampledLatents]:
        from executor.sampling.guiders import CfgGuider
        from executor.sampling.ksampler import sample_along
        from executor.sampling.noise import NoNoise, SeededNoise

        seed = self.noise_seed
        sampled = yield from sample_along(
            CfgGuider(self.model, self.positive, self.negative, self.cfg),
            self.latent_image,
            sampler=self.sampler,
            sigmas=self.sigmas,
            noise=SeededNoise(seed) if self.add_noise else NoNoise(seed),
            ancestral_seed_offset=ctx.ancestral_seed_offset,
        )
        return SampledLatents(*sampled)


class SamplerCustomAdvanced(Node, category="sampling/custom_sampling"):
    """Denoise a latent with a guider and a sampler along sigmas."""

    noise: Noise
    guider: Guider
    sampler: Sampler
    sigmas: Sigmas
    latent_image: Latent

    def run(self, ctx: Context) -> Steps[SampledLatents]:
        from executor.sampling.ksampler import sample_along

        sampled = yield from sample_along(
            self.guider,
            self.latent_image,
            sampler=self.sampler,
            sigmas=self.sigmas,
            noise=self.noise,
            ancestral_seed_offset=ctx.ancestral_seed_offset,
        )
        return SampledLatents(*sampled)


class BasicGuider(Node, category="sampling/custom_sampling/guiders"):
    """Follow one prompt, without guidance."""

    model: Model
    conditioning: Conditioning

    def run(self, ctx: Context) -> Guider:
        from executor.sampling import guiders

        return guiders.BasicGuider(self.model, self.conditioning)


class CFGGuider(Node, category="sampling/custom_sampling/guiders"):
    """Go towards one prompt and away from another."""

    model: Model
    positive: Conditioning
    negative: Conditioning
    cfg: Guidance = 8.0

    def run(self, ctx: Context) -> Guider:
        from executor.sampling.guiders import CfgGuider

        return CfgGuider(self.model, self.positive, self.negative, self.cfg)


class DualCFGGuider(Node, category="sampling/custom_sampling/guiders"):
    """Go towards one prompt from a second, and towards that from a third."""

    model: Model
    cond1: Conditioning
    cond2: Conditioning
    negative: Conditioning
    cfg_conds: Guidance = 8.0
    cfg_cond2_negative: Guidance = 8.0
    style: Literal["regular", "nested"] = "regular"

    def run(self, ctx: Context) -> Guider:
        from executor.sampling.guiders import DualCfgGuider

        return DualCfgGuider(
            self.model,
            self.cond1,
            self.cond2,
            self.negative,
            self.cfg_conds,
            self.cfg_cond2_negative,
            is_nested=self.style == "nested",
        )


class RandomNoise(Node, category="sampling/custom_sampling/noise"):
    """Noise from a seed."""

    noise_seed: Seed = 0

    def run(self, ctx: Context) -> Noise:
        from executor.sampling.noise import SeededNoise

        return SeededNoise(self.noise_seed)


class DisableNoise(Node, category="sampling/custom_sampling/noise"):
    """No noise: the latent is taken as it is."""

    def run(self, ctx: Context) -> Noise:
        from executor.sampling.noise import NoNoise

        return NoNoise()


class AddNoise(Node, category="sampling/custom_sampling/noise"):
    """Add as much noise to a latent as the sigmas go through."""

    model: Model
    noise: Noise
    sigmas: Sigmas
    latent_image: Latent

    def run(self, ctx: Context) -> Latent:
        from executor.sampling.ksampler import noised

        return noised(self.model, self.latent_image, self.sigmas, self.noise)
