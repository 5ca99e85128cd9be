"""Draws pictures and keeps their latents and captions: the data that the U-Net learns from.

Latents are the posterior means × 0.18215, (N, 4, S/8, S/8) float16, one file a size.

    python -m models.weft_tiny.encode build/weft_tiny/vae.pt build/weft_tiny --side 128
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from models.weft_tiny.autoencoder import LATENT_SCALE, new_autoencoder, posterior
from models.weft_tiny.pictures import picture
from models.weft_tiny.train_vae import to_unit
from models.weft_tiny.training import launch

# No seed below this one is used to train the autoencoder or to score.
FIRST_SEEDS = {128: 0, 192: 100_000_000, 256: 200_000_000}


def latents_path(folder: Path, side_px: int) -> Path:
    return folder / f"latents_{side_px}.pt"


@torch.no_grad()
def work(rank: int, vae_state: Path, folder: Path, side: int, count: int) -> None:
    """One process: encodes its share, the first one then joins them."""
    vae = new_autoencoder().eval()
    vae.load_state_dict(torch.load(vae_state, weights_only=True)["average"])
    share = range(rank, count, dist.get_world_size())
    size = 16 * 128 * 128 // side**2
    latents: list[Tensor] = []
    captions: list[str] = []
    for i in range(0, len(share), size):
        drawn = [picture(FIRST_SEEDS[side] + seed, side) for seed in share[i : i + size]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = posterior(vae, to_unit([p.pixels for p in drawn]))
        latents.append((found.mean.float() * LATENT_SCALE).half())
        captions += [p.caption for p in drawn]
        if rank == 0 and i // size % 100 == 0:
            print(f"{side} px: {i} of {len(share)}", flush=True)
    parts: list[tuple[Tensor, list[str]]] = [None] * dist.get_world_size()  # type: ignore[list-item]
    dist.all_gather_object(parts, (torch.cat(latents), captions))
    if rank == 0:
        joined = torch.cat([part for part, _ in parts])
        print("standard deviations", joined.float().std((0, 2, 3)).tolist())
        texts = [caption for _, part in parts for caption in part]
        torch.save({"latents": joined, "captions": texts}, latents_path(folder, side))


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode drawn pictures to latents.")
    parser.add_argument("vae", type=Path, help="state of train_vae")
    parser.add_argument("folder", type=Path, help="where the latents go")
    parser.add_argument("--side", type=int, choices=list(FIRST_SEEDS), default=128, help="pixels")
    parser.add_argument("--count", type=int, default=20_000, help="pictures")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    arguments = (options.vae, options.folder, options.side, options.count)
    launch(work, options.processes, *arguments)


if __name__ == "__main__":
    main()
