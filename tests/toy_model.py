"""A diffusion model whose answers are known: data that are normal around what the prompt says.

For data N(m, 1) the exact denoiser is D(x; σ) = m + (x − m) / (1 + σ²), and the probability flow
from σ to 0 ends in m + (x − m) / √(1 + σ²). Here m is the mean of the prompt's tokens, so repeating
tokens changes nothing, as in attention.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from executor.patches import Patch
from executor.ports import Canvas, Cond, Objective
from executor.sampling.forward import evaluate
from executor.sampling.guidance import repeated
from executor.sampling.schedules import DiscreteSchedule
from executor.steps import Eval, Inputs, Steps

T = TypeVar("T")


class ToyModel:
    """The exact denoiser of normal data; it remembers the shapes that it was asked for."""

    key = "toy"
    schedule = DiscreteSchedule.scaled_linear()
    latent_channels = 4
    latent_scale = 0.5
    device = torch.device("cpu")
    patches: tuple[Patch, ...] = ()

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def patched(self, patch: Patch) -> "ToyModel":
        other = ToyModel()
        other.patches = (*self.patches, patch)
        return other

    def with_objective(self, objective: Objective) -> "ToyModel":
        return self  # exact, whatever it was trained to predict

    def inputs(self, cond: Cond, canvas: Canvas, *, is_negative: bool) -> Inputs:
        return Inputs(repeated(cond.tokens, len(canvas.clean)))

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        self.shapes.append(tuple(x.shape))
        mean = inputs.tokens.mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
        return mean + (x - mean) / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


def prompt(mean: float, *, length: int = 3, **place: Any) -> Cond:
    """A prompt for data around ``mean``; ``place`` says where and when it holds."""
    return Cond(torch.full((1, length, 2), mean), **place)


def drive(steps: Steps[T]) -> T:
    """Answer each request as it comes, alone."""
    return drive_together([steps])[0]


def drive_together(runs: Sequence[Generator[Eval, Tensor, T]]) -> list[T]:
    """Answer all runs in rounds, each round in one forward pass for every key."""
    results: dict[int, T] = {}
    requests: dict[int, Eval] = {}

    def advance(index: int, answer: Any) -> None:
        try:
            requests[index] = runs[index].send(answer)
        except StopIteration as end:
            results[index] = end.value

    for index in range(len(runs)):
        advance(index, None)
    while requests:
        key = next(iter(requests.values())).key
        members = [index for index, request in requests.items() if request.key == key]
        answers = evaluate([requests.pop(index) for index in members])
        for index, answer in zip(members, answers, strict=True):
            advance(index, answer)
    return [results[index] for index in range(len(runs))]
