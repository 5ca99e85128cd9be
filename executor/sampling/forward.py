"""The batched forward pass: requests that share a key become one evaluation of the model.

Prompts of different lengths are aligned by repeating their tokens to a common multiple, which
leaves softmax attention unchanged, so that no mask is needed. A batch gives what its parts give
alone, up to rounding: other batch sizes choose other kernels (in float32, 1e-5 of the output).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from executor.steps import ControlInput, Eval, GroundingInput, Inputs

MOST_REPEATS = 4
"""How often tokens may be repeated to share a batch; more costs more than another pass."""


def evaluate(requests: Sequence[Eval]) -> list[Tensor]:
    """The denoised latent for each request, of which all keys must be equal.

    One call of the model, unless prompt lengths have no small common multiple; then one for each
    group that has.
    """
    assert len({request.key for request in requests}) == 1, "only equal keys share a forward pass"
    answers: dict[int, Tensor] = {}
    for members in together([request.inputs.tokens.shape[1] for request in requests]):
        group = [requests[index] for index in members]
        inputs = joined([request.inputs for request in group])
        x = torch.cat([request.x for request in group])
        sigma = torch.cat([request.sigma for request in group])
        with torch.inference_mode():
            denoised = group[0].model.denoise(x, sigma, inputs)
        rows = denoised.split([len(request.x) for request in group])
        answers.update(zip(members, rows, strict=True))
    return [answers[index] for index in range(len(requests))]


def rows_of(requests: Sequence[Eval], start: int, stop: int) -> list[Eval]:
    """Some of the rows of all requests, counted through them."""
    found: list[Eval] = []
    for request in requests:
        count = len(request.x)
        first, last = max(0, start), min(count, stop)
        if first < last == count and first == 0:
            found.append(request)
        elif first < last:
            places = torch.arange(first, last, device=request.x.device)
            x, sigma = request.x[first:last], request.sigma[first:last]
            found.append(replace(request, x=x, sigma=sigma, inputs=request.inputs.rows(places)))
        start, stop = start - count, stop - count
    return found


def together(lengths: Sequence[int]) -> list[list[int]]:
    """Which places of ``lengths`` can be aligned with each other, in groups, first come first."""
    groups: list[list[int]] = []
    for index, length in enumerate(lengths):
        for group in groups:
            members = [length, *(lengths[other] for other in group)]
            if math.lcm(*members) <= MOST_REPEATS * min(members):
                group.append(index)
                break
        else:
            groups.append([index])
    return groups


def aligned(tokens: Sequence[Tensor]) -> Tensor:
    """All rows (B, T, D), repeated to the least common multiple of their lengths."""
    length = math.lcm(*(rows.shape[1] for rows in tokens))
    return torch.cat(
        [
            rows if rows.shape[1] == length else rows.repeat(1, length // rows.shape[1], 1)
            for rows in tokens
        ]
    )


def joined(inputs: Sequence[Inputs]) -> Inputs:
    """The rows of inputs of equal layout, one after the other."""
    return Inputs(
        aligned([rows.tokens for rows in inputs]),
        _rows([rows.vector for rows in inputs]),
        _rows([rows.concat for rows in inputs]),
        tuple(
            ControlInput(
                same[0].network,
                tuple(
                    torch.cat(rows)
                    for rows in zip(*(control.hints for control in same), strict=True)
                ),
                torch.cat([control.strength for control in same]),
            )
            for same in zip(*(rows.controls for rows in inputs), strict=True)
        ),
        _grounding([rows.grounding for rows in inputs]),
    )


def _grounding(inputs: Sequence[GroundingInput | None]) -> GroundingInput | None:
    """All rows, of the one network that inputs of equal layout have, or of none."""
    present = [grounding for grounding in inputs if grounding is not None]
    if not present:
        return None
    return GroundingInput(present[0].network, torch.cat([rows.objects for rows in present]))


def _rows(rows: Sequence[Tensor | None]) -> Tensor | None:
    """All rows, or none: inputs of equal layout agree on whether there are any."""
    present = [tensor for tensor in rows if tensor is not None]
    return torch.cat(present) if present else None
