"""Nodes that leave pictures behind, and whole workflows around them."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import left_alone
from PIL import Image
from pydantic import ValidationError

from executor import InputError, graph
from executor.engine import Engine
from executor.errors import Kind
from executor.events import Ended, Event, Outcome
from executor.job import Job
from executor.pictures import read
from executor.png_text import Embedded, read_workflow
from executor.settings import Settings
from executor.workspace import NodeContext, Workspace
from nodes.output import PreviewImage, SaveImage

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
