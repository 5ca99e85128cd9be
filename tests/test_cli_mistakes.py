"""A mistake in a workflow, a file or an argument is named, on one line, before anything is done."""

import json
from pathlib import Path
from typing import Any

import pytest
from cli_workflows import in_a_process, node, picture, sampled, written

from executor.__main__ import main

WORKFLOWS = Path(__file__).parents[1] / "workflows"

BAD_WORKFLOWS: dict[str, tuple[Any, list[str]]] = {
    "an unknown class with links that are none": (
        {"1": node("Nope", a=[["x"], 0], b=[{}, 1], c=[])},
        ["Nope (node 1)", "no node class"],
    ),
    "a misspelt class": (
        {**picture(), "2": node("SaveImagee", images=["1", 0])},
        ["node 2", "'SaveImagee'", "did you mean 'SaveImage'"],
    ),
    "a missing input": (
        {**picture(), "2": node("SaveImage", filename_prefix="a")},
        ["SaveImage (node 2)", "needs images: a link to an IMAGE"],
    ),
    "a fraction for a whole number": (sampled(steps=3.9), ["KSampler (node 3)", "steps", "3.9"]),
    "true for a whole number": (sampled(steps=True), ["KSampler (node 3)", "steps", "true"]),
    "text for a number": (sampled(cfg="high"), ["KSampler (node 3)", "cfg", "high"]),
    "half a character": (
        picture() | {"3": node("SaveImage", images=["1", 0], filename_prefix="\ud800")},
        ["SaveImage (node 3)", "filename_prefix holds half a character"],
    ),
    "NaN": (sampled(cfg=float("nan")), ["KSampler (node 3)", "cfg", "finite"]),
    "infinity": (sampled(denoise=float("inf")), ["KSampler (node 3)", "denoise"]),
    "too small": (sampled(steps=0), ["KSampler (node 3)", "steps", "≥ 1", "0"]),
    "too large": (sampled(seed=2**64), ["KSampler (node 3)", "seed", str(2**64 - 1)]),
    "a choice that there is not": (
        sampled(sampler_name="eular"),
        ["KSampler (node 3)", "sampler_name", "did you mean 'euler'"],
    ),
    "a file that there is not": (
        sampled() | {"4": node("CheckpointLoaderSimple", ckpt_name="weft-tinny.safetensors")},
        ["node 4", "ckpt_name", "did you mean 'weft-tiny.safetensors'"],
    ),
    "a file outside": (
        sampled() | {"4": node("CheckpointLoaderSimple", ckpt_name="../../secret.safetensors")},
        ["node 4", "ckpt_name", "'..' is never followed"],
    ),
    "a value in place of a link": (sampled(model="weft"), ["KSampler (node 3)", "model", "MODEL"]),
    "a link to nothing": (sampled(model=["40", 0]), ["KSampler (node 3)", "model", "'40'"]),
    "a negative socket": (sampled(model=["4", -1]), ["KSampler (node 3)", "model", "-1"]),
    "a socket that there is not": (sampled(model=["4", 3]), ["KSampler (node 3)", "output 3"]),
    "a fractional socket": (sampled(model=["4", 0.5]), ["KSampler (node 3)", "model", "0.5"]),
    "a socket of another type": (
        sampled(model=["4", 2]),
        ["KSampler (node 3)", "model", "MODEL", "VAE"],
    ),
    "a link that is none": (sampled(model=[["4"], 0]), ["KSampler (node 3)", "model"]),
    "a cycle": (
        {
            "1": node("ImageInvert", image=["2", 0]),
            "2": node("ImageInvert", image=["1", 0]),
            "3": node("SaveImage", images=["2", 0], filename_prefix="a"),
        },
        ["ImageInvert (node 1) → ", "ImageInvert (node 2)"],
    ),
    "a node that feeds itself": (
        {
            "1": node("ImageInvert", image=["1", 0]),
            "3": node("SaveImage", images=["1", 0], filename_prefix="a"),
        },
        ["ImageInvert (node 1) → ImageInvert (node 1)"],
    ),
    "no output": ({"1": picture()["1"]}, ["SaveImage"]),
    "no nodes": ({}, ["empty"]),
    "a list": ([], ["object of nodes"]),
    "a number": ("42", ["object of nodes"]),
    "an editor's file": (
        {
            "nodes": [{"id": 1, "type": "ImageInvert", "inputs": [{"name": "image", "link": 5}]}],
            "links": [],
        },
        ["ImageInvert (node 1): image comes along link 5, which is not in the file"],
    ),
    "a node that is none": ({"1": 5}, ["node 1", "class_type"]),
    "a node without class": ({"1": {"inputs": {}}}, ["node 1", "class_type"]),
    "inputs that are a list": ({"1": {"class_type": "SaveImage", "inputs": []}}, ["inputs"]),
    "no JSON": ('{"1": }', ["no JSON", "line 1, column 7"]),
    "nothing": ("", ["is empty"]),
    "blanks": (" \n ", ["is empty"]),
    "a huge nesting": ("[" * 100_000, ["nested too deeply"]),
    "a deeply nested input": (
        '{"1": {"class_type": "SaveImage", "inputs": {"images": %s}}}' % ("[" * 900 + "]" * 900),
        ["SaveImage (node 1)", "images must be a link"],
    ),
    "nodes in nodes": ('{"1":' * 400 + "1" + "}" * 400, ["node 1", "class_type"]),
    "a number of many digits": ("9" * 5000, ["no JSON that can be read"]),
}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("mistake", BAD_WORKFLOWS)
def test_a_mistake_is_named_and_nothing_is_written(
    mistake: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, words = BAD_WORKFLOWS[mistake]
    assert main([command, written(content)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert any(all(word in line for word in words) for line in errors), said.err
    assert [path.name for path in folder.iterdir()] == ["workflow.json"]


def test_files_that_are_no_workflows_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("binary.json").write_bytes(b"\xff\xd8\xff\xe0 a photograph")
    Path("cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("somewhere").mkdir()
    for name, words in {
        "binary.json": "neither text nor a PNG",
        "cut.png": "carries no workflow",
        "somewhere": "is a folder",
        "binary.jsn": "did you mean 'binary.json'",
        "nowhere/at/all.json": "no such file",
        "a\0b.json": "cannot be read",
    }.items():
        assert main(["check", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert words in said
        assert said.count("\n") == 1


def test_all_mistakes_are_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = sampled(steps=0, cfg="high", model=["4", 7]) | {"8": node("VAEDecod")}
    assert main(["check", written(prompt)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    for name in ("steps", "cfg", "model", "VAEDecod"):
        assert sum(name in line for line in errors) == 1


def test_text_from_a_file_cannot_break_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", written({"1\n\x1b[2J\ud800": node("Nothing\nat all")})]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "1\\n\\x1b[2J\\ud800" in said


def test_bad_files_give_no_traceback_in_a_process_of_their_own(folder: Path) -> None:
    for content in ("[" * 100_000, "", '{"1": {"class_type": "SaveImage"}}'):
        ran = in_a_process("check", written(content), cwd=folder)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("error: ")
        assert "Traceback" not in ran.stderr


def test_unknown_inputs_are_warnings_unless_it_is_strict(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = written(picture(colour=3))
    assert main(["check", name]) == 0
    said = capsys.readouterr()
    assert "warning: EmptyImage (node 1)" in said.err
    assert "did you mean 'color'" in said.err
    assert main(["check", "--strict", name]) == 2
    assert "error: EmptyImage (node 1)" in capsys.readouterr().err


def test_wrong_arguments_are_wrong_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(sampled())
    for words in (
        ["rum", name],
        ["run"],
        ["run", name, "--seed", "x"],
        ["run", name, "--out", "a"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    for words, told in (
        (["--set", "3.steps"], "write NODE.INPUT=VALUE"),
        (["--set", "steps=3"], "write NODE.INPUT=VALUE"),
        (["--set", "33.steps=3"], "no node '33'"),
        (["--set", "KSamplr.steps=3"], "did you mean 'KSampler'"),
        (
            ["--set", "CLIPTextEncode.text=a"],
            "2 nodes are 'CLIPTextEncode'; name one by its id: 6, 7",
        ),
        (["--set", "3.step=3"], "did you mean 'steps'"),
        (["--set", "3.steps=many"], "KSampler (node 3): steps"),
        (["--seed", "-1"], "KSampler (node 3): seed must be ≥ 0"),
        (["-o", name], "is a file"),
        (["-o", f"{name}/below"], "is a file"),
        (["-o", "x" * 300], "cannot be the folder to save in"),
    ):
        capsys.readouterr()
        assert main(["run", name, *words]) == 2
        assert told in capsys.readouterr().err
    assert main(["run", written(picture()), "--seed", "1"]) == 2
    assert "no node of this workflow has an input seed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_found_before_the_picture_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def as_others_do(path: Path, mode: int) -> bool:  # root, who may run this, may write anywhere
        return bool(path.stat().st_mode & 0o222)

    Path("locked").mkdir(mode=0o555)
    monkeypatch.setattr("os.access", as_others_do)
    assert main(["run", written(picture()), "-o", "locked/deeper"]) == 2
    assert "locked must not be written to" in capsys.readouterr().err


def test_a_setting_that_is_none_is_wrong_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEFT_OUTPUT_DIRECTRY", "elsewhere")
    assert main(["check", written(picture())]) == 2
    assert "did you mean 'WEFT_OUTPUT_DIRECTORY'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "broken.safetensors"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_a_model_file_that_is_none_is_told_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, content: bytes, words: str
) -> None:
    place = folder / "models" / "checkpoints"
    place.mkdir(parents=True)
    (place / "broken.safetensors").write_bytes(content)
    workflow = json.loads((WORKFLOWS / "text_to_image.json").read_text())
    loader = next(n for n in workflow.values() if n["class_type"].startswith("CheckpointLoader"))
    loader["inputs"]["ckpt_name"] = "broken.safetensors"
    (folder / "broken.json").write_text(json.dumps(workflow))
    assert main([command, "broken.json"]) == 2
    told = capsys.readouterr()
    assert "ckpt_name: broken.safetensors" in told.err
    assert words in told.err
    assert "Traceback" not in told.err
    assert not (folder / "output").exists()
