"""Keeping files: whole or not at all, never over another, never outside."""

import os
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from executor.errors import FileError, PathError
from executor.saving import save_new


def write(stream: BinaryIO) -> None:
    stream.write(b"content")


def listing(directory: Path) -> list[str]:
    """All that lies below a directory, hidden files too."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def test_numbers_go_on_after_the_highest_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("a_00003_.png", "a_00007_.webp", "a_00009.png", "ab_00011_.png", "A_x_.png"):
        (tmp_path / name).write_bytes(b"")
    assert save_new(tmp_path, "a", ".png", write).name == "a_00008_.png"
    assert save_new(tmp_path, "a", ".png", write).name == "a_00009_.png"
    assert save_new(tmp_path, "new", ".latent", write).name == "new_00001_.latent"


def test_a_prefix_may_hold_folders(tmp_path: Path) -> None:
    path = save_new(tmp_path, "x/y/z", ".png", write)
    assert path == tmp_path / "x" / "y" / "z_00001_.png"
    assert path.read_bytes() == b"content"
    assert save_new(tmp_path, "x/", ".png", write).name == "_00001_.png"


@pytest.mark.parametrize(
    "prefix", ["../x", "/x", "a/../../x", "a\\b", "x\0", "C:/x", "nul/x", "x" * 250]
)
def test_a_prefix_that_leads_out_is_refused(tmp_path: Path, prefix: str) -> None:
    directory = tmp_path / "output"
    directory.mkdir()
    with pytest.raises(PathError):
        save_new(directory, prefix, ".png", write)
    assert listing(tmp_path) == ["output"]


def test_a_prefix_does_not_follow_a_link_out(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output" / "link").symlink_to(tmp_path / "elsewhere")
    for prefix in ("link/x", "link/new/x"):
        with pytest.raises(PathError, match="link"):
            save_new(tmp_path / "output", prefix, ".png", write)
    assert listing(tmp_path / "elsewhere") == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(stream: BinaryIO) -> None:
        stream.write(b"half")
        stream.flush()
        raise ArithmeticError("midway")

    with pytest.raises(ArithmeticError, match="midway"):
        save_new(tmp_path, "x", ".png", fail)
    assert listing(tmp_path) == []


def test_a_disk_that_fails_is_told_with_the_prefix(tmp_path: Path) -> None:
    def full(stream: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FileError, match=r"cannot keep 'x' .*: No space left on device"):
        save_new(tmp_path, "x", ".png", full)
    assert listing(tmp_path) == []


def test_an_output_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"")
    with pytest.raises(FileError, match="cannot keep 'x' in the folder 'output'"):
        save_new(tmp_path / "output", "x", ".png", write)


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(stream: BinaryIO) -> None:
        stream.write(b"half")
        stream.flush()
        seen.append([name for name in listing(tmp_path) if not name.startswith(".")])

    save_new(tmp_path, "x", ".png", look)
    assert seen == [[]]
    assert listing(tmp_path) == ["x_00001_.png"]


def concurrent_saves(directory: Path, writers: int, each: int) -> set[bytes]:
    """What many writers of one prefix left; every content is written once."""
    start = threading.Barrier(writers)

    def put(content: bytes, stream: BinaryIO) -> None:
        stream.write(content)

    def work(writer: int) -> None:
        start.wait()
        for turn in range(each):
            save_new(directory, "x", ".txt", partial(put, f"{writer}-{turn}".encode()))

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {path.read_bytes() for path in directory.iterdir()}


def wanted(writers: int, each: int) -> set[bytes]:
    return {f"{writer}-{turn}".encode() for writer in range(writers) for turn in range(each)}


def test_concurrent_writers_never_overwrite_each_other(tmp_path: Path) -> None:
    assert concurrent_saves(tmp_path, 8, 8) == wanted(8, 8)


def test_concurrent_writers_do_not_where_there_are_no_hard_links_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # what FAT answers

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    assert concurrent_saves(tmp_path, 8, 8) == wanted(8, 8)


def test_files_get_the_permissions_that_the_user_chose(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = save_new(tmp_path, "x", ".png", write)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
