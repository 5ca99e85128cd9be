"""Putting a LoRA on and taking it off, against loading the checkpoint that it is put on.

On the device that Weft would choose; the checkpoint is that of the benchmark ``loading``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from .models import FILE
from .table import show

RANK = 32
ENDS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2")


def main() -> None:
    """Print seconds of the clock for each, and their share of loading."""
    import torch
    from safetensors.torch import save_file

    from executor.devices import Devices
    from executor.models.library import Library
    from executor.models.unet import UNet

    devices = Devices.choose()

    def timed(run: Callable[[], object]) -> float:
        began = perf_counter()
        run()
        if devices.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - began

    kept: list[object] = []

    def load() -> UNet:
        model = Library(devices).checkpoint(FILE).model
        assert isinstance(model, UNet)
        kept[:] = [model]
        return model

    loading = min(timed(load) for _ in range(2))
    model = load()
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in model.weights.shapes.items():
        module = name.removesuffix(".weight")
        if name != module and module.endswith(ENDS):
            square = [1] * len(shape[2:])
            tensors[f"unet.{module}.lora_A.weight"] = torch.randn(RANK, *shape[1:]).half()
            tensors[f"unet.{module}.lora_B.weight"] = torch.randn(shape[0], RANK, *square).half()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_file(tensors, path)
        library = Library(devices)
        reading = timed(lambda: kept.append(library.lora(path)))
        lora = library.lora(path)

        def put_on(strength: float) -> None:
            changed = lora.on_model(model, strength)
            assert isinstance(changed, UNet)
            kept.append(changed.network)

        first, *again = (timed(partial(put_on, strength)) for strength in (1.0, 0.5, 0.25))
        off = timed(lambda: model.network)
    rows = [
        [what, f"{seconds:.4f}", f"{100 * seconds / loading:.1f} %"]
        for what, seconds in (
            (f"loading {FILE.name}", loading),
            (f"reading a LoRA of rank {RANK} on {len(tensors) // 2} layers", reading),
            ("putting it on, the first time", first),
            ("putting it on with another strength", min(again)),
            ("taking it off", off),
        )
    ]
    show(f"LoRAs on {devices.device}", ("what", "seconds", "of loading"), rows)
