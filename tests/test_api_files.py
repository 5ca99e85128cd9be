"""What /view shows, in which forms, and what it does not."""

from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ledgers import on_a_loop
from PIL import Image
from servers import Served, serving

SECRET = b"not for everybody"


def put(base: Path, name: str, content: bytes) -> Path:
    path = base / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def png(mode: str = "RGBA", colour: Any = (10, 20, 30, 40), size: tuple = (4, 3)) -> bytes:
    stream = BytesIO()
    Image.new(mode, size, colour).save(stream, "PNG")
    return stream.getvalue()


async def view(served: Served, status: int = 200, **query: Any) -> tuple[bytes, Any]:
    """The body and headers of an answer."""
    headers = query.pop("headers", {})
    async with served.client.get("/api/view", params=query, headers=headers) as response:
        body = await response.read()
        assert response.status == status, body
        return body, response.headers


@on_a_loop
async def test_a_file_is_what_it_was_at_both_addresses(tmp_path: Path) -> None:
    content = png()
    put(tmp_path, "output/a.png", content)
    async with serving(tmp_path, workers=0) as served:
        body, headers = await view(served, filename="a.png", rand="0.123")
        assert body == content
        assert headers["Content-Type"] == "image/png"
        assert headers["Content-Disposition"] == 'inline; filename="a.png"'
        async with served.client.get("/view?filename=a.png") as response:
            assert await response.read() == content


@on_a_loop
async def test_each_place_and_subfolder_has_its_own_files(tmp_path: Path) -> None:
    for place in ("output", "input", "temp"):
        put(tmp_path, f"{place}/deep/er/x.png", place.encode())
    async with serving(tmp_path, workers=0) as served:
        for place in ("output", "input", "temp"):
            where: dict[str, Any] = {"filename": "x.png", "subfolder": "deep/er", "type": place}
            assert (await view(served, **where))[0] == place.encode()
        body, _ = await view(served, filename="deep/er/x.png [temp]", type="input")
        assert body == b"temp"


@on_a_loop
async def test_who_has_the_file_is_not_sent_it_again(tmp_path: Path) -> None:
    put(tmp_path, "output/a.png", png())
    again: dict[str, str] = {}
    forms: list[dict[str, Any]] = [{}, {"preview": "webp;50"}, {"channel": "rgb"}]
    async with serving(tmp_path, workers=0) as served:
        for form in forms:
            _, headers = await view(served, filename="a.png", **form)
            again = {"If-None-Match": headers["ETag"]}
            body, _ = await view(served, 304, filename="a.png", headers=again, **form)
            assert body == b""
        put(tmp_path, "output/a.png", png(size=(5, 5)))
        await view(served, filename="a.png", headers=again, channel="rgb")


@on_a_loop
async def test_a_preview_is_the_picture_in_another_format(tmp_path: Path) -> None:
    put(tmp_path, "output/a.png", png(size=(64, 32)))
    async with serving(tmp_path, workers=0) as served:
        for form, kind, mode in (("webp;90", "WEBP", "RGBA"), ("jpeg;50", "JPEG", "RGB")):
            body, headers = await view(served, filename="a.png", preview=form)
            with Image.open(BytesIO(body)) as picture:
                assert (picture.format, picture.size, picture.mode) == (kind, (64, 32), mode)
            assert headers["Content-Type"] == f"image/{kind.lower()}"
        for form in ("", "gif;9", "webp;-1", "webp;" + "9" * 5000, "webp;²"):
            body, _ = await view(served, filename="a.png", preview=form)
            with Image.open(BytesIO(body)) as picture:
                assert picture.format == "WEBP"


@on_a_loop
async def test_a_channel_is_the_colours_alone_or_the_opacity_alone(tmp_path: Path) -> None:
    put(tmp_path, "input/clear.png", png())
    put(tmp_path, "input/solid.png", png("RGB", (10, 20, 30)))
    async with serving(tmp_path, workers=0) as served:
        for name, alpha in (("clear.png", 40), ("solid.png", 255)):
            colours, _ = await view(served, filename=name, type="input", channel="rgb")
            with Image.open(BytesIO(colours)) as picture:
                assert (picture.mode, picture.getpixel((1, 1))) == ("RGB", (10, 20, 30))
            opacity, _ = await view(served, filename=name, type="input", channel="a")
            with Image.open(BytesIO(opacity)) as picture:
                assert picture.mode == "RGBA"
                assert picture.getpixel((1, 1)) == (0, 0, 0, alpha)


@on_a_loop
async def test_what_is_made_of_a_photograph_stands_upright(tmp_path: Path) -> None:
    stream = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (64, 32), "red").save(stream, "JPEG", exif=exif)
    put(tmp_path, "input/a.jpg", stream.getvalue())
    async with serving(tmp_path, workers=0) as served:
        for form in ("preview=webp", "channel=rgb", "channel=a"):
            key, _, value = form.partition("=")
            query: dict[str, Any] = {"filename": "a.jpg", "type": "input", key: value}
            body, _ = await view(served, **query)
            with Image.open(BytesIO(body)) as picture:
                assert picture.size == (32, 64)
                assert picture.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize(
    ("status", "query"),
    [
        (404, {"filename": "none.png"}),
        (404, {"filename": "a.png", "subfolder": "none"}),
        (404, {"filename": "folder"}),
        (404, {"filename": "a.png\0"}),
        (404, {"filename": "..\\..\\secret.txt"}),
        (404, {"filename": "x" * 5000}),
        (400, {"filename": ""}),
        (400, {}),
        (400, {"filename": "/etc/passwd"}),
        (400, {"filename": "../secret.txt"}),
        (400, {"filename": "folder/../../secret.txt"}),
        (400, {"filename": "a.png", "type": "models"}),
        (400, {"filename": "a.png", "type": "../"}),
        (400, {"filename": "a.png", "channel": "q"}),
        (400, {"filename": "a.txt", "preview": "webp;90"}),
        (400, {"filename": "a.txt", "channel": "a"}),
        (400, {"filename": "cut.png", "channel": "rgb"}),
        (400, {"filename": "bomb.png", "preview": "jpeg;90"}),
        (403, {"filename": "secret.txt", "subfolder": ".."}),
        (403, {"filename": "secret.txt", "subfolder": "folder/../.."}),
        (403, {"filename": "passwd", "subfolder": "/etc"}),
        (403, {"filename": "link.txt"}),
        (403, {"filename": "secret.txt", "subfolder": "linked"}),
    ],
)
@on_a_loop
async def test_foreign_names_and_bad_pictures_are_refused(
    tmp_path: Path, status: int, query: dict[str, Any]
) -> None:
    put(tmp_path, "secret.txt", SECRET)
    put(tmp_path, "output/a.png", png())
    put(tmp_path, "output/a.txt", b"text")
    put(tmp_path, "output/cut.png", png(size=(64, 64))[:60])
    put(tmp_path, "output/bomb.png", png("1", 0, (2000, 2000)))
    put(tmp_path, "output/folder/x", b"")
    (tmp_path / "output" / "link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "output" / "linked").symlink_to(tmp_path)
    async with serving(tmp_path, workers=0, max_picture_pixels=1_000_000) as served:
        body, headers = await view(served, status, **query)
        assert headers["Content-Type"].startswith("application/json")
        assert SECRET not in body
        assert str(tmp_path).encode() not in body


@pytest.mark.parametrize(
    "name", ["a.svg", "a.html", "a.HTM", "a.xhtml", "a.xml", "a.js", "a.mjs", "a.pdf", "a", "a.swf"]
)
@on_a_loop
async def test_what_could_run_is_a_download_without_a_type(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"output/{name}", b"<svg onload='alert(1)'/>")
    async with serving(tmp_path, workers=0) as served:
        _, headers = await view(served, filename=name)
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Content-Disposition"].startswith("attachment")


@on_a_loop
async def test_no_browser_guesses_what_a_file_is_or_runs_it(tmp_path: Path) -> None:
    put(tmp_path, "output/a.png", png())
    put(tmp_path, "output/b.png", b"<html><script>alert(1)</script>")
    async with serving(tmp_path, workers=0) as served:
        whole, made = view(served, filename="b.png"), view(served, filename="a.png", preview="")
        for _, headers in (await whole, await made):
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
            assert headers["Content-Type"].startswith("image/")


@pytest.mark.parametrize("name", ['a"b.png', "ü (1).png", "100%.png", "雪.png"])
@on_a_loop
async def test_any_name_comes_back_whole(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"output/{name}", png())
    async with serving(tmp_path, workers=0) as served:
        _, headers = await view(served, filename=name)
        assert headers["Content-Disposition"].isascii()
        assert headers["Content-Disposition"].endswith(f"filename*=UTF-8''{quote(name, safe='')}")


@on_a_loop
async def test_a_part_of_a_file_can_be_asked_for(tmp_path: Path) -> None:
    content = png(size=(64, 64))
    put(tmp_path, "output/a.png", content)
    async with serving(tmp_path, workers=0) as served:
        body, _ = await view(served, 206, filename="a.png", headers={"Range": "bytes=10-19"})
        assert body == content[10:20]
