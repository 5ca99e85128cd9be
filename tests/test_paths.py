"""Names to files: what is found, what is listed, and that nothing leads out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from executor.errors import PathError
from executor.paths import (
    MODEL_FOLDERS,
    SHIPPED_INPUTS,
    SHIPPED_MODELS,
    Folders,
    fingerprint,
    parts_of,
)
from executor.settings import Settings

HOSTILE = [
    "",
    ".",
    "./",
    "a/",
    "..",
    "../secret.png",
    "a/../../secret.png",
    "a/..",
    "/etc/passwd",
    "//server/share/x.png",
    "C:/x.png",
    "c:x.png",
    "..\\secret.png",
    "a\\b.png",
    "\\\\server\\share",
    "x.png\0",
    "\0",
    "x\n.png",
    "x\x7f.png",
    "nul",
    "NUL.png",
    "a/con.txt",
    "Aux .png",
    "com1.png",
    "lpt9",
    "x" * 256 + ".png",
    "é" * 130 + ".png",
    "\ud800.png",
    "../secret.png [input]",
    "../secret.png [output]",
    "/etc/passwd [temp]",
    " [output]",
    "[output]",
]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Folders below ``home``, beside a file that must not be reached."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    home = tmp_path / "home"
    for place in ("input", "output", "temp", "models/checkpoints"):
        (home / place / "a").mkdir(parents=True)
    return Folders(Settings(base_directory=home))


def put(folders: Folders, folder: str, name: str, content: bytes = b"x") -> Path:
    path = folders.directories[folder][0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def own(folders: Folders, folder: str) -> list[str]:
    """The names in a folder, without those that ship with Weft."""
    shipped = (SHIPPED_MODELS, SHIPPED_INPUTS)
    return [
        name
        for name in folders.names(folder)
        if not any(folders.find(folder, name).is_relative_to(place) for place in shipped)
    ]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("folder", ["input", "output", "checkpoints", "latents", "embeddings"])
def test_hostile_names_are_refused_in_every_folder(
    folders: Folders, folder: str, name: str
) -> None:
    with pytest.raises(PathError):
        folders.find(folder, name)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_error_repeats_control_characters_or_endless_names(folders: Folders, name: str) -> None:
    with pytest.raises(PathError) as caught:
        folders.find("input", name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["x.png", "a/x.png", "a b/ü (1).png", "..x.png", "x..png", "nulls.png", "c/on.png", "~"]
)
def test_harmless_names_are_found(folders: Folders, name: str) -> None:
    path = put(folders, "input", name)
    assert folders.find("input", name) == path.resolve()


def test_a_link_that_leads_out_is_refused_and_not_listed(folders: Folders, tmp_path: Path) -> None:
    directory = folders.place("input")
    (directory / "out.png").symlink_to(tmp_path / "secret.png")
    (directory / "outside").symlink_to(tmp_path)
    for name in ("out.png", "outside/secret.png"):
        with pytest.raises(PathError, match="link that leads out"):
            folders.find("input", name)
    assert own(folders, "input") == []


def test_a_link_within_the_folder_is_followed_and_a_loop_ends(folders: Folders) -> None:
    path = put(folders, "input", "a/x.png")
    (folders.place("input") / "y.png").symlink_to(path)
    (folders.place("input") / "a" / "again").symlink_to(folders.place("input"))
    (folders.place("input") / "round").symlink_to(folders.place("input") / "round")
    assert folders.find("input", "y.png") == path
    assert own(folders, "input") == ["a/x.png", "y.png"]
    with pytest.raises(PathError, match="no file 'round'"):
        folders.find("input", "round")


def test_a_folder_that_is_itself_a_link_is_the_users_choice(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "m.safetensors").write_bytes(b"x")
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "vae").symlink_to(disk)
    folders = Folders(Settings(base_directory=tmp_path / "home"))
    assert folders.find("vae", "m.safetensors") == disk / "m.safetensors"
    assert folders.names("vae") == ["m.safetensors"]


def test_what_is_no_regular_file_is_not_found(folders: Folders) -> None:
    os.mkfifo(folders.place("input") / "pipe.png")
    for name in ("pipe.png", "a"):
        with pytest.raises(PathError, match="there is no file"):
            folders.find("input", name)
    assert own(folders, "input") == []


def test_a_name_may_say_its_place(folders: Folders) -> None:
    for place in ("input", "output", "temp"):
        path = put(folders, place, "sub/x.png")
        assert folders.find("input", f"sub/x.png [{place}]") == path
        assert folders.find("latents", f"sub/x.png [{place}]") == path
    with pytest.raises(PathError):
        folders.find("checkpoints", "sub/x.png [output]")


def test_names_are_of_the_folders_kind_sorted_and_not_hidden(folders: Folders) -> None:
    for name in ("b.png", "A.JPG", "a/c.webp", "z.txt", ".hidden.png", ".d/e.png", "l.latent"):
        put(folders, "input", name)
    assert own(folders, "input") == ["A.JPG", "a/c.webp", "b.png"]
    assert own(folders, "latents") == ["l.latent"]
    put(folders, "output", "notes.txt")
    assert folders.names("output") == ["notes.txt"]


@pytest.mark.parametrize("folder", ["input", "output", "checkpoints"])
def test_every_name_listed_is_found(folders: Folders, folder: str) -> None:
    for name in ("b.png", "a/c.png", "m.safetensors", "a/n.safetensors"):
        put(folders, folder, name)
    names = folders.names(folder)
    assert names
    for name in names:
        assert folders.find(folder, name).is_file()


def test_every_kind_of_model_has_a_folder_of_its_name(folders: Folders) -> None:
    for folder in MODEL_FOLDERS:
        put(folders, folder, "m.safetensors")
        assert folders.find(folder, "m.safetensors").name == "m.safetensors"
        assert "m.safetensors" in folders.names(folder)


def test_models_are_looked_for_at_home_first_then_in_further_directories(tmp_path: Path) -> None:
    home, further = tmp_path / "home", tmp_path / "further"
    for directory, names in ((home / "models", ("a",)), (further, ("a", "b"))):
        (directory / "loras").mkdir(parents=True)
        for name in names:
            (directory / "loras" / f"{name}.safetensors").write_bytes(b"")
    folders = Folders(Settings(base_directory=home, model_directories=(further,)))
    assert folders.find("loras", "a.safetensors").is_relative_to(home)
    assert folders.find("loras", "b.safetensors").is_relative_to(further)
    assert folders.names("loras") == ["a.safetensors", "b.safetensors"]


def test_the_shipped_checkpoint_is_there_wherever_home_is(folders: Folders) -> None:
    assert "weft-tiny.safetensors" in folders.names("checkpoints")
    assert folders.find("checkpoints", "weft-tiny.safetensors").is_file()


def test_older_names_of_model_folders_lead_to_the_same_files(folders: Folders) -> None:
    path = put(folders, "clip", "t.safetensors")
    (folders.directories["clip"][1]).mkdir(parents=True)
    (folders.directories["clip"][1] / "old.safetensors").write_bytes(b"")
    assert folders.find("text_encoders", "t.safetensors") == path
    assert (
        folders.names("text_encoders")
        == folders.names("clip")
        == [
            "old.safetensors",
            "t.safetensors",
        ]
    )


def test_a_pickle_is_found_but_not_offered(folders: Folders) -> None:
    path = put(folders, "checkpoints", "old.ckpt")
    assert folders.find("checkpoints", "old.ckpt") == path
    assert "old.ckpt" not in folders.names("checkpoints")


def test_an_embedding_is_found_without_its_suffix(folders: Folders) -> None:
    path = put(folders, "embeddings", "style.safetensors")
    assert folders.find("embeddings", "style") == path


def test_a_folder_in_the_diffusers_layout_is_one_model(folders: Folders) -> None:
    put(folders, "checkpoints", "sd/model_index.json", b"{}")
    put(folders, "checkpoints", "sd/unet/u.safetensors")
    put(folders, "checkpoints", "plain/m.safetensors")
    found = folders.find("checkpoints", "sd")
    assert found.is_dir()
    assert set(folders.names("checkpoints")) >= {"sd", "plain/m.safetensors"}
    assert "sd/unet/u.safetensors" not in folders.names("checkpoints")
    with pytest.raises(PathError):
        folders.find("checkpoints", "plain")


def test_errors_say_what_was_meant_and_where_was_looked(folders: Folders) -> None:
    put(folders, "output", "portrait.png")
    with pytest.raises(PathError) as caught:
        folders.find("output", "portrat.png")
    assert str(caught.value) == (
        "output: there is no file 'portrat.png' (looked in output); did you mean 'portrait.png'?"
    )
    with pytest.raises(PathError, match="there is none at all"):
        folders.find("loras", "x.safetensors")
    with pytest.raises(PathError, match="did you mean 'loras'"):
        folders.find("lora", "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"longer"),
        lambda path: os.utime(path, ns=(1, 1)),
    ],
)
def test_a_fingerprint_changes_with_the_file(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "model" / "x"
    path.parent.mkdir()
    path.write_bytes(b"x")
    before = fingerprint(path), fingerprint(path.parent)
    assert (fingerprint(path), fingerprint(path.parent)) == before
    change(path)
    assert fingerprint(path) != before[0]
    assert fingerprint(path.parent) != before[1]


def test_a_models_fingerprint_changes_with_its_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"x")
    before = fingerprint(path)
    path.with_suffix(".yaml").write_text("parameterization: v")
    assert fingerprint(path) != before
    path.with_suffix(".yaml").unlink()
    assert fingerprint(path) == before


def test_parts_of_a_name_skip_what_says_nothing() -> None:
    assert parts_of("a//./b.png") == ("a", "b.png")
