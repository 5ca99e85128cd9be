"""Nodes that leave pictures behind, and whole workflows around them."""

import json
import re
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import left_alone
from PIL import Image
from pydantic import ValidationError

from executor import InputError, Node, graph
from executor.engine import Engine
from executor.errors import Kind
from executor.events import Ended, Event, Outcome
from executor.job import Job
from executor.pictures import read
from executor.png_text import Embedded, read_workflow
from executor.session import Session
from executor.settings import Settings
from executor.workspace import NodeContext, Workspace
from nodes.output import (
    MaskPreview,
    PreviewImage,
    SaveAnimatedPNG,
    SaveAnimatedWEBP,
    SaveImage,
    SaveImageWebsocket,
)

PROMPT: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 4, "color": 255},
        "_meta": {"title": "Blue"},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(
        Settings(base_directory=tmp_path, device="cpu"), clock=lambda: datetime(2026, 3, 4)
    )


@pytest.fixture
def ctx(workspace: Workspace) -> NodeContext:
    return workspace.context(PROMPT, {"workflow": {"nodes": []}})


def levels(*shape: int) -> torch.Tensor:
    """Pictures of whole levels, a little above, so that cutting off does not lose one."""
    random = torch.Generator().manual_seed(0)
    return (torch.randint(0, 256, shape, generator=random) + 0.25) / 255


def test_pictures_are_kept_with_their_workflow(ctx: NodeContext, tmp_path: Path) -> None:
    images = levels(2, 4, 6, 3)
    with left_alone(images):
        SaveImage(images=images).run(ctx)
    names = [saved.filename for saved in ctx.files]
    assert names == ["ComfyUI_00001_.png", "ComfyUI_00002_.png"]
    for image, name in zip(images, names, strict=True):
        path = tmp_path / "output" / name
        assert torch.equal(read(path, 10_000).frames[0], (image * 255).floor() / 255)
        assert read_workflow(path) == Embedded(PROMPT, {"workflow": {"nodes": []}})


def test_a_prefix_makes_folders_and_is_filled_in(ctx: NodeContext) -> None:
    prefix = "%date:yyyy-MM-dd%/%Blue.color%_%EmptyImage.width%_%width%x%height%_%batch_num%"
    SaveImage(images=levels(2, 4, 6, 3), filename_prefix=prefix).run(ctx)
    assert [(saved.subfolder, saved.filename) for saved in ctx.files] == [
        ("2026-03-04", "255_8_6x4_0_00001_.png"),
        ("2026-03-04", "255_8_6x4_1_00001_.png"),
    ]


def test_previews_go_to_the_temporary_folder(ctx: NodeContext, tmp_path: Path) -> None:
    PreviewImage(images=levels(1, 4, 6, 3)).run(ctx)
    (saved,) = ctx.files
    assert (saved.type, saved.subfolder, saved.kind) == ("temp", "", "images")
    assert read_workflow(tmp_path / "temp" / saved.filename).prompt == PROMPT
    assert not (tmp_path / "output").exists()


def test_a_picture_that_cannot_be_kept_leaves_nothing(ctx: NodeContext, tmp_path: Path) -> None:
    images = levels(2, 4, 6, 3)
    images[1, 0, 0] = torch.nan
    with pytest.raises(InputError, match="no numbers"):
        SaveImage(images=images).run(ctx)
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["ComfyUI_00001_.png"]


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a\\b", "x\0", "a/../../b", "C:/x"])
def test_a_prefix_that_leads_out_is_refused_before_anything_runs(
    workspace: Workspace, prefix: str
) -> None:
    with pytest.raises(ValidationError, match="filename_prefix"):
        SaveImage(images=levels(1, 4, 6, 3), filename_prefix=prefix)
    inputs = {"images": ["1", 0], "filename_prefix": prefix}
    prompt = {**PROMPT, "2": {"class_type": "SaveImage", "inputs": inputs}}
    (problem,) = graph.check(prompt, workspace.folders).problems
    assert problem.kind == Kind.INVALID_VALUE
    assert (problem.node_id, problem.input) == ("2", "filename_prefix")


def test_a_value_filled_in_cannot_lead_out(workspace: Workspace, tmp_path: Path) -> None:
    prompt = {"1": {"class_type": "A", "inputs": {"text": "../../../x"}}}
    ctx = workspace.context(prompt)
    SaveImage(images=levels(1, 4, 6, 3), filename_prefix="%A.text%").run(ctx)
    (saved,) = ctx.files
    assert saved.filename == ".._.._.._x_00001_.png"
    assert (tmp_path / "output" / saved.filename).is_file()


def test_the_file_is_an_8_bit_png_as_comfyui_names_it(ctx: NodeContext, tmp_path: Path) -> None:
    SaveImage(images=levels(1, 4, 6, 3), filename_prefix="x").run(ctx)
    (saved,) = ctx.files
    assert re.fullmatch(r"x_\d{5}_\.png", saved.filename)
    with Image.open(tmp_path / "output" / saved.filename) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (6, 4))


# -- moving pictures -------------------------------------------------------------------------------


def frames_of(path: Path) -> list[tuple[int, np.ndarray]]:
    """How many milliseconds each picture of a file is seen, and its levels."""
    found: list[tuple[int, np.ndarray]] = []
    with Image.open(path) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            levels = np.asarray(picture)  # which decodes it, and then its duration is known
            found.append((picture.info.get("duration", 0), levels))
    return found


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("node", [SaveAnimatedPNG, SaveAnimatedWEBP])
def test_pictures_move_at_the_rate_that_is_said_and_lose_nothing(
    ctx: NodeContext, tmp_path: Path, node: type[Node], channels: int
) -> None:
    images = levels(3, 4, 6, channels)
    images[..., 3:] = 1  # where nothing is seen, a WebP need not keep colours
    with left_alone(images):
        node.model_validate({"images": images, "fps": 12.5}).run(ctx)
    (saved,) = ctx.files
    suffix = ".png" if node is SaveAnimatedPNG else ".webp"
    assert (saved.filename, saved.kind) == (f"ComfyUI_00001_{suffix}", "images")
    assert saved.is_animated
    path = tmp_path / "output" / saved.filename
    found = frames_of(path)
    assert [duration for duration, _ in found] == [80, 80, 80]
    for (_, shown), image in zip(found, images, strict=True):
        assert np.array_equal(shown[..., :3], (image[..., :3] * 255).floor().numpy())
    again = read(path, 10_000).frames  # as LoadImage does
    assert torch.equal(again, (images[..., :3] * 255).floor() / 255)


def test_an_animated_png_carries_the_workflow_as_any_png(ctx: NodeContext, tmp_path: Path) -> None:
    SaveAnimatedPNG(images=levels(2, 4, 6, 3)).run(ctx)
    kept = read_workflow(tmp_path / "output" / "ComfyUI_00001_.png")
    assert kept == Embedded(PROMPT, {"workflow": {"nodes": []}})


def test_an_animated_webp_carries_the_workflow_where_comfyui_looks_for_it(
    ctx: NodeContext, tmp_path: Path
) -> None:
    SaveAnimatedWEBP(images=levels(2, 4, 6, 3)).run(ctx)
    with Image.open(tmp_path / "output" / "ComfyUI_00001_.webp") as picture:
        exif = picture.getexif()
    assert exif[0x0110] == f"prompt:{json.dumps(PROMPT)}"
    assert exif[0x010F] == 'workflow:{"nodes": []}'


def test_quality_and_effort_make_a_webp_smaller(ctx: NodeContext, tmp_path: Path) -> None:
    images = levels(2, 64, 64, 3)
    for options in ({}, {"lossless": False}, {"lossless": False, "quality": 10}):
        SaveAnimatedWEBP.model_validate({"images": images, **options}).run(ctx)
    sizes = [(tmp_path / "output" / saved.filename).stat().st_size for saved in ctx.files]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[-1]


def test_one_picture_does_not_move_and_slow_ones_stay_as_long_as_a_png_can_say(
    ctx: NodeContext, tmp_path: Path
) -> None:
    SaveAnimatedWEBP(images=levels(1, 4, 6, 3)).run(ctx)
    SaveAnimatedPNG(images=levels(2, 4, 6, 3), fps=0.01).run(ctx)
    assert [saved.is_animated for saved in ctx.files] == [False, True]
    slow = frames_of(tmp_path / "output" / ctx.files[1].filename)
    assert [duration for duration, _ in slow] == [65535, 65535]


def test_a_webp_that_is_too_large_is_refused_with_what_would_do(
    ctx: NodeContext, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"16383 pixels .* got 16384×1; use SaveAnimatedPNG"):
        SaveAnimatedWEBP(images=torch.zeros(1, 1, 16384, 3)).run(ctx)
    assert not list((tmp_path / "output").iterdir())


# -- shown, or sent --------------------------------------------------------------------------------


def test_masks_are_shown_as_grey_pictures(ctx: NodeContext, tmp_path: Path) -> None:
    mask = levels(2, 4, 6)
    MaskPreview(mask=mask).run(ctx)
    assert [saved.type for saved in ctx.files] == ["temp", "temp"]
    shown = read(tmp_path / "temp" / ctx.files[1].filename, 10_000).frames[0]
    assert torch.equal(shown, ((mask[1] * 255).floor() / 255)[..., None].expand(-1, -1, 3))


def test_pictures_for_a_client_are_sent_in_order_and_not_kept(
    workspace: Workspace, tmp_path: Path
) -> None:
    sent: list[bytes] = []
    ctx = workspace.context(PROMPT, send=sent.append)
    images = levels(2, 4, 6, 3)
    with left_alone(images):
        SaveImageWebsocket(images=images).run(ctx)
    assert ctx.files == ()
    for png, image in zip(sent, images, strict=True):
        with Image.open(BytesIO(png)) as picture:
            assert (picture.format, picture.info) == ("PNG", {})  # nor a workflow
            assert np.array_equal(np.asarray(picture), (image * 255).floor().numpy())


def test_where_no_client_is_they_become_temporary_files_and_do_so_each_time(
    workspace: Workspace, tmp_path: Path
) -> None:
    prompt = {**PROMPT, "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    session = Session(workspace.settings)
    for number in (1, 2):
        (path,) = session.run(prompt)["2"]
        assert path == tmp_path / "temp" / f"ComfyUI_websocket_{number:05}_.png"
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_always_runs_has_a_key_of_its_own_in_each_job(workspace: Workspace) -> None:
    prompt = {**PROMPT, "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    first, second = (graph.check(prompt, workspace.folders).graph for _ in range(2))
    assert first is not None
    assert second is not None
    assert {n for n in prompt if first.keys[n] != second.keys[n]} == {"3"}


# -- whole workflows -------------------------------------------------------------------------------


def run(prompt: dict[str, Any], workspace: Workspace) -> list[Event]:
    """Run a workflow to its end; what happened."""
    checked = graph.check(prompt, workspace.folders)
    assert checked.graph is not None
    assert not checked.problems
    events: list[Event] = []
    engine = Engine(workspace, events.append)
    engine.submit(Job("job", checked.graph, prompt, {}))
    while engine.jobs:
        engine.step()
    return events


@pytest.mark.parametrize("is_mask", [False, True])
def test_a_cutout_goes_through_a_workflow_as_through_comfyui(
    workspace: Workspace, tmp_path: Path, is_mask: bool
) -> None:
    """Colours come out as they are; the inverted mask is the alpha channel."""
    (tmp_path / "input").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "input" / "cutout.png")
    prompt: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "cutout.png"}},
        "2": {"class_type": "InvertMask", "inputs": {"mask": ["1", 1]}},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0] if is_mask else ["1", 0]}},
    }
    events = run(prompt, workspace)
    assert isinstance(events[-1], Ended)
    assert events[-1].outcome == Outcome.SUCCEEDED
    found = np.asarray(Image.open(tmp_path / "output" / "ComfyUI_00001_.png"))
    if is_mask:
        # 1 - (1 - alpha) in float32 may fall a hair below a level, which cuts it to the one below.
        off = pixels[..., 3:].astype(int) - found
        assert ((off == 0) | (off == 1)).all()
    else:
        assert np.array_equal(found, pixels[..., :3])
    assert read_workflow(tmp_path / "output" / "ComfyUI_00001_.png").prompt == prompt
