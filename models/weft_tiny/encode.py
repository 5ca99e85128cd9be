"""Draws pictures and keeps their latents and captions: the data that the U-Net learns from.

Latents are the posterior means × 0.18215, (N, 4, S/8, S/8) float16, one file a size. With
``--pairs`` every picture has another of its shape in other colours, "before".

    python -m models.weft_tiny.encode build/weft_tiny/vae.pt build/weft_tiny --side 128
    python -m models.weft_tiny.encode build/weft_tiny/vae.pt build/weft_tiny --pairs --count 1000
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from models.weft_tiny.autoencoder import LATENT_SCALE, new_autoencoder, posterior
from models.weft_tiny.pictures import Picture, picture, recoloured
from models.weft_tiny.train_vae import to_unit
from models.weft_tiny.training import launch

# No seed below this one is used to train the autoencoder or to score.
FIRST_SEEDS = {128: 0, 192: 100_000_000, 256: 200_000_000}
FIRST_PAIR_SEED = 300_000_000


def latents_path(folder: Path, side_px: int) -> Path:
    return folder / f"latents_{side_px}.pt"


def pairs_path(folder: Path) -> Path:
    return folder / "recoloured.pt"


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: Sequence[Picture], size: int) -> Tensor:
    """The scaled means, encoded ``size`` at a time."""
    parts: list[Tensor] = []
    for i in range(0, len(pictures), size):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = posterior(vae, to_unit([p.pixels for p in pictures[i : i + size]]))
        parts.append((found.mean.float() * LATENT_SCALE).half())
    return torch.cat(parts)


def work(rank: int, vae_state: Path, folder: Path, side: int, count: int, in_pairs: bool) -> None:
    """One process: encodes its share, the first one then joins them."""
    vae = new_autoencoder().eval()
    vae.load_state_dict(torch.load(vae_state, weights_only=True)["average"])
    latents: list[Tensor] = []
    before: list[Tensor] = []
    captions: list[str] = []
    share = range(rank, count, dist.get_world_size())
    size = 16 * 128 * 128 // side**2
    for i in range(0, len(share), size):
        seeds = share[i : i + size]
        if in_pairs:
            drawn = [recoloured(FIRST_PAIR_SEED + seed, side) for seed in seeds]
            before.append(latents_of(vae, [first for first, _ in drawn], size))
            pictures = [second for _, second in drawn]
        else:
            pictures = [picture(FIRST_SEEDS[side] + seed, side) for seed in seeds]
        latents.append(latents_of(vae, pictures, size))
        captions += [p.caption for p in pictures]
        if rank == 0 and i // size % 100 == 0:
            print(f"{side} px: {i} of {len(share)}", flush=True)
    mine = {"latents": torch.cat(latents), "captions": captions}
    if in_pairs:
        mine["before"] = torch.cat(before)
    parts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, mine)
    if rank == 0:
        result = {
            name: torch.cat([part[name] for part in parts]) for name in mine if name != "captions"
        }
        print("standard deviations", result["latents"].float().std((0, 2, 3)).tolist())
        texts = [caption for part in parts for caption in part["captions"]]
        path = pairs_path(folder) if in_pairs else latents_path(folder, side)
        torch.save({**result, "captions": texts}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode drawn pictures to latents.")
    parser.add_argument("vae", type=Path, help="state of train_vae")
    parser.add_argument("folder", type=Path, help="where the latents go")
    parser.add_argument("--side", type=int, choices=list(FIRST_SEEDS), default=128, help="pixels")
    parser.add_argument("--count", type=int, default=20_000, help="pictures")
    parser.add_argument(
        "--pairs", action="store_true", help="pictures before and after recolouring"
    )
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    arguments = (options.vae, options.folder, options.side, options.count, options.pairs)
    launch(work, options.processes, *arguments)


if __name__ == "__main__":
    main()
