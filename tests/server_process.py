"""``server.py`` in a process of its own: to be killed, flooded, or used by others' clients."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 120
"""For a worker to load torch, or jobs to end, on a machine that does much else."""


class ServerProcess:
    """A server with a folder of its own, which may be started again after its end."""

    def __init__(self, base: Path) -> None:
        self.base, self.log = base, base / "log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it on a free port, and wait until it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "server.py", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--cpu"]
        environ = {name: value for name, value in os.environ.items() if name[:5] != "WEFT_"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        self.until(self._answers, "the server answers")

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        assert self._process, "it was started"
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it as a service manager does: its exit code."""
        assert self._process, "it was started"
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(WAIT_S)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._process and self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer. Raises OSError or HTTPException if there is none."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """What a route tells."""
        status, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def submit(self, prompt: Any, **more: Any) -> str:
        """Queue a workflow: its id."""
        body = json.dumps({"prompt": prompt, **more}).encode()
        status, answer = self.ask("POST", "/prompt", body)
        assert status == 200, answer
        return json.loads(answer)["prompt_id"]

    def over(self, job_id: str) -> Any:
        """A job's entry in the history, waited for."""
        entry = self.until(lambda: self.get(f"/history/{job_id}"), f"job {job_id} is over")
        return entry[job_id]

    def until(self, ask: Callable[[], Any], what: str) -> Any:
        """What asking gives, as soon as it is something."""
        until = time.monotonic() + WAIT_S
        while not (found := ask()):
            assert self._process
            assert self._process.poll() is None, f"the server ended:\n{self._told()}"
            assert time.monotonic() < until, f"waited in vain: {what}\n{self._told()}"
            time.sleep(0.05)
        return found

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/features")[0] == 200
        except OSError:
            return False

    def _told(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]


@contextmanager
def server_process(base: Path) -> Generator[ServerProcess]:
    """A server that answers, until the end of the block."""
    server = ServerProcess(base)
    try:
        server.start()
        yield server
    finally:
        server.end()


def text_to_image(prefix: str, *, seed: int = 1, steps: int = 4) -> dict[str, Any]:
    """A picture by the shipped model, 128 pixels square; as ComfyUI's editor exports such."""

    def node(class_type: str, title: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}

    return {
        "3": node(
            "KSampler",
            "Sampler",
            model=["4", 0],
            seed=seed,
            steps=steps,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
            denoise=1.0,
        ),
        "4": node("CheckpointLoaderSimple", "Model", ckpt_name="weft-tiny.safetensors"),
        "5": node("EmptyLatentImage", "Size", width=128, height=128, batch_size=1),
        "6": node(
            "CLIPTextEncode", "Prompt", text="a red circle on a blue background", clip=["4", 1]
        ),
        "7": node("CLIPTextEncode", "Negative", text="", clip=["4", 1]),
        "8": node("VAEDecode", "Decode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", "Save", filename_prefix=prefix, images=["8", 0]),
    }
