"""A network's weights and changes of them: shared, merged late, rounded once, never written to."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from executor.cache import Cache, Outputs
from executor.models.adapters import Difference, LowRank
from executor.models.weights import Change, Weights


class Block(nn.Module):
    """A network with something below, beside and inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("offset", torch.arange(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.inner(x)) * self.scale + self.offset


def network(dtype: torch.dtype = torch.float32) -> Block:
    torch.manual_seed(1)
    return Block().eval().requires_grad_(False).to(dtype)


def change(key: str, strength: float = 1.0, **deltas: Tensor) -> Change:
    adapters = {name.replace("_", "."): Difference(delta) for name, delta in deltas.items()}
    return Change((key, strength), adapters, strength)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FIRST = "inner.0.weight"
A = change("a", 0.5, inner_0_weight=noise(4, 4), norm_bias=noise(4))
B = change("b", inner_0_weight=noise(4, 4, seed=1), scale=noise(4))


@torch.no_grad()
def test_a_changed_network_computes_as_one_whose_weights_were_written() -> None:
    x = noise(3, 4)
    found = Weights(network()).changed(A).changed(B).network(x)
    written = network()
    written.get_parameter(FIRST).add_(0.5 * noise(4, 4) + noise(4, 4, seed=1))
    written.norm.bias.add_(0.5 * noise(4))
    written.scale.add_(noise(4))
    torch.testing.assert_close(found, written(x))
    assert not torch.allclose(found, network()(x))


def test_the_first_network_keeps_its_bits_and_shares_all_else() -> None:
    plain, untouched = network(), network()
    weights = Weights(plain)
    changed = weights.changed(A).network
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, untouched.get_parameter(name))
        is_shared = changed.get_parameter(name) is parameter
        assert is_shared == (name not in A.adapters)
    assert weights.network is plain
    assert changed.inner[2] is plain.inner[2]
    assert changed.get_buffer("offset") is plain.get_buffer("offset")
    assert type(changed) is Block
    assert not changed.training
    assert not any(parameter.requires_grad for parameter in changed.parameters())


def test_a_stack_is_merged_once_in_float32_and_rounded_once() -> None:
    plain = network(torch.bfloat16)
    plain.get_parameter(FIRST).fill_(1.0)
    step = torch.full((4, 4), 2.0**-9)  # a quarter of bfloat16's unit in the last place of 1
    stack = Weights(plain)
    for times in range(8):
        stack = stack.changed(change(f"step {times}", inner_0_weight=step))
    found = stack.network.get_parameter(FIRST)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), 1 + 8 * step)
    alone = Weights(plain).changed(change("step", inner_0_weight=step)).network.get_parameter(FIRST)
    assert torch.equal(alone, plain.get_parameter(FIRST))


def test_of_a_chain_only_the_last_is_made_and_only_when_it_is_used() -> None:
    first = Weights(network()).changed(A)
    second = first.changed(B)
    assert "network" not in vars(second)
    assert second.network is second.network
    assert "network" not in vars(first)


def test_equal_stacks_are_one_object_for_as_long_as_somebody_holds_it() -> None:
    base = Weights(network())
    one = base.changed(A).changed(B)
    assert base.changed(A).changed(change("b")) is one
    assert one.key == (A.key, B.key)
    others = [base.changed(B).changed(A), base.changed(A), base.changed(change("a", 0.6)), base]
    assert len({one.key, *(other.key for other in others)}) == 5
    gone = weakref.ref(one.network)
    del one, others
    gc.collect()
    assert gone() is None


def test_changes_apply_in_their_order() -> None:
    # A product after a sum is not a sum after a product: DoRA and the like are no sums.
    base = Weights(network())
    up = LowRank(noise(4, 1), noise(1, 4))

    class Doubling(Difference):
        def applied(self, weight: Tensor, strength: float) -> Tensor:
            return 2 * weight

    double = Change("double", {FIRST: Doubling(noise(4, 4))}, 1.0)
    add = Change("add", {FIRST: up}, 1.0)
    was = base.network.get_parameter(FIRST)
    delta = noise(4, 1) @ noise(1, 4)
    doubled_last = base.changed(add).changed(double).network.get_parameter(FIRST)
    doubled_first = base.changed(double).changed(add).network.get_parameter(FIRST)
    torch.testing.assert_close(doubled_last, 2 * (was + delta))
    torch.testing.assert_close(doubled_first, 2 * was + delta)


def test_weights_merged_in_inference_mode_can_be_used_outside_of_it() -> None:
    changed = Weights(network()).changed(A)
    with torch.inference_mode():
        weight = changed.network.get_parameter(FIRST)
    assert not weight.is_inference()


def test_a_convolution_stays_as_it_lies_in_memory() -> None:
    conv = nn.Conv2d(4, 4, 3)
    conv.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last))
    lora = LowRank(noise(4, 2, 1, 1), noise(2, 4, 3, 3))
    found = Weights(conv).changed(Change("c", {"weight": lora}, 1.0)).network.weight
    assert found.is_contiguous(memory_format=torch.channels_last)
    expected = conv.weight + torch.einsum("or,rikl->oikl", noise(4, 2), noise(2, 4, 3, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # another order of sums


def test_the_cache_counts_what_is_shared_once_for_as_long_as_anybody_has_it() -> None:
    base = Weights(network())
    changed = base.changed(A)
    own = 4 * (16 + 4)  # the numbers of the two tensors that A changes
    whole = 4 * (2 * 16 + 2 * 4 + 2 * 4 + 4)
    assert (changed.nbytes, base.nbytes) == (own, whole)
    cache = Cache(torch.device("cpu"), 10**9, 0)
    cache.put("nothing", Outputs((None,)), 1.0)
    entry = cache.used_bytes[0]
    cache.put("base", Outputs((base,)), 1.0)
    cache.put("changed", Outputs((changed,)), 1.0)
    cache.put("the same", Outputs((base.changed(A),)), 1.0)
    assert cache.used_bytes[0] == whole + own + 4 * entry
    cache.drop("base")
    assert cache.used_bytes[0] == whole + own + 3 * entry


def test_shapes_and_device_are_known_without_merging() -> None:
    changed = Weights(network()).changed(A)
    assert changed.shapes["inner.2.weight"] == (4, 4)
    assert changed.device == torch.device("cpu")
    assert changed.loaded.norm.normalized_shape == (4,)
    assert "network" not in vars(changed)


@pytest.mark.parametrize("name", [FIRST, "scale"])
def test_a_parameter_of_any_depth_can_be_changed(name: str) -> None:
    plain = network()
    shape = plain.get_parameter(name).shape
    lone = Change("lone", {name: Difference(torch.ones(shape))}, 2.0)
    assert torch.equal(
        Weights(plain).changed(lone).network.get_parameter(name), plain.get_parameter(name) + 2
    )
