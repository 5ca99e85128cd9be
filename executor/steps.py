"""What a node run waits for: evaluations of a diffusion model, yielded by generators.

A sampler, and a node that delegates to one with ``yield from``, is a ``Steps``: it yields ``Eval``s
and is sent the denoised latent for each. Whoever drives it decides when an evaluation is made and
with whom it shares a batch.
"""

from collections.abc import Generator, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from executor.ports import ControlNetwork, DiffusionModel, GroundingNetwork

if TYPE_CHECKING:
    from torch import Tensor
else:  # torch is imported by whoever runs a node, never by whoever declares one
    Tensor = Any

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ControlInput:
    """What a control network is given; one row for each row of x."""

    network: ControlNetwork
    hints: tuple[Tensor, ...]  # (B, …) each: the picture as the network uses it
    strength: Tensor  # (B,)

    def rows(self, places: Tensor) -> "ControlInput":
        """Those rows alone."""
        hints = tuple(hint[places] for hint in self.hints)
        return ControlInput(self.network, hints, self.strength[places])


@dataclass(frozen=True, slots=True, eq=False)
class GroundingInput:
    """What the layers that put phrases at places are given; one row for each row of x."""

    network: GroundingNetwork
    objects: Tensor  # (B, N, D)


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a diffusion model is given besides x and sigma; one row for each row of x."""

    tokens: Tensor  # (B, T, D): the prompt, as cross-attention sees it
    vector: Tensor | None = None  # (B, V): pooled prompt and sizes (SDXL)
    concat: Tensor | None = None  # (B, C', h, w): further channels of x (inpainting, pix2pix)
    controls: tuple[ControlInput, ...] = ()
    grounding: GroundingInput | None = None

    def rows(self, places: Tensor) -> "Inputs":
        """Those rows alone."""
        grounding = self.grounding
        return Inputs(
            self.tokens[places],
            None if self.vector is None else self.vector[places],
            None if self.concat is None else self.concat[places],
            tuple(control.rows(places) for control in self.controls),
            grounding and GroundingInput(grounding.network, grounding.objects[places]),
        )

    @property
    def layout(self) -> Hashable:
        """Equal for inputs whose rows can stand in one batch; the number of tokens may differ."""
        return (
            self.tokens.shape[-1],
            None if self.vector is None else self.vector.shape[1:],
            None if self.concat is None else self.concat.shape[1:],
            tuple(
                (control.network.key, *(hint.shape[1:] for hint in control.hints))
                for control in self.controls
            ),
            None if self.grounding is None else self.grounding.network.key,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Eval:
    """A request for one evaluation of a model; the answer is the denoised latent (B, C, h, w)."""

    model: DiffusionModel
    x: Tensor  # (B, C, h, w), noisy, in the model's scaled latent space
    sigma: Tensor  # (B,): noise standard deviation of each row
    inputs: Inputs
    step: int = field(default=0)  # how many steps of the sampler are done,
    steps: int = field(default=0)  # of how many; 0 when nobody counts
    denoised: Tensor | None = field(default=None)  # (B, C, h, w): what the sampler was told last,
    # for whoever shows the picture so far; nothing is computed from it

    @property
    def key(self) -> Hashable:
        """Requests with equal keys can share a forward pass."""
        return self.model.key, self.x.shape[1:], self.x.dtype, self.inputs.layout


Steps: TypeAlias = Generator[Eval, Tensor, T]
"""A computation that yields the evaluations it needs and returns a ``T``."""
