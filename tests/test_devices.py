"""Precision and placement, and what happens when memory runs out."""

import logging

import pytest
import torch
from torch import Tensor

from executor.devices import Devices, free_bytes, in_batches, is_out_of_memory
from executor.errors import InputError, SettingsError


def test_a_cpu_computes_in_float32_unless_told_otherwise() -> None:
    devices = Devices.choose("cpu")
    for stored in (torch.float16, torch.bfloat16, torch.float32):
        assert devices.unet_dtype(stored) == torch.float32
        assert Devices.choose("cpu", "bfloat16").unet_dtype(stored) == torch.bfloat16
    assert (devices.vae_dtype, devices.text_dtype) == (torch.float32, torch.float32)
    assert Devices.choose("cpu", "float16").text_dtype == torch.float16


def test_a_gpu_keeps_half_precision() -> None:
    devices = Devices(torch.device("cuda"))
    assert devices.unet_dtype(torch.bfloat16) == torch.bfloat16
    assert devices.unet_dtype(torch.float16) == torch.float16
    assert devices.unet_dtype(torch.float32) == torch.float16


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cuda:99 is not there.*use auto or cpu"):
        Devices.choose("cuda:99")


def test_free_memory_is_some_of_all_memory() -> None:
    devices = Devices.choose("cpu")
    assert 2**20 < free_bytes(devices.device) <= devices.total_bytes()


class Memory:
    """Doubles numbers, as long as they are few enough at once."""

    def __init__(self, rows: int) -> None:
        self.rows, self.asked = rows, []

    def __call__(self, rows: Tensor) -> Tensor:
        self.asked.append(len(rows))
        if len(rows) > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return rows * 2


@pytest.mark.parametrize("fits", [1, 2, 3, 7, 8])
def test_a_batch_that_does_not_fit_is_done_in_parts(
    fits: int, caplog: pytest.LogCaptureFixture
) -> None:
    rows, memory = torch.arange(8.0), Memory(fits)
    with caplog.at_level(logging.WARNING):
        result = in_batches(rows, memory, row_bytes=1, what="doubling numbers")
    assert torch.equal(result, rows * 2)
    assert ("out of memory doubling numbers" in caplog.text) == (fits < 8)


def test_what_worked_is_not_done_again() -> None:
    memory = Memory(4)
    in_batches(torch.arange(8.0), memory, row_bytes=1, what="doubling")
    assert memory.asked == [8, 4, 4]


def test_one_that_does_not_fit_is_an_error_that_says_how_much_it_takes() -> None:
    with pytest.raises(InputError, match=r"out of memory doubling, .*3\.0 GiB"):
        in_batches(torch.arange(8.0), Memory(0), row_bytes=3 * 2**30, what="doubling")


def test_other_errors_pass() -> None:
    def broken(rows: Tensor) -> Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        in_batches(torch.arange(8.0), broken, row_bytes=1, what="doubling")


def test_a_cpu_that_cannot_allocate_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_one_that_does_not_fit_is_done_in_tiles_and_the_rest_with_it() -> None:
    asked: list[int] = []

    def in_tiles(rows: Tensor) -> Tensor:
        asked.append(len(rows))
        return rows * 2

    memory = Memory(0)
    result = in_batches(torch.arange(4.0), memory, row_bytes=1, what="doubling", in_tiles=in_tiles)
    assert torch.equal(result, torch.arange(4.0) * 2)
    assert (memory.asked, asked) == ([4, 2, 1], [1, 1, 1, 1])


def test_what_needs_more_than_is_free_is_not_even_tried(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(8)
    result = in_batches(
        torch.arange(4.0), memory, row_bytes=2**60, what="doubling", in_tiles=lambda rows: rows * 2
    )
    assert torch.equal(result, torch.arange(4.0) * 2)
    assert not memory.asked
    assert "doubling takes about 1073741824.0 GiB" in caplog.text
