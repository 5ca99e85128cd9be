"""Hashes of model files: right, computed once, remembered for as long as the file is the same."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli_workflows import sampled
from PIL import Image

import nodes
from executor.digests import FILE, Digests
from executor.errors import FileError
from executor.paths import SHIPPED_MODELS
from executor.provenance import MODEL_HASHES
from executor.session import Session
from executor.settings import Settings

assert nodes

SHIPPED = SHIPPED_MODELS / "checkpoints" / "weft-tiny.safetensors"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights" * 1000)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_digest_is_that_of_the_content_and_its_beginning(tmp_path: Path, file: Path) -> None:
    found = Digests(tmp_path / "user").of(file)
    assert found.sha256 == sha256(file)
    assert found.short == sha256(file)[:10]


def test_it_is_computed_once_even_for_another_process(tmp_path: Path, file: Path) -> None:
    user = tmp_path / "user"
    first = Digests(user).of(file)
    remembered = json.loads((user / FILE).read_text())
    assert list(remembered) == [str(file)]
    remembered[str(file)]["sha256"] = "what is remembered"
    (user / FILE).write_text(json.dumps(remembered))
    assert Digests(user).of(file).sha256 == "what is remembered"
    assert first.sha256 == sha256(file)


def test_a_file_that_was_replaced_is_read_anew_and_others_stay_known(
    tmp_path: Path, file: Path
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    digests = Digests(tmp_path / "user")
    digests.begin([file, other])
    before = digests.of(file), digests.of(other)
    new = tmp_path / "new"
    new.write_bytes(b"weighty" * 1000)  # as large as before
    os.utime(new, ns=(1, 1))
    new.replace(file)
    assert digests.of(file).sha256 == sha256(file) != before[0].sha256
    assert digests.of(other) == before[1]
    assert set(json.loads((tmp_path / "user" / FILE).read_text())) == {str(file), str(other)}


def test_a_folder_has_a_digest_of_its_files_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "x.safetensors").write_bytes(b"weights")
        (tmp_path / name / "model_index.json").write_bytes(b"{}")
    digests = Digests(tmp_path / "user")
    found = digests.of(tmp_path / "here")
    lines = [f"{hashlib.sha256(b'{}').hexdigest()}  model_index.json\n"]
    lines += [f"{hashlib.sha256(b'weights').hexdigest()}  unet/x.safetensors\n"]
    assert found.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digests.of(tmp_path / "there") == found


def test_what_cannot_be_read_is_told_and_tried_again(tmp_path: Path, file: Path) -> None:
    digests = Digests(tmp_path / "user")
    digests.begin([tmp_path / "nothing"])
    with pytest.raises(FileError, match=r"nothing cannot be read: No such file"):
        digests.of(tmp_path / "nothing")
    file.rename(tmp_path / "nothing")
    assert digests.of(tmp_path / "nothing").sha256 == sha256(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "[" * 10_000, '{"FILE": {"sha256": 1}}'])
def test_what_others_have_damaged_is_written_anew(tmp_path: Path, file: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content.replace("FILE", str(file)))
    assert Digests(tmp_path).of(file).sha256 == sha256(file)
    assert json.loads((tmp_path / FILE).read_text())[str(file)]["sha256"] == sha256(file)


def test_a_user_folder_that_cannot_be_written_to_is_no_hindrance(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "user").write_bytes(b"a file")
    assert Digests(tmp_path / "user").of(file).sha256 == sha256(file)
    assert "digests of models are not remembered" in caplog.text


def carried(folder: Path, *, model_hashes: bool) -> dict[Any, Any]:
    """What a picture carries that the shipped model has made."""
    session = Session(Settings(base_directory=folder, device="cpu", model_hashes=model_hashes))
    (files,) = session.run(sampled(steps=1)).values()
    with Image.open(files[0]) as picture:
        return dict(picture.info)


def test_pictures_carry_hashes_of_models_where_the_user_wants_it(folder: Path) -> None:
    texts = carried(folder, model_hashes=True)
    digest = sha256(SHIPPED)
    assert json.loads(texts[MODEL_HASHES]) == {
        "checkpoints/weft-tiny.safetensors": {"sha256": digest, "short": digest[:10]}
    }
    assert (folder / "user" / FILE).is_file()


def test_otherwise_they_do_not_and_no_file_is_read_for_it(folder: Path) -> None:
    assert MODEL_HASHES not in carried(folder, model_hashes=False)
    assert not (folder / "user").exists()


def test_what_a_picture_brought_along_is_not_told_again(folder: Path) -> None:
    from executor.workspace import Workspace

    workspace = Workspace(Settings(base_directory=folder, device="cpu"))
    told = {"workflow": {}, MODEL_HASHES: {"checkpoints/other.safetensors": {}}}
    assert set(workspace.context({}, told).extra_pnginfo) == {"workflow"}
