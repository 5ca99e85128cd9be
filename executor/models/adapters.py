"""What a LoRA does to one weight: a few small tensors that stand for a change of a large one.

Each kind is a frozen value that gives ``weight + strength · Δ`` in float32, as ComfyUI does; it
never writes to the weight, which it takes on whatever device that is. Factors stay as the file has
them until then; those that do not fit each other are refused at once, with a ValueError.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
from torch import Tensor


class Adapter(Protocol):
    """A change of one weight."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of the weight, None where any size will do; a convolution's may be that of a matrix."""
        ...

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        """weight + strength · Δ, a new float32 tensor; ``weight`` is float32."""
        ...


def fits(adapter: Adapter, shape: Sequence[int]) -> bool:
    """Whether a weight of this shape can be changed: a 1×1 convolution is a linear map."""
    if isinstance(adapter, Decomposed) and adapter.magnitude.numel() not in shape[:2]:
        return False
    known = [size for size in adapter.shape if size is not None]
    if len(known) < len(adapter.shape):
        return all(a in (None, b) for a, b in zip(adapter.shape, shape, strict=False))
    return known[0] == shape[0] and prod(known) == prod(shape)


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """Δ = scale · B A (Hu et al. 2021, eq. 3), of a convolution by its 1×1 factor B.

    With ``core``, the kernel of a convolution between the two (LoCon's Tucker form), A and B are
    1×1 both: Δ[o, i, k, l] = Σ B[o, p] core[p, q, k, l] A[q, i].
    """

    up: Tensor  # B: (out, r) or (out, r, 1, 1)
    down: Tensor  # A: (r, in), or (r, in, k, l), or with a core (r, in, 1, 1)
    scale: float = 1.0  # alpha / r
    core: Tensor | None = None  # (r, r, k, l)

    def __post_init__(self) -> None:
        up = self.up.transpose(0, 1) if self.up.ndim > 1 else self.up
        _check_ranks(up.shape, self.down.shape, self.core)

    @property
    def shape(self) -> tuple[int | None, ...]:
        kernel = self.down.shape[2:] if self.core is None else self.core.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        up, down = _matrix(self.up, weight), _matrix(self.down, weight)
        if self.core is not None:
            core = _like(self.core, weight)
            down = torch.einsum("pqkl,qi->pikl", core, down).flatten(1)
        flat = weight.reshape(len(weight), -1)
        return torch.addmm(flat, up, down, alpha=strength * self.scale).reshape(weight.shape)


@dataclass(frozen=True, slots=True, eq=False)
class HadamardProduct:
    """LoHa: Δ = scale · (B₁ A₁) ⊙ (B₂ A₂) (Hyeon-Woo et al. 2022, eq. 3).

    With cores, each product is a convolution's in Tucker form, as in their Proposition 3.
    """

    first: tuple[Tensor, Tensor]  # (out, r) and (r, in·k·l); with a core (r, out) and (r, in)
    second: tuple[Tensor, Tensor]
    scale: float = 1.0  # alpha / r
    cores: tuple[Tensor, Tensor] | None = None  # (r, r, k, l) each

    def __post_init__(self) -> None:
        one, other = (
            _shape_of_product(pair, core)
            for pair, core in zip((self.first, self.second), self._cores, strict=True)
        )
        if one != other:
            raise ValueError(f"{size(one)} and {size(other)} have no product number by number")

    @property
    def shape(self) -> tuple[int | None, ...]:
        return _shape_of_product(self.first, self._cores[0])

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        one, other = (
            _product(pair, core, weight)
            for pair, core in zip((self.first, self.second), self._cores, strict=True)
        )
        delta = (one * other).reshape(weight.shape)
        return torch.add(weight, delta, alpha=strength * self.scale)

    @property
    def _cores(self) -> tuple[Tensor | None, Tensor | None]:
        return self.cores or (None, None)


@dataclass(frozen=True, slots=True, eq=False)
class KroneckerProduct:
    """LoKr: Δ = scale · C ⊗ D, each whole or of low rank (Yeh et al. 2023)."""

    left: tuple[Tensor] | tuple[Tensor, Tensor]  # C whole: (o₁, i₁); or (o₁, r) and (r, i₁)
    right: tuple[Tensor] | tuple[Tensor, Tensor]  # D: (o₂, i₂ …), or two; with a core (r, o₂) …
    scale: float = 1.0  # alpha / r, or 1 where both are whole
    core: Tensor | None = None  # of D: (r, r, k, l)

    def __post_init__(self) -> None:
        if len(self._sides[0]) != 2 or len(self._sides[1]) < 2:
            raise ValueError(f"{size(self._sides[0])} and {size(self._sides[1])} have no product")

    @property
    def shape(self) -> tuple[int | None, ...]:
        left, right = self._sides
        return (left[0] * right[0], left[1] * right[1], *right[2:])

    @property
    def _sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of C and D."""
        left, right = self.left, self.right
        return (
            tuple(left[0].shape) if len(left) == 1 else _shape_of_product(left, None),
            tuple(right[0].shape) if len(right) == 1 else _shape_of_product(right, self.core),
        )

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        left = _whole(self.left, None, weight)
        right = _whole(self.right, self.core, weight)
        left = left[:, None, :, None, *[None] * (right.ndim - 2)]  # (o₁, 1, i₁, 1, 1 …)
        delta = (left * right[None, :, None]).reshape(weight.shape)  # from (o₁, o₂, i₁, i₂ …)
        return torch.add(weight, delta, alpha=strength * self.scale)


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Δ itself, as files hold it of norms, of biases, and where nothing smaller would do."""

    delta: Tensor

    @property
    def shape(self) -> tuple[int | None, ...]:
        return tuple(self.delta.shape)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        return torch.add(weight, _like(self.delta, weight).reshape(weight.shape), alpha=strength)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """(IA)³: Δ = W ⊙ s, one number for each input or output (Liu et al. 2022)."""

    factors: Tensor  # as many as there are of them, in any shape
    is_of_inputs: bool

    @property
    def shape(self) -> tuple[int | None, ...]:
        count = self.factors.numel()
        return (None, count) if self.is_of_inputs else (count, None)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        factors = _like(self.factors, weight).flatten()
        factors = factors[None] if self.is_of_inputs else factors[:, None]
        factors = factors.reshape(*factors.shape, *[1] * (weight.ndim - 2))
        return weight * (1 + strength * factors)


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """OFT: W + Δ = Rᵀ W, R orthogonal, in blocks along the outputs (Qiu et al. 2023, §3).

    Each block is (I + Q)(I − Q)⁻¹ with Q skew-symmetric (Cayley), whose norm over all blocks is at
    most ``limit``. At a strength s, I + s (R − I) stands for R; ComfyUI has s² there.
    """

    blocks: Tensor  # (blocks, size, size), of which Q is the difference to its transpose
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.blocks.ndim != 3 or self.blocks.shape[1] != self.blocks.shape[2]:
            raise ValueError(f"rotations of shape {size(self.blocks.shape)} are not known")

    @property
    def shape(self) -> tuple[int | None, ...]:
        return (self.blocks.shape[0] * self.blocks.shape[1], None)

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        blocks = _like(self.blocks, weight)
        skew = blocks - blocks.mT
        if self.limit:
            skew = skew * min(1.0, self.limit / (skew.norm().item() + 1e-8))
        one = torch.eye(skew.shape[1], device=skew.device)
        turn = (one + skew) @ torch.linalg.inv(one - skew) - one  # R − I, block by block
        cut = weight.reshape(len(blocks), skew.shape[1], -1)
        return torch.add(weight, (turn.mT @ cut).reshape(weight.shape), alpha=strength)


@dataclass(frozen=True, slots=True, eq=False)
class Decomposed:
    """DoRA: W + Δ = m ⊙ (W + Δ′) / ‖W + Δ′‖, of another adapter's Δ′ (Liu et al. 2024, eq. 5).

    ``magnitude`` m holds a number for each input (in, one norm a column), or for each output. Of
    outputs, ComfyUI divides by ‖W‖, the norm before Δ′, and so does this: the picture is the same.
    peft, whose files name m otherwise, divides by ‖W + Δ′‖ there too (``is_by_new_norm``).
    """

    change: Adapter
    magnitude: Tensor  # (out, 1 …) or (1, in, 1 …); of peft (out,) or (1, out, 1, 1)
    is_by_new_norm: bool = False

    @property
    def shape(self) -> tuple[int | None, ...]:
        return self.change.shape

    def applied(self, weight: Tensor, strength: float) -> Tensor:
        new = self.change.applied(weight, 1.0)
        magnitude = _like(self.magnitude, weight)
        if self.is_by_new_norm or len(magnitude) == len(weight):
            normed = new if self.is_by_new_norm else weight
            norm = normed.flatten(1).norm(dim=1)
            shape = (-1, *[1] * (weight.ndim - 1))
        else:
            norm = new.transpose(0, 1).flatten(1).norm(dim=1)
            shape = (1, -1, *[1] * (weight.ndim - 2))
        share = magnitude.reshape(shape) / (norm.reshape(shape) + torch.finfo(norm.dtype).eps)
        return torch.lerp(weight, new * share, strength)


def size(shape: Sequence[int | None]) -> str:
    """A shape in words: 320×768, or 320×any."""
    return "×".join("any" if side is None else str(side) for side in shape)


def _shape_of_product(pair: tuple[Tensor, Tensor], core: Tensor | None) -> tuple[int, ...]:
    """Of B A, with a core of its kernel. Raises ValueError where there is no product."""
    left = pair[0].shape if core is not None else pair[0].shape[::-1]  # (r, out)
    right = pair[1].shape
    _check_ranks(left, right, core)
    return (left[1], right[1], *(() if core is None else core.shape[2:]))


def _check_ranks(left: Sequence[int], right: Sequence[int], core: Tensor | None) -> None:
    """Factors (r, …) and (r′, …) agree on the rank, or with the core's ranks (r, r′, …)."""
    ranks = (right[0], right[0]) if core is None else tuple(core.shape[:2])
    if len(left) < 2 or len(right) < 2 or (left[0], right[0]) != ranks:
        around = "" if core is None else f" around one of {size(core.shape)}"
        raise ValueError(f"factors of {size(left)} and {size(right)}{around} have no product")


def _like(factor: Tensor, weight: Tensor) -> Tensor:
    # In one step it would be cast before it travels, and take twice as long.
    return factor.to(weight.device).to(torch.float32)


def _matrix(factor: Tensor, weight: Tensor) -> Tensor:
    return _like(factor, weight).flatten(1)


def _product(pair: tuple[Tensor, Tensor], core: Tensor | None, weight: Tensor) -> Tensor:
    """B A, or with a core between the two a kernel: Σ core[p, q, k, l] B[p, o] A[q, i]."""
    left, right = _like(pair[0], weight), _like(pair[1], weight)
    if core is None:
        return left @ right
    return torch.einsum("pqkl,po,qi->oikl", _like(core, weight), left, right)


def _whole(
    parts: tuple[Tensor] | tuple[Tensor, Tensor], core: Tensor | None, weight: Tensor
) -> Tensor:
    return _like(parts[0], weight) if len(parts) == 1 else _product(parts, core, weight)
