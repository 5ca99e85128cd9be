"""The nodes that steer: inputs as on the wire, whole runs from files, and what is refused."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from laws import left_alone
from steered import picture
from torch import Tensor

from executor import Cond, Context, Control, Grounding, Latent, PathError, Steps, testing
from executor.cli.model_check import model_problems
from executor.graph import check
from executor.paths import Folders
from executor.sampling.forward import evaluate
from executor.session import Session
from executor.settings import Settings
from executor.testing_control import (
    write_tiny_adapter,
    write_tiny_control_lora,
    write_tiny_controlnet,
    write_tiny_gligen,
    write_tiny_union,
)
from executor.workspace import Workspace
from nodes import (
    CheckpointLoader,
    ControlNetApply,
    ControlNetApplyAdvanced,
    ControlNetLoader,
    DiffControlNetLoader,
    GLIGENLoader,
    GLIGENTextBoxApply,
    KSampler,
    SetUnionControlNetType,
)
from nodes.control import UnionKind

pytestmark = pytest.mark.timeout(60)  # the first of them imports transformers

NETWORK: Any = type("Network", (), {"residuals": None, "objects": None})()


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    base = tmp_path_factory.mktemp("user")
    models = base / "models"
    testing.write_tiny_checkpoint(models / "checkpoints/tiny.safetensors")
    write_tiny_controlnet(models / "controlnet/canny.safetensors")
    write_tiny_controlnet(models / "controlnet/folder", names="folder")
    extra = {"difference": torch.zeros(1)}
    write_tiny_controlnet(models / "controlnet/difference.safetensors", extra=extra)
    write_tiny_control_lora(models / "controlnet/lora.safetensors")
    write_tiny_union(models / "controlnet/union.safetensors")
    write_tiny_adapter(models / "t2i_adapter/depth.safetensors")
    write_tiny_gligen(models / "gligen/boxes.safetensors")
    return Workspace(Settings(base_directory=base, device="cpu")).context()


def driven(steps: Steps[Latent]) -> Tensor:
    """Answer every evaluation at once, as an engine with nothing else to do."""
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as end:
            return end.value.samples
        (answer,) = evaluate([request])


def cond(**further: Any) -> tuple[Cond, ...]:
    return (Cond(torch.zeros(1, 77, 32), **further),)


def apply(strength: float = 1.0, positive: Any = None, negative: Any = None, **further: Any):
    return ControlNetApplyAdvanced(
        positive=positive or cond(),
        negative=negative or cond(),
        control_net=NETWORK,
        image=picture(),
        strength=strength,
        **further,
    )


def test_names_order_and_defaults_are_comfyuis() -> None:
    assert list(ControlNetApplyAdvanced.inputs()) == [
        *("positive", "negative", "control_net", "image"),
        *("strength", "start_percent", "end_percent", "vae"),
    ]
    assert list(ControlNetApply.inputs()) == ["conditioning", "control_net", "image", "strength"]
    assert list(GLIGENTextBoxApply.inputs()) == [
        *("conditioning_to", "clip", "gligen_textbox_model", "text"),
        *("width", "height", "x", "y"),
    ]
    outputs = [(slot.name, slot.wire) for slot in ControlNetApplyAdvanced.outputs()]
    assert outputs == [("positive", "CONDITIONING"), ("negative", "CONDITIONING")]
    wires = {ControlNetLoader: "CONTROL_NET", DiffControlNetLoader: "CONTROL_NET"}
    for node, wire in (wires | {GLIGENLoader: "GLIGEN"}).items():
        assert [slot.wire for slot in node.outputs()] == [wire]
    strength = ControlNetApplyAdvanced.inputs()["strength"]
    assert (strength.default, strength.at_least, strength.at_most) == (1.0, 0, 10)
    assert GLIGENTextBoxApply.inputs()["width"].at_least == 8


def test_both_sides_are_steered_after_what_steers_them_already(ctx: Context) -> None:
    before = Control(NETWORK, picture())
    node = apply(0.5, positive=cond(controls=(before,)), start_percent=0.1, end_percent=0.9)
    with left_alone(node.positive, node.negative, node.image):
        positive, negative = node.run(ctx)
    assert positive[0].controls[0] is before
    for (found,) in (positive, negative):
        last = found.controls[-1]
        assert (last.strength, last.start_percent, last.end_percent) == (0.5, 0.1, 0.9)
        assert not found.shares_controls
    assert len(negative[0].controls) == 1


def test_without_strength_nothing_is_changed(ctx: Context) -> None:
    node = apply(0.0)
    positive, negative = node.run(ctx)
    assert positive is node.positive
    assert negative is node.negative
    old = ControlNetApply(
        conditioning=node.positive, control_net=NETWORK, image=picture(), strength=0
    )
    assert old.run(ctx) is node.positive


def test_the_older_node_steers_the_negative_prompt_too(ctx: Context) -> None:
    old = ControlNetApply(conditioning=cond(), control_net=NETWORK, image=picture())
    (found,) = old.run(ctx)
    assert found.shares_controls
    ((found,), _) = apply(positive=(found,)).run(ctx)
    assert not found.shares_controls  # the last node says


def sampled(ctx: Context, positive: Any, negative: Any, *, seed: int = 1) -> Tensor:
    model = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx).MODEL
    node = KSampler(
        model=model,
        seed=seed,
        steps=2,
        cfg=3.0,
        positive=positive,
        negative=negative,
        latent_image=Latent(torch.zeros(1, 4, 8, 8)),
    )
    return driven(node.run(ctx))


@pytest.mark.parametrize(
    "name", ["canny.safetensors", "folder", "lora.safetensors", "depth.safetensors"]
)
def test_a_run_is_steered_by_what_a_file_holds(ctx: Context, name: str) -> None:
    clip = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx).CLIP
    positive, negative = clip.encode("a red circle"), clip.encode("")
    net = ControlNetLoader(control_net_name=name).run(ctx)
    assert ControlNetLoader(control_net_name=name).run(ctx) is net

    def run(seed: int) -> Tensor:
        node = apply(positive=positive, negative=negative).model_copy(
            update={"control_net": net, "image": picture(seed=seed)}
        )
        return sampled(ctx, *node.run(ctx))

    one, again, other = run(2), run(2), run(3)
    assert torch.equal(one, again)
    assert one.isfinite().all()
    for found in (other, sampled(ctx, positive, negative)):
        assert (one - found).norm() > 1e-3 * one.norm()


def test_a_difference_is_loaded_with_a_model(ctx: Context) -> None:
    model = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx).MODEL
    node = DiffControlNetLoader(model=model, control_net_name="difference.safetensors")
    assert node.run(ctx) is node.run(ctx)
    plain = DiffControlNetLoader(model=model, control_net_name="canny.safetensors").run(ctx)
    assert plain is ControlNetLoader(control_net_name="canny.safetensors").run(ctx)


def test_a_union_controlnet_is_told_what_kind_of_picture_it_gets(ctx: Context) -> None:
    from executor.models.union_control import KINDS

    assert get_args(UnionKind) == ("auto", *KINDS)
    net = ControlNetLoader(control_net_name="union.safetensors").run(ctx)
    told = SetUnionControlNetType(control_net=net, type="depth").run(ctx)
    assert told.key != net.key
    assert SetUnionControlNetType(control_net=told, type="auto").run(ctx).key == net.key


def test_phrases_are_put_at_their_places(ctx: Context) -> None:
    clip = CheckpointLoader(ckpt_name="tiny.safetensors").run(ctx).CLIP
    prompts = clip.encode("a bottle beside a sun"), clip.encode("")
    gligen = GLIGENLoader(gligen_name="boxes.safetensors").run(ctx)
    assert GLIGENLoader(gligen_name="boxes.safetensors").run(ctx) is gligen

    def boxed(text: str, onto: Any, **place: int) -> Any:
        return GLIGENTextBoxApply(
            conditioning_to=onto, clip=clip, gligen_textbox_model=gligen, text=text, **place
        ).run(ctx)

    once = boxed("sun", prompts[0], width=32, height=16, x=8, y=24)
    (found,) = boxed("bottle", once, width=8, height=8)
    grounding: Grounding = found.grounding
    assert grounding.network is gligen
    areas = [(p.area.width, p.area.height, p.area.x, p.area.y) for p in grounding.phrases]
    assert areas == [(4, 2, 1, 3), (1, 1, 0, 0)]
    (sun,) = clip.encode("sun")
    assert sun.pooled is not None
    assert torch.equal(grounding.phrases[0].pooled, sun.pooled)
    assert prompts[0][0].grounding is None
    plain, steered = sampled(ctx, *prompts), sampled(ctx, (found,), prompts[1])
    assert (plain - steered).norm() > 1e-3 * plain.norm()


def test_what_is_not_there_is_told_with_the_nearest_name(ctx: Context) -> None:
    with pytest.raises(PathError, match=r"did you mean 'canny\.safetensors'"):
        ControlNetLoader(control_net_name="cany.safetensors").run(ctx)


def workflow(control: str = "canny.safetensors", boxes: str = "boxes.safetensors") -> Any:
    """A whole workflow with a control and a phrase at a place."""
    numbers = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    return {
        "1": made("CheckpointLoaderSimple", ckpt_name="tiny.safetensors"),
        "2": made("CLIPTextEncode", text="a red circle", clip=["1", 1]),
        "3": made("LoadImage", image="red_circle.png"),
        "4": made("ControlNetLoader", control_net_name=control),
        "5": made("ControlNetApply", conditioning=["2", 0], control_net=["4", 0], image=["3", 0]),
        "6": made("GLIGENLoader", gligen_name=boxes),
        "7": made(
            "GLIGENTextBoxApply",
            conditioning_to=["5", 0],
            clip=["1", 1],
            gligen_textbox_model=["6", 0],
            text="circle",
        ),
        "8": made("EmptyLatentImage", width=64, height=64, batch_size=2),
        "9": made(
            "KSampler",
            model=["1", 0],
            positive=["7", 0],
            negative=["2", 0],
            latent_image=["8", 0],
            **numbers,
        ),
        "10": made("VAEDecode", samples=["9", 0], vae=["1", 2]),
        "11": made("SaveImage", images=["10", 0], filename_prefix="steered"),
    }


def made(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def base_of(ctx: Context) -> Path:
    return ctx.find("checkpoints", "tiny.safetensors").parents[2]


def test_a_whole_workflow_makes_pictures(ctx: Context) -> None:
    settings = Settings(base_directory=base_of(ctx), device="cpu", custom_nodes=False)
    assert len(Session(settings).run(workflow())["11"]) == 2


def test_files_of_another_kind_are_found_before_a_workflow_runs(ctx: Context) -> None:
    folders, models = Folders(Settings(base_directory=base_of(ctx))), base_of(ctx) / "models"
    (models / "controlnet/odd.safetensors").hardlink_to(models / "gligen/boxes.safetensors")
    (models / "gligen/odd.safetensors").hardlink_to(models / "controlnet/canny.safetensors")

    def said(prompt: Any) -> list[str]:
        return [str(problem) for problem in model_problems(check(prompt, folders).graph, folders)]

    assert said(workflow("folder")) == said(workflow("depth.safetensors")) == []
    control, gligen = said(workflow("odd.safetensors", "odd.safetensors"))
    is_one = "odd.safetensors is a GLIGEN network, not a ControlNet or T2I-Adapter"
    assert f"{is_one}; such files belong in the folder gligen" in control
    assert "odd.safetensors is a ControlNet, not a GLIGEN network" in gligen
    for folder in ("controlnet", "gligen"):
        (models / folder / "odd.safetensors").unlink()


def test_folders_of_controls_are_listed_with_the_files(ctx: Context) -> None:
    assert Folders(Settings(base_directory=base_of(ctx))).names("controlnet") == [
        *("canny.safetensors", "depth.safetensors", "difference.safetensors"),
        *("folder", "lora.safetensors", "union.safetensors"),
    ]
