"""The nodes that put LoRAs on models, alone and in workflows as templates have them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import left_alone
from PIL import Image

import nodes
from executor import testing
from executor.engine import Engine
from executor.errors import WeftError
from executor.events import Ended, Failed
from executor.graph import check
from executor.job import Job
from executor.models.unet import UNet
from executor.node import Node
from executor.session import Session
from executor.settings import Settings
from executor.workspace import NodeContext, Workspace
from nodes import CheckpointLoader, LoraLoader, LoraLoaderModelOnly

pytestmark = pytest.mark.timeout(60)  # the first of them imports transformers
assert nodes, "the classes are registered"

Prompt = dict[str, Any]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a checkpoint and two LoRAs."""
    base = tmp_path_factory.mktemp("base")
    testing.write_tiny_checkpoint(base / "models" / "checkpoints" / "tiny.safetensors")
    for seed, name in enumerate(("style", "sketch")):
        testing.write_tiny_lora(base / "models" / "loras" / f"{name}.safetensors", seed=seed)
    return base


@pytest.fixture
def ctx(base: Path) -> NodeContext:
    return Workspace(Settings(base_directory=base, device="cpu")).context()


def text_to_image(
    *loras: Mapping[str, Any], seed: int = 1, cls: str = "LoraLoader", steps: int = 2
) -> Prompt:
    """ComfyUI's template ``lora``, or with several ``lora_multiple``."""
    prompt = {"ckpt": node("CheckpointLoaderSimple", ckpt_name="tiny.safetensors")}
    model, clip = ["ckpt", 0], ["ckpt", 1]
    for place, lora in enumerate(loras):
        if cls == "LoraLoaderModelOnly":
            prompt[f"lora {place}"] = node(cls, model=model, **lora)
        else:
            prompt[f"lora {place}"] = node(cls, model=model, clip=clip, **lora)
            clip = [f"lora {place}", 1]
        model = [f"lora {place}", 0]
    return prompt | {
        "good": node("CLIPTextEncode", text="a red fox", clip=clip),
        "bad": node("CLIPTextEncode", text="blurry", clip=clip),
        "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "KSampler",
            model=model,
            positive=["good", 0],
            negative=["bad", 0],
            latent_image=["empty", 0],
            seed=seed,
            steps=steps,
            cfg=8.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sample", 0], vae=["ckpt", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="lora"),
    }


def node(cls: str, **inputs: Any) -> Prompt:
    return {"class_type": cls, "inputs": inputs}


def lora(name: str, model: float = 1.0, clip: float = 1.0) -> Prompt:
    return {"lora_name": f"{name}.safetensors", "strength_model": model, "strength_clip": clip}


def model_only(name: str) -> Prompt:
    return {"lora_name": f"{name}.safetensors", "strength_model": 1.0}


def test_inputs_and_outputs_are_comfyuis() -> None:
    inputs = ["model", "clip", "lora_name", "strength_model", "strength_clip"]
    assert list(LoraLoader.inputs()) == inputs
    assert list(LoraLoaderModelOnly.inputs()) == ["model", "lora_name", "strength_model"]
    for cls in (LoraLoader, LoraLoaderModelOnly):
        strength = cls.inputs()["strength_model"]
        assert (strength.default, strength.at_least, strength.at_most) == (1.0, -100, 100)
        assert strength.step == 0.01
    assert [(slot.name, slot.wire) for slot in LoraLoader.outputs()] == [
        ("MODEL", "MODEL"),
        ("CLIP", "CLIP"),
    ]
    assert [slot.wire for slot in LoraLoaderModelOnly.outputs()] == ["MODEL"]
    assert Node.registry["LoraLoader"] is LoraLoader


def test_a_lora_changes_model_and_text_encoder(ctx: NodeContext) -> None:
    checkpoint = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx)
    given: Prompt = {"model": checkpoint.MODEL, "clip": checkpoint.CLIP, **lora("style")}
    assert isinstance(checkpoint.MODEL, UNet)
    with left_alone([*checkpoint.MODEL.network.parameters()]):
        made = LoraLoader(**given).run(ctx)
        alone = LoraLoaderModelOnly(
            model=checkpoint.MODEL, lora_name="style.safetensors", strength_model=1.0
        ).run(ctx)
    assert made.MODEL.key == alone.key != checkpoint.MODEL.key
    assert not torch.equal(
        made.CLIP.encode("a fox")[0].tokens, checkpoint.CLIP.encode("a fox")[0].tokens
    )


def test_with_strengths_of_0_the_file_is_not_even_opened(ctx: NodeContext) -> None:
    checkpoint = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx)
    made = LoraLoader(model=checkpoint.MODEL, clip=checkpoint.CLIP, **lora("not there", 0, 0)).run(
        ctx
    )
    assert (made.MODEL, made.CLIP) == (checkpoint.MODEL, checkpoint.CLIP)
    only = LoraLoaderModelOnly(
        model=checkpoint.MODEL, lora_name="not there.safetensors", strength_model=0
    )
    assert only.run(ctx) is checkpoint.MODEL


def picture(session: Session, prompt: Prompt) -> bytes:
    (paths,) = session.run(prompt).values()
    (path,) = paths
    with Image.open(path) as opened:
        return opened.tobytes()


def test_templates_with_one_lora_and_with_several_make_their_own_pictures(base: Path) -> None:
    session = Session(Settings(base_directory=base, device="cpu"))
    made = [
        picture(session, text_to_image()),
        picture(session, text_to_image(lora("style"))),
        picture(session, text_to_image(lora("style", 0.5, 1.0))),
        picture(session, text_to_image(lora("style", 1.0, 0.5))),
        picture(session, text_to_image(lora("style"), lora("sketch", 0.4, -0.5))),
        picture(session, text_to_image(model_only("style"), cls="LoraLoaderModelOnly")),
    ]
    assert len(set(made)) == len(made)
    # off again: the very picture, though everything but the model was made anew
    session.engine.cache.clear()
    assert picture(session, text_to_image()) == made[0]


def test_equal_stacks_share_a_forward_pass_and_others_do_not(base: Path) -> None:
    ended: list[object] = []
    engine = Engine(Workspace(Settings(base_directory=base, device="cpu")), ended.append)
    prompts = [
        text_to_image(lora("style"), lora("sketch"), seed=1),
        text_to_image(lora("style"), lora("sketch"), seed=2),
        text_to_image(lora("style"), lora("sketch", 0.5), seed=3),
        text_to_image(seed=4),
    ]
    for number, prompt in enumerate(prompts):
        checked = check(prompt, engine.workspace.folders)
        assert checked.graph is not None, checked.problems
        engine.submit(Job(str(number), checked.graph, prompt))
    engine.run()
    assert sum(isinstance(event, Ended) for event in ended) == len(prompts)
    assert not [event for event in ended if isinstance(event, Failed)]
    # Of two steps each: the two that are equal together, with and without the prompt, others alone.
    assert dict(engine.meter.batches) == {4: 2, 2: 4}


def test_of_a_stack_only_the_last_is_merged(base: Path) -> None:
    session = Session(Settings(base_directory=base, device="cpu"))
    prompt = text_to_image(lora("style"), lora("sketch"))
    session.run(prompt)
    checked = check(prompt, session.workspace.folders)
    assert checked.graph is not None
    models = [session.engine.cache.get(checked.graph.keys[f"lora {place}"]) for place in range(2)]
    merged = ["network" in vars(model.values[0].weights) for model in models if model]
    assert merged == [False, True]


def test_a_lora_of_another_family_fails_its_job_with_one_line(base: Path, tmp_path: Path) -> None:
    session = Session(Settings(base_directory=base, device="cpu"))
    testing.write_tiny_lora(base / "models" / "loras" / "xl.safetensors", of="sdxl")
    with pytest.raises(WeftError, match=r"xl\.safetensors is a LoRA for") as caught:
        session.run(text_to_image(lora("xl")))
    assert "\n" not in str(caught.value)
    assert picture(session, text_to_image())
