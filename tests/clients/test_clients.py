"""Client libraries from PyPI and npm, as they are, make pictures with the shipped model.

Each program in ``programs`` goes through what its client offers, and checks what it is told. Left
out is what fails for reasons of its own, so that it would with ComfyUI too: comfy-ui-client's
``interrupt`` and ``editHistory`` (they read JSON from an empty answer) and ``uploadMask`` (its
field is ``originalRef``), and comfyui-api-client 0.1.0, which cannot be imported (a module is
missing).
"""

from pathlib import Path

import pytest
from client_programs import run_program
from PIL import Image
from server_process import ServerProcess, text_to_image


@pytest.mark.parametrize(
    ("program", "count"),
    [
        ("simplified.py", 2),
        ("workflow_client.py", 2),
        ("stable_canvas.mjs", 3),
        ("saintno.mjs", 3),
        ("comfy_ui_client.mjs", 1),
        ("openai_images.py", 6),
        ("runpod_jobs.py", 4),
    ],
)
def test_a_client_makes_pictures(
    server: ServerProcess, tmp_path: Path, program: str, count: int
) -> None:
    workflow = text_to_image(Path(program).stem, seed=sum(program.encode()))
    made = {pixels(path) for path in run_program(program, server, workflow, tmp_path)}
    assert len(made) == count, "as many different pictures"
    assert made <= {pixels(path) for path in (server.base / "output").rglob("*.png")}


def pixels(path: Path) -> bytes:
    """What a picture of 128 × 128 shows; clients that decode it lose its text."""
    with Image.open(path) as picture:
        assert picture.size == (128, 128)
        seen = picture.convert("RGB").tobytes()
        assert len(set(seen)) > 10, "it is not of one colour"
        return seen
