"""What each kind of LoRA does to a weight, against the sums and convolutions that define it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from executor.models.adapters import (
    Adapter,
    Decomposed,
    Difference,
    HadamardProduct,
    KroneckerProduct,
    LowRank,
    Rotation,
    Scaling,
    fits,
)

# Sums of a few products of numbers around 1, in another order: float32 keeps 7 digits.
assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * sum(shape)))


def picked(shape: Sequence[int], of: Callable[..., Tensor]) -> Tensor:
    """The tensor whose number at each place is what ``of`` says of it."""
    result = torch.empty(*shape)
    for at in product(*map(range, shape)):
        result[at] = of(*at)
    return result


LINEAR, CONV = numbers(6, 4), numbers(6, 4, 3, 3)

CASES: dict[str, tuple[Adapter, Tensor]] = {
    "low rank": (LowRank(numbers(6, 2), numbers(2, 4), 0.5), LINEAR),
    "low rank, convolution": (LowRank(numbers(6, 2, 1, 1), numbers(2, 4, 3, 3), 0.5), CONV),
    "low rank, with a core": (
        LowRank(numbers(6, 2, 1, 1), numbers(3, 4, 1, 1), 0.5, numbers(2, 3, 3, 3)),
        CONV,
    ),
    "Hadamard": (
        HadamardProduct(
            (numbers(6, 2), numbers(2, 4)), (numbers(6, 3, seed=1), numbers(3, 4, seed=1)), 0.5
        ),
        LINEAR,
    ),
    "Hadamard, convolution": (
        HadamardProduct((numbers(6, 2), numbers(2, 36)), (numbers(6, 3), numbers(3, 36)), 2.0),
        CONV,
    ),
    "Hadamard, with cores": (
        HadamardProduct(
            (numbers(2, 6), numbers(3, 4)),
            (numbers(2, 6, seed=1), numbers(3, 4, seed=1)),
            0.5,
            (numbers(2, 3, 3, 3), numbers(2, 3, 3, 3, seed=1)),
        ),
        CONV,
    ),
    "Kronecker": (KroneckerProduct((numbers(3, 2),), (numbers(2, 2),)), LINEAR),
    "Kronecker, of low ranks": (
        KroneckerProduct((numbers(3, 1), numbers(1, 2)), (numbers(2, 2), numbers(2, 2, seed=1)), 2),
        LINEAR,
    ),
    "Kronecker, convolution": (KroneckerProduct((numbers(3, 2),), (numbers(2, 2, 3, 3),)), CONV),
    "Kronecker, with a core": (
        KroneckerProduct((numbers(3, 2),), (numbers(1, 2), numbers(2, 2)), 1, numbers(1, 2, 3, 3)),
        CONV,
    ),
    "difference": (Difference(numbers(6, 4, seed=5)), LINEAR),
    "scaling of inputs": (Scaling(numbers(1, 4), is_of_inputs=True), LINEAR),
    "scaling of outputs": (Scaling(numbers(6, 1, 1, 1), is_of_inputs=False), CONV),
    "rotation": (Rotation(numbers(3, 2, 2)), LINEAR),
    "rotation, convolution": (Rotation(numbers(2, 3, 3), 0.3), CONV),
    "decomposed by inputs": (
        Decomposed(LowRank(numbers(6, 2), numbers(2, 4)), numbers(1, 4).abs()),
        LINEAR,
    ),
    "decomposed by outputs": (
        Decomposed(LowRank(numbers(6, 2, 1, 1), numbers(2, 4, 3, 3)), numbers(6, 1, 1, 1).abs()),
        CONV,
    ),
    "decomposed by outputs, peft": (
        Decomposed(LowRank(numbers(6, 2), numbers(2, 4)), numbers(6).abs(), is_by_new_norm=True),
        LINEAR,
    ),
}
every = pytest.mark.parametrize(("adapter", "weight"), CASES.values(), ids=CASES)


# -- all of them -------------------------------------------------------------------------------


@every
def test_the_weight_is_left_alone_and_a_strength_of_0_gives_its_bits(adapter, weight) -> None:
    kept, version = weight.clone(), weight._version
    changed = adapter.applied(weight, 0.7)
    assert changed.shape == weight.shape
    assert changed.dtype == torch.float32
    assert not torch.allclose(changed, weight)
    assert torch.equal(adapter.applied(weight, 0.0), weight)
    assert torch.equal(weight, kept)
    assert weight._version == version


@every
def test_the_change_grows_with_its_strength_and_turns_with_its_sign(adapter, weight) -> None:
    once = adapter.applied(weight, 1.0) - weight
    assert_close(adapter.applied(weight, -2.5) - weight, -2.5 * once)


@every
def test_half_precision_factors_are_computed_in_float32(adapter, weight) -> None:
    def halved(value: object) -> object:
        if isinstance(value, Tensor):
            return value.half()
        if isinstance(value, tuple):
            return tuple(map(halved, value))
        return value

    def changed(adapter: Any, change: Callable[[object], object]) -> Adapter:
        fields = {name: change(getattr(adapter, name)) for name in adapter.__slots__}
        if isinstance(adapter, Decomposed):
            fields["change"] = changed(adapter.change, change)
        return replace(adapter, **fields)

    half = changed(adapter, halved)
    whole = changed(half, lambda v: v.float() if isinstance(v, Tensor) else v)
    pairs = changed(half, lambda v: tuple(t.float() for t in v) if isinstance(v, tuple) else v)
    assert half.applied(weight, 1.0).dtype == torch.float32
    for same in (whole, pairs):
        assert torch.equal(half.applied(weight, 1.0), same.applied(weight, 1.0))


@every
def test_it_fits_weights_of_its_shape_only(adapter, weight) -> None:
    out, width, *kernel = weight.shape
    assert fits(adapter, weight.shape)
    assert not fits(adapter, (out * 2, width * 3, *kernel))
    assert not fits(adapter, (width, out, *kernel)) or None in adapter.shape


def test_a_linear_map_fits_a_1x1_convolution_and_the_other_way_round() -> None:
    flat, square = numbers(6, 4), numbers(6, 4)[:, :, None, None]
    of_linear = LowRank(numbers(6, 2), numbers(2, 4))
    of_conv = LowRank(numbers(6, 2)[:, :, None, None], numbers(2, 4)[:, :, None, None])
    assert fits(of_linear, square.shape)
    assert fits(of_conv, flat.shape)
    assert torch.equal(of_linear.applied(square, 1.0)[:, :, 0, 0], of_conv.applied(flat, 1.0))


# -- each of them ------------------------------------------------------------------------------


def delta(name: str) -> Tensor:
    adapter, weight = CASES[name]
    return adapter.applied(weight, 1.0) - weight


def test_low_rank_is_a_sum_of_outer_products() -> None:
    up, down = numbers(6, 2), numbers(2, 4)
    expected = picked((6, 4), lambda o, i: 0.5 * (up[o, 0] * down[0, i] + up[o, 1] * down[1, i]))
    assert_close(delta("low rank"), expected)


def test_a_convolutions_low_rank_is_two_convolutions_in_a_row() -> None:
    x = numbers(2, 4, 5, 5)
    inner = conv2d(x, numbers(2, 4, 3, 3), padding=1)
    expected = 0.5 * conv2d(inner, numbers(6, 2, 1, 1))
    assert_close(conv2d(x, delta("low rank, convolution"), padding=1), expected)


def test_with_a_core_it_is_three_convolutions_in_a_row() -> None:
    x = numbers(2, 4, 5, 5)
    inner = conv2d(conv2d(x, numbers(3, 4, 1, 1)), numbers(2, 3, 3, 3), padding=1)
    expected = 0.5 * conv2d(inner, numbers(6, 2, 1, 1))
    assert_close(conv2d(x, delta("low rank, with a core"), padding=1), expected)


def test_hadamard_multiplies_two_low_ranks_number_by_number() -> None:
    b, a, d, c = numbers(6, 2), numbers(2, 4), numbers(6, 3, seed=1), numbers(3, 4, seed=1)
    expected = picked((6, 4), lambda o, i: 0.5 * (b[o] @ a[:, i]) * (d[o] @ c[:, i]))
    assert_close(delta("Hadamard"), expected)
    b, a, d, c = numbers(6, 2), numbers(2, 36), numbers(6, 3), numbers(3, 36)
    expected = picked(
        (6, 4, 3, 3),
        lambda o, i, y, x: 2 * (b[o] @ a[:, 9 * i + 3 * y + x]) * (d[o] @ c[:, 9 * i + 3 * y + x]),
    )
    assert_close(delta("Hadamard, convolution"), expected)


def test_hadamard_with_cores_multiplies_two_kernels_of_three_convolutions() -> None:
    def kernel(seed: int) -> Tensor:
        left, right = numbers(2, 6, seed=seed), numbers(3, 4, seed=seed)
        core = numbers(2, 3, 3, 3, seed=seed)
        return picked((6, 4, 3, 3), lambda o, i, y, x: left[:, o] @ core[:, :, y, x] @ right[:, i])

    assert_close(delta("Hadamard, with cores"), 0.5 * kernel(0) * kernel(1))


def test_kronecker_repeats_one_matrix_weighed_by_the_other() -> None:
    c, d = numbers(3, 2), numbers(2, 2)
    expected = picked((6, 4), lambda o, i: c[o // 2, i // 2] * d[o % 2, i % 2])
    assert_close(delta("Kronecker"), expected)
    c, d = numbers(3, 1) @ numbers(1, 2), numbers(2, 2) @ numbers(2, 2, seed=1)
    expected = picked((6, 4), lambda o, i: 2 * c[o // 2, i // 2] * d[o % 2, i % 2])
    assert_close(delta("Kronecker, of low ranks"), expected)


def test_of_a_convolution_kronecker_repeats_kernels() -> None:
    c, d = numbers(3, 2), numbers(2, 2, 3, 3)
    expected = picked((6, 4, 3, 3), lambda o, i, y, x: c[o // 2, i // 2] * d[o % 2, i % 2, y, x])
    assert_close(delta("Kronecker, convolution"), expected)
    left, right, core = numbers(1, 2), numbers(2, 2), numbers(1, 2, 3, 3)
    d = picked((2, 2, 3, 3), lambda o, i, y, x: left[:, o] @ core[:, :, y, x] @ right[:, i])
    expected = picked((6, 4, 3, 3), lambda o, i, y, x: c[o // 2, i // 2] * d[o % 2, i % 2, y, x])
    assert_close(delta("Kronecker, with a core"), expected)


def test_a_difference_is_added_and_a_scaling_multiplies() -> None:
    assert_close(delta("difference"), numbers(6, 4, seed=5))
    s = numbers(1, 4)
    assert_close(delta("scaling of inputs"), picked((6, 4), lambda o, i: LINEAR[o, i] * s[0, i]))
    s = numbers(6, 1, 1, 1)
    assert_close(
        delta("scaling of outputs"),
        picked((6, 4, 3, 3), lambda o, i, y, x: CONV[o, i, y, x] * s[o, 0, 0, 0]),
    )


def test_a_norms_or_biases_difference_has_one_dimension() -> None:
    adapter = Difference(numbers(4))
    assert fits(adapter, (4,))
    assert not fits(adapter, (6,))
    assert_close(adapter.applied(torch.ones(4), 2.0), 1 + 2 * numbers(4))


def test_a_rotation_turns_blocks_of_outputs_and_keeps_their_lengths() -> None:
    adapter, weight = CASES["rotation"]
    turned = adapter.applied(weight, 1.0)
    for start in (0, 2, 4):
        block, was = turned[start : start + 2], weight[start : start + 2]
        assert_close(block.norm(dim=0), was.norm(dim=0))
    # In two dimensions, Cayley's (I + Q)(I − Q)⁻¹ of Q = [[0, q], [−q, 0]] turns by 2 atan q.
    blocks = numbers(3, 2, 2)
    q = blocks[0, 0, 1] - blocks[0, 1, 0]
    cos, sin = (2 * torch.atan(q)).cos(), (2 * torch.atan(q)).sin()
    first = torch.stack((torch.stack((cos, -sin)), torch.stack((sin, cos)))) @ weight[:2]
    assert_close(turned[:2], first)


def test_a_rotations_angle_is_limited() -> None:
    blocks = torch.tensor([[[0.0, 3.0], [0.0, 0.0]]])  # Q has the norm 3 √2
    limited = Rotation(blocks, limit=0.5).applied(torch.eye(2), 1.0)
    assert_close(limited, Rotation(blocks * 0.5 / (3 * 2**0.5)).applied(torch.eye(2), 1.0))
    wide = Rotation(blocks, limit=10.0)
    assert_close(wide.applied(torch.eye(2), 1.0), Rotation(blocks).applied(torch.eye(2), 1.0))


def test_dora_gives_each_column_its_magnitude_and_the_changed_direction() -> None:
    adapter, weight = CASES["decomposed by inputs"]
    found = adapter.applied(weight, 1.0)
    changed = weight + numbers(6, 2) @ numbers(2, 4)
    assert_close(found.norm(dim=0), numbers(1, 4).abs()[0])
    assert_close(found / found.norm(dim=0), changed / changed.norm(dim=0))


def test_dora_by_outputs_divides_by_the_norm_before_the_change_as_comfyui_does() -> None:
    adapter, weight = CASES["decomposed by outputs"]
    up, down = numbers(6, 2, 1, 1), numbers(2, 4, 3, 3)
    changed = weight + torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    share = numbers(6, 1, 1, 1).abs() / weight.flatten(1).norm(dim=1)[:, None, None, None]
    assert_close(adapter.applied(weight, 1.0), changed * share)


def test_pefts_dora_gives_each_row_its_magnitude() -> None:
    adapter, weight = CASES["decomposed by outputs, peft"]
    found = adapter.applied(weight, 1.0)
    assert_close(found.norm(dim=1), numbers(6).abs())
    square = Decomposed(
        LowRank(numbers(6, 2)[:, :, None, None], numbers(2, 4)[:, :, None, None]),
        numbers(6).abs()[None, :, None, None],
        is_by_new_norm=True,
    )
    assert_close(square.applied(weight[:, :, None, None], 1.0)[:, :, 0, 0], found)


# -- what does not fit together ----------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRank(numbers(6, 2), numbers(3, 4)),
        lambda: LowRank(numbers(6), numbers(2, 4)),
        lambda: LowRank(numbers(6, 2, 1, 1), numbers(2, 4, 1, 1), 1, numbers(2, 3, 3, 3)),
        lambda: HadamardProduct((numbers(6, 2), numbers(2, 4)), (numbers(6, 2), numbers(3, 4))),
        lambda: HadamardProduct((numbers(6, 2), numbers(2, 4)), (numbers(6, 2), numbers(2, 5))),
        lambda: KroneckerProduct((numbers(3, 1), numbers(2, 2)), (numbers(2, 2),)),
        lambda: KroneckerProduct((numbers(3, 1),), (numbers(2),)),
        lambda: Rotation(numbers(3, 2, 3)),
        lambda: Rotation(numbers(2, 3, 2, 2)),
    ],
)
def test_factors_without_a_product_are_refused(make: Callable[[], Adapter]) -> None:
    with pytest.raises(ValueError, match=r"have no product|are not known"):
        make()
