"""Client libraries of other people, fetched from PyPI and npm when a test first wants them.

In the versions named here and unmodified, with all that they need, into a folder that git ignores.
They are no part of Weft, and do not get into its environment.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KEPT = Path(__file__).with_name(".packages")

PYTHON = (
    "comfy-api-simplified==1.6.0",
    "comfyui-workflow-client==0.1.0",
    *("requests==2.34.2", "urllib3==2.8.0", "certifi==2026.10.18"),
    *("charset-normalizer==3.5.2", "idna==3.20", "websockets==17.4"),
)
"""The clients, and what they stand on beside Weft's own aiohttp and Pillow."""

JAVASCRIPT = (
    "@saintno/comfyui-sdk@0.3.1",
    "@stable-canvas/comfyui-client@1.5.9",
    "comfy-ui-client@0.1.2",
    "ws@8.23.0",
)


def python_packages() -> Path:
    """The folder to put on Python's path."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    return _kept("python", PYTHON, lambda place: [*pip, str(place), *PYTHON])


OF_SERVICES = {"openai_images.py": "openai==3.52.0", "runpod_jobs.py": "runpod==1.12.0"}
"""The clients of hosted services, by the programs that use them; each with all that it asks for."""


def service_packages(program: str) -> Path:
    """The folder to put on Python's path for one of these programs."""
    wanted = OF_SERVICES[program]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target"]
    return _kept(Path(program).stem, (wanted,), lambda place: [*pip, str(place), wanted])


def javascript_packages() -> Path:
    """The folder ``node_modules``."""
    npm = shutil.which("npm")
    assert npm, "npm is missing: apt-get install nodejs npm (Node.js 20 or later)"
    # No scripts of theirs run here, and TypeScript, which some can be used from, is left out.
    command = [npm, "install", "--no-save", "--no-package-lock", "--ignore-scripts"]
    command += ["--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"]
    place = _kept("npm", JAVASCRIPT, lambda place: [*command, "--prefix", str(place), *JAVASCRIPT])
    return place / "node_modules"


def _kept(name: str, wanted: tuple[str, ...], command: Callable[[Path], list[str]]) -> Path:
    """A folder with just these packages; made again when others are wanted."""
    place, listed = KEPT / name, KEPT / f"{name}.txt"
    if not listed.is_file() or listed.read_text().split() != list(wanted):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        subprocess.run(command(place), check=True)
        listed.write_text("\n".join(wanted))
    return place
