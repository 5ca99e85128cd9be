"""Self-attention done otherwise for the length of a forward pass.

What computes the attention of diffusers' modules can be exchanged; here it is put inside something
that may change what the tokens ask, what they see and what comes out, and afterwards put back.
Patches of this kind can be nested: the first that a model was given sees the tokens first.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from executor.models.unet_blocks import Transformers

Inner: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The attention as it would be: what tokens (B, N, D) find in others (B, M, D)."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where in a network an attention is, and of what size the picture is there."""

    attention: Any  # diffusers' ``Attention``: projections, heads
    index: int  # among those that are changed, in the order of a forward pass
    height: int  # in tokens
    width: int


Attend: TypeAlias = Callable[[Tensor, Tensor, Inner, Place], Tensor]
"""An attention done otherwise: what tokens (B, N, D) find in others (B, M, D), which are all of the
picture. The tokens are as well, unless another patch has taken them apart before."""


@contextmanager
def attending(groups: Sequence[Transformers], attend: Attend) -> Generator[None]:
    """While this holds, the self-attentions of these transformers are done by ``attend``."""
    replaced: list[tuple[Any, Any]] = []  # an attention, and what computed it
    handles: list[RemovableHandle] = []
    try:
        for group in groups:
            size = _Size()
            handles.append(group.spatial.register_forward_pre_hook(size.note))
            attention: Any
            for attention in group.self_attentions:
                inner = attention.processor
                attention.processor = _Processor(attend, inner, size, len(replaced))
                replaced.append((attention, inner))
        yield
    finally:
        for attention, inner in reversed(replaced):
            attention.processor = inner
        for handle in handles:
            handle.remove()


class _Size:
    """The size of the picture that a transformer was given last."""

    height = width = 0

    def note(self, module: object, args: tuple[Tensor, ...]) -> None:
        self.height, self.width = args[0].shape[-2:]


class _Processor:
    """What diffusers' ``Attention`` asks to compute (its ``processor``)."""

    def __init__(self, attend: Attend, inner: Any, size: _Size, index: int) -> None:
        self.attend, self.inner, self.size, self.index = attend, inner, size, index

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None, "U-Nets are called without masks"

        def inner(tokens: Tensor, others: Tensor) -> Tensor:
            return self.inner(attn, tokens, encoder_hidden_states=others)

        others = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        place = Place(attn, self.index, self.size.height, self.size.width)
        return self.attend(hidden_states, others, inner, place)
