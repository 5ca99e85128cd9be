"""The networks of upscalers: ESRGAN's, Real-ESRGAN's, and the compact one.

Built from the papers; the names of their tensors are those of Real-ESRGAN's files. Pictures are
(B, C, H, W) in [0, 1] on both sides, and what comes out may overshoot a little.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, pixel_shuffle, pixel_unshuffle

_SLOPE = 0.2  # of the leaky ReLU
_MULTIPLE = 4  # that sides are continued to, as spandrel does, where pixels become channels
_RESIDUAL = 0.2  # what each residual is multiplied with (Wang et al. 2018, section 3.1)


class DenseBlock(nn.Module):
    """Five convolutions, each of all that was before it (Wang et al. 2018, figure 4)."""

    def __init__(self, filters: int, growth: int) -> None:
        super().__init__()
        for index in range(5):
            out = filters if index == 4 else growth
            conv = nn.Conv2d(filters + index * growth, out, 3, padding=1)
            self.add_module(f"conv{index + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        """(B, filters, H, W) → the same shape."""
        *inner, last = self.children()
        known = x
        for conv in inner:
            known = torch.cat([known, leaky_relu(conv(known), _SLOPE, inplace=True)], dim=1)
        return x + _RESIDUAL * last(known)


class ResidualInResidual(nn.Module):
    """Three dense blocks, and what they were given beside them."""

    def __init__(self, filters: int, growth: int) -> None:
        super().__init__()
        for index in range(3):
            self.add_module(f"rdb{index + 1}", DenseBlock(filters, growth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, filters, H, W) → the same shape."""
        y = x
        for block in self.children():
            y = block(y)
        return x + _RESIDUAL * y


class RRDBNet(nn.Module):
    """ESRGAN's generator (Wang et al. 2018), and Real-ESRGAN's (Wang et al. 2021).

    The latter keep the size of the network's inside for smaller factors: pixels are first put into
    channels, ``unshuffle`` × ``unshuffle`` of them, then enlarged like any others.
    """

    def __init__(
        self,
        *,
        channels: int,
        filters: int,
        growth: int,
        blocks: int,
        doublings: int,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        self.conv_first = nn.Conv2d(channels * unshuffle**2, filters, 3, padding=1)
        self.body = nn.Sequential(*(ResidualInResidual(filters, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(filters, filters, 3, padding=1)
        self.doublings = [f"conv_up{index + 1}" for index in range(doublings)]
        for name in self.doublings:
            self.add_module(name, nn.Conv2d(filters, filters, 3, padding=1))
        self.conv_hr = nn.Conv2d(filters, filters, 3, padding=1)
        self.conv_last = nn.Conv2d(filters, channels, 3, padding=1)

    @property
    def scale(self) -> int:
        """How many pixels there are for one, along each side."""
        return 2 ** len(self.doublings) // self.unshuffle

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, scale · H, scale · W)."""
        height, width = x.shape[2:]
        x = self.conv_first(self._unshuffled(x))
        x = x + self.conv_body(self.body(x))
        for name in self.doublings:
            x = interpolate(x, scale_factor=2, mode="nearest")
            x = leaky_relu(self.get_submodule(name)(x), _SLOPE, inplace=True)
        x = self.conv_last(leaky_relu(self.conv_hr(x), _SLOPE, inplace=True))
        return x[:, :, : height * self.scale, : width * self.scale]

    def _unshuffled(self, x: Tensor) -> Tensor:
        """Pixels as channels; the picture is continued to a multiple first, by its mirror image."""
        if self.unshuffle == 1:
            return x
        below, right = (-side % _MULTIPLE for side in x.shape[2:])
        # A mirror image is as large as what it mirrors, less the border.
        mirrored_below, mirrored_right = min(below, x.shape[2] - 1), min(right, x.shape[3] - 1)
        x = pad(x, (0, mirrored_right, 0, mirrored_below), mode="reflect")
        x = pad(x, (0, right - mirrored_right, 0, below - mirrored_below), mode="replicate")
        return pixel_unshuffle(x, self.unshuffle)


class Compact(nn.Module):
    """A plain stack at the small size, added to the picture's nearest pixels (Real-ESRGAN's).

    The layers lie in ``body``: a convolution and its PReLU, alternately, and a convolution whose
    channels become pixels (Shi et al. 2016).
    """

    def __init__(self, *, channels: int, filters: int, layers: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.ModuleList([nn.Conv2d(channels, filters, 3, padding=1), nn.PReLU(filters)])
        for _ in range(layers):
            self.body += [nn.Conv2d(filters, filters, 3, padding=1), nn.PReLU(filters)]
        self.body.append(nn.Conv2d(filters, channels * scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, scale · H, scale · W)."""
        y = x
        for layer in self.body:
            y = layer(y)
        return pixel_shuffle(y, self.scale) + interpolate(x, scale_factor=self.scale)
