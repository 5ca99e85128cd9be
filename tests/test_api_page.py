"""Our own page, and the routes that it alone needs. What it does is tested in a browser."""

import json
import re
import zlib
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from aiohttp.test_utils import make_mocked_request
from editor_files import file, node
from ledgers import on_a_loop
from servers import serving, sink

from executor.api.page import page
from executor.paths import SHIPPED_WORKFLOWS
from executor.png_text import SIGNATURE

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch


class Elements(HTMLParser):
    """Every element with its attributes, and the text of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in ("style", "script") and data.strip():
            self.inline.setdefault(self.found[-1][0], data)


def png(**texts: str) -> bytes:
    """The chunks of a PNG that carries texts; no pixels are needed to read them."""
    chunks = b""
    for keyword, text in texts.items():
        content = b"tEXt" + keyword.encode() + b"\0" + text.encode("latin-1")
        check = zlib.crc32(content).to_bytes(4, "big")
        chunks += (len(content) - 4).to_bytes(4, "big") + content + check
    return SIGNATURE + chunks


@on_a_loop
async def test_the_page_runs_its_own_script_and_no_other():
    answer = await page(make_mocked_request("GET", "/"))
    assert isinstance(answer.body, bytes)
    elements = Elements(answer.body.decode())
    policy = answer.headers["Content-Security-Policy"]
    for kind in ("style", "script"):
        text = elements.inline[kind]
        allowed = f"{kind}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
        assert allowed in policy.split("; ")
    assert policy.startswith("default-src 'none'")


@on_a_loop
async def test_the_page_takes_nothing_from_elsewhere_and_has_nothing_that_its_policy_forbids():
    answer = await page(make_mocked_request("GET", "/"))
    assert isinstance(answer.body, bytes)
    html = answer.body.decode()
    for tag, attributes in Elements(html).found:
        for name, value in attributes.items():
            assert name != "style", f"<{tag}> has a style of its own, which would not be applied"
            assert not name.startswith("on"), f"<{tag} {name}> would not be run"
            if tag == "a" and name == "href":
                assert value == "catalogue"  # which is asked for when somebody presses it
            elif name in ("src", "href"):
                assert str(value).startswith(("data:", "#")), f"<{tag}> asks for {value}"
    assert "url(" not in html
    assert "@import" not in html


@on_a_loop
async def test_what_the_script_looks_for_by_id_is_there_once():
    answer = await page(make_mocked_request("GET", "/"))
    assert isinstance(answer.body, bytes)
    elements = Elements(answer.body.decode())
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', elements.inline["script"]))
    assert asked
    assert asked <= set(ids)
    assert set(re.findall(r'icon\("(\w+)"\)', elements.inline["script"])) <= {
        str(name).removeprefix("i-") for name in ids
    }


@on_a_loop
async def test_all_examples_are_offered_and_are_what_ships(tmp_path):
    async with serving(tmp_path) as server:
        offered = await server.get("/api/examples")
        names = [example["name"] for example in offered]
        assert sorted(names) == sorted(file.stem for file in SHIPPED_WORKFLOWS.glob("*.json"))
        assert names[0] == "text_to_image"
        for example in offered:
            kept = (SHIPPED_WORKFLOWS / f"{example['name']}.json").read_text("utf-8")
            assert await server.get(f"/api/examples/{example['name']}") == json.loads(kept)
            async with server.client.get(f"/api/examples/{example['name']}/picture") as picture:
                assert picture.content_type == "image/png"
                assert (await picture.read()).startswith(SIGNATURE)


@pytest.mark.parametrize("name", ["..%2Finput%2Fred_circle", "README", "text_to_imag", "%00"])
@on_a_loop
async def test_there_are_no_other_examples(tmp_path, name):
    async with serving(tmp_path) as server:
        for path in (f"/examples/{name}", f"/examples/{name}/picture"):
            assert (await server.get(path, 404))["error"]["type"] == "not_found"


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(sink()).encode(),
        b"\xef\xbb\xbf" + json.dumps(sink()).encode(),
        json.dumps({"prompt": sink(), "client_id": "me"}).encode(),
        png(prompt=json.dumps(sink())),
        png(workflow=json.dumps(file(node(9, "Nope"))), prompt=json.dumps(sink())),
    ],
    ids=["json", "json with a mark", "a request", "png", "png with both"],
)
@on_a_loop
async def test_a_workflow_is_read_from_any_file_that_holds_one(tmp_path, body):
    async with serving(tmp_path) as server, server.client.post("/workflow", data=body) as reply:
        answer = await reply.json()
        assert answer["prompt"] == sink()
        assert (answer["problems"], answer["node_errors"]) == ([], {})


@on_a_loop
async def test_the_editors_file_is_converted_and_handed_back(tmp_path):
    drawn = file(
        node(1, "ToyNumber", [], ("INT",), [7]),
        node(2, "ToySink", [("value", "INT", 1)], (), ["toy"]),
        links=[(1, 1, 0, 2, 0, "INT")],
    )
    async with serving(tmp_path) as server:
        plain = await server.post("/workflow", drawn)
        assert plain["workflow"] == drawn
        assert plain["prompt"]["2"]["inputs"]["value"] == ["1", 0]
        carried = png(workflow=json.dumps(drawn))
        async with server.client.post("/workflow", data=carried) as reply:
            assert await reply.json() == plain


@on_a_loop
async def test_a_workflow_that_cannot_run_is_read_with_all_that_is_wrong(tmp_path):
    prompt = {**sink("seven"), "5": {"class_type": "Nope", "inputs": {}}}
    async with serving(tmp_path) as server:
        answer = await server.post("/workflow", prompt)
        refused = await server.post("/prompt", {"prompt": prompt}, 400)
        assert answer["prompt"] == prompt
        assert answer["node_errors"] == refused["node_errors"]
        assert "1" in answer["node_errors"]
        assert await server.get("/queue") == {"queue_running": [], "queue_pending": []}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"[]",
        b"{}",
        b'"1"',
        b'{"1": 5}',
        b'{"1": {"class_type": 5, "inputs": {}}}',
        b'{"1": {"class_type": "ToyNumber", "inputs": []}}',
        b'{"1": {"class_type": "ToyNumber", "inputs": {"value": NaN}}}',
        b'{"1": {"class_type": "ToyNumber", "inputs": {"value": 1e999}}}',
        b"[" * 100_000,
        b"\xff\xd8\xff\xe0 a JPEG",
        SIGNATURE,
        SIGNATURE + b"\xff" * 100,
        png(prompt="{"),
        png(prompt="5"),
        png(parameters="a cat"),
    ],
)
@on_a_loop
async def test_a_file_without_a_workflow_is_refused_with_words(tmp_path, body):
    async with serving(tmp_path) as server, server.client.post("/workflow", data=body) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["message"]
