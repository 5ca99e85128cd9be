"""The editor's files and settings: kept whole, found again, never outside their folder."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ledgers import on_a_loop
from servers import Served, serving
from yarl import URL

from executor.api import userdata
from executor.api.preferences import FIRST, NAME

HOME = "user/default"


def at(name: str, prefix: str = "/api/userdata") -> str:
    """A file's address: its name is one segment."""
    return f"{prefix}/{quote(name, safe='')}"


async def ask(
    served: Served, method: str, path: str, status: int = 200, body: Any = None, **params: str
) -> Any:
    """The answer's JSON, or its text."""
    url = URL(path, encoded=True).update_query(params)
    async with served.client.request(method, url, data=body) as response:
        text = await response.text()
        assert response.status == status, text
        is_json = response.content_type == "application/json" and text
        return json.loads(text) if is_json else text


def left(base: Path) -> set[str]:
    """All files below the user's folder, hidden ones too."""
    home = base / HOME
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}


@on_a_loop
async def test_a_file_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    content = b'{"nodes": [],\n "x": "\xc3\xbc"}'
    async with serving(tmp_path, workers=0) as served:
        for name in ("workflows/a b/ü.json", "x.json", "workflows/.index.json", "100%25.json"):
            assert await ask(served, "POST", at(name), body=content) == name
            assert (tmp_path / HOME / name).read_bytes() == content
            for prefix in ("/userdata", "/api/userdata"):
                assert await ask(served, "GET", at(name, prefix)) == json.loads(content)


@on_a_loop
async def test_what_is_told_of_a_file_is_true(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        told = await ask(served, "POST", at("w/a.json"), body=b"{}", full_info="true")
        about = (tmp_path / HOME / "w/a.json").stat()
        assert told["path"] == "w/a.json"
        assert told["size"] == about.st_size == 2
        assert told["modified"] == int(about.st_mtime * 1000)  # milliseconds
        (listed,) = await ask(served, "GET", "/userdata", dir="w", full_info="true")
        assert listed == {**told, "path": "a.json"}


@on_a_loop
async def test_a_folder_is_listed_as_it_is_asked_for(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for name in ("w/b.json", "w/a.json", "w/s/c.json", "w/.hidden", "x.json"):
            await ask(served, "POST", at(name), body=b"{}")
        (tmp_path / HOME / "w" / "link").symlink_to(tmp_path)
        assert await ask(served, "GET", "/userdata", dir="w") == ["a.json", "b.json"]
        deep = await ask(served, "GET", "/userdata", dir="w", recurse="true")
        assert deep == ["a.json", "b.json", "s/c.json"]
        split = await ask(served, "GET", "/userdata", dir="w", recurse="true", split="true")
        assert split[-1] == ["s/c.json", "s", "c.json"]
        assert await ask(served, "GET", "/userdata", dir="w/s/") == ["c.json"]
        await ask(served, "GET", "/userdata", 404, dir="none")
        await ask(served, "GET", "/userdata", 400)
        for outside in ("..", "/etc", "w/../..", "w/link"):
            await ask(served, "GET", "/userdata", 403, dir=outside)


@on_a_loop
async def test_a_file_is_replaced_unless_that_is_not_wanted(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        await ask(served, "POST", at("a.json"), body=b"1")
        await ask(served, "POST", at("a.json"), 409, body=b"2", overwrite="false")
        assert (tmp_path / HOME / "a.json").read_bytes() == b"1"
        await ask(served, "POST", at("a.json"), body=b"2")
        assert (tmp_path / HOME / "a.json").read_bytes() == b"2"
    assert left(tmp_path) == {"a.json"}


@on_a_loop
async def test_one_of_many_who_must_not_replace_wins(tmp_path: Path) -> None:
    async def post(served: Served, body: bytes) -> int:
        path = f"{at('a.json')}?overwrite=false"
        async with served.client.post(path, data=body) as response:
            return response.status

    async with serving(tmp_path, workers=0) as served:
        statuses = await asyncio.gather(*(post(served, b"%d" % i) for i in range(8)))
    assert sorted(statuses) == [200, *[409] * 7]
    assert (tmp_path / HOME / "a.json").read_bytes() == b"%d" % statuses.index(200)


@on_a_loop
async def test_a_file_is_moved_and_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        await ask(served, "POST", at("a.json"), body=b"1")
        await ask(served, "POST", at("b.json"), body=b"2")
        move = f"{at('a.json')}/move/{quote('s/c.json', safe='')}"
        assert (await ask(served, "POST", move, full_info="true"))["path"] == "s/c.json"
        await ask(served, "POST", move, 404)
        onto = f"{at('s/c.json')}/move/b.json"
        await ask(served, "POST", onto, 409, overwrite="false")
        assert left(tmp_path) == {"s/c.json", "b.json"}
        assert await ask(served, "POST", onto) == "b.json"
        assert (tmp_path / HOME / "b.json").read_bytes() == b"1"
        assert await ask(served, "DELETE", at("b.json"), 204) == ""
        await ask(served, "DELETE", at("b.json"), 404)
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (403, "../secret.json"),
        (403, "a/../../secret.json"),
        (403, "/etc/passwd"),
        (403, "linked/secret.json"),
        (400, "..\\secret.json"),
        (400, "a\0.json"),
        (400, "nul"),
        (400, "x" * 300),
        (400, "/".join(["x" * 200] * 30)),
    ],
)
@on_a_loop
async def test_names_that_lead_out_are_refused_for_every_verb(
    tmp_path: Path, status: int, name: str
) -> None:
    base = tmp_path / "base"
    (base / HOME).mkdir(parents=True)
    (base / HOME / "linked").symlink_to(tmp_path)
    (tmp_path / "secret.json").write_text("{}")
    (base / "user" / "secret.json").write_text("{}")
    async with serving(base, workers=0) as served:
        for method in ("GET", "POST", "DELETE"):
            await ask(served, method, at(name), status)
        await ask(served, "POST", f"{at(name)}/move/x.json", status)
        await ask(served, "POST", at("own.json"), body=b"{}")
        await ask(served, "POST", f"{at('own.json')}/move/{quote(name, safe='')}", status)
    assert (tmp_path / "secret.json").read_text() == "{}"
    assert left(base) == {"own.json"}


@on_a_loop
async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        await ask(served, "POST", at("w/a.json"), body=b"{}")
        await ask(served, "GET", at("w"), 404)
        await ask(served, "DELETE", at("w"), 404)
        await ask(served, "POST", at("w"), 400, body=b"{}")
        await ask(served, "POST", at("w/a.json/b.json"), 400, body=b"{}")
    assert left(tmp_path) == {"w/a.json"}


@on_a_loop
async def test_a_file_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(userdata, "MOST_BYTES", 100_000)

    async def endless() -> Any:
        for _ in range(100):
            yield bytes(10_000)

    async with serving(tmp_path, workers=0) as served:
        await ask(served, "POST", at("a.json"), 413, body=endless())
    assert left(tmp_path) == set()


@on_a_loop
async def test_pages_that_were_kept_do_not_run(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for name in ("x.html", "x.svg", "x.js"):
            await ask(served, "POST", at(name), body=b"<script>alert(1)</script>")
            async with served.client.get(at(name)) as response:
                assert response.content_type == "application/octet-stream"
                assert response.headers["Content-Disposition"].startswith("attachment")
                assert response.headers["X-Content-Type-Options"] == "nosniff"


@on_a_loop
async def test_there_is_one_user(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        assert await served.get("/api/users") == {"storage": "server", "migrated": True}


# Settings


@on_a_loop
async def test_settings_are_merged_and_last(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        assert await served.get("/api/settings") == FIRST
        await served.post("/api/settings", {"a": 1, "b": [1, 2]})
        await served.post("/api/settings", {"a": 2})
    async with serving(tmp_path, workers=0) as served:
        assert await served.get("/settings") == {**FIRST, "a": 2, "b": [1, 2]}
        assert await served.get("/settings/b") == [1, 2]
        assert await served.get("/settings/none") is None


@pytest.mark.parametrize("value", [True, None, 1.5, "text ü", [1], {"x": {"y": 1}}])
@on_a_loop
async def test_one_setting_is_the_bare_value_whatever_it_says_it_is(
    tmp_path: Path, value: Any
) -> None:
    async with serving(tmp_path, workers=0) as served:
        headers = {"Content-Type": "text/plain;charset=UTF-8"}
        assert await served.post("/api/settings/Comfy.X", value, headers=headers) is None
        # Our helper sends nothing for None, which means the same.
        assert await served.get("/api/settings/Comfy.X") == value


@on_a_loop
async def test_settings_set_at_once_are_all_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        await asyncio.gather(*(served.post(f"/settings/s{i}", i) for i in range(16)))
        assert await served.get("/settings") == {**FIRST, **{f"s{i}": i for i in range(16)}}
    assert left(tmp_path) == {NAME}


@pytest.mark.parametrize("content", ["{", "[]", "", "[" * 100_000, "\u0000"])
@on_a_loop
async def test_a_damaged_file_is_set_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / HOME).mkdir(parents=True)
    (tmp_path / HOME / NAME).write_text(content)
    async with serving(tmp_path, workers=0) as served:
        assert await served.get("/settings") == FIRST
        await served.post("/settings", {"a": 1})
        assert await served.get("/settings/a") == 1
    assert (tmp_path / HOME / f"{NAME}.damaged").read_text() == content


@on_a_loop
async def test_settings_are_not_endless(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for part in range(4):
            await served.post(f"/settings/{part}", "x" * 900_000)
        await served.post("/settings/b", "x" * 900_000, 413)
        assert await served.get("/settings/b") is None


@pytest.mark.parametrize(
    ("status", "path", "body"),
    [
        (400, "/settings", b"[]"),
        (400, "/settings", b"{"),
        (400, "/settings", b'{"a": NaN}'),
        (400, "/settings", b"1"),
        (400, "/settings/a", b"{"),
        (400, "/settings/" + "a" * 501, b"1"),
    ],
)
@on_a_loop
async def test_settings_that_are_none_are_refused(
    tmp_path: Path, status: int, path: str, body: bytes
) -> None:
    async with serving(tmp_path, workers=0) as served:
        await ask(served, "POST", path, status, body=body)
        assert await served.get("/settings") == FIRST
