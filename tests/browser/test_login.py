"""A browser logs in, uses the page and its websocket, logs out, and is led back when it must."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Page, Server, running_server

from executor.tokens import add_token, remove_token


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("base")) as server:
        yield server


def user(server: Server) -> Path:
    return server.base / "user"


def test_a_person_logs_in_and_out(driver: Any, server: Server) -> None:
    page = Page(driver)
    secret = add_token(user(server), "ann")
    page.open(server.address)
    page.one('input[name="token"]').send_keys("weft_wrong")
    page.press("button")
    assert "does not know" in page.one('[role="alert"]').text
    page.one('input[name="token"]').send_keys(secret)
    page.press("button")
    page.one('#line[data-state="connected"]')
    assert secret not in page.run("return document.cookie + location.href")
    assert page.run("return document.cookie") == ""
    page.open(f"{server.address}/login")
    assert "logged in as ann" in page.one("form").text
    page.press("button")
    page.one('input[name="token"]')
    page.open(f"{server.address}/docs/api")
    page.one('input[name="token"]').send_keys(secret)
    page.press("button")
    page.one("article")
    assert driver.current_url == f"{server.address}/docs/api"
    page.open(server.address)
    page.one('#line[data-state="connected"]')
    remove_token(user(server), "ann")
    add_token(user(server), "bob")
    page.run("fetch('api/prompt').then(() => socket.close())")
    page.one('input[name="token"]')
    page.complaints()  # of the answers that were refused, which was meant
