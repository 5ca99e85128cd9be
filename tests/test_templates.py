"""Workflow templates, and the models that applications name."""

import json
from pathlib import Path
from typing import Any

import pytest

import nodes
from executor.errors import FileError, InputError, SettingsError
from executor.graph import check
from executor.paths import Folders
from executor.public_models import SHIPPED_TEMPLATES, PublicModels, Task, public_names
from executor.settings import ModelSettings, Settings
from executor.templates import Template, side_by_side
from executor.testing import write_tiny_checkpoint

assert nodes  # registers the classes

SHIPPED = sorted(SHIPPED_TEMPLATES.glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_template_runs_as_it_is(path: Path, tmp_path: Path) -> None:
    checked = check(Template.read(path).prompt, Folders(Settings(base_directory=tmp_path)))
    assert not checked.problems


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_filling_with_the_defaults_changes_nothing(path: Path) -> None:
    template = Template.read(path)
    assert template.filled(template.defaults()) == template.prompt


def test_a_parameter_sets_every_input_of_its_name_and_nothing_else() -> None:
    template = Template.read(SHIPPED_TEMPLATES / "inpaint.json")
    filled = template.filled({"width": 64})
    changed = {i for i in filled if filled[i] != template.prompt[i]}
    assert changed == {node_id for node_id, _ in template.places["width"]} == {"5", "7"}
    assert template.prompt["5"]["inputs"]["width"] == 512, "the template is not written to"


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no parameter 'stepps'.*steps"):
        Template.read(SHIPPED[0]).filled({"stepps": 3})


def test_workflows_side_by_side_share_what_is_equal(tmp_path: Path) -> None:
    template = Template.read(SHIPPED_TEMPLATES / "text_to_image.json")
    joined = side_by_side([template.filled({"seed": seed}) for seed in (1, 2)])
    graph = check(joined, Folders(Settings(base_directory=tmp_path))).graph
    assert graph is not None
    assert graph.keys["0:2"] == graph.keys["1:2"]
    assert graph.keys["0:5"] != graph.keys["1:5"]
    assert len(graph.outputs) == 2


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        ({"1": {"class_type": "EmptyImage", "inputs": {}}}, "names none of its inputs"),
        (
            {"1": {"class_type": "X", "inputs": {"a": 1}, "_meta": {"parameters": {"b": "c"}}}},
            "no such input",
        ),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path: Path, workflow: object, words: str):
    (tmp_path / "own.json").write_text(json.dumps(workflow))
    with pytest.raises(FileError, match=words):
        Template.read(tmp_path / "own.json")


def models(tmp_path: Path, **given: Any) -> PublicModels:
    settings = Settings(base_directory=tmp_path, **given)
    return PublicModels(settings, Folders(settings))


def test_every_checkpoint_is_a_model_by_its_name(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "mine.safetensors")
    (tmp_path / "models" / "checkpoints" / "broken.safetensors").write_bytes(b"12345678")
    found = models(tmp_path).all()
    assert set(found) == {"mine", "weft-tiny"}
    workflow = found["weft-tiny"].workflow(Task.TEXT_TO_IMAGE, {"prompt": "a", "seed": 3})
    assert workflow["1"]["inputs"]["ckpt_name"] == "weft-tiny.safetensors"
    assert workflow["4"]["inputs"]["width"] == found["weft-tiny"].resolution
    assert not check(workflow, Folders(Settings(base_directory=tmp_path))).problems


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    files = ["a/x.safetensors", "b/x.safetensors", "c/v1.5.sft", "diffusers-v2.1"]
    names = ["a/x", "b/x", "v1.5", "diffusers-v2.1"]
    assert list(public_names(files).values()) == names


def test_settings_name_models_with_defaults_and_templates(tmp_path: Path) -> None:
    own = json.loads((SHIPPED_TEMPLATES / "text_to_image.json").read_text())
    own["7"]["inputs"]["filename_prefix"] = "own"
    (tmp_path / "own.json").write_text(json.dumps(own))
    said = {
        "checkpoint": "weft-tiny.safetensors",
        "text_to_image": "own.json",
        "defaults": {"steps": 3},
    }
    found = models(tmp_path, models={"public": said}, default_model="public")
    assert set(found.all()) == {"public"}, "its file is not a model of its own name besides"
    workflow = found.named(None).workflow(Task.TEXT_TO_IMAGE, {})
    assert workflow["5"]["inputs"]["steps"] == 3
    assert workflow["7"]["inputs"]["filename_prefix"] == "own"
    assert found.named("public").workflow(Task.INPAINT, {})["11"]["inputs"]["steps"] == 3
    with pytest.raises(InputError, match=r"no model 'pubic'.*public"):
        found.named("pubic")


def test_a_template_that_cannot_be_read_is_said_with_its_model(tmp_path: Path) -> None:
    said = ModelSettings(checkpoint="weft-tiny.safetensors", inpaint=Path("none.json"))
    with pytest.raises(SettingsError, match=r"models\.public\.inpaint: .*none\.json"):
        models(tmp_path, models={"public": said}).all()


def test_a_model_file_that_comes_later_is_found(tmp_path: Path) -> None:
    found = models(tmp_path)
    assert set(found.all()) == {"weft-tiny"}
    write_tiny_checkpoint(tmp_path / "models" / "checkpoints" / "mine.safetensors")
    assert "mine" in found.all()
