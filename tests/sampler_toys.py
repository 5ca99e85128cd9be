"""Denoisers whose answers are known, and a way to run a sampler on them."""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from toy_model import ToyModel

from executor.ports import DiffusionModel
from executor.sampling import noise as noises
from executor.sampling.schedules import DiscreteSchedule
from executor.sampling_ports import AddedNoise, Denoiser, Estimate, Sample
from executor.steps import Eval, Inputs, Steps

SD = DiscreteSchedule.scaled_linear()
SHAPE = (2, 4, 8, 8)

Denoise: TypeAlias = Callable[[Tensor, Any], Tensor]


def two_blobs(x: Tensor, sigma: Any) -> Tensor:
    """The exact denoiser of data around +1 and −1 with variance ¼: no sampler is exact on it."""
    variance = 0.25 + sigma**2
    return (0.25 * x + sigma**2 * torch.tanh(x / variance)) / variance


def one_blob(x: Tensor, sigma: Any) -> Tensor:
    """The exact denoiser of data that are normal with variance 1."""
    return x / (1 + sigma**2)


def shifted_blob(x: Tensor, sigma: Any) -> Tensor:
    """The exact denoiser of data that are normal around −0.3 with variance 1."""
    return (x - 0.3 * sigma**2) / (1 + sigma**2)


def silent(sigma: Tensor, sigma_next: Tensor) -> Tensor:
    return torch.zeros(SHAPE)


def requesting(guided: Denoise, unguided: Denoise | None = None) -> Denoiser:
    """A denoiser that makes one request for each call, as a model would, and answers itself."""
    model: DiffusionModel = ToyModel()

    def both(x: Tensor, sigma: Tensor) -> Steps[Estimate]:
        yield Eval(model, x, sigma.expand(len(x)), Inputs(x.new_zeros(len(x), 1, 1)))
        estimate = guided(x, sigma)
        return Estimate(estimate, unguided(x, sigma) if unguided else estimate)

    return Denoiser(both, SD)


def start(sigmas: Tensor, seed: int = 0) -> Tensor:
    return noises.initial(SHAPE, seed).to(sigmas.dtype) * sigmas[0]


def run(
    sample: Sample,
    sigmas: Tensor,
    denoise: Denoise | Denoiser = two_blobs,
    noise: AddedNoise = silent,
    x: Tensor | None = None,
) -> tuple[Tensor, int]:
    """What a sampler returns, and how many evaluations it took."""
    x = start(sigmas) if x is None else x
    model = denoise if isinstance(denoise, Denoiser) else requesting(denoise)
    steps = sample(model, x, sigmas, noise)
    count, answer = 0, None
    while True:
        try:
            steps.send(answer)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            return end.value, count
        count, answer = count + 1, x


def watched(denoise: Denoise, seen: list[float]) -> Denoise:
    """The same denoiser; it notes the sigmas that it is asked at."""

    def call(x: Tensor, sigma: Any) -> Tensor:
        seen.append(float(sigma))
        return denoise(x, sigma)

    return call


def waves(like: Tensor) -> AddedNoise:
    """Noise that anybody can make again: cosines whose phase moves on at each call."""

    def calls() -> Generator[Tensor]:
        call = 0
        while True:
            call += 1
            places = torch.arange(like.numel(), dtype=torch.float64)
            yield (1.2 * torch.cos(1.3 * places + 2.1 * call)).to(like).reshape(like.shape)

    drawn = calls()
    return lambda sigma, sigma_next: next(drawn)
