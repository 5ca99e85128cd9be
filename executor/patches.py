"""Patches: what a model does otherwise than its network alone would, its weights untouched.

A model carries any number of them, of three kinds. One acts inside the network while it computes,
one on how the estimates for both prompts become one, one on what a noise mask lets sampling change.
A patch is a frozen dataclass: equal patches do the same. Light: no torch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from struct import pack, unpack
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from executor.ports import NoiseSchedule
from executor.steps import Steps

if TYPE_CHECKING:
    from torch import Tensor
else:  # torch is imported by whoever runs a node, never by whoever declares one
    Tensor = Any


_LAYERS = 1 << 16  # more than any network has


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What one forward pass computes, as far as patches need to know it."""

    sigma: Tensor  # (B,)
    height: int  # of the latent
    width: int
    reports: list[Tensor]
    """What patches have seen, (B, k, h, w) each: the evaluation's answer has it as further
    channels, behind the denoised latent's."""

    @property
    def seeds(self) -> list[int]:
        """For patches that draw: a number a row, the same at the same noise.

        Those between two of them are for layers.
        """
        bits = (unpack("<I", pack("<f", sigma))[0] for sigma in self.sigma.tolist())
        return [number * _LAYERS for number in bits]


class NetworkPatch(ABC):
    """Acts inside the network, which is as it was before once a forward pass is over.

    Part of the model's key: evaluations share a forward pass where these patches are equal. What it
    does to a row may depend on that row and its noise only, never on the others of the batch.
    """

    def holds(self, sigma: float) -> bool:
        """Whether it acts at this noise. Rows for which that differs are computed apart."""
        return True

    @abstractmethod
    def applied(self, network: Any, rows: Rows) -> AbstractContextManager[None]:
        """While this holds, the network is a changed one."""


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The estimates at one noise, on their way to a guided one; (B, C, h, w) each."""

    x: Tensor
    sigma: Tensor  # a scalar
    cfg: float
    schedule: NoiseSchedule
    towards: Tensor
    away: Tensor  # zeros where nobody has asked
    has_away: bool
    denoised: Tensor  # what they have become so far
    report: Tensor | None  # (B, k, h, w): what ``watch`` has seen of the negative side
    ask: "Ask"


Ask: TypeAlias = Callable[[Literal["towards", "away"], Tensor, NetworkPatch | None], Steps[Tensor]]
"""One more estimate: of a side, for another x (B, C, h, w), by the model with one patch more."""


Stage: TypeAlias = Literal["before", "instead", "after"]
"""Whether a patch of guidance changes the estimates, combines them in place of classifier-free
guidance (of several, the last does), or changes what comes out."""


class GuidancePatch(ABC):
    """Acts on how the estimates for both sides become one, and may ask the model for more of them.

    What the model is asked without it shares batches as before.
    """

    stage: ClassVar[Stage]
    needs_away: ClassVar[bool] = False
    """Whether the negative side is evaluated for it where guidance alone would not ask."""

    @property
    def watch(self) -> NetworkPatch | None:
        """What must act in the network while both sides are evaluated."""
        return None

    @abstractmethod
    def applied(self, moment: Moment) -> Moment | Steps[Moment]:
        """The moment after it; a generator if it asks for anything."""


class MaskPatch(ABC):
    """Acts on a noise mask, which says where sampling may change a latent."""

    @abstractmethod
    def applied(
        self, free: Tensor, sigma: Tensor, sigmas: Tensor, schedule: NoiseSchedule
    ) -> Tensor:
        """The mask (B, 1, h, w) at one of the sigmas of a run; 1: free, 0: kept."""


Patch: TypeAlias = NetworkPatch | GuidancePatch | MaskPatch
