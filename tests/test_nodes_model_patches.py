"""Nodes that patch models: what each puts on a model, and that a picture can be made with it."""

from functools import cache
from typing import Any

import pytest
import torch
from toy_model import drive

import nodes  # noqa: F401 - registers them
from executor import Node
from executor.patches import GuidancePatch, MaskPatch, NetworkPatch
from executor.ports import Cond, Latent
from executor.sampling.ksampler import sample
from executor.workspace import NodeContext

INSIDE = {
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "HyperTile": {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
    "PatchModelAddDownscale": {
        "block_number": 3,
        "downscale_factor": 2.0,
        "start_percent": 0.0,
        "end_percent": 0.35,
        "downscale_after_skip": True,
        "downscale_method": "bicubic",
        "upscale_method": "bicubic",
    },
}
OF_GUIDANCE = {
    "RescaleCFG": {"multiplier": 0.7},
    "RenormCFG": {"cfg_trunc": 100.0, "renorm_cfg": 1.0},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "TCFG": {},
    "Mahiro": {},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
}
OF_MASKS = {"DifferentialDiffusion": {"strength": 1.0}}
ALL: dict[str, dict[str, Any]] = {**INSIDE, **OF_GUIDANCE, **OF_MASKS}
KINDS = {**dict.fromkeys(INSIDE, NetworkPatch), **dict.fromkeys(OF_GUIDANCE, GuidancePatch)}
KINDS |= dict.fromkeys(OF_MASKS, MaskPatch)


@cache
def unet() -> Any:
    """Wide enough for FreeU, shared: no test may change it."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from executor import testing
    from executor.models.unet import UNet
    from executor.ports import Objective

    config: dict[str, Any] = {**testing.UNET, "block_out_channels": [32, 64, 64, 128]}
    network = UNet2DConditionModel(**config)
    network.load_state_dict(testing.random_weights(UNet2DConditionModel, config, 0))
    family = testing.family("sd1")
    return UNet(network.eval(), family=family, objective=Objective(), key="patched by nodes")


def patched(name: str, ctx: NodeContext, **inputs: Any) -> Any:
    return put_on(unet(), name, ctx, **inputs)


def put_on(model: Any, name: str, ctx: NodeContext, **inputs: Any) -> Any:
    found = Node.registry[name].model_validate({"model": model, **inputs}).run(ctx)
    return found[0] if isinstance(found, tuple) else found


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def picture(model: Any) -> torch.Tensor:
    """Two steps on 96 pixels, of which the mask lets two thirds change."""
    mask = torch.linspace(0.4, 1, 12).expand(1, 12, 12)
    prompts = [Cond(random(1, 7, 32) * at) for at in (1.0, -0.5)]
    steps = sample(
        model,
        prompts[:1],
        prompts[1:],
        Latent(torch.zeros(1, 4, 12, 12), noise_mask=mask),
        seed=1,
        steps=2,
        cfg=5.0,
        sampler_name="euler",
        scheduler="normal",
    )
    return drive(steps).samples


@pytest.mark.parametrize("name", ALL)
def test_inputs_begin_as_in_comfyui(name: str):
    found = {key: spec.default for key, spec in Node.registry[name].inputs().items()}
    assert found.pop("model") is None
    assert found == ALL[name]


@pytest.mark.parametrize("name", ALL)
def test_a_model_gets_one_patch_of_the_kind_and_stays_itself(name: str, ctx: NodeContext):
    model = patched(name, ctx)
    (patch,) = model.patches
    assert isinstance(patch, KINDS[name])
    assert unet().patches == ()
    assert (model.key == unet().key) is (name not in INSIDE)
    assert patched(name, ctx).key == model.key


@pytest.mark.parametrize("name", ALL)
def test_pictures_made_with_it_are_others(name: str, ctx: NodeContext):
    inputs = {"tile_size": 32} if name == "HyperTile" else {}  # 12 latent pixels are one tile
    found, plain = picture(patched(name, ctx, **inputs)), picture(unet())
    assert found.isfinite().all()
    assert (found - plain).abs().max() > 1e-3


def test_all_can_be_on_one_model(ctx: NodeContext):
    model = unet()
    for name in ALL:
        model = put_on(model, name, ctx)
    assert len(model.patches) == len(ALL)
    assert picture(model).isfinite().all()


def test_values_out_of_range_are_refused():
    for name, wrong in (("TomePatchModel", {"ratio": 1.1}), ("HyperTile", {"tile_size": 0})):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Node.registry[name].model_validate({"model": unet(), **wrong})


def test_every_node_of_both_files_is_here():
    files = {"nodes.model_patches", "nodes.guidance_patches"}
    found = {name for name, node in Node.registry.items() if node.__module__ in files}
    assert found == set(ALL)
