"""Trains the tiny U-Net and text encoder together, on the latents that encode.py wrote.

The loss is the error of the predicted noise, weighted by 1 / alpha up to ``--largest-weight``: much
noise counts most, because that is where the caption decides. Begin with 20; once colours, kinds and
counts are right, 8 leaves more for the outlines. Timesteps are drawn more often where they weigh
more, and evenly over a batch (Kingma et al. 2021, "Variational diffusion models", appendix I.1).
10 % of captions are empty, for guidance; 8 % get words that mean nothing, so that "masterpiece,
best quality" does no harm.

Trained on plain noise alone, the model reads a large flat background through the noise and believes
it, whatever the caption: picture to picture then recolours nothing. So some examples show it the
same shape in other colours, noised, and ask for what the caption says.

    python -m models.weft_tiny.train build/weft_tiny build/weft_tiny/denoiser.pt --steps 5000
"""

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.weft_tiny.denoiser import (
    Denoiser,
    alphas_cumprod,
    load_checkpoint,
    start_residuals_at_zero,
)
from models.weft_tiny.encode import latents_path, pairs_path
from models.weft_tiny.training import Learner, cosine, launch, seeded
from models.weft_tiny.words import (
    END,
    LENGTH,
    START,
    known_tokens,
    renumbered,
    token_ids,
)

logger = logging.getLogger(__name__)

# How often a step is on pictures of a size. A batch has as many latent cells at every size.
SIDES = {128: 0.76, 192: 0.14, 256: 0.10}
# The timesteps at which recoloured pairs are shown.
PAIR_TIMESTEPS = (350, 750)
# Power of a timestep's weight that goes into its chance; the rest stays in the loss.
DRAWN_BY_WEIGHT = 0.35


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line says."""

    folder: Path
    state: Path
    start: Path | None
    steps: int
    processes: int
    batch: int
    adam_rate: float
    muon_rate: float
    largest_weight: float
    pair_share: float
    until: int

    @property
    def last_step(self) -> int:
        return min(self.steps, self.until)


@dataclass(frozen=True, slots=True)
class Examples:
    """Latents (N, 4, h, w) of one size and their captions' numbers (N, 77)."""

    latents: Tensor
    ids: Tensor


@dataclass(frozen=True, slots=True)
class Pairs:
    """Latents before and after recolouring (N, 4, 16, 16), and the latter's numbers (N, 77)."""

    before: Tensor
    after: Examples


def load_examples(folder: Path) -> tuple[dict[int, Examples], Pairs, list[int]]:
    """The examples by size, the recoloured pairs, and the tokens that occur in the examples."""
    files = {side: torch.load(latents_path(folder, side), weights_only=True) for side in SIDES}
    ids = {side: token_ids(file["captions"]) for side, file in files.items()}
    known = known_tokens(torch.cat(list(ids.values())))
    examples = {
        side: Examples(file["latents"], renumbered(ids[side], known))
        for side, file in files.items()
    }
    file = torch.load(pairs_path(folder), weights_only=True)
    after = Examples(file["latents"], renumbered(token_ids(file["captions"]), known))
    return examples, Pairs(file["before"], after), known


def blurred(ids: Tensor, known: list[int], rng: random.Random) -> Tensor:
    """The captions, some of them emptied and some with other words before or after them."""
    start, end, other = known.index(START), known.index(END), len(known)
    ids = ids.clone()
    for row in ids:
        draw = rng.random()
        if draw < 0.10:
            row[0], row[1:] = start, end
        elif draw < 0.18:
            count, length = rng.randint(1, 4), int((row == end).nonzero()[0])
            if length + count >= LENGTH:
                continue
            words = row[1:length].tolist()
            junk = [other] * count
            words = junk + words if rng.random() < 0.5 else words + junk
            row[1 : 1 + len(words)] = torch.tensor(words)
    return ids


@dataclass(frozen=True, slots=True)
class Timesteps:
    """Which timesteps are drawn how often, and what weight each then has."""

    cumulative: Tensor
    weights: Tensor

    @classmethod
    def of(cls, alphas: Tensor, largest_weight: float) -> "Timesteps":
        wanted = (1 / alphas).clamp(max=largest_weight).double()
        chances = wanted**DRAWN_BY_WEIGHT
        chances /= chances.sum()
        weights = wanted / chances
        return cls(chances.cumsum(0), (weights / (weights * chances).sum()).float())

    def draw(self, count: int, rng: torch.Generator) -> Tensor:
        """As many timesteps, one from each equal share of the chances."""
        shares = (
            torch.arange(count) + torch.rand(count, generator=rng, dtype=torch.double)
        ) / count
        return torch.searchsorted(self.cumulative, shares).clamp(max=999)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is noised (``seen``), what shall come out (``clean``), and the captions' numbers."""

    seen: Tensor
    clean: Tensor
    ids: Tensor
    is_pair: Tensor


def drawn_batch(
    examples: dict[int, Examples], pairs: Pairs, plan: Plan, step: int, rng: torch.Generator
) -> Batch:
    """Examples of one size; among those of 128 px some recoloured pairs."""
    (side,) = random.Random(step).choices(list(SIDES), weights=list(SIDES.values()))
    size = plan.batch * 128**2 // side**2
    pair_count = round(size * plan.pair_share) if side == 128 else 0
    chosen = torch.randint(len(examples[side].ids), (size - pair_count,), generator=rng)
    latents, ids = examples[side].latents[chosen].float(), examples[side].ids[chosen]
    is_pair = torch.arange(size) >= size - pair_count
    if not pair_count:
        return Batch(latents, latents, ids, is_pair)
    chosen = torch.randint(len(pairs.before), (pair_count,), generator=rng)
    return Batch(
        torch.cat([latents, pairs.before[chosen].float()]),
        torch.cat([latents, pairs.after.latents[chosen].float()]),
        torch.cat([ids, pairs.after.ids[chosen]]),
        is_pair,
    )


def is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon trains a weight."""
    outer = ("embedding", "conv_in", "conv_out")
    return weight.ndim >= 2 and not any(part in name for part in outer)


def work(rank: int, plan: Plan) -> None:
    """One process of the training."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    examples, pairs, known = load_examples(plan.folder)
    denoiser = Denoiser(len(known) + 1)
    start_residuals_at_zero(denoiser)
    if plan.start:
        load_checkpoint(denoiser, plan.start, known)
    learner = Learner(
        denoiser,
        is_hidden,
        adam_rate=plan.adam_rate,
        muon_rate=plan.muon_rate,
        decay=0.998,
        clip=2.0,
    )
    if plan.state.exists():
        learner.resume(plan.state)
    alphas = alphas_cumprod()
    schedule = Timesteps.of(alphas, plan.largest_weight)
    quarters = np.zeros((4, 2))  # sum and count of the plain error, by quarter of the timesteps
    since = time.monotonic()
    while learner.step < plan.last_step:
        step = learner.step
        rng = seeded(step, rank)
        batch = drawn_batch(examples, pairs, plan, step, rng)
        ids = blurred(batch.ids, known, random.Random(f"{step} {rank}"))
        timesteps = schedule.draw(len(ids), rng)
        if batch.is_pair.any():
            low, high = PAIR_TIMESTEPS
            middle = torch.randint(low, high, (len(ids),), generator=rng)
            timesteps = torch.where(batch.is_pair, middle, timesteps)
            ids = torch.where(batch.is_pair[:, None], batch.ids, ids)
        noise = torch.randn(batch.clean.shape, generator=rng)
        signal = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
        spread = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
        noisy = signal * batch.seen + spread * noise
        wanted = (noisy - signal * batch.clean) / spread  # the noise itself, where seen is clean
        predicted = denoiser(noisy, timesteps, denoiser.context(ids))
        errors = (predicted - wanted).square().mean((1, 2, 3))
        learner.learn((errors * schedule.weights[timesteps]).mean(), cosine(step, plan.steps))
        plain = ~batch.is_pair
        times, plain_errors = (timesteps[plain] // 250).tolist(), errors[plain].tolist()
        for quarter, error in zip(times, plain_errors, strict=True):
            quarters[quarter] += error, 1
        if rank == 0 and learner.step % 50 == 0:
            means = (quarters[:, 0] / quarters[:, 1].clip(1)).round(4).tolist()
            seconds = (time.monotonic() - since) / 50
            logger.info("%d errors %s, %.2f s a step", learner.step, means, seconds)
            quarters[:], since = 0, time.monotonic()
        if rank == 0 and (learner.step % 100 == 0 or learner.step == plan.last_step):
            learner.save(plan.state, known=known)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny U-Net and text encoder.")
    parser.add_argument("folder", type=Path, help="where encode.py put the latents")
    parser.add_argument("state", type=Path, help="where the run is kept; goes on if it is there")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=5000, help="may be changed on going on")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=48, help="128 px pictures a process and step")
    parser.add_argument("--adam-rate", type=float, default=1e-3)
    parser.add_argument("--muon-rate", type=float, default=0.005)
    parser.add_argument("--largest-weight", type=float, default=8.0, help="of a timestep")
    parser.add_argument(
        "--pair-share", type=float, default=0.16, help="recoloured pairs in a batch"
    )
    parser.add_argument("--until", type=int, default=10**9, help="stop before the schedule ends")
    plan = Plan(**vars(parser.parse_args()))
    plan.state.parent.mkdir(parents=True, exist_ok=True)
    launch(work, plan.processes, plan)


if __name__ == "__main__":
    main()
