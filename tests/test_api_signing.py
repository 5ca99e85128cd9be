"""Addresses of pictures that are their own permission: this file, as it is, for some time."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from callers import caller
from ledgers import on_a_loop
from PIL import Image
from servers import Served, serving
from yarl import URL

from executor.api.signing import sign, signed
from executor.errors import PathError

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

NAME = "größe 1%+?#_00001_.png"


def picture(path: Path, colour: str = "red") -> bytes:
    stream = BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


async def fetched(server: Served, url: str | URL, status: int = 200) -> bytes:
    url = URL(url, encoded=True) if isinstance(url, str) else url
    async with server.client.get(url.relative() if url.absolute else url) as response:
        assert response.status == status, await response.text()
        return await response.read()


@on_a_loop
async def test_an_address_works_without_a_token_and_its_parts_do_not(tmp_path):
    async with serving(tmp_path) as server:
        caller(tmp_path, "ann")
        content = picture(tmp_path / "output" / "cats" / NAME)
        picture(tmp_path / "output" / "other.png")
        url = signed(server.app, "http://weft.example", NAME, "cats")
        assert url.startswith("http://weft.example/files/output/cats/gr%C3%B6%C3%9Fe%201%25")
        assert url.isascii()
        assert await fetched(server, url) == content
        parts = URL(url)
        changes: list[Any] = [
            {"exp": str(int(parts.query["exp"]) + 1)},
            {"exp": "²"},
            {"exp": "9" * 30},
            {"sig": parts.query["sig"][:-1]},
            {"sig": "ä"},
            {"of": "1-1"},
        ]
        for change in changes:
            await fetched(server, parts.update_query(change), 403)
        for name in ("exp", "sig", "of"):
            await fetched(server, parts.without_query_params(name), 403)
        for path in ("/files/output/other.png", "/files/input/cats/x.png", "/files/x"):
            await fetched(server, parts.with_path(path).with_query(parts.query), 403)
        await fetched(server, "/view?filename=other.png", 401)


@on_a_loop
async def test_an_address_expires(tmp_path, monkeypatch):
    async with serving(tmp_path, file_url_seconds=60) as server:
        content = picture(tmp_path / "output" / "x.png")
        monkeypatch.setattr("executor.api.signing.time", lambda: 1_000.9)
        url = signed(server.app, "", "x.png")
        monkeypatch.setattr("executor.api.signing.time", lambda: 1_060.0)
        assert await fetched(server, url) == content
        monkeypatch.setattr("executor.api.signing.time", lambda: 1_061.0)
        assert b"expired" in await fetched(server, url, 403)


@on_a_loop
async def test_an_address_is_of_the_picture_that_was_there(tmp_path):
    async with serving(tmp_path) as server:
        path = tmp_path / "output" / "x.png"
        picture(path)
        url = signed(server.app, "", "x.png")
        path.unlink()
        await fetched(server, url, 404)
        picture(path, "blue")
        await fetched(server, url, 403)
        with pytest.raises(PathError):
            signed(server.app, "", "nothing.png")


@on_a_loop
async def test_an_address_outlives_a_restart_but_not_the_secret(tmp_path):
    picture(tmp_path / "output" / "x.png")
    async with serving(tmp_path) as server:
        url = signed(server.app, "", "x.png")
    async with serving(tmp_path) as server:
        await fetched(server, url)
    (tmp_path / "user" / "secret").unlink()
    async with serving(tmp_path) as server:
        await fetched(server, url, 403)


@on_a_loop
async def test_an_address_begins_as_the_client_asked_or_as_the_settings_say(tmp_path):
    picture(tmp_path / "output" / "x.png")
    async with serving(tmp_path) as server:
        headers = {"Host": "localhost:1234"}
        request = make_mocked_request("GET", "/", headers=headers, app=server.app)
        assert sign(request, "x.png").startswith("http://localhost:1234/files/output/x.png?")
    async with serving(tmp_path, public_url="https://weft.example/a/") as server:
        request = make_mocked_request("GET", "/", headers=headers, app=server.app)
        assert sign(request, "x.png").startswith("https://weft.example/a/files/output/x.png?")


@on_a_loop
async def test_no_file_that_is_served_so_runs_as_a_page_of_the_server(tmp_path):
    async with serving(tmp_path) as server:
        (tmp_path / "output").mkdir()
        (tmp_path / "output" / "x.svg").write_text("<svg/>")
        url = URL(signed(server.app, "", "x.svg"))
        async with server.client.get(url) as response:
            assert response.content_type == "application/octet-stream"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
