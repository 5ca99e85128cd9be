"""Keeping files: whole or not at all, never over another, never outside."""

import os
import threading
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from executor.errors import FileError, NameTaken, PathError
from executor.saving import rename, save_as, save_beside, save_new


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


# Under a name that is given


def put(content: bytes, stream: BinaryIO) -> None:
    stream.write(content)


def test_a_name_is_replaced_whole_or_left_alone(tmp_path: Path) -> None:
    assert save_as(tmp_path, "a/x.json", partial(put, b"1")) == tmp_path / "a" / "x.json"
    with pytest.raises(NameTaken, match=r"'x\.json' already"):
        save_as(tmp_path, "a/x.json", partial(put, b"2"), may_replace=False)
    assert (tmp_path / "a" / "x.json").read_bytes() == b"1"
    save_as(tmp_path, "a/x.json", partial(put, b"2"))
    assert (tmp_path / "a" / "x.json").read_bytes() == b"2"
    assert listing(tmp_path) == ["a", "a/x.json"]


def test_a_name_that_is_taken_gets_a_number_unless_the_content_is_the_same(tmp_path: Path) -> None:
    names = [save_beside(tmp_path, "x.png", partial(put, c)).name for c in (b"1", b"2", b"1", b"2")]
    assert names == ["x.png", "x (1).png", "x.png", "x (1).png"]
    assert listing(tmp_path) == ["x (1).png", "x.png"]


def test_a_folder_of_the_name_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    assert save_beside(tmp_path, "x.png", write).name == "x (1).png"
    with pytest.raises(FileError, match=r"cannot keep 'x\.png'"):
        save_as(tmp_path, "x.png", write)
    assert listing(tmp_path) == ["x (1).png", "x.png"]


def test_a_file_gets_another_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_as(tmp_path, name, partial(put, name.encode()))
    with pytest.raises(NameTaken):
        rename(tmp_path, "a", "b", may_replace=False)
    assert rename(tmp_path, "a", "sub/c", may_replace=False).read_bytes() == b"a"
    assert rename(tmp_path, "sub/c", "b").read_bytes() == b"a"
    with pytest.raises(FileError, match="cannot move 'none'"):
        rename(tmp_path, "none", "x")
    assert listing(tmp_path) == ["b", "sub"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "link/x", "", "x\0"])
def test_no_given_name_leads_out(tmp_path: Path, name: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    save_as(inside, "own", write)
    for keep in (save_as, save_beside):
        with pytest.raises(PathError):
            keep(inside, name, write)
    with pytest.raises(PathError):
        rename(inside, "own", name)
    with pytest.raises(PathError):
        rename(inside, name, "own")
    assert listing(outside) == []
    assert listing(inside) == ["link", "own"]
