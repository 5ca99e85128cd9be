"""Uploads: pictures are kept once, under their name; all else is refused and leaves nothing."""

import asyncio
import json
import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, MultipartWriter
from ledgers import on_a_loop
from PIL import Image, PngImagePlugin
from servers import Served, serving

import nodes

assert nodes.LoadImage, "importing them registers them"

MIB = 2**20


def picture(
    kind: str = "PNG",
    size: tuple[int, int] = (8, 6),
    mode: str = "RGB",
    colour: Any = None,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    stream = BytesIO()
    chunks = PngImagePlugin.PngInfo()
    for name, text in (texts or {}).items():
        chunks.add_text(name, text)
    more = {"pnginfo": chunks} if texts else {}
    Image.new(mode, size, colour or 0).save(stream, kind, **more)
    return stream.getvalue()


def form(content: bytes, name: str = "x.png", **fields: str) -> FormData:
    """As clients send it: the file first, its name as it is."""
    data = FormData(quote_fields=False)
    data.add_field("image", content, filename=name, content_type="image/png")
    for key, value in fields.items():
        data.add_field(key, value)
    return data


async def send(
    served: Served, data: Any, status: int = 200, route: str = "/upload/image", **more: Any
) -> Any:
    async with served.client.post(route, data=data, **more) as response:
        text = await response.text()
        assert response.status == status, text
        return json.loads(text)


def left(base: Path) -> list[str]:
    """All files, hidden ones too, but for the ledger's and the secret."""
    return sorted(
        path.relative_to(base).as_posix()
        for path in base.rglob("*")
        if path.is_file() and "ledger" not in path.name and path.name != "secret"
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "a.png"), ("JPEG", "b.jpg"), ("WEBP", "c.webp"), ("GIF", "d.gif"), ("PNG", "ü é.PNG")],
)
@on_a_loop
async def test_a_picture_is_kept_as_it_came(tmp_path: Path, kind: str, name: str) -> None:
    content = picture(kind)
    async with serving(tmp_path, workers=0) as served:
        for route in ("/upload/image", "/api/upload/image"):
            told = await send(served, form(content, name), route=route)
            assert told == {"name": name, "subfolder": "", "type": "input"}
    assert left(tmp_path) == [f"input/{name}"]
    assert (tmp_path / "input" / name).read_bytes() == content


@pytest.mark.parametrize(
    "name",
    ["a b (1).png", "a%20b.png", "a#b?c&d.png", "it's.png", "ü.png", "☃.webp.png", "a;b.png"],
)
@on_a_loop
async def test_what_the_answer_says_leads_back_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    content = picture(colour="red")
    async with serving(tmp_path, workers=0) as served:
        told = await send(served, form(content, name, subfolder="a b/ü"))
        where = {"filename": told["name"], "subfolder": told["subfolder"], "type": told["type"]}
        async with served.client.get("/view", params=where) as response:
            assert response.status == 200
            assert await response.read() == content


@on_a_loop
async def test_it_goes_where_the_form_says_whichever_field_is_first(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for place in ("input", "output", "temp"):
            data = FormData()
            data.add_field("type", place)
            data.add_field("subfolder", "a/b")
            data.add_field("image", picture(), filename="x.png")
            told = await send(served, data)
            assert told == {"name": "x.png", "subfolder": "a/b", "type": place}
            assert (tmp_path / place / "a/b/x.png").is_file()


@on_a_loop
async def test_the_same_name_is_another_file_unless_it_is_the_same_picture(tmp_path: Path) -> None:
    red, blue, green = (picture(colour=colour) for colour in ("red", "blue", "green"))
    async with serving(tmp_path, workers=0) as served:
        names = [
            (await send(served, form(content)))["name"]
            for content in (red, red, blue, green, blue, red)
        ]
        assert names == ["x.png", "x.png", "x (1).png", "x (2).png", "x (1).png", "x.png"]
        assert (await send(served, form(green, overwrite="true")))["name"] == "x.png"
    assert (tmp_path / "input/x.png").read_bytes() == green
    assert left(tmp_path) == ["input/x (1).png", "input/x (2).png", "input/x.png"]


@on_a_loop
async def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    contents = [picture(size=(8, 8 + index)) for index in range(12)]
    async with serving(tmp_path, workers=0) as served:
        told = await asyncio.gather(*(send(served, form(content)) for content in contents))
        kept = [(tmp_path / "input" / each["name"]).read_bytes() for each in told]
    assert kept == contents
    assert len(left(tmp_path)) == 12


@on_a_loop
async def test_what_was_uploaded_can_be_chosen_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for name in ("one.png", "two.png"):
            await send(served, form(picture(), name))
            info = await served.get("/object_info/LoadImage")
            assert name in info["LoadImage"]["input"]["required"]["image"][0]


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(100_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def broken(content: bytes) -> bytes:
    """A few bits of its middle turned over."""
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(b ^ 0xFF for b in content[middle : middle + 4])
        + content[middle + 4 :]
    )


NO_PICTURES: dict[str, bytes] = {
    "empty": b"",
    "text": b"no picture",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "HTML": b"<!doctype html><script>alert(1)</script>",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "cut PNG": picture(size=(300, 300))[:200],
    "cut JPEG": picture("JPEG", (300, 300))[:400],
    "cut WebP": picture("WEBP", (300, 300))[:40],
    "broken PNG": broken(picture(size=(300, 300))),
    "bomb": bomb(60_000, 60_000),
    "large": picture("PNG", (1001, 1000), "1"),
}


@pytest.mark.parametrize("which", NO_PICTURES)
@on_a_loop
async def test_what_is_no_whole_picture_is_refused(tmp_path: Path, which: str) -> None:
    async with serving(tmp_path, workers=0, max_picture_pixels=1_000_000) as served:
        told = await send(served, form(NO_PICTURES[which]), 400)
        assert told["error"]["type"] == "not_a_picture"
        assert told["error"]["message"].startswith("x.png ")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "a/../../x.png",
        "..\\x.png",
        "C:\\x.png",
        "con.png",
        ".hidden.png",
        ".x/y.png",
        "x.svg",
        "x.html",
        "x.png.html",
        "x",
        "x" * 300 + ".png",
    ],
)
@on_a_loop
async def test_names_that_lead_out_or_that_are_no_pictures_are_refused(
    tmp_path: Path, name: str
) -> None:
    async with serving(tmp_path / "base", workers=0) as served:
        told = await send(served, form(picture(), name), 400)
        assert told["error"]["type"] == "bad_file_name"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("fields", "type"),
    [
        ({"subfolder": ".."}, "bad_file_name"),
        ({"subfolder": "/tmp"}, "bad_file_name"),
        ({"subfolder": "linked"}, "bad_file_name"),
        ({"subfolder": "a\\b"}, "bad_file_name"),
        ({"type": "models"}, "bad_request"),
        ({"type": "../x"}, "bad_request"),
    ],
)
@on_a_loop
async def test_places_that_are_none_are_refused(
    tmp_path: Path, fields: dict[str, str], type: str
) -> None:
    base = tmp_path / "base"
    (base / "input").mkdir(parents=True)
    (base / "input" / "linked").symlink_to(tmp_path)
    async with serving(base, workers=0) as served:
        assert (await send(served, form(picture(), **fields), 400))["error"]["type"] == type
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (415, "application/json", b"{}"),
        (415, "application/x-www-form-urlencoded", b"image=x"),
        (400, "multipart/form-data", b"no boundary"),
        (400, "multipart/form-data; boundary=", b"--\r\n"),
        (400, "multipart/form-data; boundary=x", b"nothing like a form"),
        (400, "multipart/form-data; boundary=x", b""),
        (400, "multipart/form-data; boundary=x", b"--x\r\n\r\n"),
        (400, "multipart/form-data; boundary=x", b"--x--\r\n"),
        (
            400,
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\nabc',
        ),
        (
            400,
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n--x--\r\n',
        ),
        (
            400,
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\n--y--\r\n"
            b"--x--\r\n",
        ),
        (
            400,
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="type"\r\n\r\n\xff\xfe\r\n--x--\r\n',
        ),
        (
            400,
            "multipart/form-data; boundary=x",
            b"--x\r\nno header at all\r\n\r\nabc\r\n--x--\r\n",
        ),
    ],
)
@on_a_loop
async def test_forms_that_are_none_are_refused(
    tmp_path: Path, status: int, content_type: str, body: bytes
) -> None:
    async with serving(tmp_path, workers=0) as served:
        headers = {"Content-Type": content_type}
        await send(served, body, status, headers=headers)
    assert left(tmp_path) == []


@on_a_loop
async def test_forms_of_many_or_large_fields_and_of_two_files_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        await send(served, form(picture(), **{f"f{i}": "x" for i in range(40)}), 400)
        await send(served, form(picture(), subfolder="x" * 100_000), 413)
        two = form(picture())
        two.add_field("image", picture(), filename="y.png")
        await send(served, two, 400)
    assert left(tmp_path) == []


@on_a_loop
async def test_a_body_without_end_is_refused_before_it_has_come(tmp_path: Path) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        while sent < 400 * MIB:
            yield bytes(MIB)
            sent += MIB

    async with serving(tmp_path, workers=0) as served:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        try:
            told = await send(served, endless(), 413, headers=headers)
            assert told["error"]["type"] == "request_too_large"
        except ConnectionError:
            pass  # the server may close before the client has read its answer
        assert sent < 200 * MIB
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/upload/image", "multipart/form-data; boundary=x"),
        ("/userdata/x.json", "text/plain"),
        ("/prompt", "application/json"),
    ],
)
@on_a_loop
async def test_a_client_that_goes_in_the_middle_leaves_nothing_and_is_no_fault(
    tmp_path: Path, path: str, content_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
        f"Content-Type: {content_type}\r\n\r\n"
    )

    async def is_told() -> bool:
        return any(path in record.getMessage() for record in caplog.records)

    async with serving(tmp_path, workers=0) as served:
        with caplog.at_level("INFO", "executor.api"):
            _, writer = await asyncio.open_connection("127.0.0.1", served.client.port)
            writer.write(request.encode() + head + bytes(1000))
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
            await served.until(is_told)
    assert left(tmp_path) == []
    assert all(record.levelname == "INFO" for record in caplog.records)


def mask(size: tuple[int, int] = (8, 6), alpha: int = 77) -> bytes:
    return picture(size=size, mode="RGBA", colour=(1, 2, 3, alpha))


@on_a_loop
async def test_a_mask_becomes_the_alpha_of_a_picture_that_keeps_its_texts(tmp_path: Path) -> None:
    texts = {"prompt": '{"1": {}}', "workflow": '{"nodes": []}', "other": "ü ☃"}
    async with serving(tmp_path, workers=0) as served:
        await send(served, form(picture(colour="red", texts=texts), subfolder="sub"))
        original = json.dumps({"filename": "x.png", "subfolder": "sub", "type": "input"})
        data = form(mask(), "m.png", original_ref=original, subfolder="clipspace")
        told = await send(served, data, route="/api/upload/mask")
        assert told == {"name": "m.png", "subfolder": "clipspace", "type": "input"}
    with Image.open(tmp_path / "input/clipspace/m.png") as merged:
        merged.load()
        assert isinstance(merged, PngImagePlugin.PngImageFile)
        assert (merged.mode, merged.getpixel((2, 2))) == ("RGBA", (255, 0, 0, 77))
        assert merged.text == texts


@pytest.mark.parametrize(
    ("status", "content", "original"),
    [
        (400, mask(), None),
        (400, mask(), "no JSON"),
        (400, mask(), "[" * 5000),
        (400, mask(), "[]"),
        (400, mask(), '{"filename": 1}'),
        (400, mask(), '{"filename": "x.png", "type": "models"}'),
        (400, mask(), '{"filename": "x.png", "subfolder": 5}'),
        (400, mask(), '{"filename": "../x.png"}'),
        (403, mask(), '{"filename": "x.png", "subfolder": ".."}'),
        (404, mask(), '{"filename": "none.png", "type": "input"}'),
        (400, mask((9, 9)), '{"filename": "x.png", "type": "input"}'),
        (400, picture(), '{"filename": "x.png", "type": "input"}'),
        (400, b"no picture", '{"filename": "x.png", "type": "input"}'),
        (400, mask(), '{"filename": "broken.png", "type": "input"}'),
    ],
)
@on_a_loop
async def test_masks_that_fit_no_picture_are_refused(
    tmp_path: Path, status: int, content: bytes, original: str | None
) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "x.png").write_bytes(picture())
    (tmp_path / "input" / "broken.png").write_bytes(b"broken")
    fields = {} if original is None else {"original_ref": original}
    async with serving(tmp_path, workers=0) as served:
        await send(served, form(content, "m.png", **fields), status, route="/upload/mask")
    assert left(tmp_path) == ["input/broken.png", "input/x.png"]


@on_a_loop
async def test_a_multipart_writer_of_another_client_works_too(tmp_path: Path) -> None:
    with MultipartWriter("form-data", boundary="some boundary") as writer:
        part = writer.append(picture())
        part.set_content_disposition("form-data", name="image", filename="x.png")
        async with serving(tmp_path, workers=0) as served:
            assert (await send(served, writer))["name"] == "x.png"
