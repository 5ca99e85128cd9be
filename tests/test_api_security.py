"""Whom the server answers: own pages and programs, not the pages of other sites."""

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from ledgers import on_a_loop
from servers import serving, sink

from executor.api.refusal import refusal_of
from executor.api.security import host_fault, is_loopback, origin_fault

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8188", "localhost:8188"),
        ("http://127.0.0.1:8188", "127.0.0.1:8188"),
        ("http://[::1]:8188", "[::1]:8188"),
        ("https://weft.example", "weft.example"),  # a proxy speaks TLS
        ("https://weft.example", "weft.example:443"),
        ("http://weft.example", "WEFT.example.:80"),
    ],
)
def test_a_page_of_the_server_may_use_it(origin, host):
    assert origin_fault(origin, host) == ""


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8188"),
        ("http://localhost:8000", "localhost:8188"),
        ("http://localhost", "localhost:8188"),
        ("https://localhost:8188.evil.example", "localhost:8188"),
        ("http://localhost:8188@evil.example", "localhost:8188"),
        ("null", "localhost:8188"),
        ("", "localhost:8188"),
        ("file://", "localhost:8188"),
        ("http://[", "localhost:8188"),
        ("http://localhost:99999", "localhost:8188"),
        ("http://", ""),
    ],
)
def test_a_page_of_another_site_may_not(origin, host):
    assert "proxy" in origin_fault(origin, host)


@given(st.text(), st.text())
def test_no_origin_or_host_brings_the_check_down(origin, host):
    origin_fault(origin, host)
    host_fault(host, "127.0.0.1", ())


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST.", "x.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"]
)
def test_loopback_has_many_names(name):
    assert is_loopback(name)
    assert host_fault(f"{name}:8188" if ":" not in name else "[::1]:8188", "127.0.0.1", ()) == ""


@pytest.mark.parametrize(
    "name",
    ["", "evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "127.0.0.1.nip.io"],
)
def test_other_names_are_not_loopback(name):
    assert not is_loopback(name)


def test_a_server_for_its_own_machine_has_no_other_names_but_those_it_was_given():
    assert "allowed_hosts" in host_fault("evil.example", "127.0.0.1", ())
    assert "allowed_hosts" in host_fault("evil.example:8188", "localhost, ::1", ())
    assert "allowed_hosts" in host_fault("[", "127.0.0.1", ())
    assert host_fault("Weft.example:8188", "127.0.0.1", ("weft.example",)) == ""
    assert host_fault("any.example", "0.0.0.0", ()) == ""
    assert host_fault("any.example", "127.0.0.1,192.168.0.7", ()) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example", "Origin": "http://evil.example"},  # DNS rebinding
        {"Host": "evil.example"},
    ],
)
@on_a_loop
async def test_foreign_pages_are_refused_on_every_route(tmp_path, headers):
    async with serving(tmp_path) as server:
        answer = await server.post("/prompt", {"prompt": sink()}, status=403, headers=headers)
        assert answer["error"]["type"] in ("foreign_origin", "foreign_host")
        await server.get("/history", status=403, headers=headers)
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", **headers}
        await server.get("/ws", status=403, headers=upgrade)
        await server.get("/nothing", status=403, headers=headers)
        assert await server.get("/prompt") == {"exec_info": {"queue_remaining": 0}}


@on_a_loop
async def test_own_pages_and_programs_are_answered(tmp_path):
    async with serving(tmp_path) as server:
        own = f"127.0.0.1:{server.client.port}"
        for headers in (
            {"Origin": f"http://{own}", "Host": own},
            {"Authorization": "Bearer nothing"},
            {"Host": "localhost"},
        ):
            await server.post("/prompt", {"prompt": sink()}, headers=headers)


@on_a_loop
async def test_a_name_that_was_allowed_is_answered(tmp_path):
    async with serving(tmp_path, allowed_hosts=("weft.example",)) as server:
        headers = {"Host": "weft.example", "Origin": "https://weft.example"}
        await server.post("/prompt", {"prompt": sink()}, headers=headers)


def test_a_fault_of_our_own_is_said_in_json_without_its_secrets(caplog):
    request = make_mocked_request("GET", "/x")
    answer = refusal_of(ValueError("a secret"), request).reply()
    assert answer.status == 500
    assert answer.content_type == "application/json"
    assert "GET /x failed" in (answer.text or "")
    assert "secret" not in (answer.text or "")
    assert "a secret" in caplog.text
