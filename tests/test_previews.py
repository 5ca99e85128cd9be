"""When previews are drawn, of what and for whom; and that sampling does not notice."""

import json
import struct
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ledgers import on_a_loop
from PIL import Image
from servers import heard_until, serving
from torch import Tensor
from toy_model import ToyModel

import nodes
from executor.engine import Engine
from executor.events import Ended, Outcome, Progress
from executor.fabric.messages import Preview
from executor.graph import check
from executor.job import Job
from executor.models.latent_rgb import Method
from executor.models.preview import Drawing
from executor.ports import DiffusionModel
from executor.previews import EVERY_S, SHARE, Previews, method_of
from executor.settings import Settings
from executor.workspace import Workspace

assert nodes, "the classes are registered"

MODEL = ToyModel()


class Studio:
    """Previews with a clock that the test turns, drawn when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[Preview] = []
        self.drawn: list[tuple[float, Method]] = []
        self.cost_s = 0.002
        self.error: Exception | None = None
        self.meanwhile: Any = lambda: None
        self.previews = Previews(self.draw, self.told.append, clock=lambda: self.now)

    def draw(self, model: DiffusionModel, latent: Tensor, method: Method) -> Drawing:
        assert model is MODEL
        self.drawn.append((float(latent), method))
        if self.error is not None:
            raise self.error
        self.meanwhile()
        return Drawing(b"%d" % int(latent), self.cost_s)

    def show(self, value: float, job_id: str = "a", node_id: str = "1") -> None:
        self.previews.show(job_id, node_id, MODEL, torch.tensor(float(value)))

    def draw_all(self) -> list[int]:
        """Draw what waits; gives what was told of."""
        before = len(self.told)
        while self.previews._latents:
            self.previews.draw_next()
        return [int(preview.jpeg) for preview in self.told[before:]]


@pytest.fixture
def studio() -> Studio:
    studio = Studio()
    studio.previews.begin("a", 3, "auto")
    return studio


# --- rules -------------------------------------------------------------------------------------


def test_a_preview_says_whose_it_is(studio: Studio) -> None:
    studio.show(7)
    studio.draw_all()
    assert studio.told == [Preview("a", 3, "1", b"7")]
    assert studio.drawn == [(7, "auto")]


def test_nothing_is_drawn_of_jobs_that_nobody_looks_at(studio: Studio) -> None:
    studio.show(1, job_id="b")
    assert not studio.previews._latents  # nor kept
    assert studio.draw_all() == []
    assert studio.drawn == []


def test_a_job_has_ten_a_second_at_most_whatever_its_speed(studio: Studio) -> None:
    seen: list[int] = []
    for step in range(1000):
        studio.show(step, node_id=str(step % 3))
        seen += studio.draw_all()
        studio.now += 0.002
    assert len(seen) == 20  # in two seconds
    assert seen[0] == 0  # the first at once
    steps = round(EVERY_S / 0.002)
    assert all(after - before >= steps for before, after in pairwise(seen))


def test_the_limit_of_a_job_is_not_that_of_another(studio: Studio) -> None:
    studio.previews.begin("b", 1, "taesd")
    studio.show(1)
    studio.show(2, job_id="b")
    studio.show(3)
    assert studio.draw_all() == [1, 2]
    assert studio.drawn == [(1, "auto"), (2, "taesd")]


def test_a_newer_latent_takes_the_place_of_one_that_waits_and_nodes_take_turns(
    studio: Studio,
) -> None:
    for value, node_id in ((1, "x"), (2, "y"), (3, "x")):
        studio.show(value, node_id=node_id)
        studio.now += 1
    assert studio.draw_all() == [3, 2]


def test_the_rest_after_a_drawing_leaves_sampling_its_share(studio: Studio) -> None:
    studio.show(1)
    rest_s = studio.previews.draw_next()
    assert studio.cost_s / (studio.cost_s + rest_s) == pytest.approx(SHARE)
    assert studio.previews.draw_next() == 0  # nothing waits


def test_nothing_is_told_of_a_node_that_has_ended(studio: Studio) -> None:
    studio.show(1)
    studio.previews.node_ended("a", "1")
    assert studio.draw_all() == []
    assert studio.drawn == []
    studio.now += 1
    studio.show(2)
    studio.meanwhile = lambda: studio.previews.node_ended("a", "1")  # while it is being drawn
    assert studio.draw_all() == []
    assert studio.drawn == [(2, "auto")]


def test_nothing_is_told_of_a_job_that_is_over(studio: Studio) -> None:
    studio.previews.begin("b", 1, "auto")
    studio.show(1)
    studio.show(2, job_id="b")
    studio.meanwhile = lambda: studio.previews.end("a")
    assert studio.draw_all() == [2]
    studio.now += 1
    studio.show(3)
    assert studio.draw_all() == []


def test_a_drawing_that_fails_harms_nothing(
    studio: Studio, caplog: pytest.LogCaptureFixture
) -> None:
    studio.error = torch.OutOfMemoryError("CUDA out of memory")
    studio.show(1)
    assert studio.draw_all() == []
    assert "job a" in caplog.text
    assert "out of memory" in caplog.text
    studio.error = None
    studio.now += 1
    studio.show(2)
    assert studio.draw_all() == [2]


@pytest.mark.parametrize("method", ["auto", "latent2rgb", "taesd"])
def test_a_job_may_say_how(method: str) -> None:
    assert method_of({"preview_method": method}) == method


@pytest.mark.parametrize("said", ["none", "default", "AUTO", "", None, 7, [], ["auto"], {}, True])
def test_other_words_say_nothing(said: Any) -> None:
    assert method_of({"preview_method": said}) is None
    assert method_of({}) is None


# --- with the engine ---------------------------------------------------------------------------


def picture(seed: int = 1, steps: int = 5, batch_size: int = 1) -> dict[str, Any]:
    """A small picture by the shipped model."""
    loaded = {"ckpt_name": "weft-tiny.safetensors"}
    empty = {"width": 64, "height": 48, "batch_size": batch_size}
    sampler = {
        "model": ["1", 0],
        "seed": seed,
        "steps": steps,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
        "denoise": 1.0,
    }
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": loaded},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red heart", "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": empty},
        "5": {"class_type": "KSampler", "inputs": sampler},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}},
    }


def run(base: Path, on_preview: Any) -> tuple[list[Any], list[bytes]]:
    """Two pictures at once, one of them a batch: what was told, and the files."""
    workspace = Workspace(Settings(base_directory=base, device="cpu"))
    events: list[Any] = []
    engine = Engine(workspace, events.append)
    engine.on_preview = on_preview(workspace) if on_preview else None
    for job_id, prompt in (("a", picture()), ("b", picture(seed=2, steps=3, batch_size=2))):
        checked = check(prompt, workspace.folders)
        assert checked.graph is not None, checked.problems
        engine.submit(Job(job_id, checked.graph, prompt))
    engine.run()
    return events, [path.read_bytes() for path in sorted((base / "temp").iterdir())]


@pytest.mark.timeout(60)  # loads the shipped model twice
def test_each_step_of_each_job_is_shown_and_pictures_are_the_same_to_the_byte(
    tmp_path: Path,
) -> None:
    shown: list[tuple[str, str, tuple[int, ...]]] = []
    told: list[Preview] = []

    def on_preview(workspace: Workspace) -> Any:
        previews = Previews(workspace.painter.draw, told.append)
        previews.begin("a", 1, "auto")
        previews.begin("b", 1, "auto")

        def show(job_id: str, node_id: str, model: DiffusionModel, denoised: Tensor) -> None:
            shown.append((job_id, node_id, tuple(denoised.shape)))
            previews._jobs[job_id].next_at = 0  # no matter how fast this machine is
            previews.show(job_id, node_id, model, denoised)
            previews.draw_next()

        return show

    events, files = run(tmp_path / "watched", on_preview)
    assert run(tmp_path / "alone", None)[1] == files
    assert len(files) == 3
    shapes = {"a": (1, 4, 6, 8), "b": (2, 4, 6, 8)}
    # A step's estimate is there when the next one begins; after the last one, the picture itself.
    steps = [
        (e.job_id, e.node_id) for e in events if isinstance(e, Progress) and 0 < e.value < e.of
    ]
    assert [(job_id, node_id) for job_id, node_id, _ in shown] == steps
    assert len(steps) == 4 + 2
    assert all(shape == shapes[job_id] for job_id, _, shape in shown)
    assert [(p.job_id, p.node_id) for p in told] == steps
    assert all(Image.open(BytesIO(p.jpeg)).size == (256, 192) for p in told)
    assert all(e.outcome is Outcome.SUCCEEDED for e in events if isinstance(e, Ended))


# --- with a server -----------------------------------------------------------------------------

FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


@pytest.mark.timeout(60)  # loads the shipped model
@on_a_loop
async def test_a_client_that_understands_previews_sees_its_picture_in_the_making(tmp_path):
    async with serving(tmp_path) as server, server.connect("me") as ws:
        await ws.send_str(FLAGS)
        await heard_until(ws, "feature_flags")
        job_id = await server.submit(picture(steps=40), client_id="me")
        told = await heard_until(ws, "executing", node=None, prompt_id=job_id)
        frames = [message for message in told if isinstance(message, bytes)]
        assert frames
        for frame in frames:
            kind, length = struct.unpack(">II", frame[:8])
            assert kind == 4
            assert json.loads(frame[8 : 8 + length])["node_id"] == "5"
            assert Image.open(BytesIO(frame[8 + length :])).format == "JPEG"
        ends = [
            place
            for place, message in enumerate(told)
            if isinstance(message, dict)
            and message["type"] == "executing"
            and message["data"]["node"] == "6"
        ]
        assert told.index(frames[-1]) < ends[0], "no preview comes after its node's end"
        (worker,) = server.workers
        assert worker.worker
        assert not worker.worker.previews._jobs


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("setting", "extra", "expected"),
    [
        ("none", {}, False),
        ("none", {"preview_method": ["auto"]}, False),
        ("none", {"preview_method": "latent2rgb"}, True),
        ("auto", {}, True),
        ("taesd", {"preview_method": "default"}, True),
        ("auto", {"preview_method": "none"}, False),
    ],
)
@on_a_loop
async def test_others_get_previews_only_if_their_job_or_the_server_s_user_says_so(
    tmp_path, setting, extra, expected
):
    async with serving(tmp_path, preview_method=setting) as server, server.connect("me") as ws:
        # Steps enough for the thread that draws to have its turn, however busy this machine is.
        prompt = picture(steps=40 if expected else 5)
        job_id = await server.submit(prompt, client_id="me", extra_data=extra)
        told = await heard_until(ws, "executing", node=None, prompt_id=job_id)
        frames = [message for message in told if isinstance(message, bytes)]
        assert bool(frames) is expected
        assert all(frame.startswith(b"\0\0\0\1\0\0\0\1\xff\xd8") for frame in frames)
        assert (await server.get(f"/history/{job_id}"))[job_id]["status"]["completed"]
