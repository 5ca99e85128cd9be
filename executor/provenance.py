"""What a workflow's pictures were made with: the files of models that its nodes name.

Light: no file is opened here but to find its digest.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from executor.digests import Digests
from executor.errors import FileError, PathError
from executor.node import Node
from executor.paths import Folders

log = logging.getLogger(__name__)

MODEL_HASHES = "model_hashes"
"""Under which name a picture carries the digests of models."""

_NO_MODELS = frozenset({"input", "output", "temp", "latents"})


def is_model_folder(folder: str) -> bool:
    """Whether what lies in a named folder are models."""
    return folder not in _NO_MODELS


def model_files(nodes: Iterable[Node], folders: Folders) -> dict[str, Path]:
    """The files of models that nodes name and that are there, as ``folder/name``."""
    found: dict[str, Path] = {}
    for node in nodes:
        for _, folder, name in node.files():
            if is_model_folder(folder):
                try:
                    found[f"{folder}/{name}"] = folders.find(folder, name)
                except PathError as error:  # it went away since the workflow was checked
                    log.warning("no hash of %s/%s: %s", folder, name, error)
    return found


def model_hashes(files: Mapping[str, Path], digests: Digests) -> dict[str, Any]:
    """The digests of files by their names, as pictures carry them; waits for those under way."""
    found: dict[str, Any] = {}
    for name, path in files.items():
        try:
            digest = digests.of(path)
        except FileError as error:
            log.warning("no hash of %s: %s", name, error)
        else:
            found[name] = {"sha256": digest.sha256, "short": digest.short}
    return found
