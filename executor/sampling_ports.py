"""What travels between the parts of a sampling run: samplers, sigmas, first noise, guiders.

Light, as ``ports``. A node of anybody's may put out a sampler or a guider: whatever keeps to these
shapes takes part in batches with all others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from executor.ports import Canvas, DiffusionModel, Latent, NoiseSchedule, Port
from executor.steps import Steps

if TYPE_CHECKING:
    from torch import Tensor
else:  # torch is imported by whoever runs a node, never by whoever declares one
    Tensor = Any


class Estimate(NamedTuple):
    """What a latent is taken to be without its noise, (B, C, h, w) each."""

    guided: Tensor
    unguided: Tensor
    """What the negative prompts say alone; where nobody has asked them, the same as ``guided``."""


@dataclass(frozen=True, slots=True, eq=False)
class Denoiser:
    """What samplers see of a model: ``denoised = yield from model(x, sigma)``."""

    both: Callable[[Tensor, Tensor], Steps[Estimate]]
    """Estimates the clean latent in ``x`` (B, C, h, w) at the scalar ``sigma``."""
    schedule: NoiseSchedule

    def __call__(self, x: Tensor, sigma: Tensor) -> Steps[Tensor]:
        """The guided estimate alone."""
        estimate = yield from self.both(x, sigma)
        return estimate.guided


AddedNoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Unit noise for a step from one sigma to another."""

NoiseKind: TypeAlias = Literal["none", "gaussian", "brownian", "brownian_on_device"]

Sample: TypeAlias = Callable[[Denoiser, Tensor, Tensor, AddedNoise], Steps[Tensor]]
"""From the latent at ``sigmas[0]`` to the one at ``sigmas[-1]``, see ``sampling.samplers``."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler, and what it wants besides a denoiser."""

    sample: Sample
    noise: NoiseKind = "none"
    drops_penultimate: bool = False
    """The last step goes to 0 from the last but one sigma, where its order still counts."""
    has_own_mask_noise: bool = False
    """What a noise mask keeps is noised with ``seed + 1``, not with the initial noise."""
    uses_unguided: bool = False
    """It reads ``Estimate.unguided``: the negative prompts are evaluated whatever the guidance."""

    port: ClassVar[Port] = Port("SAMPLER", "a way from noise to a latent", has="sample")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cls.port.__get_pydantic_core_schema__(source, handler)


class FirstNoise(Protocol):
    """Where the noise comes from that a run begins with."""

    @property
    def seed(self) -> int:
        """Also that of the noise which samplers add on their way."""
        ...

    def draw(self, latent: Latent) -> Tensor:
        """Unit noise of the latent's shape, on the CPU."""
        ...


class Guidance(Protocol):
    """A model with the prompts that guide it."""

    @property
    def model(self) -> DiffusionModel: ...
    def denoiser(self, canvas: Canvas, sigmas: Tensor, *, uses_unguided: bool) -> Denoiser:
        """What samplers call, for latents of the canvas' shape and on its device.

        ``sigmas`` only tell how far a request is. Raises InputError for prompts that cannot be.
        """
        ...


Sigmas: TypeAlias = Annotated[
    Tensor, Port("SIGMAS", "the noise levels that a sampler walks, (N,) float32", ndim=1)
]
Noise: TypeAlias = Annotated[FirstNoise, Port("NOISE", "a source of first noise", has="draw")]
Guider: TypeAlias = Annotated[
    Guidance, Port("GUIDER", "a model with the prompts that guide it", has="denoiser")
]
