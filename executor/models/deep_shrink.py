"""Kohya's deep shrink (2023): a large picture's first steps are done with smaller features inside.

From one block on, the features are scaled down, and on the way up scaled again to meet each skip
connection; so the network sees the whole composition at the size that it was trained on. Only while
there is much noise. The rules are ComfyUI's, with what steers the network besides: residuals of
ControlNets and adapters that meet scaled features, of another size than theirs, are left out
(adapters' by ``unet_pass``, which adds them where they fit).
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from executor.models.unet_blocks import Blocks, blocks
from executor.patches import NetworkPatch, Rows
from executor.resampling import Method, resize


@dataclass(frozen=True, slots=True)
class DeepShrink(NetworkPatch):
    """Smaller features behind an input block, from one sigma down to another."""

    block: int  # of the original layout's numbers
    factor: float
    start_sigma: float
    end_sigma: float
    spares_skip: bool  # the block's own skip connection is not scaled
    down: Method
    up: Method

    def holds(self, sigma: float) -> bool:
        """Between the two, ends included."""
        return self.end_sigma <= sigma <= self.start_sigma

    @contextmanager
    def applied(self, network: Any, rows: Rows) -> Generator[None]:
        """While this holds, the network computes on smaller features."""
        found = blocks(network)
        if self.block >= len(found.inputs):
            yield
            return
        with ExitStack() as stack:
            for handle in (
                *self._scaled_down(found),
                *_scaled_up(found, self.up),
                network.register_forward_pre_hook(self._without_misfits, with_kwargs=True),
            ):
                stack.callback(handle.remove)
            yield

    def _scaled_down(self, found: Blocks) -> list[RemovableHandle]:
        """Scale what the block gives: all of it, or what it gives to the next block."""
        block = found.inputs[self.block]

        def scaled(features: Tensor) -> Tensor:
            height, width = (round(side / self.factor) for side in features.shape[-2:])
            return resize(features, max(1, width), max(1, height), self.down)

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return scaled(args[0]), *args[1:]

        if self.spares_skip:
            return [block.following.register_forward_pre_hook(before)]
        return [block.last.register_forward_hook(_changing(scaled))]

    def _without_misfits(
        self, network: Any, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Leave out residuals for places where features are smaller."""
        first = self.block + self.spares_skip  # skip connection that is
        named = dict(named)
        if skips := named.get("down_block_additional_residuals"):
            kept = [_nothing(one) if at >= first else one for at, one in enumerate(skips)]
            named["down_block_additional_residuals"] = kept
            named["mid_block_additional_residual"] = _nothing(
                named["mid_block_additional_residual"]
            )
        return args, named


def _scaled_up(found: Blocks, method: Method) -> list[RemovableHandle]:
    """Bring what meets a skip connection to that one's size."""
    sizes: list[tuple[int, int]] = []  # of the skip connections that are yet to be met

    def note(features: Tensor) -> Tensor:
        sizes.append((features.shape[-2], features.shape[-1]))
        return features

    def meet(features: Tensor) -> Tensor:
        height, width = sizes.pop()
        if features.shape[-2:] == (height, width):
            return features
        return resize(features, width, height, method)

    def enlarge(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args[0], sizes[-1]

    handles = [block.last.register_forward_hook(_changing(note)) for block in found.inputs]
    for block in found.outputs:
        if block.is_upsampled:
            handles.append(block.before.register_forward_pre_hook(enlarge))
        handles.append(block.before.register_forward_hook(_changing(meet)))
    return handles


def _changing(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], Any]:
    """A hook that changes what a module gives: features, or a tuple that begins with them."""

    def hook(module: nn.Module, args: Any, given: Any) -> Any:
        if isinstance(given, tuple):
            return change(given[0]), *given[1:]
        return change(given)

    return hook


def _nothing(residual: Tensor) -> Tensor:
    """Zeros that fit features of any size; a residual that does so itself is kept."""
    is_pooled = residual.shape[-2:] == (1, 1)
    return residual if is_pooled else residual.new_zeros(1, 1, 1, 1)
