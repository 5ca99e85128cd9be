"""What both trainings share: processes that average gradients, the schedule, the averaged weights.

A run is a state file: start it again and it goes on from there, to the same weights, because every
step draws from its own seed. One thread a process is 2-4 times faster than OpenMP on few cores.
"""

import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from models.weft_tiny.muon import Muon


def launch(worker: Callable[..., None], processes: int, *arguments: object) -> None:
    """Runs ``worker(rank, *arguments)`` in processes that can average their gradients."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        spawn(joined, (worker, processes, meeting, arguments), nprocs=processes)


def joined(
    rank: int,
    worker: Callable[..., None],
    processes: int,
    meeting: str,
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    worker(rank, *arguments)
    dist.destroy_process_group()


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def cosine(step: int, steps: int, warm_up: int = 40, floor: float = 0.02) -> float:
    """The share of the full learning rate at a step: up in a line, down along a cosine."""
    falling = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))
    return min(1.0, (step + 1) / warm_up) * (floor + (1 - floor) * falling)


def seeded(*numbers: int) -> torch.Generator:
    """A generator whose draws depend on these numbers only."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % 2**63
    return torch.Generator().manual_seed(mixed)


class Learner:
    """A model, its two optimisers and the running average of its weights, which is the result."""

    def __init__(
        self,
        model: nn.Module,
        is_hidden: Callable[[str, nn.Parameter], bool],
        *,
        adam_rate: float,
        muon_rate: float,
        decay: float,
        clip: float,
    ) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.model, self.decay, self.clip, self.step = model, decay, clip, 0
        self.parameters = [p for _, p in named]
        rest = [p for n, p in named if not is_hidden(n, p)]
        self.optimisers: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon((p for n, p in named if is_hidden(n, p)), lr=muon_rate), muon_rate),
            (
                torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=1e-3),
                adam_rate,
            ),
        ]
        self.average = {k: v.clone() for k, v in self._floats()}

    def _floats(self) -> Iterable[tuple[str, Tensor]]:
        return ((k, v) for k, v in self.model.state_dict().items() if v.is_floating_point())

    def learn(self, loss: Tensor, rate: float) -> None:
        """One step down the gradient of the loss, at a share of the full rate."""
        for optimiser, full_rate in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * full_rate
        loss.backward()
        average_gradients(self.parameters)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for optimiser, _ in self.optimisers:
            optimiser.step()
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self._floats():
                self.average[name].lerp_(weight, 1 - keep)

    def save(self, path: Path, **extra: Any) -> None:
        """Writes all that a later start needs, and ``extra``; never leaves half a file."""
        state: dict[str, Any] = extra | {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": [o.state_dict() for o, _ in self.optimisers],
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step, self.average = state["step"], state["average"]
        self.model.load_state_dict(state["model"])
        for (optimiser, _), saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
