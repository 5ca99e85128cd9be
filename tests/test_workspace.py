"""The workspace: what a node run is given, and what it leaves."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from executor.context import Context, SavedFile
from executor.errors import PathError, SettingsError
from executor.models.library import Library  # seconds, which are on no test's clock here
from executor.settings import Settings
from executor.workspace import Workspace


def write(stream: BinaryIO) -> None:
    stream.write(b"content")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(
        Settings(base_directory=tmp_path, device="cpu"), clock=lambda: datetime(2026, 3, 4)
    )


def test_importing_it_loads_no_torch() -> None:
    code = "import executor.workspace, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_context_remembers_what_its_node_run_kept(workspace: Workspace, tmp_path: Path) -> None:
    prompt = {"1": {"class_type": "KSampler", "inputs": {"seed": 42}}}
    context = workspace.context(prompt, {"workflow": {}})
    first = context.save("%date:yyyy%/%KSampler.seed%_%width%", ".png", write, size=(64, 32))
    second = context.save("x", ".latent", write, kind="latents", is_temporary=True)
    assert first == SavedFile("42_64_00001_.png", "2026", "output", "images")
    assert second == SavedFile("x_00001_.latent", "", "temp", "latents")
    assert context.files == (first, second)
    assert (tmp_path / "output" / "2026" / "42_64_00001_.png").read_bytes() == b"content"
    assert (tmp_path / "temp" / "x_00001_.latent").read_bytes() == b"content"
    assert workspace.context().files == ()


def test_what_was_kept_is_found_by_its_annotated_name(workspace: Workspace) -> None:
    saved = workspace.context().save("a/x", ".png", write)
    name = f"{saved.subfolder}/{saved.filename} [{saved.type}]"
    assert workspace.context().find("input", name).read_bytes() == b"content"


def test_a_context_says_what_the_settings_say(tmp_path: Path) -> None:
    settings = Settings(
        base_directory=tmp_path, device="cpu", ancestral_seed_offset=5, max_picture_pixels=9
    )
    context: Context = Workspace(settings).context({"1": {}}, {"workflow": [1]})
    assert context.ancestral_seed_offset == 5
    assert context.max_picture_pixels == 9
    assert context.device.type == "cpu"
    assert context.prompt == {"1": {}}
    assert context.extra_pnginfo == {"workflow": [1]}


def test_models_that_are_not_there_are_told_before_any_is_loaded(workspace: Workspace) -> None:
    for load in (workspace.context().models.checkpoint, workspace.context().models.vae):
        with pytest.raises(PathError, match="there is no file"):
            load("none.safetensors")


def test_a_model_is_loaded_once(workspace: Workspace) -> None:
    first = workspace.context().models.checkpoint("weft-tiny.safetensors")
    second = workspace.context().models.checkpoint("weft-tiny.safetensors")
    assert isinstance(workspace.library, Library)
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cuda:99"):
        _ = Workspace(Settings(base_directory=tmp_path, device="cuda:99")).device


def test_the_cache_keeps_to_the_budgets_of_the_settings(tmp_path: Path) -> None:
    given = Settings.model_validate(
        {
            "base_directory": tmp_path,
            "device": "cpu",
            "device_cache_bytes": "1KiB",
            "host_cache_bytes": 5,
        }
    )
    cache = Workspace(given).new_cache()
    assert (cache.device_bytes, cache.host_bytes) == (1024, 5)


def test_on_a_cpu_results_are_not_moved_from_memory_to_memory(workspace: Workspace) -> None:
    cache = workspace.new_cache()
    assert cache.device_bytes > 0
    assert cache.host_bytes == 0
