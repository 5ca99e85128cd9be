"""Versions of ComfyUI's own frontend, fetched from PyPI when a test first wants them.

They are others' work under the GPL: served to the browser as they are, kept in a folder that git
ignores, and no part of Weft.
"""

import subprocess
import sys
from pathlib import Path

PACKAGE = "comfyui-frontend-package"
KEPT = Path(__file__).with_name(".packages")
NEWEST = "newest"


def fetched(version: str) -> Path:
    """The folder to serve of a version, or of the newest one that there was at the first time."""
    target = KEPT / version
    root = target / "comfyui_frontend_package" / "static"
    if not (root / "index.html").is_file():
        wanted = PACKAGE if version == NEWEST else f"{PACKAGE}=={version}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", target, wanted], check=True)
    assert (root / "index.html").is_file(), f"{PACKAGE} {version} has another layout"
    return root
