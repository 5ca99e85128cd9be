"""The process that owns a device: jobs come in, events go out, an engine runs in between.

Started by a fabric as ``python -m executor.worker FD``, with one end of a pair of sockets. The
first frame says with which settings and which node modules. If the other end closes, the front is
gone, and the worker goes too: whatever it was doing will be tried again.
"""

import importlib
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from executor.engine import Engine
from executor.events import Ended, Event, Executed, Failed, JobId
from executor.fabric.messages import (
    LENGTH,
    CancelJob,
    Device,
    Figures,
    FreeMemory,
    FromWorker,
    Hello,
    Picture,
    Ready,
    Rejected,
    RunJob,
    Stop,
    Told,
    ToWorker,
    framed,
)
from executor.graph import check
from executor.job import Job
from executor.models.latent_rgb import Method
from executor.node import NodeId
from executor.paths import Folders
from executor.plugins import load_plugins
from executor.ports import DiffusionModel
from executor.previews import Previews
from executor.settings import Settings
from executor.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from executor.models.preview import Drawing

FIGURES_EVERY_S = 2.0


class Stream:
    """Frames over a socket, read and written by threads of their own, so that neither waits."""

    def __init__(self, connection: socket.socket, on_gone: Callable[[], None]) -> None:
        self._connection, self._on_gone = connection, on_gone
        self._file = connection.makefile("rb")
        self._outgoing: SimpleQueue[bytes] = SimpleQueue()
        self._flushed = threading.Event()
        self.incoming: SimpleQueue[ToWorker] = SimpleQueue()

    def begin(self) -> Hello:
        """Read the first frame, then start the threads."""
        hello = self._read()
        assert isinstance(hello, Hello), "the first frame is a Hello"
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        threading.Thread(target=self._send, name="send", daemon=True).start()
        return hello

    def say(self, message: FromWorker) -> None:
        """Put a message on its way."""
        self._outgoing.put(framed(message))

    def flush(self) -> None:
        """Wait until all that was said is with the kernel."""
        self._outgoing.put(b"")
        self._flushed.wait(5)

    def _read(self) -> Any:
        head = self._file.read(LENGTH.size)
        if len(head) < LENGTH.size:
            raise EOFError
        return pickle.loads(self._file.read(LENGTH.unpack(head)[0]))

    def _receive(self) -> None:
        try:
            while True:
                self.incoming.put(self._read())
        except (EOFError, OSError):
            self._on_gone()

    def _send(self) -> None:
        while True:
            frames = [self._outgoing.get()]
            while not self._outgoing.empty():  # many small frames become one write
                frames.append(self._outgoing.get())
            try:
                self._connection.sendall(b"".join(frames))
            except OSError:
                return  # the receiving thread ends the process
            if b"" in frames:
                self._flushed.set()


class Worker:
    """Takes jobs from a stream, drives them together, tells what happens."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self.stream = stream
        self.workspace = Workspace(settings)
        self.engine = Engine(self.workspace, self._tell)
        self.previews = Previews(self._draw, stream.say)
        self.engine.on_preview = self.previews.show
        self.engine.on_picture = self._send
        self.attempts: dict[JobId, int] = {}
        self.is_stopping = False
        self._told_figures = monotonic()

    def run(self) -> None:
        """Work until told to stop."""
        self.stream.say(Ready(self._device(), self._capacity()))
        self.previews.start()
        is_busy = False
        while not self.is_stopping or self.engine.jobs:
            for message in self._arrived(wait=not is_busy):
                self._obey(message)
            is_busy = self.engine.step()
            if monotonic() - self._told_figures > FIGURES_EVERY_S:
                self._tell_figures()
        self.previews.close()
        self.stream.flush()

    def _arrived(self, *, wait: bool) -> Iterator[ToWorker]:
        """What has come in; if there is nothing to do, wait for something."""
        try:
            if wait:
                yield self.stream.incoming.get(timeout=FIGURES_EVERY_S)
            while True:
                yield self.stream.incoming.get_nowait()
        except Empty:
            return

    def _obey(self, message: ToWorker) -> None:
        match message:
            case RunJob():
                self._submit(message)
            case CancelJob(job_id=job_id):
                self.engine.cancel(job_id)
            case FreeMemory():
                self.engine.free_memory()
            case Stop():
                self.is_stopping = True

    def _submit(self, message: RunJob) -> None:
        checked = check(message.prompt, self.workspace.folders, message.targets)
        if checked.graph is None:  # a file went missing since the front looked
            problems = tuple(map(str, checked.problems))
            self.stream.say(Rejected(message.job_id, message.attempt, problems))
            return
        self.attempts[message.job_id] = message.attempt
        if message.wants_previews:
            usual = self.workspace.settings.preview_method
            method = message.preview_method or ("auto" if usual == "none" else usual)
            self.previews.begin(message.job_id, message.attempt, method)
        job = Job(message.job_id, checked.graph, message.prompt, message.extra_pnginfo)
        self.engine.submit(job)

    def _tell(self, event: Event) -> None:
        attempt = self.attempts[event.job_id]
        match event:
            case Executed(job_id=job_id, node_id=node_id) | Failed(job_id=job_id, node_id=node_id):
                self.previews.node_ended(job_id, node_id)
            case Ended(job_id=job_id):
                self.previews.end(job_id)
                del self.attempts[job_id]
            case _:
                pass
        self.stream.say(Told(attempt, event))

    def _send(self, job_id: JobId, node_id: NodeId, png: bytes) -> None:
        self.stream.say(Picture(job_id, self.attempts[job_id], node_id, png))

    def _draw(self, model: DiffusionModel, latent: "Tensor", method: Method) -> "Drawing | None":
        return self.workspace.painter.draw(model, latent, method)

    def _tell_figures(self) -> None:
        self._told_figures = monotonic()
        on_device, on_host = self.engine.cache.used_bytes
        free, allocated = self.workspace.devices.free_bytes(), self.workspace.devices.used_bytes()
        self.stream.say(Figures(free, allocated, on_device, on_host, self.engine.meter))

    def _device(self) -> Device:
        import torch

        devices = self.workspace.devices
        device = devices.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        version = str(torch.__version__)  # itself it is a type of torch's
        return Device(name, device.type, device.index, devices.total_bytes(), version)

    def _capacity(self) -> int:
        """How many jobs to run at a time: one for each 2 GiB that are free, 1 to 32.

        Enough to fill batches; what a job keeps between its nodes is small beside its model.
        """
        return max(1, min(32, self.workspace.devices.free_bytes() >> 31))


def main() -> None:
    """Be the worker at the other end of the inherited socket."""
    # When the front is gone, a long node run must not keep the device.
    stream = Stream(socket.socket(fileno=int(sys.argv[1])), on_gone=lambda: os._exit(0))
    hello = stream.begin()
    for module in hello.modules:
        importlib.import_module(module)
    load_plugins(hello.settings, Folders(hello.settings))
    # Imported before the first job, which would wait for it otherwise.
    importlib.import_module("executor.models.library")
    Worker(stream, hello.settings).run()


if __name__ == "__main__":
    main()
