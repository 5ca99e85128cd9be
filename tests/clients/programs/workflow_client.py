"""comfyui-workflow-client: over a websocket with aiohttp, and by asking the history."""
# pyright: reportMissingImports=false

import asyncio
import sys
from pathlib import Path

from comfyuiclient import ComfyUIClient, ComfyUIClientAsync
from PIL import Image

host, workflow_file, results = sys.argv[1], sys.argv[2], Path(sys.argv[3])


async def by_websocket() -> None:
    client = ComfyUIClientAsync(host, workflow_file)
    await client.connect()
    await client.set_data(key="Prompt", text="a green square")
    await client.set_data(key="KSampler", seed=5)
    (await client.generate(["Save"]))["Save"].save(results / "by_websocket.png")
    await client.close()


def by_asking() -> None:
    client = ComfyUIClient(host, workflow_file)
    client.connect()
    client.comfyui_prompt["5"] = {
        "class_type": "LoadImage",
        "inputs": {"image": "none.png"},
        "_meta": {"title": "Load"},
    }
    client.comfyui_prompt["20"] = {
        "class_type": "VAEEncode",
        "inputs": {"pixels": ["5", 0], "vae": ["4", 2]},
    }
    client.comfyui_prompt["3"]["inputs"]["latent_image"] = ["20", 0]
    client.set_data(key="Load", image=Image.new("RGB", (128, 128), "red"))
    client.generate(["Save"])["Save"].save(results / "by_asking.png")
    client.close()


asyncio.run(by_websocket())
by_asking()
