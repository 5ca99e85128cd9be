"""What many tests stand on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from executor.workspace import NodeContext

# Before torch is loaded: its threads otherwise spin when idle, which slows a busy machine down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny checkpoint of a family, by the family's name; written when first asked for."""
    directory = tmp_path_factory.mktemp("tiny")

    def path_of(family: str) -> Path:
        from executor.testing import write_tiny_checkpoint  # loads torch, which few tests need

        path = directory / f"{family}.safetensors"
        if not path.is_file():
            write_tiny_checkpoint(path, of=family)
        return path

    return path_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and no settings from outside."""
    for name in os.environ:
        if name.startswith("WEFT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ctx(tmp_path: Path) -> "NodeContext":
    """What a node run is given, with folders of its own."""
    from executor.settings import Settings
    from executor.workspace import Workspace

    return Workspace(Settings(base_directory=tmp_path, device="cpu")).context()
