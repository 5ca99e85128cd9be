"""Loading a checkpoint against reading its file; a U-Net step against the plain diffusers module.

``WEFT_BENCH_CHECKPOINT`` names a checkpoint of real size (``tests.agreement.checkpoint`` writes
one); without it the shipped one is measured, which is small.
"""

import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from executor.paths import SHIPPED_MODELS

from .table import best_of, show

FILE = Path(
    os.environ.get("WEFT_BENCH_CHECKPOINT")
    or SHIPPED_MODELS / "checkpoints" / "weft-tiny.safetensors"
)


def loading() -> None:
    """Print seconds and peak memory of loading, each in a process of its own, beside the floor."""
    file_mb = FILE.stat().st_size / 1e6
    rows: list[list[object]] = []
    for what, how in (
        ("safetensors alone, kept as it is", "floor kept"),
        ("Weft, kept as it is", "weft kept"),
        ("safetensors alone, kept, every page read", "floor kept read"),
        ("Weft, kept, every weight there and read", "weft kept read"),
        ("Weft, float32", "weft float32"),
        ("safetensors alone, cast to float32", "floor float32 read"),
        ("Weft, float32, every weight there and read", "weft float32 read"),
    ):
        runs = [_one(how) for _ in range(3)]
        seconds, private, peak = (min(run[at] for run in runs) for at in range(3))
        in_files = f"{peak / file_mb:.2f}"
        rows.append([what, f"{seconds:.2f}", f"{private:.0f}", f"{peak:.0f}", in_files])
    heads = ("how", "CPU seconds", "private MB", "peak MB, file's pages included", "× file")
    show(f"Loading {FILE.name} ({file_mb:.0f} MB, in the page cache)", heads, rows)


def _one(how: str) -> tuple[float, ...]:
    """CPU seconds, private memory and peak memory (MB) of one way to load, in a fresh process."""
    command = [sys.executable, "-m", "tests.benchmarks.models", *how.split()]
    return tuple(map(float, subprocess.check_output(command, text=True).split()))


def _load(loader: str, precision: str, *further: str) -> None:
    """Load in this process and print what it took."""
    import torch
    from safetensors import safe_open
    from torch import Tensor

    from executor.devices import Devices
    from executor.models.load import load_checkpoint
    from executor.models.text import ClipText
    from executor.models.unet import UNet
    from executor.models.vae import Autoencoder
    from executor.presence import present

    kept: list[object] = []  # so that peak memory is that of all together

    def read(tensors: Iterable[Tensor]) -> None:
        """A number of every page, so that it must be in memory."""
        for tensor in tensors if "read" in further else ():
            tensor.reshape(-1)[::1024].sum()

    def floor() -> None:
        with safe_open(FILE, "pt") as file:
            tensors: list[Tensor] = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - no mapping
        kept.append([t.float() for t in tensors] if precision == "float32" else tensors)
        read(tensors)

    def weft() -> None:
        dtype = torch.float16 if precision == "kept" else None
        devices = Devices(torch.device("cpu"), dtype).limited(None)
        model, clip, vae = load_checkpoint(FILE, devices)
        assert isinstance(model, UNet)
        assert isinstance(clip, ClipText)
        assert isinstance(vae, Autoencoder)
        kept.extend((model, clip, vae))
        for network in (model.network, *(tower.network for tower in clip.towers), vae.network):
            if "read" in further:
                with present(network):
                    read(network.parameters())

    with suppress(OSError):  # where the kernel can, let the peak begin anew
        Path("/proc/self/clear_refs").write_text("5")
    resident, private = _memory_mb("VmRSS"), _memory_mb("RssAnon")
    seconds = best_of(1, floor if loader == "floor" else weft)
    peak = _memory_mb("VmHWM") - resident
    sys.stdout.write(f"{seconds} {_memory_mb('RssAnon') - private} {peak}")


def _memory_mb(entry: str) -> float:
    """An entry of Linux' account of this process; elsewhere its peak memory."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[entry].split()[0]) * 1024 / 1e6


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
    _load(*sys.argv[1:])
