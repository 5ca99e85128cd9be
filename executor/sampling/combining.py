"""How the estimates for both sides of guidance become one.

By Ho & Salimans (2022), eq. 6, on denoised values, and by what the model's patches make of it. The
order is ComfyUI's: what changes the estimates, what combines them, what changes the outcome, each
kind in the order in which the model was given it.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from math import isclose

from torch import Tensor

from executor.errors import InputError
from executor.patches import GuidancePatch, Moment, NetworkPatch
from executor.ports import DiffusionModel
from executor.steps import Steps


def apart(towards: Tensor, away: Tensor, scale: float) -> Tensor:
    """From one estimate through the other: Ho & Salimans (2022), eq. 6, on denoised values."""
    return away + (towards - away) * scale


def asks_away(model: DiffusionModel, cfg: float) -> bool:
    """Whether the negative side counts."""
    return not isclose(cfg, 1.0) or any(patch.needs_away for patch in guidance_of(model))


def watch_of(model: DiffusionModel) -> NetworkPatch | None:
    """What must act in the network while both sides are evaluated.

    Raises InputError if that is more than one thing.
    """
    wanted = {patch.watch for patch in guidance_of(model)} - {None}
    if len(wanted) > 1:
        raise InputError(
            "two of the model's patches watch its attention in different ways: leave one out"
        )
    return next(iter(wanted), None)


def guidance_of(model: DiffusionModel) -> Sequence[GuidancePatch]:
    """The model's patches of this kind."""
    return [patch for patch in model.patches if isinstance(patch, GuidancePatch)]


def combined(patches: Sequence[GuidancePatch], moment: Moment) -> Steps[Moment]:
    """The moment with its guided estimate."""
    for patch in patches:
        if patch.stage == "before":
            moment = yield from _applied(patch, moment)
    combining = [patch for patch in patches if patch.stage == "instead"][-1:]
    if combining:
        moment = yield from _applied(combining[0], moment)
    elif moment.has_away:
        moment = replace(moment, denoised=apart(moment.towards, moment.away, moment.cfg))
    for patch in patches:
        if patch.stage == "after":
            moment = yield from _applied(patch, moment)
    return moment


def _applied(patch: GuidancePatch, moment: Moment) -> Steps[Moment]:
    after = patch.applied(moment)
    return (yield from after) if isinstance(after, Generator) else after
