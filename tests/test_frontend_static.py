"""A frontend that is installed or given is served as it is, and nothing beside it."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from ledgers import on_a_loop
from servers import Served, serving
from yarl import URL

from executor.api.frontend import find_frontend
from executor.errors import SettingsError

SECRET = "not for everybody"
INDEX = "<!doctype html><title>theirs</title>"


def put(root: Path, name: str, text: str = "x") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A frontend as it is built, with a secret beside it."""
    root = tmp_path / "web"
    put(root, "index.html", INDEX)
    for name in (
        *("assets/index-1a2b.js", "assets/inner-3c.mjs", "assets/index-1a2b.css", "assets/a.json"),
        *("scripts/app.js", "favicon.ico", "fonts/f.woff2", "logo.svg", "x.wasm", "unknown.zzz"),
    ):
        put(root, name)
    put(tmp_path, "secret.txt", SECRET)
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    return root


async def get(served: Served, path: str, status: int = 200) -> tuple[str, Any]:
    async with served.client.get(URL(path, encoded=True)) as response:
        assert response.status == status, await response.text()
        return await response.text(), response.headers


@on_a_loop
async def test_its_page_is_asked_for_anew_each_time(tmp_path: Path, web: Path) -> None:
    async with serving(tmp_path, workers=0, front_end_root=web) as served:
        text, headers = await get(served, "/")
        assert text == INDEX
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    ("name", "content_type", "is_kept"),
    [
        ("assets/index-1a2b.js", "text/javascript; charset=utf-8", True),
        ("assets/inner-3c.mjs", "text/javascript; charset=utf-8", False),
        ("assets/index-1a2b.css", "text/css; charset=utf-8", True),
        ("assets/a.json", "application/json; charset=utf-8", False),
        ("scripts/app.js", "text/javascript; charset=utf-8", False),
        ("fonts/f.woff2", "font/woff2", False),
        ("logo.svg", "image/svg+xml", False),
        ("x.wasm", "application/wasm", False),
        ("unknown.zzz", "application/octet-stream", False),
        ("index.html", "text/html; charset=utf-8", False),
    ],
)
@on_a_loop
async def test_files_have_types_that_browsers_insist_on(
    tmp_path: Path, web: Path, name: str, content_type: str, is_kept: bool
) -> None:
    async with serving(tmp_path, workers=0, front_end_root=web) as served:
        _, headers = await get(served, f"/{name}")
        assert headers["Content-Type"] == content_type
        assert ("immutable" in headers["Cache-Control"]) == is_kept


@pytest.mark.parametrize(
    "path",
    [
        *("/none.js", "/assets", "/assets/", "/link.txt", "/api/none", "/api/", "/models/a/b"),
        *("/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt"),
        *("/..%5csecret.txt", "/%00", "/x%0a", "/templates/index.json", "/docs/KSampler/en.md"),
    ],
)
@on_a_loop
async def test_what_is_not_there_or_not_inside_is_not_found(
    tmp_path: Path, web: Path, path: str
) -> None:
    async with serving(tmp_path, workers=0, front_end_root=web) as served:
        text, headers = await get(served, path, 404)
        assert headers["Content-Type"].startswith("application/json")
        assert SECRET not in text


@on_a_loop
async def test_the_routes_of_the_server_are_not_hidden(tmp_path: Path, web: Path) -> None:
    put(web, "queue", "theirs")
    put(web, "api/queue", "theirs")
    async with serving(tmp_path, workers=0, front_end_root=web) as served:
        assert set(await served.get("/queue")) == {"queue_running", "queue_pending"}
        assert set(await served.get("/api/queue")) == {"queue_running", "queue_pending"}
        await served.post("/index.html", {}, 405)


@on_a_loop
async def test_without_a_frontend_there_is_our_own_page(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        text, _ = await get(served, "/")
        assert "theirs" not in text
        await get(served, "/assets/index-1a2b.js", 404)


@on_a_loop
async def test_installed_packages_are_served_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    for package, name in (
        ("comfyui_frontend_package", "static/index.html"),
        ("comfyui_workflow_templates", "templates/index.json"),
        ("comfyui_embedded_docs", "docs/KSampler/en.md"),
    ):
        put(site / package, "__init__.py", "raise ImportError('must not be imported')")
        put(site / package, name, package)
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    async with serving(tmp_path, workers=0) as served:
        assert (await get(served, "/"))[0] == "comfyui_frontend_package"
        assert (await get(served, "/templates/index.json"))[0] == "comfyui_workflow_templates"
        text, headers = await get(served, "/docs/KSampler/en.md")
        assert text == "comfyui_embedded_docs"
        assert headers["Content-Type"] == "text/markdown; charset=utf-8"
        await get(served, "/docs/../__init__.py", 404)
        await get(served, "/docs/%2e%2e/__init__.py", 404)
    assert "comfyui_frontend_package" not in sys.modules


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"front_end_root: there is no index\.html in"):
        find_frontend(tmp_path)
