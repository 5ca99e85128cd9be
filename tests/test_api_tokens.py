"""Who may ask: with a token where there is one; browsers log in; what is removed ends at once."""

import json
import logging
import re
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType
from callers import bearer, caller
from ledgers import on_a_loop
from servers import Served, heard, heard_until, serving, sink

from executor.api.tokens import listens_here_only
from executor.tokens import add_token, remove_token

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

OPEN = {"/livez", "/login", "/logout", "/readyz", "/metrics", "/files/{id}"}


async def status_of(server: Served, path: str, method: str = "GET", **more: Any) -> int:
    more.setdefault("allow_redirects", False)
    async with server.client.request(method, path, **more) as response:
        return response.status


@on_a_loop
async def test_every_route_asks_for_a_token_but_those_that_are_open(tmp_path):
    async with serving(tmp_path) as server:
        caller(tmp_path, "ann")
        asked = 0
        for route in server.app.router.routes():
            assert route.resource is not None
            canonical = route.resource.canonical
            path = re.sub(r"{\w+}", "x", canonical)
            for headers in ({}, bearer("weft_nonsense"), {"Authorization": "Basic YTpi"}):
                status = await status_of(server, path, route.method, headers=headers)
                if canonical.removeprefix("/api") in OPEN:
                    asks_for_one = (route.method, path[-6:]) == ("POST", "/login")
                    assert asks_for_one or status != 401, f"{route.method} {path}"
                else:
                    assert status == 401, f"{route.method} {path}"
                    asked += 1
        assert asked > 200
        for path in ("/nothing", "/api/nothing", "/v1/nothing", "/x/../prompt", "/livez/x"):
            assert await status_of(server, path, "POST") == 401


@pytest.mark.parametrize("how", ["Bearer {}", "bearer  {}", "{}", " {} "])
@on_a_loop
async def test_a_token_is_shown_as_bearer_or_bare(tmp_path, how):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        headers = {"Authorization": how.format(secret)}
        await server.post("/prompt", {"prompt": sink()}, headers=headers)
        async with server.client.ws_connect("/ws", headers=headers) as ws:
            assert (await heard(ws))["type"] == "status"


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/prompt", {"error": {"type": "invalid_api_key"}, "node_errors": {}}),
        ("/v1/models", {"error": {"code": "invalid_api_key", "type": "authentication_error"}}),
    ],
)
@on_a_loop
async def test_each_face_refuses_in_its_own_shape(tmp_path, path, shape):
    async with serving(tmp_path) as server:
        caller(tmp_path, "ann")
        async with server.client.get(path) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Bearer")
            answer = await response.json()
        assert answer | {"error": shape["error"]} == shape
        assert shape["error"].items() <= answer["error"].items()
        assert "weft token add" in json.dumps(answer)


@pytest.mark.parametrize("path", ["/health", "/v2/any/health", "/v1/any/health", "/status/x"])
@on_a_loop
async def test_runpods_clients_are_refused_as_they_know_it(tmp_path, path):
    async with serving(tmp_path) as server:
        headers = caller(tmp_path, "ann", requests_per_minute=1)
        answer = await server.get(path, 401)
        assert "token" in answer["error"]
        await server.get("/queue", headers={"Authorization": headers["Authorization"][7:]})
        answer = await server.get(path, 429, headers=headers)
        assert "requests a minute" in answer["error"]


@on_a_loop
async def test_without_any_token_everybody_on_the_machine_may_ask_and_what_they_show_is_ignored(
    tmp_path,
):
    async with serving(tmp_path) as server:
        await server.get("/queue")
        await server.get("/queue", headers=bearer("sk-anything"))
        async with server.connect() as ws:
            await heard(ws)


@on_a_loop
async def test_a_server_of_networks_without_any_token_answers_nobody_unless_that_is_meant(
    tmp_path,
):
    async with serving(tmp_path, listen="0.0.0.0") as server:
        answer = await server.get("/queue", status=401)
        assert "weft token add" in answer["error"]["message"]
        headers = caller(tmp_path, "ann")
        await server.get("/queue", headers=headers)
        remove_token(tmp_path / "user", "ann")  # the last one does not open it
        await server.get("/queue", status=401, headers=headers)
    async with serving(tmp_path, listen="0.0.0.0", allow_anonymous=True) as server:
        await server.get("/queue")
        caller(tmp_path, "ann")
        await server.get("/queue", status=401)


def test_only_loopback_is_this_machine():
    assert listens_here_only("127.0.0.1, ::1,localhost")
    for listen in ("0.0.0.0", "::", "127.0.0.1,192.168.0.7", "", "weft.example"):
        assert not listens_here_only(listen)


@on_a_loop
async def test_supervisors_on_the_machine_need_no_token_and_a_proxy_is_not_one(tmp_path):
    async with serving(tmp_path) as server:
        headers = caller(tmp_path, "ann")
        for path in ("/readyz", "/metrics", "/api/metrics"):
            assert await status_of(server, path) in (200, 503)
            for name in ("X-Forwarded-For", "Forwarded"):
                passed_on = {name: "203.0.113.9"}
                assert await status_of(server, path, headers=passed_on) == 401
                assert await status_of(server, path, headers=passed_on | headers) in (200, 503)
        assert await status_of(server, "/livez", headers={"X-Forwarded-For": "x"}) == 200


@on_a_loop
async def test_what_is_added_and_removed_counts_at_once(tmp_path):
    async with serving(tmp_path) as server:
        await server.get("/queue")
        headers = caller(tmp_path, "ann")
        await server.get("/queue", status=401)
        await server.get("/queue", headers=headers)
        remove_token(tmp_path / "user", "ann")
        await server.get("/queue", headers=headers)  # nobody has any now
        caller(tmp_path, "ann")  # of the same name, but another
        await server.get("/queue", status=401, headers=headers)


@on_a_loop
async def test_a_websocket_ends_with_its_token_and_an_anonymous_one_with_the_first(tmp_path):
    async with serving(tmp_path) as server, server.connect("nobody") as open_before:
        await heard(open_before)
        ann, bob = (caller(tmp_path, name) for name in ("ann", "bob"))
        async with server.client.ws_connect("/ws?clientId=a", headers=ann) as ws:
            await heard(ws)
            remove_token(tmp_path / "user", "ann")
            prompt = {"prompt": sink(), "client_id": "nobody"}
            await server.post("/prompt", prompt, headers=bob)  # which all would be told of
            for socket in (ws, open_before):
                frame = await socket.receive()
                assert (frame.type, frame.data) == (WSMsgType.CLOSE, 1008)


# Browsers


def page_headers() -> dict[str, str]:
    return {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def logged_in(server: Served, secret: str, **more: Any) -> str:
    """The cookie that a browser gets for a secret."""
    more.setdefault("data", {"token": secret, "next": "/docs/api?x=1"})
    async with server.client.post("/login", allow_redirects=False, **more) as response:
        assert response.status == 303, await response.text()
        cookie = response.headers["Set-Cookie"]
    server.client.session.cookie_jar.clear()
    return cookie


def sent(cookie: str) -> dict[str, str]:
    return {"Cookie": cookie.partition(";")[0]}


@on_a_loop
async def test_a_browser_is_led_to_log_in_and_back(tmp_path):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        asked: dict[str, Any] = {"headers": page_headers(), "allow_redirects": False}
        async with server.client.get("/docs/api?x=1", **asked) as response:
            assert response.status == 303
            where = response.headers["Location"]
        assert where == "../login?next=%2Fdocs%2Fapi%3Fx%3D1"
        async with server.client.get(where[2:]) as response:
            html = await response.text()
            assert response.content_type == "text/html"
            assert "script" not in html
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
        assert 'value="/docs/api?x=1"' in html
        cookie = await logged_in(server, f" {secret}\n")
        await server.get("/queue", headers=sent(cookie))
        # A proxy in front may ask for a password of its own.
        await server.get("/queue", headers=sent(cookie) | {"Authorization": "Basic YTpi"})
        async with server.client.ws_connect("/ws", headers=sent(cookie)) as ws:
            await heard(ws)
        headers = page_headers() | sent(cookie)
        async with server.client.get("/", headers=headers) as response:
            assert response.status == 200
        asked |= {"data": {"token": secret, "next": "/docs/api?x=1"}}
        async with server.client.post("/login", **asked) as response:
            assert response.headers["Location"] == "./docs/api?x=1"


@on_a_loop
async def test_the_session_is_kept_from_scripts_and_other_sites_and_holds_no_secret(tmp_path):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        cookie = await logged_in(server, secret)
        (morsel,) = SimpleCookie(cookie).values()
        assert morsel["httponly"]
        assert morsel["samesite"] == "Strict"
        assert not morsel["secure"]
        assert morsel["path"] == "/"
        assert secret[5:20] not in cookie
        host = f"127.0.0.1:{server.client.port}"
        headers = {"Origin": f"http://{host}", "Host": host}
        assert "secure" not in (await logged_in(server, secret, headers=headers)).lower()
    async with serving(tmp_path, allowed_hosts=("weft.example",)) as server:
        headers = {"Origin": "https://weft.example", "Host": "weft.example"}
        assert "secure" in (await logged_in(server, secret, headers=headers)).lower()


@on_a_loop
async def test_a_session_outlives_a_restart_but_not_its_token(tmp_path):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        cookie = await logged_in(server, secret)
    async with serving(tmp_path) as server:
        await server.get("/queue", headers=sent(cookie))
        remove_token(tmp_path / "user", "ann")
        caller(tmp_path, "ann")
        await server.get("/queue", status=401, headers=sent(cookie))


@on_a_loop
async def test_sessions_that_were_changed_or_made_up_are_none(tmp_path):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        caller(tmp_path, "bob", is_admin=True)
        (name, _, value) = (await logged_in(server, secret)).partition(";")[0].partition("=")
        ends, signature, owner = value.split(".")
        for wrong in (
            f"{int(ends) + 1}.{signature}.{owner}",
            f"{ends}.{signature}.bob",
            f"{ends}.{signature[:-1]}.{owner}",
            f"{ends}..{owner}",
            f"{ends}.{signature}",
            f"²{ends}.{signature}.{owner}",
            "..",
            "",
            "a" * 4_000,
        ):
            await server.get("/queue", status=401, headers={"Cookie": f"{name}={wrong}"})
        await server.get("/queue", status=401, headers={"Cookie": f"other={value}"})
        await server.get("/queue", headers={"Cookie": f"{name}={value}"})


@on_a_loop
async def test_a_session_that_has_ended_is_none(tmp_path, monkeypatch):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        monkeypatch.setattr("executor.api.sessions.LASTS_S", -1)
        cookie = await logged_in(server, secret)
        await server.get("/queue", status=401, headers=sent(cookie))


@on_a_loop
async def test_logging_out_makes_the_browser_forget(tmp_path):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        cookie = await logged_in(server, secret)
        async with server.client.get("/login", headers=sent(cookie)) as response:
            assert "logged in as ann" in await response.text()
        async with server.client.post(
            "/logout", headers=sent(cookie), allow_redirects=False
        ) as response:
            (morsel,) = SimpleCookie(response.headers["Set-Cookie"]).values()
            assert response.headers["Location"] == "login"
        assert morsel.key == next(iter(SimpleCookie(cookie)))
        assert (morsel.value, morsel["max-age"]) == ("", "0")


@pytest.mark.parametrize(
    "where",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "x",
        "",
        "/a\nb",
        "/ä",
        "http:[",
    ],
)
@on_a_loop
async def test_nobody_is_led_to_another_site(tmp_path, where):
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        form = {"token": secret, "next": where}
        async with server.client.post("/login", data=form, allow_redirects=False) as response:
            assert response.headers["Location"] == "./"
        server.client.session.cookie_jar.clear()
        async with server.client.get("/login", params={"next": where}) as response:
            assert 'name="next" value="/"' in await response.text()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"token=weft_wrong&next=/", 401), (b"", 401), (b"token=\xff", 400), (b"x" * 9_000, 413)],
)
@on_a_loop
async def test_what_is_no_token_does_not_log_in(tmp_path, body, status):
    async with serving(tmp_path) as server:
        caller(tmp_path, "ann")
        async with server.client.post("/login", data=body) as response:
            assert response.status == status
            assert "Set-Cookie" not in response.headers


@on_a_loop
async def test_what_an_address_says_stays_text_on_the_page(tmp_path):
    async with serving(tmp_path) as server:
        where = '/"><script>alert(1)</script>'
        async with server.client.get("/login", params={"next": where}) as response:
            html = await response.text()
        assert "<script" not in html
        assert "&quot;&gt;&lt;script&gt;" in html


@on_a_loop
async def test_no_secret_gets_into_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with serving(tmp_path) as server:
        secret = add_token(tmp_path / "user", "ann")
        cookie = await logged_in(server, secret)
        headers = bearer(secret)
        await server.get("/queue", headers=sent(cookie))
        async with server.client.ws_connect("/ws?clientId=me", headers=headers) as ws:
            prompt = {"prompt": sink(), "client_id": "me"}
            await server.post("/prompt", prompt, headers=headers)
            await heard_until(ws, "executing", node=None)
        remove_token(tmp_path / "user", "ann")
        caller(tmp_path, "bob")
        await server.get("/queue", status=401, headers=headers)
        await server.get("/nothing", status=401, headers=headers)
    assert "POST /prompt 200" in caplog.text
    assert "owner='ann'" in caplog.text or any(
        getattr(record, "about", {}).get("owner") == "ann" for record in caplog.records
    )
    signature = cookie.split(".")[1]
    for part in (secret[5:], signature):
        assert part not in caplog.text
