"""Guidance: one denoiser out of prompts that hold at different places and times.

Each side, positive and negative, is a mixture: at every latent pixel the mean of its prompts'
denoised latents, weighted by strength, mask and feathered area; where a prompt does not hold it is
not evaluated. The two are combined by Ho & Salimans (2022), eq. 6, on denoised values. Whatever
fits in one batch goes into one request: with one prompt a side, the two halves of guidance. The
rules are ComfyUI's.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from executor.errors import InputError
from executor.patches import Moment, NetworkPatch
from executor.ports import Area, Canvas, Cond, Conditioning, Control, DiffusionModel, Grounding
from executor.sampling.combining import asks_away, combined, guidance_of, watch_of
from executor.sampling.forward import joined, together
from executor.sampling.sharing import shared
from executor.sampling_ports import Denoiser, Estimate
from executor.steps import ControlInput, Eval, GroundingInput, Inputs, Steps

FEATHER = 8
"""Width, in latent pixels, of an area's soft edge away from the picture's border."""

LEAST_CROP = 8
"""Side, in latent pixels, below which a crop around a mask does not go."""


@dataclass(frozen=True, slots=True)
class Span:
    """When something holds: from one sigma down to another, ends included."""

    start: float
    end: float

    def holds(self, sigma: float) -> bool:
        """Whether it counts at this noise."""
        return self.end <= sigma <= self.start


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A prompt where and when it holds, ready to be evaluated."""

    inputs: Inputs  # of B rows, without controls
    controls: Sequence[tuple[Span, ControlInput]]
    area: Area  # within the latent
    weight: Tensor | None  # (B or 1, 1, h, w) over the area; None: 1 everywhere
    span: Span

    def inputs_at(self, sigma: float) -> Inputs:
        """What the model is given at this noise."""
        if not self.controls:
            return self.inputs
        active = tuple(control for span, control in self.controls if span.holds(sigma))
        return replace(self.inputs, controls=active)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Prompts whose mixture is one of the estimates that guidance combines."""

    prompts: Conditioning
    is_negative: bool = True
    is_asked: bool = True  # else it only lends its prompts to the areas of others


def guided(
    model: DiffusionModel,
    positive: Conditioning,
    negative: Conditioning,
    *,
    cfg: float,
    canvas: Canvas,
    sigmas: Tensor,
    uses_unguided: bool = False,
) -> Denoiser:
    """The denoiser that samplers call, for latents of the canvas' shape and on its device.

    With ``cfg`` 1 the negative side is not evaluated, but if ``uses_unguided`` asks for it.
    ``sigmas`` only tell how far a request is. Raises InputError for an area outside the latent.
    """
    is_asked = uses_unguided or asks_away(model, cfg)
    sides = (Side(positive, is_negative=False), Side(negative, is_asked=is_asked))
    estimates = mixtures(model, sides, canvas, sigmas)

    def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
        answers = yield from estimates.at(x, sigma)
        away = 1 if is_asked else None
        return (yield from estimates.combined(x, sigma, answers, cfg, towards=0, away=away))

    return Denoiser(both, model.schedule)


@dataclass(frozen=True, slots=True, eq=False)
class Mixtures:
    """The estimates of all sides that are asked, in their order; the first is positive."""

    model: DiffusionModel
    sides: Sequence[Sequence[Region]]
    marks: Sequence[float]  # where steps begin
    watch: NetworkPatch | None  # what acts in the network for whoever combines them

    def at(self, x: Tensor, sigma: Tensor) -> Steps[list[Tensor]]:
        """All of them; all that can stand in one batch is one request.

        What is watched comes as further channels behind those of ``x`` (B, C, h, w).
        """
        return (yield from self._asked(self.sides, x, sigma, self.watch))

    def combined(
        self,
        x: Tensor,
        sigma: Tensor,
        answers: Sequence[Tensor],
        cfg: float,
        *,
        towards: int,
        away: int | None,
    ) -> Steps[Estimate]:
        """A side's estimate led away from another's, as the model's patches will have it."""
        channels = x.shape[1]
        said = answers[towards][:, :channels]
        other = None if away is None else answers[away]

        def ask(
            which: Literal["towards", "away"], x: Tensor, patch: NetworkPatch | None
        ) -> Steps[Tensor]:
            side = towards if which == "towards" else away
            if side is None:
                raise InputError(
                    "a patch of the model wants negative prompts and there are none: use a guider "
                    "that has some, as CFGGuider"
                )
            (answer,) = yield from self._asked([self.sides[side]], x, sigma, patch)
            return answer

        moment = Moment(
            x=x,
            sigma=sigma,
            cfg=cfg,
            schedule=self.model.schedule,
            towards=said,
            away=torch.zeros_like(said) if other is None else other[:, :channels],
            has_away=other is not None,
            denoised=said,
            report=None if other is None else other[:, channels:],
            ask=ask,
        )
        moment = yield from combined(guidance_of(self.model), moment)
        return Estimate(moment.denoised, moment.away if moment.has_away else moment.denoised)

    def _asked(
        self,
        sides: Sequence[Sequence[Region]],
        x: Tensor,
        sigma: Tensor,
        patch: NetworkPatch | None,
    ) -> Steps[list[Tensor]]:
        now = float(sigma)
        model = self.model if patch is None else self.model.patched(patch)
        active = [[region for region in side if region.span.holds(now)] for side in sides]
        members = [region for side in active for region in side]
        given = [region.inputs_at(now) for region in members]
        answers: dict[int, Tensor] = {}
        for group in _batches(members, given):
            # (members · B, C, h, w)
            rows = torch.cat([crop(x, members[index].area) for index in group])
            inputs = joined([given[index] for index in group])
            sigmas_of_rows = rows.new_full((len(rows),), now)
            step = _steps_done(self.marks, now)
            answer = yield Eval(model, rows, sigmas_of_rows, inputs, step, len(self.marks))
            answers.update(zip(group, answer.split(len(x)), strict=True))
        parts = iter([(region, answers[index]) for index, region in enumerate(members)])
        return [_mixture(x, list(islice(parts, len(side)))) for side in active]


def mixtures(
    model: DiffusionModel, sides: Sequence[Side], canvas: Canvas, sigmas: Tensor
) -> Mixtures:
    """Those of prompts for latents of the canvas' shape. Raises InputError as ``guided``."""
    regions = _regions(model, sides, canvas)
    return Mixtures(model, regions, sigmas.tolist()[:-1], watch_of(model))


def _regions(model: DiffusionModel, sides: Sequence[Side], canvas: Canvas) -> list[list[Region]]:
    """Where and when the prompts of each asked side hold, with what sides lend each other."""
    height, width = canvas.clean.shape[-2:]
    placed = [[_resolved(cond, height, width) for cond in side.prompts] for side in sides]
    for lender, conds in enumerate(placed):
        for borrower in range(len(placed)):
            if borrower != lender:
                placed[borrower] += _counterparts(conds, placed[borrower])
    placed[1:] = [shared(placed[0], conds) for conds in placed[1:]]
    return [
        [_region(model, cond, canvas, is_negative=side.is_negative) for cond in conds]
        for side, conds in zip(sides, placed, strict=True)
        if side.is_asked
    ]


def _steps_done(marks: Sequence[float], now: float) -> int:
    """How many steps begin before this noise, of a run that falls or rises."""
    is_falling = marks[0] >= marks[-1]
    return max(sum(mark >= now if is_falling else mark <= now for mark in marks) - 1, 0)


def _mixture(x: Tensor, parts: Sequence[tuple[Region, Tensor]]) -> Tensor:
    """The weighted mean of what the regions gave; 0 where none holds."""
    if len(parts) == 1 and parts[0][0].weight is None:  # the common case costs nothing
        return parts[0][1]
    channels = max((denoised.shape[1] for _, denoised in parts), default=x.shape[1])
    total = x.new_zeros(len(x), channels, *x.shape[2:])
    weights = torch.full_like(total, 1e-37)
    for region, denoised in parts:
        weight = 1.0 if region.weight is None else region.weight
        crop(total, region.area).add_(denoised * weight)
        crop(weights, region.area).add_(weight)
    return total / weights


def crop(rows: Tensor, area: Area) -> Tensor:
    """The part of ``rows`` (B, C, h, w) in an area, as a view."""
    return rows[..., area.y : area.y + area.height, area.x : area.x + area.width]


def _batches(regions: Sequence[Region], given: Sequence[Inputs]) -> list[list[int]]:
    """Which can be evaluated at once: of one size and layout, with prompts that can be aligned."""
    alike: dict[Hashable, list[int]] = {}
    for index, (region, inputs) in enumerate(zip(regions, given, strict=True)):
        key = region.area.height, region.area.width, inputs.layout
        alike.setdefault(key, []).append(index)
    return [
        [members[place] for place in places]
        for members in alike.values()
        for places in together([given[index].tokens.shape[1] for index in members])
    ]


def _resolved(cond: Cond, height: int, width: int) -> Cond:
    """The same with its mask at the latent's size, and its area from that mask if it wants so."""
    if cond.mask is None:
        return cond
    mask = resized(cond.mask, height, width)
    area = _bounds(mask) if cond.is_cropped_to_mask else cond.area
    return replace(cond, mask=mask, area=area)


def resized(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask (B, H, W) or (H, W) brought to the latent's size (B, h, w), bilinearly."""
    mask = mask.float().reshape(-1, 1, *mask.shape[-2:])
    if mask.shape[-2:] != (height, width):
        mask = interpolate(mask, size=(height, width), mode="bilinear")
    return mask[:, 0]


def repeated(rows: Tensor, batch: int) -> Tensor:
    """The rows again and again until there are ``batch``; what is too many is left out."""
    if len(rows) == batch:
        return rows
    return rows.repeat(-(-batch // len(rows)), *[1] * (rows.ndim - 1))[:batch]


def _bounds(mask: Tensor) -> Area:
    """The smallest area that holds all that is not 0 in any row of the mask."""
    ys, xs = torch.where((mask != 0).any(dim=0))
    if not len(ys):
        return Area(LEAST_CROP, LEAST_CROP, 0, 0)
    y, x = int(ys.min()), int(xs.min())
    height, width = int(ys.max()) - y + 1, int(xs.max()) - x + 1
    return Area(max(LEAST_CROP, height), max(LEAST_CROP, width), y, x)


def _counterparts(conds: Sequence[Cond], others: Sequence[Cond]) -> list[Cond]:
    """The other side's prompt for each area of one side, where that side has none itself.

    It is the one of the smallest area around it, or the first that holds everywhere. Without it,
    guidance inside an area would compare a crop with the whole picture.
    """
    added: list[Cond] = []
    for cond in conds:
        if cond.area is None:
            continue
        around = [
            other
            for other in (*others, *added)
            if other.area is not None and _is_inside(cond.area, other.area)
        ]
        everywhere = [other for other in others if other.area is None]
        if around:
            closest = min(around, key=lambda other: _size(other.area))
        elif everywhere:
            closest = everywhere[0]
        else:
            continue
        if closest.area != cond.area:
            says = {"tokens": closest.tokens, "pooled": closest.pooled}
            added.append(replace(cond, **says, pictures=closest.pictures))
    return added


def _is_inside(area: Area, other: Area) -> bool:
    return (
        area.y >= other.y
        and area.x >= other.x
        and area.y + area.height <= other.y + other.height
        and area.x + area.width <= other.x + other.width
    )


def _size(area: Area | None) -> int:
    return area.height * area.width if area else 0


def _region(model: DiffusionModel, cond: Cond, canvas: Canvas, *, is_negative: bool) -> Region:
    """A prompt as a region of this canvas."""
    batch, height, width = len(canvas.clean), *canvas.clean.shape[-2:]
    area = cond.area or Area(height, width, 0, 0)
    area = replace(
        area, height=min(area.height, height - area.y), width=min(area.width, width - area.x)
    )
    if min(area.height, area.width) < 1 or min(area.y, area.x) < 0:
        raise InputError(
            f"an area of a conditioning begins at x = {8 * area.x}, y = {8 * area.y} pixels,"
            f" outside the picture of {8 * width} × {8 * height}; move it inside"
        )
    inputs = model.inputs(cond, canvas, is_negative=is_negative)
    if inputs.concat is not None:
        inputs = replace(inputs, concat=crop(inputs.concat, area))
    if cond.grounding is not None:
        inputs = replace(inputs, grounding=_grounding(model, cond.grounding, area, batch))
    return Region(
        inputs=inputs,
        controls=[_control(model, control, area, batch) for control in cond.controls],
        area=area,
        weight=_weight(cond, area, canvas.clean),
        span=_span(model, cond),
    )


def _control(
    model: DiffusionModel, control: Control, area: Area, batch: int
) -> tuple[Span, ControlInput]:
    """A control for so many rows of an area's size."""
    network = control.network.fitted(model)
    hints = network.hints(control.picture[:batch], area.height, area.width)
    rows = tuple(repeated(hint, batch) for hint in hints)
    strength = torch.full((batch,), control.strength, device=rows[0].device)
    return _span(model, control), ControlInput(network, rows, strength)


def _grounding(
    model: DiffusionModel, grounding: Grounding, area: Area, batch: int
) -> GroundingInput:
    """Phrases at places, for so many rows of an area's size."""
    network = grounding.network
    network.check(model)
    objects = network.objects(grounding.phrases, area.height, area.width)
    return GroundingInput(network, repeated(objects, batch))


def _span(model: DiffusionModel, timed: Cond | Control) -> Span:
    to_sigma = model.schedule.percent_to_sigma
    return Span(to_sigma(timed.start_percent), to_sigma(timed.end_percent))


def _weight(cond: Cond, area: Area, like: Tensor) -> Tensor | None:
    """How much a prompt counts at each pixel of its area; an area with a mask has hard edges."""
    if cond.mask is not None:
        mask = cond.mask[: len(like), None].to(like)
        mask = crop(mask, area)
        return repeated(mask * cond.mask_strength * cond.strength, len(like))
    height, width = like.shape[-2:]
    if cond.area is None and cond.strength == 1:
        return None
    rows = _feathered(area.height, area.y > 0, area.y + area.height < height)
    columns = _feathered(area.width, area.x > 0, area.x + area.width < width)
    return (cond.strength * rows[:, None] * columns).to(like)[None, None]


def _feathered(size: int, fades_in: bool, fades_out: bool) -> Tensor:
    """Ones that rise and fall linearly at the ends asked for, over a quarter of them at most."""
    weights = torch.ones(size)
    length = min(FEATHER, size // 4)
    ramp = torch.arange(1, length + 1) / max(length, 1)
    if fades_in:
        weights[:length] = ramp
    if fades_out:
        weights[size - length :] = ramp.flip(0)
    return weights
