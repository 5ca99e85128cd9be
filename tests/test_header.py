"""A model file is believed only as far as its header is consistent, and never run."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from executor.errors import ModelFileError
from executor.models.header import BYTES, MOST_HEADER_BYTES, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def packed(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refusal(path: Path, content: bytes) -> str:
    """What is said of a file of that content: one line that names it."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_header(path)
    said = str(caught.value)
    assert path.name in said
    assert "\n" not in said
    assert len(said) < 500
    return said


def test_a_header_says_what_safetensors_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {
        "a": torch.arange(6, dtype=torch.float16).reshape(2, 3),
        "b.c": torch.zeros((), dtype=torch.int64),
        "empty": torch.zeros(0, 4),
    }
    save_file(tensors, path, metadata={"format": "pt", "note": "ü"})
    header = read_header(path)
    assert {n: e.shape for n, e in header.tensors.items()} == {
        n: tuple(t.shape) for n, t in tensors.items()
    }
    assert {n: e.dtype for n, e in header.tensors.items()} == {
        "a": "F16",
        "b.c": "I64",
        "empty": "F32",
    }
    assert header.metadata == {"format": "pt", "note": "ü"}
    assert header.size_bytes == path.stat().st_size


@pytest.mark.parametrize("dtype", sorted(BYTES))
def test_sizes_of_number_types_are_those_of_safetensors(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.safetensors"
    size = BYTES[dtype] * 3
    path.write_bytes(
        packed({"a": {"dtype": dtype, "shape": [3], "data_offsets": [0, size]}}, bytes(size))
    )
    assert read_header(path).tensors["a"].shape == (3,)
    with safe_open(path, framework="pt") as file:  # a wrong size would be refused there
        assert list(file.keys()) == ["a"]


CORRUPT: Mapping[str, tuple[bytes, str]] = {
    "truncated data": (packed({"a": F32}, bytes(7)), "7 of 8 bytes"),
    "truncated header": (packed({"a": F32})[:30], "truncated"),
    "length alone": (packed({"a": F32})[:9], "truncated"),
    "bytes at the end": (packed({"a": F32}, bytes(9)), "1 bytes after"),
    "offsets beyond the file": (
        packed({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "truncated",
    ),
    "overlap": (packed({"a": F32, "b": F32}), "overlap"),
    "a hole": (
        packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
        "4 bytes before",
    ),
    "size against shape": (
        packed({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}),
        "8 bytes where its shape is 12",
    ),
    "offsets that fall": (
        packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        "-8 bytes",
    ),
    "a negative size": (
        packed({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        "has the shape [-2]",
    ),
    "a size that is no number": (
        packed({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}),
        "has the shape",
    ),
    "a size of 70 bits": (
        packed({"a": {"dtype": "F32", "shape": [2**70, 0], "data_offsets": [0, 0]}}, b""),
        "has the shape",
    ),
    "an unknown type": (
        packed({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}),
        "'F31', which Weft does not know",
    ),
    "a type that is no text": (
        packed({"a": {"dtype": [1], "shape": [2], "data_offsets": [0, 8]}}),
        "which Weft does not know",
    ),
    "an entry too many": (packed({"a": {**F32, "x": 1}}), "must have dtype"),
    "an entry too few": (packed({"a": {"dtype": "F32"}}), "must have dtype"),
    "an entry that is no object": (packed({"a": 3}), "must have dtype"),
    "a NUL in a name": (packed({"a\0b": F32}), "control characters"),
    "a line break in a name": (packed({"a\nb": F32}), "control characters"),
    "a name twice": (packed(b'{"a":%b,"a":%b}' % ((json.dumps(F32).encode(),) * 2)), "twice"),
    "metadata that are no texts": (packed({"__metadata__": {"a": 1}}, b""), "metadata"),
    "no JSON": (packed(b"{nonsense"), "no JSON"),
    "no UTF-8": (packed(b'{"\xff": 1}'), "no JSON"),
    "brackets without end": (packed(b'{"a":' + b"[" * 200_000), "nested too deeply"),
    "a number of 10,000 digits": (packed(b'{"a":' + b"9" * 10_000 + b"}"), "no JSON"),
    "many dimensions": (
        packed({"a": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]}}, bytes(4)),
        "has the shape",
    ),
}


@pytest.mark.parametrize("attack", CORRUPT)
def test_a_corrupt_file_is_refused_with_one_line(tmp_path: Path, attack: str) -> None:
    content, why = CORRUPT[attack]
    assert why in refusal(tmp_path / "x.safetensors", content)


@pytest.mark.parametrize("attack", ["truncated data", "overlap", "a hole", "bytes at the end"])
def test_safetensors_itself_refuses_it_too(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(CORRUPT[attack][0])
    with pytest.raises(SafetensorError), safe_open(path, framework="pt"):
        pass


def test_a_header_of_100_mb_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_000) + b"{")
        file.truncate(100_000_100)  # sparse
    with pytest.raises(ModelFileError, match=f"more than {MOST_HEADER_BYTES}"):
        read_header(path)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def legacy_pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.ckpt", pickled()),
        ("x.pt", legacy_pickled()),
        ("x.safetensors", pickled()),
        ("x.safetensors", legacy_pickled()),
        ("x.safetensors", pickle.dumps({"a": 1}, protocol=4)),
        ("x.safetensors", zipped()),
        ("x.ckpt", b"whatever this is, it calls itself a checkpoint"),
    ],
)
def test_a_pickle_is_refused_under_any_name_and_says_how_to_convert(
    tmp_path: Path, name: str, content: bytes
) -> None:
    said = refusal(tmp_path / name, content)
    assert "is a pickle" in said
    assert "safetensors.torch.save_file" in said


def test_a_file_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(packed(json.dumps({"a": F32}).encode().ljust(0x0280)))  # begins with 80 02
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(read_header(path).tensors) == ["a"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"  <!DOCTYPE html><html>login</html>", "web page"),
        (b"<html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
        (b"GGUF\3\0\0\0" + bytes(50), "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a safetensors file"),
        (b"abc", "not a safetensors file"),
    ],
)
def test_what_is_no_model_is_called_what_it_is(tmp_path: Path, content: bytes, why: str) -> None:
    assert why in refusal(tmp_path / "x.safetensors", content)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path, "is no file"),
        (tmp_path / "missing.safetensors", "No such file"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(ModelFileError, match=why):
            read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(ModelFileError, match="is no file"):
        read_header(tmp_path / "x.safetensors")
