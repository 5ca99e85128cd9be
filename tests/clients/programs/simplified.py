"""comfy-api-simplified: titles in place of ids, a picture waited for, one uploaded."""
# pyright: reportMissingImports=false

import sys
from pathlib import Path

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper

host, workflow_file, results = sys.argv[1], sys.argv[2], Path(sys.argv[3])
api = ComfyApiWrapper(f"http://{host}/")
workflow = ComfyWorkflowWrapper(workflow_file)

assert "weft-tiny.safetensors" in str(api.get_object_info("CheckpointLoaderSimple"))
assert "KSampler" in api.get_object_info()
assert api.get_system_stats()["devices"]
assert isinstance(api.get_embeddings(), list)

workflow.set_node_param("Prompt", "text", "a green square")
made = api.queue_and_wait_images(workflow, "Save")
for name, picture in made.items():
    (results / name).write_bytes(picture)

# The picture goes back, and through the model again.
(path,) = results.iterdir()
uploaded = api.upload_image(path)
sampler = workflow.get_node_id("Sampler")
workflow["20"] = {
    "class_type": "LoadImage",
    "inputs": {"image": f"{uploaded['subfolder']}/{uploaded['name']}"},
    "_meta": {"title": "Load"},
}
workflow["21"] = {
    "class_type": "VAEEncode",
    "inputs": {"pixels": ["20", 0], "vae": ["4", 2]},
    "_meta": {"title": "Encode"},
}
workflow[sampler]["inputs"] |= {"latent_image": ["21", 0], "denoise": 0.5}
for name, picture in api.queue_and_wait_images(workflow, "Save").items():
    (results / name).write_bytes(picture)

workflow.set_node_param("Sampler", "steps", 10_000)
running = api.queue_prompt(workflow)["prompt_id"]
while not api.get_queue()["queue_running"]:
    assert api.get_queue_size_before(running) >= 0
api.interrupt()
while running not in (history := api.get_history(running)):
    pass
assert history[running]["status"]["completed"] is False
