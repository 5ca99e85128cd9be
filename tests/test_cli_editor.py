"""The command line takes what the editor saves, and pictures that carry only that."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_workflows import written
from editor_files import file, node, primitive
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from executor.__main__ import main


def drawing(link: int | None = 1) -> dict[str, Any]:
    """An empty picture, saved under a name that a primitive holds."""
    canvas = node(1, "EmptyImage", [], ["IMAGE"], [24, 16, 1, 0])
    sockets = [("images", "IMAGE", link), ("filename_prefix", "STRING", 2, "filename_prefix")]
    save = node(2, "SaveImage", sockets, [], ["unused"])
    links = [(1, 1, 0, 2, 0, "IMAGE"), (2, 3, 0, 2, 1, "STRING")]
    return file(canvas, save, primitive(3, "drawn"), node(4, "Note"), links=links)


def texts(path: str) -> dict[str, Any]:
    """The JSON that a picture carries."""
    with Image.open(path) as picture:
        return {str(name): json.loads(text) for name, text in picture.info.items()}


def test_an_editors_file_runs_and_goes_with_its_pictures(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--strict", written(drawing())]) == 0
    assert "2 nodes, 2 of them run" in capsys.readouterr().out
    assert main(["run", "workflow.json"]) == 0
    path = capsys.readouterr().out.strip()
    assert path == "output/drawn_00001_.png"
    carried = texts(path)
    assert carried["workflow"] == drawing()
    assert carried["prompt"]["2"]["inputs"] == {"filename_prefix": "drawn", "images": ["1", 0]}
    assert main(["run", "workflow.json", "--set", "2.filename_prefix=changed"]) == 0
    assert capsys.readouterr().out.strip() == "output/changed_00001_.png"


def test_a_picture_that_carries_only_the_editors_file_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    carrying = PngInfo()
    carrying.add_text("workflow", json.dumps(drawing()))
    Image.new("RGB", (1, 1)).save("carrier.png", pnginfo=carrying)
    assert main(["run", "carrier.png"]) == 0
    path = capsys.readouterr().out.strip()
    assert texts(path)["workflow"] == drawing()


def test_what_is_wrong_with_the_file_is_said_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("check", "run"):
        assert main([command, written(drawing(link=7))]) == 2
        said = capsys.readouterr().err
        assert said.count("SaveImage (node 2)") == 1
        assert "images comes along link 7, which is not in the file" in said
