"""Outputs stay while they fit; what is cheapest to make again per byte leaves first."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from executor.cache import Cache, Outputs
from executor.devices import Devices
from executor.models.load import load_checkpoint
from executor.ports import Cond, Latent
from executor.testing import write_tiny_checkpoint

CPU = torch.device("cpu")
MIB = 2**20


def outputs(mib: int) -> Outputs:
    return Outputs((torch.zeros(mib, MIB // 4),))


def test_what_was_put_is_there():
    cache = Cache(CPU, 10 * MIB, 0)
    cache.put("a", outputs(1), 1.0)
    found = cache.get("a")
    assert found is not None
    assert found.values[0].shape == (1, MIB // 4)
    assert cache.get("b") is None


def test_what_is_cheapest_per_byte_leaves_first():
    cache = Cache(CPU, 10 * MIB, 0)
    cache.put("dear", outputs(4), 8.0)
    cache.put("cheap", outputs(4), 1.0)
    cache.put("new", outputs(4), 8.0)
    assert "cheap" not in cache
    assert "dear" in cache
    assert "new" in cache


def test_what_is_not_asked_for_sinks_whatever_it_cost():
    cache = Cache(CPU, 10 * MIB, 0)
    cache.put("old", outputs(4), 4.0)
    for i in range(20):
        cache.put(f"new {i}", outputs(4), 1.0)
        cache.get(f"new {i}")
    assert "old" not in cache


def test_pinned_outputs_stay_whatever_the_budget():
    cache = Cache(CPU, 0, 0)
    cache.put("a", outputs(1), 1.0, pins=1)
    cache.put("b", outputs(1), 1.0)
    assert "a" in cache
    assert "b" not in cache
    cache.unpin("a")
    assert "a" not in cache


def test_what_leaves_the_device_goes_to_the_host_and_comes_back():
    cache = Cache(CPU, 5 * MIB, 20 * MIB)
    cond = Outputs(((Cond(torch.ones(1, 77, 2)), Cond(torch.zeros(1, 77, 2))),))
    latent = Latent(torch.ones(1, MIB), batch_index=(3,))
    cache.put("cond", cond, 0.001)
    cache.put("latent", Outputs((latent,)), 1.0)
    cache.put("big", outputs(4), 9.0)
    on_device, on_host = cache.used_bytes
    assert on_device <= 5 * MIB
    assert on_host > 4 * MIB
    back = cache.get("latent")
    assert back is not None
    assert torch.equal(back.values[0].samples, latent.samples)
    assert back.values[0].batch_index == (3,)


class Weights:
    """A model that is not taken apart."""

    nbytes = 4 * MIB

    def __init__(self, memory: object) -> None:
        self.memory = memory


def test_memory_that_outputs_share_is_counted_once():
    cache = Cache(CPU, 100 * MIB, 0)
    whole = torch.zeros(2, MIB // 4)
    cache.put("whole", Outputs((whole,)), 1.0)
    cache.put("part", Outputs((whole[:1],)), 1.0)
    weights = object()
    cache.put("model", Outputs((Weights(weights),)), 1.0)
    cache.put("patched", Outputs((Weights(weights),)), 1.0)
    assert 6 * MIB < cache.used_bytes[0] < 6 * MIB + 10_000
    cache.drop("whole")
    cache.drop("model")
    assert 6 * MIB < cache.used_bytes[0] < 6 * MIB + 10_000
    cache.drop("part")
    cache.drop("patched")
    assert cache.used_bytes[0] == 0


def test_a_checkpoint_counts_as_much_as_its_weights(tmp_path):
    path = tmp_path / "tiny.safetensors"
    write_tiny_checkpoint(path)
    checkpoint = load_checkpoint(path, Devices(CPU))
    cache = Cache(CPU, 1000 * MIB, 0)
    cache.put("checkpoint", Outputs(tuple(checkpoint)), 1.0)
    cache.put("clip skip", Outputs((checkpoint.clip.with_last_layer(-2),)), 1.0)
    weights = sum(part.nbytes for part in checkpoint)  # pyright: ignore[reportAttributeAccessIssue]
    assert weights > MIB
    assert weights <= cache.used_bytes[0] < weights + 10_000


def test_a_model_is_forgotten_rather_than_moved():
    cache = Cache(CPU, 5 * MIB, 100 * MIB)
    cache.put("model", Outputs((Weights(object()),)), 0.1)
    cache.put("big", outputs(4), 9.0)
    assert "model" not in cache


def test_small_entries_cannot_pile_up_without_end():
    cache = Cache(CPU, MIB, 0)
    for i in range(3000):
        cache.put(str(i), Outputs((i,)), 1.0)
    assert len(cache) < 1100


@pytest.mark.parametrize("host_bytes", [0, 10 * MIB])
def test_results_leave_a_device_that_is_full_and_models_stay_known(host_bytes: int):
    cache = Cache(CPU, 100 * MIB, host_bytes)
    cache.put("pinned", outputs(1), 1.0, pins=1)
    cache.put("result", outputs(2), 1.0)
    cache.put("model", Outputs((Weights(object()),)), 1.0)
    assert cache.leave_device()
    assert 5 * MIB < cache.used_bytes[0] < 5.1 * MIB
    assert ("pinned" in cache, "model" in cache) == (True, True)
    assert ("result" in cache) == (host_bytes > 0)
    assert not cache.leave_device()


def test_clear_leaves_what_is_pinned():
    cache = Cache(CPU, 10 * MIB, 0)
    cache.put("a", outputs(1), 1.0, pins=1)
    cache.put("b", outputs(1), 1.0)
    cache.clear()
    assert "a" in cache
    assert "b" not in cache


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "pin", "get", "unpin", "drop"]),
            st.integers(0, 5),
            st.integers(1, 4),
        ),
        max_size=40,
    )
)
def test_the_books_are_right_whatever_is_done(actions):
    cache = Cache(CPU, 6000, 4000)
    kept: dict[str, Tensor] = {}
    pins: dict[str, int] = {}
    for action, number, size in actions:
        key = str(number)
        if action == "put" and not pins.get(key):
            kept[key] = torch.full((size, 100), float(number))
            cache.put(key, Outputs((kept[key],)), float(size))
        elif action == "get":
            found = cache.get(key)
            assert found is None or torch.equal(found.values[0], kept[key])
        elif action == "pin" and key in cache:
            cache.pin(key)
            pins[key] = pins.get(key, 0) + 1
        elif action == "unpin" and pins.get(key):
            cache.unpin(key)
            pins[key] -= 1
        elif action == "drop" and not pins.get(key):
            cache.drop(key)
        assert all(key in cache for key, count in pins.items() if count)
    for key, count in pins.items():
        for _ in range(count):
            cache.unpin(key)
    on_device, on_host = cache.used_bytes
    assert on_device <= 6000
    assert on_host <= 4000
    cache.clear()
    assert cache.used_bytes == (0, 0)


def test_unpinning_what_is_not_pinned_is_a_fault():
    cache = Cache(CPU, MIB, 0)
    cache.put("a", Outputs(()), 1.0)
    with pytest.raises(AssertionError, match="not pinned"):
        cache.unpin("a")
