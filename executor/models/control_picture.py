"""Pictures as control networks read them: of the latent's size, of as many channels as they take.

ComfyUI's rules: the middle of the picture that has the latent's proportions, its nearest pixels.
"""

from torch import Tensor

from executor.errors import InputError
from executor.resampling import resize


def control_picture(picture: Tensor, height: int, width: int, channels: int) -> Tensor:
    """(B, H, W, C) → (B, ``channels``, ``height``, ``width``).

    Grey pictures have three equal colours, an alpha channel is left off, and a network of one
    channel reads the mean of the colours. Raises InputError for other numbers of channels.
    """
    if picture.shape[-1] not in (1, 3, 4):
        raise InputError(
            f"a picture that steers has 1, 3 or 4 channels; this one has {picture.shape[-1]}"
        )
    pixels = picture[..., :3].movedim(-1, 1)  # (B, 1 or 3, H, W)
    pixels = resize(pixels, width, height, "nearest-exact", "center")
    if channels == 1:
        return pixels.mean(dim=1, keepdim=True)
    return pixels.expand(-1, channels, -1, -1) if pixels.shape[1] == 1 else pixels
