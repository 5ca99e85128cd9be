"""The workflows that ComfyUI publishes, fetched from PyPI when a test first wants them.

They are others' work: run as they are, kept in a folder that git ignores, and no part of Weft.
"""

import subprocess
import sys
from pathlib import Path

PACKAGE, VERSION = "comfyui-workflow-templates", "0.1.95"
KEPT = Path(__file__).with_name(".packages")


def published() -> Path:
    """The folder with the workflows, in the editor's format."""
    root = KEPT / VERSION / "comfyui_workflow_templates" / "templates"
    if not (root / "default.json").is_file():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        wanted = f"{PACKAGE}=={VERSION}"
        subprocess.run([*pip, "--upgrade", "--target", KEPT / VERSION, wanted], check=True)
    assert (root / "default.json").is_file(), f"{PACKAGE} {VERSION} has another layout"
    return root
