"""Trains the tiny autoencoder on pictures that are drawn as it goes.

The loss is L1, half the L1 of the gradients (edges), the mean square and a little KL towards the
unit normal. With ``--start`` it goes on from the autoencoder of a checkpoint and is held near that
one's latents (``--anchor``), so that a U-Net trained on them stays useful; else the latents are
whitened at the end.

    python -m models.weft_tiny.train_vae build/weft_tiny/vae.pt --steps 4000 --processes 2
"""

import argparse
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn

from models.weft_tiny import autoencoder, layout
from models.weft_tiny.autoencoder import LATENT_SCALE, decoded, posterior
from models.weft_tiny.pictures import picture
from models.weft_tiny.training import Learner, cosine, launch, seeded

logger = logging.getLogger(__name__)

CROP_PX = 64
# Seeds of the pictures; encode.py's and score.py's are elsewhere.
FIRST_SEED, HELD_OUT_SEED = 1_000_000_000, 900_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line says."""

    state: Path
    start: Path | None
    steps: int
    processes: int
    adam_rate: float
    muon_rate: float
    anchor: float
    crops: float
    until: int

    @property
    def last_step(self) -> int:
        return min(self.steps, self.until)


def to_unit(pixels: list[np.ndarray]) -> Tensor:
    """Pixels as (B, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def batch(step: int, rank: int, plan: Plan) -> Tensor:
    """Sixteen crops, or four whole pictures: as many pixels, seen in another context."""
    rng = random.Random(f"{step} {rank}")
    first = FIRST_SEED + (step * plan.processes + rank) * 16
    if rng.random() > plan.crops:
        return to_unit([picture(first + i, 128).pixels for i in range(4)])
    crops: list[np.ndarray] = []
    for i in range(16):
        side = rng.choice([128, 128, 192, 256])
        top, left = rng.randrange(side - CROP_PX + 1), rng.randrange(side - CROP_PX + 1)
        pixels = picture(first + i, side).pixels
        crops.append(pixels[top : top + CROP_PX, left : left + CROP_PX])
    return to_unit(crops)


def edges(error: Tensor) -> Tensor:
    """Mean absolute difference of neighbours."""
    down, right = error.diff(dim=2), error.diff(dim=3)
    return down.abs().mean() + right.abs().mean()


def loss_of(
    vae: AutoencoderKL,
    old: AutoencoderKL | None,
    pictures: Tensor,
    plan: Plan,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """The loss, and the plain L1 for the log."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = posterior(vae, pictures)
    mean, log_variance = found.mean.float(), found.logvar.float()
    noise = torch.randn(mean.shape, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = decoded(vae, mean + noise * (0.5 * log_variance).exp())
    error = result.float() - pictures
    l1 = error.abs().mean()
    unit_mean = mean * LATENT_SCALE
    unit_log = log_variance + 2 * np.log(LATENT_SCALE)
    kl = 0.5 * (unit_mean.square() + unit_log.exp() - 1 - unit_log).mean()
    loss = l1 + 0.5 * edges(error) + error.square().mean() + 2e-4 * kl
    if old is not None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            before = posterior(old, pictures).mean.float() * LATENT_SCALE
        loss = loss + plan.anchor * (unit_mean - before).square().mean()
    return loss, l1.detach()


def is_hidden(name: str, weight: nn.Parameter) -> bool:
    """Whether Muon trains a weight."""
    outer = ("conv_in", "decoder.conv_out", "quant_conv")
    return weight.ndim >= 2 and not any(part in name for part in outer)


def held_out(count: int, side: int = 128) -> Tensor:
    """Pictures that training never sees."""
    return to_unit([picture(HELD_OUT_SEED + i, side).pixels for i in range(count)])


@torch.no_grad()
def measured_psnr_db(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean PSNR of what the autoencoder makes of the pictures, from the latents' means."""
    parts = [
        autoencoder.psnr_db(part, decoded(vae, posterior(vae, part).mean))
        for part in pictures.split(8)
    ]
    return torch.cat(parts).mean().item()


def from_checkpoint(path: Path) -> AutoencoderKL:
    """The autoencoder of a checkpoint in the original layout."""
    vae = autoencoder.new_autoencoder()
    weights = layout.vae_from_file(load_file(path), len(autoencoder.WIDTHS), autoencoder.LAYERS)
    vae.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return vae


def work(rank: int, plan: Plan) -> None:
    """One process of the training."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    old = None
    if plan.start:
        vae, old = from_checkpoint(plan.start), from_checkpoint(plan.start).eval()
    else:
        vae = autoencoder.new_autoencoder()
        autoencoder.start_near_linear(vae)
    learner = Learner(
        vae,
        is_hidden,
        adam_rate=plan.adam_rate,
        muon_rate=plan.muon_rate,
        decay=0.995,
        clip=1.0,
    )
    if plan.state.exists():
        learner.resume(plan.state)
    probe, shown = held_out(32), autoencoder.new_autoencoder().eval()
    recent: list[float] = []
    since = time.monotonic()
    while learner.step < plan.last_step:
        step = learner.step
        rng = seeded(step, rank)
        loss, l1 = loss_of(vae, old, batch(step, rank, plan), plan, rng)
        learner.learn(loss, cosine(step, plan.steps))
        recent.append(l1.item())
        if rank == 0 and learner.step % 50 == 0:
            seconds = (time.monotonic() - since) / 50
            logger.info("%d L1 %.4f, %.2f s a step", learner.step, np.mean(recent), seconds)
            recent, since = [], time.monotonic()
        if rank == 0 and (learner.step % 200 == 0 or learner.step == plan.last_step):
            learner.save(plan.state)
            shown.load_state_dict(learner.average)
            logger.info("%d PSNR %.2f dB", learner.step, measured_psnr_db(shown, probe))
            since = time.monotonic()
    if rank == 0 and not plan.start and learner.step == plan.steps:
        autoencoder.whiten(shown, held_out(256))
        learner.average = shown.state_dict()
        learner.save(plan.state)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tiny autoencoder.")
    parser.add_argument("state", type=Path, help="where the run is kept; goes on if it is there")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--adam-rate", type=float, default=6e-4)
    parser.add_argument("--muon-rate", type=float, default=0.004)
    parser.add_argument("--anchor", type=float, default=0.1, help="weight of the old latents")
    parser.add_argument("--crops", type=float, default=0.5, help="share of steps on crops")
    parser.add_argument("--until", type=int, default=10**9, help="stop before the schedule ends")
    plan = Plan(**vars(parser.parse_args()))
    plan.state.parent.mkdir(parents=True, exist_ok=True)
    launch(work, plan.processes, plan)


if __name__ == "__main__":
    main()
