"""What clients are told of nodes, models and the machine."""

import json
import logging
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from ledgers import on_a_loop
from servers import heard_until, serving, sink

import nodes
from executor import Node
from executor.api.catalogue import Catalogue
from executor.api.definitions import LISTED, definitions, module_of
from executor.editor_widgets import is_widget
from executor.paths import Folders
from executor.seats import Seat
from executor.settings import Settings

FILES = ("a", "b/c")
CLASSES = {name: cls for name, cls in Node.registry.items() if cls.__module__.startswith("nodes.")}
ALL = definitions(CLASSES, lambda folder: FILES)
KEYS = {
    *("input", "input_order", "output", "output_is_list", "output_name", "output_tooltips"),
    *("name", "display_name", "description", "python_module", "category", "output_node"),
    *("deprecated", "experimental", "api_node"),
}
SCALARS: dict[str, Any] = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}

# Which the official frontend 1.27.10 looks for, and the input whose files it wants.
LOOKED_FOR = {
    "CheckpointLoaderSimple": "ckpt_name",
    "ImageOnlyCheckpointLoader": "ckpt_name",
    "LoraLoader": "lora_name",
    "LoraLoaderModelOnly": "lora_name",
    "VAELoader": "vae_name",
    "ControlNetLoader": "control_net_name",
    "UNETLoader": "unet_name",
    "UpscaleModelLoader": "model_name",
    "StyleModelLoader": "style_model_name",
    "GLIGENLoader": "gligen_name",
}


def model(path: Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file with one tensor."""
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"x": tensor, **({"__metadata__": metadata} if metadata else {})}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


# Definitions


def test_every_class_is_there_under_each_of_its_names() -> None:
    assert set(ALL) == {*CLASSES, *LISTED}
    assert ALL["CheckpointLoaderSimple"] == {
        **ALL["CheckpointLoader"],
        "name": "CheckpointLoaderSimple",
    }


@pytest.mark.parametrize("name", ALL)
def test_a_definition_has_all_that_any_client_reads(name: str) -> None:
    told = json.loads(json.dumps(ALL[name], allow_nan=False))
    assert set(told) == KEYS
    assert told["name"] == name
    assert {*told["input"]} == {"required", "optional", "hidden"}
    assert told["input_order"] == {part: list(of) for part, of in told["input"].items()}
    for part in ("output_is_list", "output_name", "output_tooltips"):
        assert len(told[part]) == len(told["output"])
    for part in ("display_name", "description", "python_module", "category"):
        assert told[part], part
    for section in told["input"].values():
        for item in section.values():
            kind, options = item
            assert isinstance(options, dict)
            if isinstance(kind, list):  # a combo, as the oldest clients know it
                assert all(isinstance(value, str) for value in kind)
                assert options.get("default", kind[0] if kind else "") in (*kind, "")
            elif kind in SCALARS and "default" in options:
                assert isinstance(options["default"], SCALARS[kind])
            assert kind != "COMBO"


@pytest.mark.parametrize("name", CLASSES)
def test_widgets_are_in_the_order_by_which_editors_save_their_values(name: str) -> None:
    told = ALL[name]["input"]
    shown = [
        key
        for section in ("required", "optional")
        for key, (kind, _) in told[section].items()
        if isinstance(kind, list) or kind in SCALARS
    ]
    assert shown == [key for key, item in CLASSES[name].inputs().items() if is_widget(item)]


def test_a_sampler_looks_as_everybody_knows_it() -> None:
    told = ALL["KSampler"]
    required = told["input"]["required"]
    assert list(required) == [
        *("model", "seed", "steps", "cfg", "sampler_name", "scheduler"),
        *("positive", "negative", "latent_image", "denoise"),
    ]
    assert required["seed"] == [
        "INT",
        {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True},
    ]
    assert {"euler", "dpmpp_2m"} < set(required["sampler_name"][0])
    assert {"normal", "karras"} < set(required["scheduler"][0])
    assert required["model"][0] == "MODEL"
    assert required["model"][1]["tooltip"]
    assert told["output"] == ["LATENT"]
    assert told["output_node"] is False
    assert told["python_module"] == "nodes.sampling"


def test_inputs_that_name_files_list_them_and_keep_their_button() -> None:
    assert ALL["LoadImage"]["input"]["required"]["image"] == [list(FILES), {"image_upload": True}]
    assert ALL["VAELoader"]["input"]["required"]["vae_name"] == [list(FILES), {}]


def test_a_socket_that_may_stay_open_is_optional() -> None:
    told = ALL["ImageCompositeMasked"]["input"]
    assert list(told["optional"]) == ["mask"]
    assert "resize_source" in told["required"]


@pytest.mark.parametrize(("name", "key"), LOOKED_FOR.items())
def test_the_older_frontend_finds_the_loaders_that_it_looks_for(name: str, key: str) -> None:
    assert ALL[name]["input"]["required"][key][0] == list(FILES)


def test_a_class_that_is_only_listed_says_so_and_gives_way_to_one_that_runs() -> None:
    for name in LISTED.keys() - CLASSES.keys():
        assert "does not run" in ALL[name]["description"]
        assert ALL[name]["deprecated"] is True
    with_own = definitions({**CLASSES, "LoraLoader": nodes.VAELoader}, lambda folder: FILES)
    assert "vae_name" in with_own["LoraLoader"]["input"]["required"]


def test_packs_are_told_from_weft_itself() -> None:
    assert module_of(nodes.KSampler) == "nodes.sampling"
    inside = type("X", (), {"__module__": "custom_nodes.pack"})
    elsewhere = type("X", (), {"__module__": "their.pack"})
    assert module_of(inside) == "custom_nodes.pack"  # pyright: ignore[reportArgumentType]
    assert module_of(elsewhere) == "custom_nodes.their.pack"  # pyright: ignore[reportArgumentType]


# The catalogue


def old(path: Path) -> None:
    """Let a directory have been changed so long ago that its stamp can be trusted."""
    os.utime(path, ns=(10**18, 10**18))


def files_of(catalogue: Catalogue) -> list[str]:
    text = catalogue.text_of("VAELoader")
    assert json.loads(catalogue.text())["VAELoader"] == json.loads(text)["VAELoader"]
    return json.loads(text)["VAELoader"]["input"]["required"]["vae_name"][0]


def test_a_new_file_is_listed_at_once_and_nothing_is_made_twice(tmp_path: Path) -> None:
    vae = tmp_path / "models" / "vae"
    (vae / "deep").mkdir(parents=True)
    catalogue = Catalogue(Folders(Settings(base_directory=tmp_path)))
    assert files_of(catalogue) == []
    for path in (vae, vae / "deep"):
        old(path)
    first = catalogue.text()
    assert catalogue.text() is first
    (vae / "deep" / "a.safetensors").touch()
    assert files_of(catalogue) == ["deep/a.safetensors"]
    (vae / "b.safetensors").touch()
    assert files_of(catalogue) == ["b.safetensors", "deep/a.safetensors"]
    (vae / "b.safetensors").unlink()
    assert files_of(catalogue) == ["deep/a.safetensors"]


def test_a_folder_that_appears_is_seen(tmp_path: Path) -> None:
    catalogue = Catalogue(Folders(Settings(base_directory=tmp_path)))
    assert files_of(catalogue) == []
    model(tmp_path / "models" / "vae" / "a.safetensors")
    assert files_of(catalogue) == ["a.safetensors"]


@on_a_loop
async def test_object_info_is_all_classes_or_one(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        for prefix in ("", "/api"):
            told = await served.get(f"{prefix}/object_info")
            assert set(told) >= set(ALL)
            assert await served.get(f"{prefix}/object_info/KSampler") == {
                "KSampler": told["KSampler"]
            }
            assert await served.get(f"{prefix}/object_info/None") == {}


@on_a_loop
async def test_a_class_that_is_only_listed_is_refused_when_submitted(tmp_path: Path) -> None:
    name = next(iter(LISTED.keys() - Node.registry.keys()), None)
    if name is None:
        pytest.skip("all of them run")
    prompt = {**sink(), "3": {"class_type": name, "inputs": {}}}
    async with serving(tmp_path, workers=0) as served:
        told = await served.post("/prompt", {"prompt": {"3": prompt["3"]}}, 400)
        assert name in json.dumps(told)


# Models


@on_a_loop
async def test_models_are_listed_by_folder_and_described(tmp_path: Path) -> None:
    model(tmp_path / "models/loras/sub/style.safetensors", {"ss_tag": "x", "note": "ü"})
    model(tmp_path / "models/embeddings/word.safetensors")
    async with serving(tmp_path, workers=0) as served:
        folders = await served.get("/models")
        assert {"checkpoints", "loras", "vae", "embeddings"} <= set(folders)
        assert not {"input", "output", "temp", "latents"} & set(folders)
        assert await served.get("/models/loras") == ["sub/style.safetensors"]
        assert await served.get("/api/embeddings") == ["word"]
        params = {"filename": "sub/style.safetensors"}
        told = await served.get("/view_metadata/loras", params=params)
        assert told == {"ss_tag": "x", "note": "ü"}
        detailed = {entry["name"]: entry for entry in await served.get("/experiment/models")}
        assert set(detailed) == set(folders)
        assert detailed["loras"]["folders"][0] == str(tmp_path / "models/loras")
        (about,) = await served.get("/experiment/models/loras")
        file = (tmp_path / "models/loras/sub/style.safetensors").stat()
        assert about["name"] == "sub/style.safetensors"
        assert (about["pathIndex"], about["size"]) == (0, file.st_size)
        assert about["modified"] == pytest.approx(file.st_mtime)
        assert set(about) == {"name", "pathIndex", "size", "modified", "created"}


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (404, "/models/none"),
        (404, "/models/input"),
        (404, "/models/..%2f.."),
        (404, "/experiment/models/none"),
        (404, "/view_metadata/none?filename=x"),
        (404, "/view_metadata/loras"),
        (404, "/view_metadata/loras?filename=none.safetensors"),
        (404, "/view_metadata/loras?filename=../../secret"),
        (404, "/view_metadata/loras?filename=/etc/passwd"),
        (400, "/view_metadata/loras?filename=page.safetensors"),
        (400, "/view_metadata/loras?filename=cut.safetensors"),
    ],
)
@on_a_loop
async def test_models_that_are_none_are_refused(tmp_path: Path, status: int, path: str) -> None:
    model(tmp_path / "models/loras/cut.safetensors")
    whole = (tmp_path / "models/loras/cut.safetensors").read_bytes()
    (tmp_path / "models/loras/cut.safetensors").write_bytes(whole[:20])
    (tmp_path / "models/loras/page.safetensors").write_bytes(b"<!doctype html><html>")
    (tmp_path / "secret").write_bytes(b"")
    async with serving(tmp_path, workers=0) as served:
        assert (await served.get(path, status))["error"]["message"]


# The machine


@pytest.mark.timeout(60)  # the worker loads torch
@on_a_loop
async def test_the_machine_is_told_by_its_workers(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.connect("me") as ws:
        await served.submit(sink(), client_id="me")
        await heard_until(ws, "execution_success")
        told = await served.get("/system_stats")
        assert told["system"]["pytorch_version"]
        assert told["system"]["ram_total"] >= told["system"]["ram_free"] > 0
        (device,) = told["devices"]
        assert device["name"].startswith("cpu")
        assert device["type"] == "cpu"
        assert device["vram_total"] >= device["vram_free"] > 0


@on_a_loop
async def test_a_worker_that_is_still_starting_is_told_of(tmp_path: Path) -> None:
    async def never() -> Any:
        raise AssertionError("nobody starts it")

    async with serving(tmp_path, workers=0) as served:
        served.dispatcher.seats.append(Seat("cuda:0", never))
        (device,) = (await served.get("/api/system_stats"))["devices"]
        assert (device["name"], device["type"], device["vram_total"]) == ("cuda:0", "cuda", 0)


@on_a_loop
async def test_newest_files_come_first_and_hidden_ones_not(tmp_path: Path) -> None:
    (tmp_path / "input" / "sub").mkdir(parents=True)
    for age, name in enumerate(("new.png", "old.png", ".hidden")):
        (tmp_path / "input" / name).touch()
        os.utime(tmp_path / "input" / name, (1000 - age, 1000 - age))
    async with serving(tmp_path, workers=0) as served:
        assert await served.get("/internal/files/input") == ["new.png", "old.png"]
        assert await served.get("/internal/files/temp") == []
        await served.get("/internal/files/models", 400)
        paths = await served.get("/internal/folder_paths")
        assert paths["output"] == [str(tmp_path / "output")]


@on_a_loop
async def test_the_log_can_be_read(tmp_path: Path) -> None:
    async with serving(tmp_path, workers=0) as served:
        logging.getLogger("executor.somewhere").error("what %s", "happened")
        told = await served.get("/internal/logs/raw")
        assert told["entries"][-1]["m"] == "ERROR executor.somewhere: what happened\n"
        assert {"cols", "rows"} == set(told["size"])
        async with served.client.patch("/internal/logs/subscribe", json={}) as response:
            assert response.status == 200
    assert not logging.getLogger("executor").handlers


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/extensions", []),
        ("/i18n", {}),
        ("/workflow_templates", {}),
        ("/global_subgraphs", {}),
        ("/node_replacements", {}),
        ("/plugins", []),
    ],
)
@on_a_loop
async def test_what_weft_has_none_of_is_answered_with_nothing(
    tmp_path: Path, path: str, answer: Any
) -> None:
    async with serving(tmp_path, workers=0) as served:
        assert await served.get(f"/api{path}") == answer
