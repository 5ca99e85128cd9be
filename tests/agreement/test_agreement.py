"""Every reference workflow gives ComfyUI's latents and pictures; see README.md here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import nodes
from executor.session import Session
from executor.settings import Settings

from .checkpoint import is_whole, write

assert nodes  # registers the classes

HERE = Path(__file__).parent
CASES = sorted(path.stem for path in (HERE / "workflows").glob("*.json"))

# 1e-4 is thirty times what ComfyUI differs from itself with another number of threads.
MOST_RELATIVE = 1e-4

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    models = HERE / ".checkpoint"
    file = models / "checkpoints" / "sd15-random.safetensors"
    if not is_whole(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file)
        assert is_whole(file), "the checkpoint has not the bytes that it must have"
    return Session(
        Settings(
            base_directory=tmp_path_factory.mktemp("agreement"),
            model_directories=(models,),
            input_directory=HERE / "input",
            device="cpu",
            dtype="float32",
            ancestral_seed_offset=0,
        )
    )


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_comfyuis(session, case):
    latents = load_file(HERE / "latents.safetensors")
    prompt = json.loads((HERE / "workflows" / f"{case}.json").read_text())
    files = [path for paths in session.run(prompt).values() for path in paths]
    pictures = [path for path in files if path.suffix == ".png"]
    saved = [path for path in files if path.suffix == ".latent"]
    if case in latents:
        (file,) = saved
        ours, theirs = load_file(file)["latent_tensor"], latents[case]
        assert ours.shape == theirs.shape
        difference = torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs)
        print(f"{case}: relative difference {difference:.1e}")  # noqa: T201  (pytest -s shows it)
        assert difference <= MOST_RELATIVE
    assert pictures
    for index, path in enumerate(pictures):
        name = f"{case}-{index}.png" if index else f"{case}.png"
        ours = np.asarray(Image.open(path)).astype(int)
        theirs = np.asarray(Image.open(HERE / "images" / name)).astype(int)
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= 1
