"""A workflow is read from whatever file it is in, and a file that holds none says why."""

import json
from pathlib import Path
from typing import Any

import pytest
from editor_files import file as drawn
from editor_files import node

import nodes
from executor import Workflow
from executor.errors import FileError, WorkflowError
from executor.workflow_file import read

assert nodes, "importing them registers them"

PROMPT: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "workflow.json"
    path.write_bytes(content)
    return path


def test_what_begins_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(PROMPT).encode())
    assert read(path).prompt == Workflow.load(path).prompt() == PROMPT


def test_the_body_of_a_request_is_taken_for_its_workflow(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"prompt": PROMPT, "client_id": "x"}).encode())
    assert read(path).prompt == PROMPT


def test_a_node_may_have_the_id_prompt(tmp_path: Path) -> None:
    odd = {"prompt": PROMPT["1"], "2": PROMPT["2"]}
    assert read(written(tmp_path, json.dumps(odd).encode())).prompt == odd


@pytest.mark.parametrize(
    "content", [b'{"1": {"class_type": "A"}, "1": {}}', b'{"2": {"1": {"a": 1}, "1": 2}}']
)
def test_a_name_that_an_object_has_twice_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FileError, match="'1' twice"):
        read(written(tmp_path, content))


def test_a_file_nested_without_end_is_refused_to_scripts_too(tmp_path: Path) -> None:
    path = written(tmp_path, b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(FileError, match="nested too deeply"):
        Workflow.load(path)


def test_what_the_editor_has_drawn_goes_on_in_a_script(tmp_path: Path) -> None:
    canvas = node(1, "EmptyImage", [], ["IMAGE"], [24, 16, 1, 0])
    save = node(2, "SaveImage", [("images", "IMAGE", 1)], [], ["drawn"])
    whole = json.dumps(drawn(canvas, save, links=[(1, 1, 0, 2, 0, "IMAGE")])).encode()
    loaded = Workflow.load(written(tmp_path, whole))
    loaded.set("EmptyImage", width=32)
    assert loaded.prompt()["1"]["inputs"]["width"] == 32
    broken = json.dumps(drawn(canvas, save, links=[])).encode()
    with pytest.raises(WorkflowError, match="link 1, which is not in the file"):
        Workflow.load(written(tmp_path, broken))
