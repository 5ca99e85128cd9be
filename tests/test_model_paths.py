"""Models elsewhere, as extra_model_paths.yaml says."""

from pathlib import Path

import pytest

from executor.errors import SettingsError
from executor.model_paths import ExtraFolder, read_model_paths
from executor.paths import SHIPPED_MODELS, Folders
from executor.settings import Settings

EXAMPLE = """
a111:
    base_path: {base}/webui
    checkpoints: models/Stable-diffusion
    loras: |
        models/Lora

        models/LyCORIS
    hypernetworks:
comfyui:
    is_default: true
    checkpoints: other/checkpoints/
    clip: {base}/absolute
nothing:
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_names_directories_of_folders(tmp_path: Path) -> None:
    file = write(tmp_path / "extra.yaml", EXAMPLE.format(base=tmp_path))
    web = tmp_path / "webui" / "models"
    assert read_model_paths(file) == [
        ExtraFolder("checkpoints", web / "Stable-diffusion", False),
        ExtraFolder("loras", web / "Lora", False),
        ExtraFolder("loras", web / "LyCORIS", False),
        ExtraFolder("checkpoints", tmp_path / "other" / "checkpoints", True),
        ExtraFolder("clip", tmp_path / "absolute", True),
    ]


def test_homes_and_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "/disk")
    file = write(tmp_path / "extra.yaml", "x:\n  base_path: ~/y\n  vae: v\n  loras: $DISK/l\n")
    assert [extra.directory for extra in read_model_paths(file)] == [
        tmp_path / "y" / "v",
        Path("/disk/l"),
    ]


def test_they_are_looked_through_in_their_order(tmp_path: Path) -> None:
    write(tmp_path / "extra_model_paths.yaml", EXAMPLE.format(base=tmp_path))
    more = write(tmp_path / "more.yaml", "x:\n  loras: third\n  ultralytics: yolo\n")
    folders = Folders(Settings(base_directory=tmp_path, extra_model_paths=(more,)))
    assert folders.directories["checkpoints"] == (
        tmp_path / "other" / "checkpoints",
        tmp_path / "models" / "checkpoints",
        tmp_path / "webui" / "models" / "Stable-diffusion",
        SHIPPED_MODELS / "checkpoints",
    )
    assert folders.directories["loras"][-2:] == (tmp_path / "third", SHIPPED_MODELS / "loras")
    assert folders.directories["ultralytics"] == (tmp_path / "yolo",)
    # Both names of a folder are the same folder.
    assert folders.directories["clip"] == folders.directories["text_encoders"]
    (tmp_path / "absolute").mkdir()
    (tmp_path / "absolute" / "t.safetensors").touch()
    assert folders.names("text_encoders") == ["t.safetensors"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "is no YAML"),
        ("\x00", "is no YAML"),
        ("a: !!python/object/apply:os.system ['true']", "is no YAML"),
        ("- a", "must be a mapping"),
        ("a: 1", "a must be a mapping"),
        ("a:\n  loras: 1", "a: loras must be a directory"),
        ("a:\n  loras: [x]", "a: loras must be a directory"),
        ("a:\n  base_path: 1", "a: base_path must be a directory"),
        ("a:\n  is_default: maybe", "a: is_default must be true or false"),
        ("a:\n  output: x", "output is no folder of models"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "extra.yaml", text)
    with pytest.raises(SettingsError, match=words) as caught:
        read_model_paths(file)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Folders(Settings(base_directory=tmp_path, extra_model_paths=(tmp_path / "none.yaml",)))


def test_an_empty_file_adds_nothing(tmp_path: Path) -> None:
    assert read_model_paths(write(tmp_path / "extra.yaml", "# nothing\n")) == []
