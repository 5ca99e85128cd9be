"""The builder: nodes called as functions make ComfyUI's JSON; mistakes fail where they are made."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from toy_nodes import CALLS, ToyAdd, ToyDivide, ToyFail, ToyNumber, ToySink

from executor import (
    Conditioning,
    Context,
    FileError,
    Image,
    Link,
    Node,
    WeftError,
    Workflow,
    WorkflowError,
)
from executor.graph import check
from executor.paths import Folders
from executor.settings import Settings
from nodes.conditioning import CLIPTextEncode
from nodes.latent import EmptyLatent, SaveLatent
from nodes.loaders import CheckpointLoader
from nodes.sampling import KSampler
from nodes.vae import VAEDecode


class ToyOptional(Node, category="testing"):
    """Take a picture, or none."""

    image: Image | None = None

    def run(self, ctx: Context) -> Image:
        raise NotImplementedError


def text_to_latent(add: Workflow) -> None:
    """A small workflow; a function that adds nodes is a sub-graph."""
    model, clip, vae = add(CheckpointLoader(ckpt_name="weft-tiny.safetensors"))

    def encoded(text: str, title: str) -> Conditioning:
        return add(CLIPTextEncode(text=text, clip=clip), title=title)

    latent = add(
        KSampler(
            model=model,
            seed=2**64 - 1,
            positive=encoded("a “red” circle", "Prompt"),
            negative=encoded("", "Negative prompt"),
            latent_image=add(EmptyLatent(width=128, height=128)),
        )
    )
    add(VAEDecode(samples=latent, vae=vae))
    add(SaveLatent(samples=latent))


def built() -> Workflow:
    add = Workflow()
    text_to_latent(add)
    return add


def test_nodes_are_numbered_in_the_order_in_which_they_are_added() -> None:
    prompt = built().prompt()
    assert list(prompt) == ["1", "2", "3", "4", "5", "6", "7"]
    assert [spec["class_type"] for spec in prompt.values()] == [
        "CheckpointLoader",
        "CLIPTextEncode",
        "CLIPTextEncode",
        "EmptyLatent",
        "KSampler",
        "VAEDecode",
        "SaveLatent",
    ]


def test_every_input_is_written_out_and_links_lead_to_their_slots() -> None:
    prompt = built().prompt()
    assert prompt["5"] == {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0],
            "seed": 2**64 - 1,
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "positive": ["2", 0],
            "negative": ["3", 0],
            "latent_image": ["4", 0],
            "denoise": 1.0,
        },
        "_meta": {"title": "KSampler"},
    }
    assert prompt["6"]["inputs"]["vae"] == ["1", 2]
    assert prompt["2"]["_meta"] == {"title": "Prompt"}


def test_a_built_workflow_passes_the_check_without_a_warning(tmp_path: Path) -> None:
    checked = check(built().prompt(), Folders(Settings(base_directory=tmp_path)))
    assert (checked.problems, checked.warnings) == ((), ())


def test_builder_to_json_and_back_is_the_same_json(tmp_path: Path) -> None:
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    built().save(path)
    loaded = Workflow.load(path)
    loaded.save(again)
    assert loaded.prompt() == built().prompt()
    assert path.read_bytes() == again.read_bytes()
    assert "“red”" in path.read_text(encoding="utf-8")


def test_several_outputs_go_by_name_by_place_and_by_unpacking() -> None:
    add = Workflow()
    divided = add(ToyDivide(a=7, by=2))
    quotient, rest = divided
    assert (divided.quotient, divided.rest) == (quotient, rest) == (Link("1", 0), Link("1", 1))
    assert divided[1] == rest


def test_an_output_node_gives_nothing_to_pass_on() -> None:
    add = Workflow()
    assert add(ToySink(value=add(ToyNumber(value=3)))) is None


def test_a_wrong_constant_fails_where_the_node_is_made() -> None:
    with pytest.raises(ValidationError, match=r"by\n.*greater than or equal to 1"):
        ToyDivide(a=1, by=0)


def test_a_link_of_the_wrong_kind_fails_where_it_is_added_and_says_all_that_is_wrong() -> None:
    add = Workflow()
    model, clip, _ = add(CheckpointLoader(ckpt_name="a.safetensors"))
    wrong: Any = clip
    with pytest.raises(WorkflowError) as raised:
        add(VAEDecode(samples=wrong, vae=model))  # pyright: ignore[reportArgumentType]
    assert str(raised.value).splitlines() == [
        "VAEDecode (node 2): samples takes LATENT, but output 1 of CheckpointLoader (node 1) is "
        "CLIP",
        "VAEDecode (node 2): vae takes VAE, but output 0 of CheckpointLoader (node 1) is MODEL",
    ]
    assert list(add.prompt()) == ["1"]


def test_a_number_may_be_linked_where_its_kind_fits() -> None:
    add = Workflow()
    add(ToySink(value=add(ToyAdd(a=add(ToyNumber(value=3)), b=4))))
    assert add.prompt()["2"]["inputs"] == {"a": ["1", 0], "b": 4}


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (Link("9", 0), "samples links to node 9, which is not in this workflow"),
        (Link("1", 1), r"samples links to output 1 of EmptyLatent \(node 1\), which has 1"),
    ],
)
def test_a_link_to_nothing_fails_where_it_is_added(samples: Any, words: str) -> None:
    add = Workflow()
    add(EmptyLatent())
    with pytest.raises(WorkflowError, match=words):
        add(SaveLatent(samples=samples))


def test_a_value_where_a_link_belongs_is_refused() -> None:
    class Tensor:
        samples = None

    value: Any = Tensor()
    with pytest.raises(WorkflowError, match="samples must be a node's output that is LATENT"):
        Workflow()(SaveLatent(samples=value))


def test_what_may_be_left_out_is_left_out() -> None:
    add = Workflow()
    add(ToyOptional())
    add(ToyOptional(image=add(ToyOptional())))
    assert [spec["inputs"] for spec in add.prompt().values()] == [{}, {}, {"image": ["2", 0]}]


# -- editing -----------------------------------------------------------------------------------


def test_a_node_is_found_by_id_by_title_and_by_class() -> None:
    add = built()
    assert add.find("5") == add.find("KSampler") == "5"
    assert add.find("Prompt") == "2"
    assert add.find("CheckpointLoader") == "1"


def test_a_node_that_is_not_there_or_not_alone_is_refused_with_names() -> None:
    add = built()
    with pytest.raises(WorkflowError, match="did you mean 'Prompt'"):
        add.find("Promt")
    with pytest.raises(WorkflowError, match=r"2 nodes are called 'CLIPTextEncode'.*: 2, 3"):
        add.find("CLIPTextEncode")


def test_inputs_are_set_to_constants_and_to_outputs() -> None:
    add = built()
    add.set("KSampler", steps=4, cfg=2)
    large = add(EmptyLatent(width=256, height=256))
    add.set("KSampler", latent_image=large)
    inputs = add.prompt()["5"]["inputs"]
    assert (inputs["steps"], inputs["cfg"], inputs["latent_image"]) == (4, 2.0, ["8", 0])
    assert inputs["positive"] == ["2", 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step": 4}, r"KSampler \(node 5\): has no input 'step'; did you mean 'steps'"),
        ({"steps": 0}, r"KSampler \(node 5\): steps must be ≥ 1, got 0"),
        ({"sampler_name": "eular"}, r"sampler_name cannot be \"eular\"; did you mean 'euler'"),
        ({"model": Link("4", 0)}, r"model takes MODEL, but output 0 of EmptyLatent \(node 4\)"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_changes(change: Any, words: str) -> None:
    add = built()
    with pytest.raises(WorkflowError, match=words):
        add.set("KSampler", **change)
    assert add.prompt() == built().prompt()


def test_a_loaded_workflow_goes_on_behind_its_last_number(tmp_path: Path) -> None:
    before = {
        "3": {"class_type": "ToyNumber", "inputs": {"value": 1, "old": True}},
        "74:22": {"class_type": "ToyAdd", "inputs": {"a": ["3", 0]}},
        "8": {"class_type": "ToyNumber", "inputs": {"value": 1}, "_meta": None},
        "9": {"class_type": "NobodyKnows", "inputs": {}, "_meta": {"title": "Odd"}},
    }
    add = Workflow(before)
    add(ToySink(value=add.output("74:22")))
    assert add.prompt() == before | {
        "10": {
            "class_type": "ToySink",
            "inputs": {"value": ["74:22", 0], "name": "toy"},
            "_meta": {"title": "ToySink"},
        }
    }
    add.set("3", value=2)
    assert add.prompt()["3"]["inputs"] == {"value": 2, "old": True}
    add(ToySink(value=add.output("Odd")))  # whether it fits, nobody can say yet
    with pytest.raises(WorkflowError, match=r"NobodyKnows \(node 9\): is of an unknown class"):
        add.set("Odd", value=2)


def test_what_prompt_gives_is_a_copy() -> None:
    add = built()
    add.prompt()["5"]["inputs"]["steps"] = 1
    assert add.prompt()["5"]["inputs"]["steps"] == 20


def test_a_workflow_is_read_from_a_picture_that_carries_it() -> None:
    folder = Path(__file__).parents[1] / "workflows"
    carried = Workflow.load(folder / "pictures" / "inpaint_00001_.png")
    assert carried.prompt() == Workflow.load(folder / "inpaint.json").prompt()
    with pytest.raises(FileError, match="carries no workflow"):
        Workflow.load(folder / "input" / "red_circle.png")


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "null", '{"1": {"inputs": {}}}', '{"1": 2}'],
)
def test_files_that_are_no_workflows_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises((FileError, WorkflowError), match=r"is no JSON|no workflow in"):
        Workflow.load(path)


def test_the_editors_own_format_is_refused_as_no_workflow() -> None:
    with pytest.raises(WorkflowError, match="API format"):
        Workflow(json.loads('{"nodes": [{"id": 1}], "links": []}'))


# -- running -----------------------------------------------------------------------------------


def numbers() -> Workflow:
    add = Workflow()
    total = add(ToyAdd(a=add(ToyNumber(value=3)), b=4), title="Sum")
    add(ToySink(value=total, name="first"))
    add(ToySink(value=total, name="second"))
    return add


def test_a_workflow_runs_and_gives_its_files_node_by_node(tmp_path: Path) -> None:
    paths = numbers().run(Settings(base_directory=tmp_path))
    assert [path.name for path in paths] == ["first_00001_.txt", "second_00001_.txt"]
    assert [path.read_text() for path in paths] == ["7.0", "7.0"]


def test_a_run_after_a_change_runs_only_what_it_feeds(tmp_path: Path) -> None:
    add, settings = numbers(), Settings(base_directory=tmp_path)
    before = add.run(settings)
    CALLS.clear()
    assert add.run(settings) == before
    assert CALLS == []
    add.set("Sum", b=5)
    assert [path.read_text() for path in add.run(settings)] == ["8.0", "8.0"]
    assert CALLS == ["add", "sink", "sink"]


def test_a_workflow_with_a_mistake_does_not_run(tmp_path: Path) -> None:
    add = Workflow()
    add(ToyNumber())
    with pytest.raises(WorkflowError, match="no node leaves anything behind"):
        add.run(Settings(base_directory=tmp_path))


def test_a_node_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    add = Workflow()
    add(ToySink(value=add(ToyFail())))
    with pytest.raises(WeftError, match=r"ToyFail \(node 1\): it had to be"):
        add.run(Settings(base_directory=tmp_path))
