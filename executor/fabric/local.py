"""Workers as processes of this machine, each at the other end of a pair of sockets."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

from executor.fabric.messages import LENGTH, FromWorker, Hello, ToWorker, framed, unframed
from executor.fabric.output import WorkerOutput
from executor.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
"""Where ``executor`` is imported from, here as in the worker."""


def gpus() -> int:
    """How many NVIDIA GPUs a worker would see, as far as one can know without their driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


class LocalWorker:
    """One worker process, from its start to its end."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        output: WorkerOutput | None = None,
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._output = output

    @classmethod
    async def start(
        cls, settings: Settings, modules: tuple[str, ...], *, threads: int | None = None
    ) -> "LocalWorker":
        """Start a process that is to own ``settings.device``; it says Ready when it can work."""
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        # torch's threads otherwise spin while they wait: five times slower on a busy machine
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        environment["PYTHONUNBUFFERED"] = "1"  # so that what is printed is logged when it is
        output = WorkerOutput(settings.device)
        with theirs, await output.open() as writing:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "executor.worker", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                start_new_session=True,  # an interrupt at the terminal is the front's to handle
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        worker = cls(process, reader, writer, output)
        writer.write(framed(Hello(settings, modules)))
        return worker

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    def send(self, message: ToWorker) -> None:
        """Put a message on its way; to a worker that has ended it goes nowhere."""
        if not self._writer.is_closing():
            self._writer.write(framed(message))

    async def messages(self) -> AsyncIterator[FromWorker]:
        """All that the worker says, until it ends."""
        try:
            while True:
                head = await self._reader.readexactly(LENGTH.size)
                body = await self._reader.readexactly(LENGTH.unpack(head)[0])
                yield cast(FromWorker, unframed(body))
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    async def ended(self) -> int:
        """Wait for the process' end; its exit code, negative for a signal."""
        code = await self._process.wait()
        if self._output:
            await self._output.close()
        self._writer.close()
        return code

    def kill(self) -> None:
        """End it now."""
        if self._process.returncode is None:
            self._process.kill()
