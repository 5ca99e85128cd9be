"""The classic workflows that ComfyUI publishes run as they are, on tiny models of their families.

Nothing of a file is changed but its models' suffix, where they are pickles.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from PIL import Image
from published_files import BLOCKS, writer
from published_packages import published

import nodes
from executor import testing
from executor.editor import to_prompt
from executor.models.prompt import embeddings_named
from executor.node import Node
from executor.paths import MODEL_FOLDERS
from executor.session import Session
from executor.settings import Settings

assert nodes  # registers the classes

CLASSIC = (
    *("default", "image2image", "inpaint_example", "inpaint_model_outpainting"),
    *("lora", "lora_multiple", "embedding_example"),
    *("hiresfix_latent_workflow", "hiresfix_esrgan_workflow", "esrgan_example"),
    *("latent_upscale_different_prompt_model", "controlnet_example", "2_pass_pose_worship"),
    *("depth_controlnet", "depth_t2i_adapter", "mixing_controlnets"),
    *("area_composition", "area_composition_square_area_for_subject", "gligen_textbox_example"),
    *("sdxl_simple_example", "sdxl_refiner_prompt_example", "sdxlturbo_example"),
    *("sdxl_revision_text_prompts", "sdxl_revision_zero_positive"),
)
PICKLES = (".pth", ".pt", ".ckpt", ".bin")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    base = tmp_path_factory.mktemp("published")
    return Session(Settings(base_directory=base, device="cpu", custom_nodes=False))


@pytest.mark.parametrize("name", CLASSIC)
def test_it_runs_as_it_is_published(
    name: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what, blocks in BLOCKS.items():
        monkeypatch.setitem(testing.UNET, what, blocks)
    converted = to_prompt(json.loads((published() / f"{name}.json").read_text("utf-8")))
    assert not converted.problems
    supply(converted.prompt, session.settings.base_directory)
    pictures = [
        path
        for node_id, paths in session.run(converted.prompt).items()
        for path in paths
        if converted.prompt[node_id]["class_type"] == "SaveImage"
    ]
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.getcolors(1) is None, "it is one colour only"


def supply(prompt: dict[str, dict[str, Any]], base: Path) -> None:
    """Write every file that a workflow names; its pickles are safetensors from now on."""
    for node in prompt.values():
        specs = Node.registry[node["class_type"]].inputs()
        for input_name, value in node["inputs"].items():
            file = specs[input_name].file if input_name in specs else None
            if file is not None:
                named = PurePosixPath(value)
                if named.suffix in PICKLES:
                    named = named.with_suffix(".safetensors")
                node["inputs"][input_name] = str(named)
                write(base, file.folder, str(named))
            elif input_name == "text":
                text = re.sub(r"(embedding:\S+)\.pt\b", r"\1.safetensors", value)
                node["inputs"][input_name] = text
                for embedding in embeddings_named(text):
                    write(base, "embeddings", embedding)


def write(base: Path, folder: str, name: str) -> None:
    """Write a file that is not there."""
    path = base / folder if folder == "input" else base / "models" / MODEL_FOLDERS[folder][0]
    path = path / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(folder, name)(path)
