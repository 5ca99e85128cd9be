"""Loading a checkpoint against reading its file; a U-Net step against the plain diffusers module.

``WEFT_BENCH_CHECKPOINT`` names a checkpoint of real size (``tests.agreement.checkpoint`` writes
one); without it the shipped one is measured, which is small.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

from executor.paths import SHIPPED_MODELS

from .table import best_of, show

FILE = Path(
    os.environ.get("WEFT_BENCH_CHECKPOINT")
    or SHIPPED_MODELS / "checkpoints" / "weft-tiny.safetensors"
)


def loading() -> None:
    """Print seconds and peak memory of loading, each in a process of its own, beside the floor."""
    rows: list[list[object]] = []
    for what, how in (
        ("safetensors alone, kept as it is", "floor"),
        ("Weft, kept as it is", "kept"),
        ("safetensors alone, cast to float32", "floor32"),
        ("Weft, float32", "float32"),
    ):
        runs = [_one(how) for _ in range(3)]
        seconds, peak = min(run[0] for run in runs), min(run[1] for run in runs)
        rows.append([what, f"{seconds:.2f}", f"{peak:.0f}"])
    size = FILE.stat().st_size / 1e6
    heads = ("how", "CPU seconds", "anonymous memory, peak MB")
    show(f"Loading {FILE.name} ({size:.0f} MB, in the page cache)", heads, rows)


def _one(how: str) -> tuple[float, float]:
    """CPU seconds and peak private memory (MB) of one way to load, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.models", how]
    seconds, peak = subprocess.check_output(command, text=True).split()
    return float(seconds), float(peak)


def _load(how: str) -> None:
    """Load in this process and print what it took."""
    import torch
    from safetensors import safe_open

    from executor.devices import Devices
    from executor.models.load import load_checkpoint

    dtype = torch.float16 if how == "kept" else None

    def load() -> object:
        if how.startswith("floor"):
            with safe_open(FILE, "pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            if how == "floor32":
                return {name: tensor.float() for name, tensor in tensors.items()}
            return tensors
        return load_checkpoint(FILE, Devices(torch.device("cpu"), dtype))

    before = _private_mb()
    kept: list[object] = []
    seconds = best_of(1, lambda: kept.append(load()))
    sys.stdout.write(f"{seconds} {_private_mb() - before}")


def _private_mb() -> float:
    """Memory of this process that no file backs, at its peak where the system tells."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["RssAnon"].split()[0]) / 1e3


def unet() -> None:
    """Print CPU seconds of a forward pass: through ``denoise``, and the network alone."""
    import torch

    from executor.devices import Devices
    from executor.models.load import load_checkpoint
    from executor.models.unet import UNet
    from executor.steps import Inputs

    model = load_checkpoint(FILE, Devices(torch.device("cpu"))).model
    assert isinstance(model, UNet)
    rows: list[list[object]] = []
    width = model.network.config["cross_attention_dim"]
    for pixels in (64, 128, 256):
        for batch in (1, 2, 8):
            x = torch.randn(batch, 4, pixels // 8, pixels // 8)
            tokens, sigma = torch.randn(batch, 77, width), torch.full((batch,), 2.0)
            with torch.inference_mode():
                alone = best_of(
                    3, lambda x=x, tokens=tokens: model.network(x, 500, tokens, return_dict=False)
                )
                ours = best_of(
                    3,
                    lambda x=x, s=sigma, tokens=tokens: model.denoise(x, s, Inputs(tokens)),
                )
            rows.append([pixels, batch, f"{alone:.4f}", f"{ours:.4f}", f"{ours / alone:.2f}"])
    heads = ("pixels", "batch", "diffusers alone", "denoise", "ratio")
    show(f"CPU seconds of one evaluation of {FILE.name}", heads, rows)


if __name__ == "__main__":
    _load(sys.argv[1])
