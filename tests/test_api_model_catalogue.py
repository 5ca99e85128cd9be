"""The catalogue: what models are, how they do, and several of them beside each other."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers as whole
from hypothesis.strategies import lists, tuples
from ledgers import on_a_loop
from servers import Served, serving
from test_api_openapi import fault
from test_api_page import Elements

import nodes
from executor.api.catalogue_fields import MOST_HOURS, SORTS
from executor.api.descriptions import DESCRIPTIONS
from executor.api.job_checkpoints import checkpoints_of
from executor.api.model_catalogue import MOST_BUCKETS, buckets_of
from executor.api.model_health import Availability, intersection, union
from executor.api.page import page_reply
from executor.digests import Digests
from executor.graph import check
from executor.ledger.figures import HOUR_MS
from executor.ledger.presence import Presence, Span
from executor.ledger.records import Checkpoints
from executor.paths import SHIPPED_MODELS, Folders
from executor.settings import Settings
from executor.templates import side_by_side

assert nodes  # registers the classes

pytestmark = pytest.mark.timeout(60)  # the first test of a process loads torch

TINY = "weft-tiny.safetensors"
QUICK = {"prompt": "a red circle", "steps": 2, "width": 64, "height": 64}
MODELS = {
    "small": {
        "checkpoint": TINY,
        "price": 0.02,
        "description": "Ours",
        "best_use": "circles",
        "defaults": {"width": 96},
    },
    "large": {"checkpoint": TINY, "price": 0.05},
    "gone": {"checkpoint": "gone.safetensors", "price": 0.5, "description": "It was there once"},
}


async def listed(server: Served, **query: Any) -> dict[str, Any]:
    answer = await server.get("/api/catalogue", params={k: str(v) for k, v in query.items()})
    assert fault(answer, DESCRIPTIONS["GET", "/catalogue"].answer) == ""
    return {model["name"]: model for model in answer["models"]}


async def compared(server: Served, **asked: Any) -> dict[str, Any]:
    """A comparison, when it is over."""
    answer = await server.post("/api/catalogue/compare", {**QUICK, **asked})
    assert fault(answer, DESCRIPTIONS["POST", "/catalogue/compare"].answer) == ""
    path = f"/api/catalogue/compare/{answer['prompt_id']}"

    async def over() -> Any:
        found = await server.get(path)
        assert fault(found, DESCRIPTIONS["GET", "/catalogue/compare/{job_id}"].answer) == ""
        return found["status"] not in ("pending", "in_progress") and found

    return await server.until(over)


async def ready(server: Served) -> None:
    async def seen() -> bool:
        return any(seat.ready for seat in server.dispatcher.seats)

    await server.until(seen)


@on_a_loop
async def test_a_model_says_of_itself_what_its_file_and_the_settings_know(tmp_path: Path) -> None:
    async with serving(tmp_path, models={"small": MODELS["small"]}) as server:
        (small,) = (await listed(server)).values()
        assert (small["family"], small["dtype"], small["licence"]) == ("sd1", "F16", "Apache-2.0")
        file = SHIPPED_MODELS / "checkpoints" / TINY
        assert small["size_bytes"] == file.stat().st_size
        assert small["parameters"] == 8_238_424
        assert small["size"] == {"width": 96, "height": 128}
        assert (small["description"], small["best_use"]) == ("Ours", "circles")
        assert small["tasks"] == ["text_to_image", "image_to_image", "inpaint"]
        assert small["is_default"]
    async with serving(tmp_path) as server:
        (plain,) = (await listed(server)).values()
        assert plain["name"] == "weft-tiny"
        assert plain["description"].startswith("A small Stable Diffusion")
        assert plain["best_use"].startswith("128x128")
        assert (plain["price"], plain["cost"]) == (None, None)
        assert plain["sha256"] is None, "nobody waits for a file to be read"
        known = Digests(Folders(Settings(base_directory=tmp_path)).user).of(file)
        (plain,) = (await listed(server)).values()
        assert plain["sha256"] == known.sha256


@on_a_loop
async def test_figures_match_the_jobs_that_ran_and_outlast_the_history(tmp_path: Path) -> None:
    async with serving(tmp_path, models=MODELS) as server:
        first = (await listed(server))["small"]
        assert (first["requests"], first["last_used_ms"], first["success_rate"]) == (0, None, None)
        for seed in (1, 2):
            asked = {**QUICK, "model": "small", "size": "64x64", "n": seed, "seed": seed}
            await server.post("/v1/images/generations", asked)
        found = (await listed(server))["small"]
        hour = found["windows"]["1h"]
        assert (hour["requests"], hour["succeeded"], hour["pictures"]) == (2, 2, 3)
        assert found["requests"] == 2
        assert found["pictures"] == 3
        assert found["success_rate"] == 1
        assert hour["running_ms"]["p50"] > 0
        assert hour["running_ms"]["p50"] <= hour["running_ms"]["p99"]
        assert hour["pictures_per_second"] > 0
        assert found["cost"] == {"so_far": 0.06, "relative": 1}
        assert (await listed(server))["large"]["cost"] == {"so_far": 0.15, "relative": 2.5}
        (worker,) = found["providers"]
        assert (worker["worker"], worker["is_ready"], worker["pictures"]) == ("cpu:0", True, 3)
        await server.post("/history", {"clear": True})
        assert (await listed(server))["small"]["windows"]["1h"] == hour
    async with serving(tmp_path, models=MODELS) as server:
        assert (await listed(server))["small"]["windows"]["1h"] == hour
        answer = await server.get("/catalogue/small/history?hours=1")
        assert fault(answer, DESCRIPTIONS["GET", "/catalogue/{name}/history"].answer) == ""
        assert sum(bucket["pictures"] for bucket in answer["buckets"]) == 3
        assert all(bucket["since_ms"] > answer["since_ms"] for bucket in answer["buckets"])


@on_a_loop
async def test_a_model_can_be_used_while_its_file_and_a_worker_are_there(tmp_path: Path) -> None:
    async with serving(tmp_path, models=MODELS) as server:
        await ready(server)

        async def since() -> Any:
            spans = (await server.get("/catalogue/small/history"))["available"]
            return spans if spans and spans[-1][0] < spans[-1][1] else None

        spans = await server.until(since)
        assert len(spans) == 1
        found = await listed(server)
        assert found["small"]["availability"]["is_available"]
        assert 0 < found["small"]["availability"]["share"]["24h"] <= 1
        gone = found["gone"]
        assert not gone["availability"]["is_available"]
        assert "file is not there" in gone["availability"]["why_not"]
        assert gone["availability"]["share"]["1h"] is None
        assert gone["description"] == "It was there once"
        server.workers[0].kill()

        async def is_back() -> Any:
            (worker,) = [one for one in await server.ledger.presence(0) if one.kind == "worker"]
            return len(worker.spans) == 2 and worker.spans

        first, second = await server.until(is_back)
        assert first.until_ms <= second.since_ms


@on_a_loop
async def test_filters_leave_out_what_is_not_wanted(tmp_path: Path) -> None:
    async with serving(tmp_path, models=MODELS) as server:
        await ready(server)
        everything = ["gone", "large", "small"]
        assert list(await listed(server)) == everything
        for query, names in (
            ({"family": "sd1"}, ["large", "small"]),
            ({"family": "sdxl"}, []),
            ({"task": "inpaint"}, ["large", "small"]),
            ({"available": "true"}, ["large", "small"]),
            ({"available": "false"}, ["gone"]),
            ({"name": "ARG"}, ["large"]),
            ({"max_price": 0.05}, ["large", "small"]),
            ({"max_price": 0.01}, []),
            ({"sort": "price"}, ["small", "large", "gone"]),
            ({"sort": "-price"}, ["gone", "large", "small"]),
            ({"sort": "-size"}, ["large", "small", "gone"]),
            ({"family": "", "task": "", "available": "", "max_price": ""}, everything),
        ):
            assert list(await listed(server, **query)) == names, query
        for sort in SORTS:
            assert set(await listed(server, sort=sort)) == set(everything)
        answer = await server.get("/catalogue?name=small")
        assert (answer["total"], answer["families"]) == (3, ["sd1"])


@on_a_loop
async def test_wrong_fields_are_named_all_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, models=MODELS) as server:

        async def refused(method: str, path: str, body: Any = None) -> str:
            ask = server.get if method == "GET" else lambda p, s: server.post(p, body, s)
            return (await ask(path, 400))["error"]["message"]

        wrong = "/catalogue?family=sd9&task=paint&available=perhaps&max_price=-1&sort=nmae&famly=1"
        words = await refused("GET", wrong)
        for name in ("family", "task", "available", "max_price", "sort", "famly"):
            assert f"{name}: " in words
        assert "did you mean" in words
        assert "hours: " in await refused("GET", "/catalogue/small/history?hours=0")
        assert (await server.get("/catalogue/smal/history", 404))["error"]["message"]
        body = {"models": [], "seed": -1, "width": 65, "n": 1}
        words = await refused("POST", "/catalogue/compare", body)
        for name in ("models", "prompt", "seed", "width", "n"):
            assert f"{name}: " in words
        body = {"models": ["small", "smal", "gone"], "prompt": "a"}
        words = await refused("POST", "/catalogue/compare", body)
        assert "'smal'" in words
        assert "'gone'" in words
        assert "'small'; did" not in words
        await server.get("/catalogue/compare/nothing", 404)
        assert (await server.ledger.counts()).queued == 0


@on_a_loop
async def test_models_are_compared_by_one_job_with_the_same_prompt_and_seed(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, models=MODELS) as server:
        answer = await compared(server, models=["large", "small"], seed=7, negative_prompt="blue")
        assert (answer["status"], answer["seed"], answer["error"]) == ("completed", 7, None)
        assert [model["name"] for model in answer["models"]] == ["large", "small"]
        for model in answer["models"]:
            (picture,) = model["pictures"]
            assert (tmp_path / "output" / picture["subfolder"] / picture["filename"]).is_file()
            assert 0 <= model["after_ms"] <= answer["ended_ms"] - answer["started_ms"]
        (job,) = await server.ledger.history(limit=10)
        workflow = json.loads(job.body.prompt)
        by_class: dict[str, list[Any]] = {}
        for node in workflow.values():
            by_class.setdefault(node["class_type"], []).append(node["inputs"])
        assert [sampler["seed"] for sampler in by_class["KSampler"]] == [7, 7]
        texts = {text["text"] for text in by_class["CLIPTextEncode"]}
        assert texts == {"a red circle", "blue"}
        assert [size["width"] for size in by_class["EmptyLatent"]] == [64, 64]
        found = (await listed(server))["small"]["windows"]["1h"]
        assert (found["requests"], found["pictures"]) == (1, 2)  # both are of one checkpoint
        again = await compared(server, models=["large", "small"], seed=7, negative_prompt="blue")
        assert all(model["pictures"] for model in again["models"]), "what is known is shown too"


@on_a_loop
async def test_another_job_is_no_comparison(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        job_id = await server.submit(await server.get("/api/examples/text_to_image"))
        await server.get(f"/catalogue/compare/{job_id}", 404)


@pytest.mark.parametrize("path", ["/catalogue", "/api/catalogue"])
@on_a_loop
async def test_a_browser_that_opens_it_gets_the_page_and_programs_get_json(
    tmp_path: Path, path: str
) -> None:
    async with serving(tmp_path) as server:
        browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        async with server.client.get(path, headers=browser) as answer:
            is_page = path == "/catalogue"
            assert answer.content_type == ("text/html" if is_page else "application/json")
            assert answer.headers["Vary"] == "Accept"
            assert ("Content-Security-Policy" in answer.headers) == is_page
        assert (await server.get(path))["total"] == 1


# What lies below


def test_every_time_has_a_plot_that_is_not_too_fine() -> None:
    for hours in range(1, MOST_HOURS + 1):
        span_ms, width_ms = buckets_of(hours)
        assert width_ms % span_ms == 0
        assert hours * HOUR_MS / width_ms <= MOST_BUCKETS


TIMES = lists(tuples(whole(0, 30), whole(1, 8)), max_size=6)


@settings(max_examples=40)
@given(TIMES, TIMES)
def test_spans_are_joined_and_cut_as_sets_of_moments_are(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    def moments(spans: list[Span]) -> set[int]:
        return {at for span in spans for at in range(span.since_ms, span.until_ms)}

    one, other = ([Span(at, at + length) for at, length in drawn] for drawn in (first, second))
    joined, joined_other = union(one), union(other)
    assert moments(joined) == moments(one)
    assert all(a.until_ms < b.since_ms for a, b in pairwise(joined))
    assert moments(intersection(joined, joined_other)) == moments(one) & moments(other)


def test_availability_is_of_the_time_since_a_file_was_first_seen() -> None:
    seen = (
        Presence("checkpoint", "a", 500, (Span(500, 1000),)),
        Presence("worker", "one", 0, (Span(0, 600), Span(700, 750))),
        Presence("worker", "two", 0, (Span(550, 620),)),
    )
    availability = Availability(seen)
    assert availability.spans("a") == [Span(500, 620), Span(700, 750)]
    assert availability.share("a", 0, 1000) == (120 + 50) / 500
    assert availability.share("a", 0, 400) is None
    assert availability.share("b", 0, 1000) is None


def test_pictures_are_of_the_checkpoints_that_they_are_made_with(tmp_path: Path) -> None:
    folders = Folders(Settings(base_directory=tmp_path))
    (folders.directories["checkpoints"][0]).mkdir(parents=True)
    other = folders.directories["checkpoints"][0] / "sub" / "b.safetensors"
    other.parent.mkdir()
    other.write_bytes((SHIPPED_MODELS / "checkpoints" / TINY).read_bytes())

    def prompt(name: str) -> dict[str, Any]:
        return {
            "1": {"class_type": "CheckpointLoader", "inputs": {"ckpt_name": name}},
            "2": {"class_type": "EmptyLatent", "inputs": {"width": 64, "height": 64}},
            "3": {
                "class_type": "VAEDecode",
                "inputs": {"samples": ["2", 0], "vae": ["1", 2]},
            },
            "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
        }

    plain = {
        "5": {"class_type": "LoadImage", "inputs": {"image": "red_circle.png"}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}},
    }
    joined = side_by_side([prompt(TINY), prompt("./sub//b.safetensors"), plain])
    items = list(joined.items())
    random.Random(0).shuffle(items)
    graph = check(dict(items), folders).graph
    assert graph
    found = checkpoints_of(graph)
    assert set(found.names) == {TINY, "sub/b.safetensors"}
    place = found.names.index(TINY)
    assert found.by_output == {"0:4": 1 << place, "1:4": 2 >> place, "2:6": 0}
    assert found.shares({"0:4": 3, "1:4": 5, "2:6": 7})[place] == 3
    alone = check(plain, folders).graph
    assert alone
    assert checkpoints_of(alone) == Checkpoints()


def test_the_page_takes_nothing_from_elsewhere_and_finds_what_it_looks_for() -> None:
    body = page_reply("catalogue").body
    assert isinstance(body, bytes)
    elements = Elements(body.decode())
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert name != "style"
            assert not name.startswith("on")
            if tag == "a" and name == "href":
                assert value == "./"
            elif name in ("src", "href"):
                assert str(value).startswith(("data:", "#"))
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'\$\("([\w-]+)"\)', elements.inline["script"]))
    assert asked <= set(ids)
