"""The command line: what it does, prints and answers; real files, real runs."""

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_workflows import ROOT, node, picture, sampled, written

from executor.__main__ import main

# -- check -----------------------------------------------------------------------------------------


def test_a_good_workflow_passes_the_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--strict", written(sampled())]) == 0
    said = capsys.readouterr()
    assert "nothing is wrong" in said.out
    assert said.err == ""


def test_json_tells_the_same_as_lines_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", written(sampled(steps=0, colour=1))]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["problems"] == [
        {
            "message": "steps must be ≥ 1, got 0",
            "kind": "value_smaller_than_min",
            "node": "3",
            "class": "KSampler",
            "input": "steps",
        }
    ]
    assert [warning["input"] for warning in told["warnings"]] == ["colour"]
    assert main(["run", "--json", "nothing.json"]) == 2
    assert "no such file" in json.loads(capsys.readouterr().out)["problems"][0]["message"]


def test_what_a_workflow_needs_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", written(sampled())]) == 0
    assert "needs checkpoints/weft-tiny.safetensors\n" in capsys.readouterr().out
    assert main(["check", "--json", "workflow.json"]) == 0
    (needed,) = json.loads(capsys.readouterr().out)["models"]
    shipped = str(ROOT / "models" / "checkpoints" / "weft-tiny.safetensors")
    assert needed == {
        "folder": "checkpoints",
        "name": "weft-tiny.safetensors",
        "nodes": ["4"],
        "path": shipped,
        "put_into": None,
        "like_it": [],
    }
    assert main(["check", "--json", written(picture())]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == []


def test_all_that_is_missing_is_listed_with_where_to_put_it_and_what_is_like_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("loras/style_v2.safetensors", "embeddings/bad_hands.safetensors"):
        (folder / "models" / name).parent.mkdir(parents=True)
        (folder / "models" / name).write_bytes(b"")
    prompt = sampled(model=["10", 0]) | {
        "10": node("LoraLoader", lora_name="style_v1.safetensors", model=["4", 0], clip=["4", 1]),
        "11": node("CLIPTextEncode", text="embedding:bad_hand, embedding:worst", clip=["10", 1]),
        "12": node("ControlNetLoader", control_net_name="canny.safetensors"),
        "13": node("UpscaleModelLoader", model_name="4x.safetensors"),
        "14": node("ImageUpscaleWithModel", upscale_model=["13", 0], image=["8", 0]),
    }
    prompt["3"]["inputs"]["negative"] = ["11", 0]
    prompt["4"]["inputs"]["ckpt_name"] = "weft-tinny.safetensors"
    prompt["9"]["inputs"]["images"] = ["14", 0]
    assert main(["check", written(prompt)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    missing = [line for line in said.err.splitlines() if line.startswith("missing: ")]
    assert missing == [
        "missing: checkpoints/weft-tinny.safetensors: put it into models/checkpoints, "
        "or use weft-tiny.safetensors",
        "missing: loras/style_v1.safetensors: put it into models/loras, "
        "or use style_v2.safetensors",
        "missing: embeddings/bad_hand: put it into models/embeddings, or use bad_hands.safetensors",
        "missing: embeddings/worst: put it into models/embeddings",
        "missing: upscale_models/4x.safetensors: put it into models/upscale_models",
    ]  # not the ControlNet, which no output needs
    assert main(["check", "--json", "workflow.json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert [model["path"] for model in told["models"]] == [None] * 5
    assert told["models"][1]["put_into"] == str(folder / "models" / "loras")
    assert told["models"][1]["like_it"] == ["style_v2.safetensors"]


# -- run -------------------------------------------------------------------------------------------


def test_a_run_prints_the_paths_of_what_it_saved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", written(picture(batch_size=2)), "-o", "made/here"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["made/here/red_00001_.png", "made/here/red_00002_.png"]
    assert said.err == ""
    assert all(Path(name).is_file() for name in said.out.split())


def test_without_a_folder_files_go_to_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", written(picture())]) == 0
    assert capsys.readouterr().out.split() == ["output/red_00001_.png"]


def test_changes_reach_the_nodes_that_they_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = picture() | {"1": node("EmptyImage", "Canvas", width=16, height=16, color=0)}
    changes = ["1.width=24", "Canvas.height=8", "EmptyImage.batch_size=2"]
    words = [word for change in changes for word in ("--set", change)]
    assert main(["run", written(prompt), *words, "--set", "2.filename_prefix=1e3"]) == 0
    made = capsys.readouterr().out.split()  # what an input that takes text is given stays as it is
    assert made == ["output/1e3_00001_.png", "output/1e3_00002_.png"]
    assert size(made[0]) == (24, 8)


def test_a_picture_runs_again_as_the_workflow_that_it_carries(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", written(picture(width=40))]) == 0
    first = capsys.readouterr().out.strip()
    assert main(["check", first]) == 0
    capsys.readouterr()
    assert main(["run", first, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "succeeded"
    assert told["files"] == [
        {"path": "output/red_00002_.png", "node": "2", "type": "output", "kind": "images"}
    ]
    assert size("output/red_00002_.png") == (40, 16)


def test_the_editors_graph_is_kept_only_while_it_tells_of_the_same_picture(folder: Path) -> None:
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", json.dumps(picture()))
    chunks.add_text("workflow", json.dumps({"nodes": [], "links": []}))
    Image.new("RGB", (8, 8)).save("made.png", pnginfo=chunks)
    for words, kept in (([], {"prompt", "workflow"}), (["--set", "1.width=24"], {"prompt"})):
        assert main(["run", "made.png", "-o", "out", *words]) == 0
        newest = max(Path("out").iterdir())
        with Image.open(newest) as saved:
            assert set(saved.info) & {"prompt", "workflow"} == kept
            told = json.loads(saved.info["prompt"])
        assert told["1"]["inputs"]["width"] == size(str(newest))[0]


def test_a_seed_goes_to_every_seed_input() -> None:
    import nodes
    from executor.cli.changes import changed

    assert nodes
    advanced = node("KSamplerAdvanced", steps=4)  # its noise_seed is the default
    prompt, problems = changed(sampled() | {"10": advanced}, [], seed=7)
    assert problems == []
    assert prompt["3"]["inputs"]["seed"] == 7
    assert prompt["10"]["inputs"] == {"steps": 4, "noise_seed": 7}


def test_a_change_leaves_the_workflow_that_was_read_alone() -> None:
    from executor.cli.changes import changed

    before = sampled()
    after, _ = changed(before, ["3.steps=9"], seed=7)
    assert before == sampled()
    assert after["3"]["inputs"] == sampled(steps=9, seed=7)["3"]["inputs"]


def test_a_node_that_fails_fails_the_run_and_the_rest_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("input").mkdir()
    Path("input/broken.png").write_bytes(b"not a picture")
    prompt = picture() | {
        "3": node("LoadImage", image="broken.png"),
        "4": node("SaveImage", images=["3", 0], filename_prefix="never"),
    }
    assert main(["run", written(prompt)]) == 1
    said = capsys.readouterr()
    assert said.out.split() == ["output/red_00001_.png"]
    assert said.err.startswith("error: LoadImage (node 3): ")
    assert said.err.count("\n") == 1
    assert main(["run", "--json", "workflow.json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "failed"
    assert [error["node"] for error in told["errors"]] == ["3"]


@pytest.mark.timeout(120)  # starts Python, loads torch and the shipped model
def test_an_interrupted_run_ends_with_130_and_leaves_nothing(folder: Path) -> None:
    endless = written(sampled(steps=10_000))
    ran = on_a_terminal("run", endless, cwd=folder, until="10000", then=signal.SIGINT)
    assert ran.returncode == 130
    assert "Traceback" not in ran.seen
    assert [path.name for path in folder.rglob("*.png")] == []


class Ran:
    """A process on a terminal, and what it showed there."""

    def __init__(self, returncode: int, seen: str) -> None:
        self.returncode, self.seen = returncode, seen


def on_a_terminal(*words: str, cwd: Path, until: str, then: signal.Signals) -> Ran:
    """Run a command on a terminal of its own; send a signal once ``until`` can be read there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "executor", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        # Tests that a shell runs in the background are deaf to it, and so are their children.
        preexec_fn=lambda: signal.signal(then, signal.SIG_DFL),
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := read(ours):
            if until.encode() in seen + piece and until.encode() not in seen:
                process.send_signal(then)
            seen += piece
        return Ran(process.wait(), seen.decode())
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def read(terminal: int) -> bytes:
    """What comes next, or nothing when nobody writes any more."""
    try:
        return os.read(terminal, 4096)
    except OSError:  # which is how Linux says so
        return b""


# -- nodes, models ---------------------------------------------------------------------------------


def test_every_class_is_listed_once_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"KSampler", "SaveImage", "LoadImage", "CheckpointLoader"} <= told.keys()
    assert "CheckpointLoaderSimple" in told["CheckpointLoader"]["aliases"]
    assert told["KSampler"]["inputs"]["steps"] == {
        "type": "INT",
        "required": False,
        "default": 20,
        "min": 1,
        "max": 10_000,
    }
    assert main(["nodes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(told)
    assert all(len(line.split()) > 2 for line in lines)  # class, category, what it does


def test_a_class_is_described_under_each_of_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    described: set[str] = set()
    for name in ("CheckpointLoader", "CheckpointLoaderSimple"):
        assert main(["nodes", name]) == 0
        described.add(capsys.readouterr().out)
    (text,) = described
    for word in ("MODEL", "CLIP", "VAE", "ckpt_name", "a file in checkpoints", "required"):
        assert word in text
    assert main(["nodes", "KSamplr"]) == 2
    assert "did you mean 'KSampler'" in capsys.readouterr().err


def test_models_are_listed_and_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = folder / "models" / "vae" / "bad.safetensors"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"nothing")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("weft-tiny.safetensors" in line and "1.x" in line for line in lines)
    assert any("bad.safetensors" in line and "cannot be used" in line for line in lines)
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["models"]
    assert {"sd1", None} == {file.get("family") for file in told}


def test_a_model_is_described_by_path_or_by_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = str(ROOT / "models" / "checkpoints" / "weft-tiny.safetensors")
    for wanted in (shipped, "weft-tiny.safetensors"):
        assert main(["models", wanted]) == 0
        assert "Stable Diffusion 1.x" in capsys.readouterr().out
    (folder / "models" / "checkpoints").mkdir(parents=True)
    (folder / "models" / "checkpoints" / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    for wanted, told in {
        "weft-tinny.safetensors": "did you mean 'weft-tiny.safetensors'",
        "old.ckpt": "old.ckpt is a pickle",
        "../old.ckpt": "'..' is never followed",
        written("no model", "a.safetensors"): "a.safetensors",
    }.items():
        assert main(["models", wanted]) == 2
        assert told in capsys.readouterr().err


def test_hashes_are_told_when_asked_for_and_remembered(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = ROOT / "models" / "checkpoints" / "weft-tiny.safetensors"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert main(["models", "--hash"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("weft-tiny.safetensors" in line and digest[:10] in line for line in lines)
    assert list(json.loads(Path("user/model_digests.json").read_text())) == [str(shipped)]
    assert main(["models", "--hash", "weft-tiny.safetensors"]) == 0
    assert digest in capsys.readouterr().out
    assert main(["models", "--hash", "--json"]) == 0
    assert [m["sha256"] for m in json.loads(capsys.readouterr().out)["models"]] == [digest]
    assert main(["models", "--json", "weft-tiny.safetensors"]) == 0
    assert "sha256" not in json.loads(capsys.readouterr().out)


def test_a_reader_that_goes_away_is_no_mistake() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "executor", "nodes", "--json"]
    ran = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (ran.returncode, ran.stderr) == (0, b"")


def size(path: str) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size
