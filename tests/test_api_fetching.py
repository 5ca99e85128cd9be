"""Pictures from elsewhere: data URLs always, others if enabled, from where all may look."""

import asyncio
import base64
import gzip
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hosts import LOOPBACK, Answer, Host, host, never
from ledgers import on_a_loop
from PIL import Image

from executor.api.fetching import FETCHING, MOST_REDIRECTS, fetch_picture, outside_for_pictures
from executor.api.keys import DECODING, SETTINGS
from executor.api.outside import Outside
from executor.api.renditions import Decoding
from executor.errors import NetworkError, PictureError
from executor.settings import Settings


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    stream = BytesIO()
    Image.new("RGB", size, "red").save(stream, kind)
    return stream.getvalue()


PNG = picture()


def application(base: Path, outside: Outside | None = None, **settings: Any) -> web.Application:
    """What is needed of the server's application."""
    app = web.Application()
    chosen: dict[str, Any] = {"fetch_urls": True, **settings}
    app[SETTINGS] = Settings(base_directory=base, **chosen)
    app[DECODING] = Decoding()
    app[FETCHING] = outside or outside_for_pictures(app[SETTINGS])
    return app


def sent(content: bytes = PNG, kind: str = "image/png", **headers: str) -> Answer:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content, headers={"Content-Type": kind, **headers})

    return answer


def leading(*places: str, status: int = 302) -> Answer:
    """Each path number leads to the place of that number; behind the last, there is the picture."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        at = int(request.path[1:] or 0)
        if at >= len(places):
            return web.Response(body=PNG, content_type="image/png")
        return web.Response(status=status, headers={"Location": places[at]})

    return answer


# Data URLs


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
@on_a_loop
async def test_a_data_url_is_read_though_nothing_is_fetched(tmp_path, kind):
    app = application(tmp_path, fetch_urls=False)
    content = picture(kind)
    text = base64.b64encode(content).decode()
    for url in (
        f"data:image/{kind.lower()};base64,{text}",
        f"DATA:;BASE64,{text}",
        f"data:image/{kind.lower()};name=a.b;base64,{text[:10]}\r\n {text[10:]}",
        f"data:image/x;base64,{text.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        "data:image/x," + "".join(f"%{byte:02x}" for byte in content),
    ):
        assert await fetch_picture(app, url) == content


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("data:", "is no data URL"),
        ("data:image/png;base64", "is no data URL"),
        ("data:image/png;base64,!", "is no data URL"),
        ("data:image/png;base64,AAA", "is no data URL"),
        ("data:image/png,ä", "is no data URL"),
        ("data:text/html;base64,AAAA", "of the type text/html"),
        ("data:image/png;base64,AAAA", "not a picture"),
        ("data:image/png;base64," + base64.b64encode(PNG[:-20]).decode(), "damaged"),
        ("data:image/svg+xml," + "<svg/>", "not a picture"),
    ],
)
@on_a_loop
async def test_a_data_url_that_holds_no_picture_is_refused(tmp_path, url, why):
    with pytest.raises(PictureError, match=f"init_image.*{why}"):
        await fetch_picture(application(tmp_path), url, "init_image")


@on_a_loop
async def test_a_picture_of_too_many_pixels_is_refused(tmp_path):
    app = application(tmp_path, max_picture_pixels=40)
    with pytest.raises(PictureError, match="max_picture_pixels"):
        await fetch_picture(app, "data:;base64," + base64.b64encode(PNG).decode())


# Whether and where


KNOWN_HEADERS = {"Host", "Accept", "Accept-Encoding", "User-Agent", "Connection"}


@on_a_loop
async def test_nothing_is_fetched_unless_that_is_enabled(tmp_path):
    async with host(sent()) as pictures:
        app = application(tmp_path, pictures.outside(), fetch_urls=False)
        with pytest.raises(NetworkError, match="setting fetch_urls"):
            await fetch_picture(app, pictures.url())
        assert pictures.asked == pictures.looked_up == []


@pytest.mark.parametrize(
    "url", ["", "x.png", "file:///etc/passwd", "ftp://x.example/", "/x", "s3:x"]
)
@on_a_loop
async def test_what_is_no_url_of_a_picture_is_refused(tmp_path, url):
    with pytest.raises(NetworkError, match="must be a data URL, or an http or https one"):
        await fetch_picture(application(tmp_path), url)


@on_a_loop
async def test_a_picture_is_fetched_and_its_host_learns_nothing_but_that(tmp_path):
    async with host(sent()) as pictures:
        app = application(tmp_path, pictures.outside())
        assert await fetch_picture(app, pictures.url("/a/b.png?c=d#e")) == PNG
        (asked,) = pictures.asked
        assert (asked.method, asked.path_qs) == ("GET", "/a/b.png?c=d")
        assert asked.headers["Host"] == f"pictures.example:{pictures.port}"
        assert set(asked.headers) <= KNOWN_HEADERS
        assert asked.headers["Accept-Encoding"] == "identity"
        assert pictures.looked_up == ["pictures.example"]


@on_a_loop
async def test_as_it_is_set_up_the_server_asks_nobody_on_its_machine_or_in_its_networks(tmp_path):
    async with host(sent()) as pictures:
        app = application(tmp_path, outside_ports=(pictures.port,))
        for name in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"):
            with pytest.raises(NetworkError, match="is not in the public network"):
                await fetch_picture(app, pictures.url(name=name))
        for name in ("2130706433", "0177.0.0.1", "0x7f000001", "127.1"):
            with pytest.raises(NetworkError, match="is no address of a host"):
                await fetch_picture(app, pictures.url(name=name))
        assert pictures.asked == []
        app[FETCHING].close()


@pytest.mark.parametrize(
    "addresses",
    [["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], [LOOPBACK, "10.0.0.1"], []],
)
@on_a_loop
async def test_a_name_that_leads_to_a_private_address_is_not_followed(tmp_path, addresses):
    async with host(sent()) as pictures:
        pictures.names["evil.example"] = addresses
        app = application(tmp_path, pictures.outside())
        with pytest.raises(NetworkError, match=r"'evil\.example' is not in the public"):
            await fetch_picture(app, pictures.url(name="evil.example"))
        assert pictures.asked == []


@on_a_loop
async def test_a_name_that_leads_elsewhere_a_moment_later_makes_no_difference(tmp_path):
    async with host(sent()) as pictures:
        answers = iter([[LOOPBACK], ["10.0.0.1"]])

        async def rebinding(name: str, port: int) -> Sequence[str]:
            return next(answers)

        app = application(tmp_path, pictures.outside(resolve=rebinding))
        assert await fetch_picture(app, pictures.url(name="evil.example")) == PNG
        assert next(answers) == ["10.0.0.1"]  # which nobody asked for


@on_a_loop
async def test_no_connection_is_made_but_to_what_was_checked(tmp_path, monkeypatch):
    connected: list[Any] = []
    async with host(sent()) as pictures:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def watched(sock: socket.socket, address: Any) -> None:
            connected.append(address[0])
            await connect(sock, address)

        monkeypatch.setattr(loop, "sock_connect", watched)
        app = application(tmp_path, pictures.outside())
        assert await fetch_picture(app, pictures.url()) == PNG
        assert connected == [LOOPBACK]
        # Whatever a library may make of the name by itself: the door has the last word.
        monkeypatch.setattr("executor.api.outside._Known.resolve", elsewhere)
        with pytest.raises(NetworkError, match="cannot be asked"):
            await fetch_picture(app, pictures.url())
        assert connected == [LOOPBACK]


async def elsewhere(self: Any, host: str, port: int = 0, family: Any = None) -> list[Any]:
    return [
        {"hostname": host, "host": "127.0.0.2", "port": port, "family": socket.AF_INET}
        | {"proto": 0, "flags": socket.AI_NUMERICHOST}
    ]


@on_a_loop
async def test_no_proxy_of_the_environment_is_used(tmp_path, monkeypatch):
    async with host(sent()) as pictures, host(sent(b"no")) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://{LOOPBACK}:{proxy.port}")
        assert await fetch_picture(application(tmp_path, pictures.outside()), pictures.url()) == PNG
        assert proxy.asked == []


@pytest.mark.parametrize(
    "url",
    [
        *("http://x.example:1/", "http://x.example/", "http://me:pw@x.example:{port}/"),
        *("http://no.such.example:{port}/", "http://x.example:{closed}/"),
    ],
)
@on_a_loop
async def test_what_cannot_be_asked_is_said_without_what_is_inside(tmp_path, url):
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))
        port = closed.getsockname()[1]
        async with host(sent()) as pictures:
            app = application(tmp_path, pictures.outside(ports=(pictures.port, port)))
            with pytest.raises(NetworkError) as error:
                await fetch_picture(app, url.format(port=pictures.port, closed=port), "mask")
            assert str(error.value).startswith("mask: ")
            assert LOOPBACK not in str(error.value)
            assert pictures.asked == []


# Leading on


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@on_a_loop
async def test_an_answer_may_lead_on_a_few_times(tmp_path, status):
    places = [str(at + 1) for at in range(MOST_REDIRECTS)]
    async with host(leading(*places, status=status)) as pictures:
        app = application(tmp_path, pictures.outside())
        assert await fetch_picture(app, pictures.url("/0")) == PNG
        assert [asked.path for asked in pictures.asked] == ["/0", "/1", "/2", "/3"]
        assert len(pictures.looked_up) == len(pictures.asked)  # each is looked up again


@on_a_loop
async def test_an_answer_that_leads_on_for_ever_is_left(tmp_path):
    async with host(leading(*map(str, range(1, 100)))) as pictures:
        app = application(tmp_path, pictures.outside())
        with pytest.raises(NetworkError, match="more than 3 times"):
            await fetch_picture(app, pictures.url("/0"))
        assert len(pictures.asked) == MOST_REDIRECTS + 1


@pytest.mark.parametrize(
    "place",
    [
        *("http://10.0.0.1:{port}/", "http://evil.example:{port}/", "//169.254.169.254:{port}/"),
        *("http://2130706433:{port}/", "http://[::1]:{port}/", "http://pictures.example:22/"),
        *("file:///etc/passwd", "http://me@pictures.example:{port}/", "data:image/png;base64,AA"),
        *("http://[", ""),
    ],
)
@on_a_loop
async def test_an_answer_leads_nowhere_that_could_not_be_asked_for(tmp_path, place):
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": place.format(port=pictures.port)})

    async with host(answer) as pictures:
        pictures.names["evil.example"] = ["192.168.0.1"]
        with pytest.raises(NetworkError):
            await fetch_picture(application(tmp_path, pictures.outside()), pictures.url("/0"))
        assert {asked.path for asked in pictures.asked} == {"/0"}


# What comes


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (sent(b"<html>", "text/html"), "of the type 'text/html'"),
        (sent(PNG, "application/json"), "of the type 'application/json'"),
        (sent(b"no picture"), "not a picture"),
        (sent(PNG[:-20]), "damaged"),
        (sent(b""), "not a picture"),
        (sent(b"<svg/>", "image/svg+xml"), "not a picture"),
        (sent(gzip.compress(PNG), **{"Content-Encoding": "gzip"}), "came compressed"),
        (sent(PNG + bytes(2_000)), "larger than 1,000 bytes"),
    ],
)
@on_a_loop
async def test_what_is_no_picture_is_refused(tmp_path, answer, why):
    async with host(answer) as pictures:
        app = application(tmp_path, pictures.outside(), fetch_bytes=1_000)
        with pytest.raises((NetworkError, PictureError), match=f"the picture.*{re.escape(why)}"):
            await fetch_picture(app, pictures.url())


@pytest.mark.parametrize("kind", ["image/png", "IMAGE/PNG; charset=x", "application/octet-stream"])
@on_a_loop
async def test_the_content_says_what_a_picture_is(tmp_path, kind):
    async with host(sent(picture("JPEG"), kind)) as pictures:
        app = application(tmp_path, pictures.outside())
        assert await fetch_picture(app, pictures.url()) == picture("JPEG")


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 404, 500])
@on_a_loop
async def test_an_answer_that_is_an_error_is_told(tmp_path, status):
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=status)

    async with host(answer) as pictures:
        app = application(tmp_path, pictures.outside())
        with pytest.raises(NetworkError, match=f"pictures.example answered with {status}"):
            await fetch_picture(app, pictures.url())


@on_a_loop
async def test_a_picture_without_an_end_is_cut_off(tmp_path):
    sent_bytes = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent_bytes
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(bytes(10_000))
                sent_bytes += 10_000
        return response

    async with host(endless) as pictures:
        app = application(tmp_path, pictures.outside(), fetch_bytes=100_000)
        with pytest.raises(NetworkError, match="larger than 100,000 bytes"):
            await fetch_picture(app, pictures.url())
    assert sent_bytes < 50 * 2**20  # what sockets hold, not what there is


@on_a_loop
async def test_who_does_not_answer_is_left(tmp_path):
    async def slowly(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x")
                await asyncio.sleep(0.01)
        return response

    async def silent(name: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    for answer in (never, slowly):
        async with host(answer) as pictures:
            app = application(tmp_path, pictures.outside(seconds=0.2))
            with pytest.raises(NetworkError, match=r"did not answer within 0\.2 s"):
                await fetch_picture(app, pictures.url())
    app = application(tmp_path, Host(port=80).outside(resolve=silent, seconds=0.1))
    with pytest.raises(NetworkError, match="did not answer within"):
        await fetch_picture(app, "http://x.example/")


@on_a_loop
async def test_not_more_than_some_are_fetched_at_a_time(tmp_path):
    running = most = 0
    gate = asyncio.Event()

    async def counted(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return web.Response(body=PNG, content_type="image/png")

    async with host(counted) as pictures:
        app = application(tmp_path, pictures.outside(at_once=3))
        tasks = [asyncio.create_task(fetch_picture(app, pictures.url())) for _ in range(9)]
        while running < 3:
            await asyncio.sleep(0.01)
        gate.set()
        assert await asyncio.gather(*tasks) == [PNG] * 9
        assert most == 3
