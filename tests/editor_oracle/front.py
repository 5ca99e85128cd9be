"""Just enough of a server for ComfyUI's frontend to load, with the node classes that Weft has."""

import mimetypes
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from executor.editor_widgets import is_widget
from executor.node import Input, Node

# The frontend lists the files of these, or fails to build other loaders.
_LOADERS = {
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


def _input(spec: Input) -> list[Any]:
    options = dict(spec.options)
    if is_widget(spec) and spec.default is not None:
        options["default"] = spec.default
    limits = {"min": spec.at_least, "max": spec.at_most, "step": spec.step}
    if spec.wire in ("INT", "FLOAT"):
        options |= {name: value for name, value in limits.items() if value is not None}
    return [list(spec.choices or ()) if spec.wire == "COMBO" else spec.wire, options]


def _definition(name: str, inputs: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "display_name": name,
        "description": "",
        "category": "all",
        "python_module": "nodes",
        "output_node": False,
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": outputs,
        "output_name": outputs,
        "output_is_list": [False] * len(outputs),
    }


def object_info() -> dict[str, Any]:
    """All classes, as the frontend reads them."""
    loaders = {name: _definition(name, {file: [[], {}]}, []) for name, file in _LOADERS.items()}
    return loaders | {
        name: _definition(
            name,
            {field: _input(spec) for field, spec in cls.inputs().items()},
            [output.wire for output in cls.outputs()],
        )
        for name, cls in Node.registry.items()
    }


@asynccontextmanager
async def serving(static: Path) -> AsyncGenerator[str, None]:
    """Serve the frontend's files; gives the address."""
    answers = {
        "users": {"storage": "server", "migrated": True},
        "settings": {"Comfy.TutorialCompleted": True},
        "extensions": [],
        "object_info": object_info(),
    }

    async def api(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.json_response(answers.get(name, {}), status=200 if name in answers else 404)

    async def file(request: web.Request) -> web.StreamResponse:
        path = static / (request.match_info["name"] or "index.html")
        if not path.is_file():
            return web.json_response({}, status=404)
        kind = "text/javascript" if path.suffix == ".mjs" else mimetypes.guess_type(path)[0]
        return web.FileResponse(path, headers={"Content-Type": kind or "application/octet-stream"})

    async def socket(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        status = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "1"}
        await connection.send_json({"type": "status", "data": status})
        async for _ in connection:
            pass
        return connection

    app = web.Application()
    app.router.add_get("/ws", socket)
    app.router.add_route("*", "/api/{name:.*}", api)
    app.router.add_get("/{name:.*}", file)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
