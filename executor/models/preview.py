"""What a latent will look like, before it is decoded: fast, small and approximate.

Either each latent pixel becomes one of the picture by a linear map (``latent_rgb``), or a tiny
decoder is used (TAESD, Ollin Boer Bohan 2023) where the user has its file. A checkpoint with a map
of its own has latents of its own, which such a decoder was not made for. Only the first row of a
batch is shown. When and for whom is not decided here.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from time import thread_time

import numpy as np
import torch
from diffusers.models.autoencoders.vae import DecoderTiny
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from executor.devices import Devices
from executor.errors import ModelFileError, PathError
from executor.models.families import LatentSpace
from executor.models.latent_rgb import PUBLISHED, LatentRgb, Method
from executor.models.load import load_preview_decoder
from executor.models.unet import UNet
from executor.ports import Autoencoder, DiffusionModel

log = logging.getLogger(__name__)

DECODERS: Mapping[LatentSpace, str] = {
    "sd": "taesd_decoder.safetensors",
    "sdxl": "taesdxl_decoder.safetensors",
}
"""The files of the tiny decoders, by their authors' names."""

LEAST_PX, MOST_PX = 256, 512  # of the longer side: others are enlarged or shrunk
JPEG_QUALITY = 85
MOST_DECODED = 128  # latent pixels a side; a tiny decoder takes 1 GiB at four times as many


@dataclass(frozen=True, slots=True)
class Drawing:
    """A preview, and what it took."""

    jpeg: bytes
    cost_s: float  # of the device that models run on


class Painter:
    """Draws previews on one device; used from one thread, beside the one that samples."""

    def __init__(self, devices: Devices, find: Callable[[str], Path]) -> None:
        """``find`` gives the file of that name in ``vae_approx``, or raises PathError."""
        self.devices, self._find = devices, find
        self._decoders: dict[tuple[Path, int], DecoderTiny | None] = {}  # None: it is broken
        self._missed: set[str] = set()
        is_cuda = devices.device.type == "cuda"
        self._stream = torch.cuda.Stream(devices.device) if is_cuda else None

    @torch.inference_mode()
    def draw(self, model: DiffusionModel, denoised: Tensor, method: Method) -> Drawing | None:
        """The picture that ``denoised`` (B, C, h, w) would become; None of an unknown space."""
        if not isinstance(model, UNet):
            return None
        means = self._means(model, method)
        began = thread_time()
        found, device_s = self._found(means, denoised[:1])
        picture = jpeg(colours(means, found) if isinstance(means, LatentRgb) else found)
        return Drawing(picture, thread_time() - began if device_s is None else device_s)

    def _found(
        self, means: LatentRgb | DecoderTiny, latents: Tensor
    ) -> tuple[NDArray[np.float32], float | None]:
        """On the host: the latents, or the pixels if it is the device that makes these of them.

        And the seconds that a GPU took for it.
        """
        if self._stream is None:
            return _on_host(means, latents), None
        # On a stream of its own it waits for the step that made the latents, not for those queued
        # since; the sampling thread waits for nothing.
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(self._stream):
            self._stream.wait_stream(torch.cuda.default_stream(self.devices.device))
            begin.record()
            found = _on_host(means, latents)
            end.record()
        end.synchronize()
        return found, begin.elapsed_time(end) / 1000

    def _means(self, model: UNet, method: Method) -> LatentRgb | DecoderTiny:
        """What turns this model's latents into colours."""
        if model.latent_rgb is not None:
            return model.latent_rgb
        space = model.family.latent_space
        # A CPU decodes for as long as it samples a step: only if the user wants it so.
        is_wanted = method == "taesd" or (method == "auto" and self.devices.device.type != "cpu")
        decoder = self._decoder(DECODERS[space], method) if is_wanted else None
        return decoder or PUBLISHED[space]

    def _decoder(self, name: str, method: Method) -> DecoderTiny | None:
        """The tiny decoder of that file, if it is there and whole; a new file is taken up."""
        try:
            path = self._find(name)
            key = path, path.stat().st_mtime_ns
        except (PathError, OSError) as error:
            if method == "taesd" and name not in self._missed:
                self._missed.add(name)
                log.warning("previews are drawn by latent2rgb instead of taesd: %s", error)
            return None
        if key not in self._decoders:
            try:
                self._decoders[key] = load_preview_decoder(path, self.devices)
            except ModelFileError as error:
                self._decoders[key] = None
                log.warning("previews are drawn by latent2rgb instead of taesd: %s", error)
        return self._decoders[key]


def colours(latent_rgb: LatentRgb, latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latents (B, C, h, w), scaled as the U-Net sees them, as colours (B, h, w, 3), not clamped.

    By NumPy: for so few numbers torch's threads take longer to wake than to compute.
    """
    factors = np.asarray(latent_rgb.factors, np.float32)  # (C, 3)
    return np.moveaxis(latents, 1, -1) @ factors + np.asarray(latent_rgb.bias, np.float32)


def decoded(decoder: DecoderTiny, latents: Tensor) -> Tensor:
    """The same latents by a tiny decoder: (B, 8h, 8w, 3), not clamped."""
    height, width = latents.shape[-2:]
    if max(height, width) > MOST_DECODED:
        scale = MOST_DECODED / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        latents = interpolate(latents.float(), size=size, mode="area")
    weight = next(decoder.parameters())
    pixels: Tensor = decoder(latents.to(weight))
    return (pixels.float().movedim(1, -1) + 1) / 2


def jpeg(pixels: NDArray[np.float32]) -> bytes:
    """The first of some pictures (B, H, W, 3), its longer side ``LEAST_PX`` to ``MOST_PX``.

    Values are clamped to [0, 1]; what is no number is black.
    """
    levels = np.nan_to_num(pixels[0]).clip(0, 1) * 255
    picture = Image.fromarray(levels.round().astype(np.uint8))
    longer = max(picture.size)
    wanted = min(max(longer, LEAST_PX), MOST_PX)
    if wanted != longer:
        width, height = (max(1, round(side * wanted / longer)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def fit(vae: Autoencoder, pictures: Tensor, latent_scale: float) -> LatentRgb:
    """The linear map that is right for these pictures (B, H, W, 3), in the sense of least squares.

    It is fitted to what the VAE makes of their latents, each latent pixel against the mean of the
    pixels that it stands for.
    """
    latents = vae.encode(pictures)  # (B, C, h, w)
    pixels = vae.decode(latents)  # (B, H, W, 3)
    factor = pixels.shape[1] // latents.shape[2]
    pixels = avg_pool2d(pixels.movedim(-1, 1), factor).movedim(1, -1)  # (B, h, w, 3)
    known = (latents * latent_scale).movedim(1, -1).reshape(-1, latents.shape[1]).double().cpu()
    known = torch.cat((known, known.new_ones(len(known), 1)), dim=1)  # (B · h · w, C + 1)
    found = torch.linalg.lstsq(known, pixels.reshape(-1, 3).double().cpu()).solution
    *factors, bias = (tuple(row) for row in found.tolist())
    return LatentRgb(tuple(factors), bias)


def _on_host(means: LatentRgb | DecoderTiny, latents: Tensor) -> NDArray[np.float32]:
    found = latents if isinstance(means, LatentRgb) else decoded(means, latents)
    return found.float().cpu().numpy()
