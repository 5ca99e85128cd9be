"""Nodes that let a model be guided otherwise: what is made of both prompts' estimates."""

from typing import Annotated, NamedTuple

from pydantic import Field

from executor import Context, Model, Node, Widget

Amount = Annotated[float, Field(ge=0, le=100), Widget({"step": 0.01})]
Share = Annotated[float, Field(ge=0, le=1), Widget({"step": 0.01})]


class Patched(NamedTuple):
    """A model under the name that some nodes give it."""

    patched_model: Model


class RescaleCFG(Node, category="advanced/model"):
    """Bring strong guidance back to the contrast of the positive prompt alone."""

    model: Model
    multiplier: Share = 0.7

    def run(self, ctx: Context) -> Model:
        from executor.sampling.guidance_patches import RescaledGuidance

        return self.model.patched(RescaledGuidance(self.multiplier))


class RenormCFG(Node, category="advanced/model"):
    """Keep guidance from making the estimate longer; above a sigma do without guidance."""

    model: Model
    cfg_trunc: Amount = 100.0
    renorm_cfg: Amount = 1.0

    def run(self, ctx: Context) -> Model:
        from executor.sampling.guidance_patches import RenormedGuidance

        return self.model.patched(RenormedGuidance(self.renorm_cfg, self.cfg_trunc))


class CFGZeroStar(Node, category="advanced/guidance"):
    """Scale the negative estimate to the positive one before guidance leads away from it."""

    model: Model

    def run(self, ctx: Context) -> Patched:
        from executor.sampling.guidance_patches import ZeroStar

        return Patched(self.model.patched(ZeroStar()))


class CFGNorm(Node, category="advanced/guidance"):
    """Keep guidance from making any latent pixel longer than the positive prompt does."""

    model: Model
    strength: Amount = 1.0

    def run(self, ctx: Context) -> Patched:
        from executor.sampling.guidance_patches import NormedGuidance

        return Patched(self.model.patched(NormedGuidance(self.strength)))


class TCFG(Node, category="advanced/guidance", display_name="Tangential Damping CFG"):
    """Leave out of the negative estimate what the positive one knows nothing of."""

    model: Model

    def run(self, ctx: Context) -> Patched:
        from executor.sampling.guidance_patches import TangentialDamping

        return Patched(self.model.patched(TangentialDamping()))


class Mahiro(Node, category="_for_testing"):
    """Go more where the positive prompt points, less away from the negative one."""

    model: Model

    def run(self, ctx: Context) -> Patched:
        from executor.sampling import guidance_patches

        return Patched(self.model.patched(guidance_patches.Mahiro()))


class PerturbedAttentionGuidance(Node, category="model_patches/unet"):
    """Lead away from what the model makes when it cannot see the structure of the picture."""

    model: Model
    scale: Annotated[float, Field(ge=0, le=100), Widget({"step": 0.01, "round": 0.01})] = 3.0

    def run(self, ctx: Context) -> Model:
        from executor.models.middle_attention import PerturbedAttention
        from executor.sampling import attention_guidance

        patch = attention_guidance.PerturbedAttentionGuidance(self.scale, PerturbedAttention())
        return self.model.patched(patch)


class SelfAttentionGuidance(Node, category="_for_testing", display_name="Self-Attention Guidance"):
    """Lead away from what the model makes when what it looks at is blurred."""

    model: Model
    scale: Annotated[float, Field(ge=-2, le=5), Widget({"step": 0.01})] = 0.5
    blur_sigma: Annotated[float, Field(ge=0, le=10), Widget({"step": 0.1})] = 2.0

    def run(self, ctx: Context) -> Model:
        from executor.models.middle_attention import WatchedAttention
        from executor.sampling import attention_guidance

        patch = attention_guidance.SelfAttentionGuidance(
            self.scale, self.blur_sigma, WatchedAttention()
        )
        return self.model.patched(patch)


class DifferentialDiffusion(Node, category="_for_testing", display_name="Differential Diffusion"):
    """Let a grey noise mask say from which step on each place may change."""

    model: Model
    strength: Share = 1.0

    def run(self, ctx: Context) -> Model:
        from executor.sampling import mask_patches

        return self.model.patched(mask_patches.DifferentialDiffusion(self.strength))
