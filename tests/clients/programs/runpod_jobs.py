"""RunPod's own client: jobs, waited for and polled, streams, cancelling, health."""
# pyright: reportMissingImports=false

import os
import sys
import urllib.request
from pathlib import Path

host, _, results = sys.argv[1:]
folder = Path(results)
os.environ["RUNPOD_ENDPOINT_BASE_URL"] = f"http://{host}/v2"

import runpod  # noqa: E402 - it reads the variable

runpod.api_key = "none"
endpoint = runpod.Endpoint("weft-tiny")
quick = {
    "prompt": "a red circle on a blue background",
    "num_inference_steps": 6,
    "width": 128,
    "height": 128,
}


def keep(name: str, output: list[dict[str, object]]) -> None:
    """Fetch the pictures of a job."""
    for at, made in enumerate(output):
        with urllib.request.urlopen(str(made["image"])) as response:
            (folder / f"{name}-{at}.png").write_bytes(response.read())


keep("sync", endpoint.run_sync({"input": {**quick, "seed": 31, "num_outputs": 2}}, timeout=120))

job = endpoint.run({"input": {**quick, "seed": 40, "scheduler": "DDIM"}})
keep("polled", job.output(timeout=120))
assert job.status() == "COMPLETED"

streamed = endpoint.run({"input": {**quick, "seed": 50, "scheduler": "PNDM"}})
keep("streamed", list(streamed.stream()))

long = endpoint.run({"input": {**quick, "num_inference_steps": 500, "num_outputs": 10}})
long.cancel(timeout=10)
assert long.status() == "CANCELLED", long.status()

told = endpoint.health()
assert told["jobs"]["completed"] >= 3, told
assert told["workers"]["ready"] == 1, told
endpoint.purge_queue()
