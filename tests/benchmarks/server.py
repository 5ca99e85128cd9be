"""The server under load: what submitting costs, how fast graphs end, who waits while it is busy.

Starts ``server.py`` on a free port with a folder of its own and one CPU worker, whose nodes do
nothing. With ``--against URL`` another server of the protocol is measured beside it: one that has
the nodes of ``comfy_pack.py``, in ComfyUI as a file in ``custom_nodes``.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import aiohttp

from executor.ledger import NewJob, open_ledger

from .client import Client, Row, measure, ms, trivial
from .table import show

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Started:
    """A server that accepts requests."""

    url: str
    pid: int
    seconds: float  # from its start until it listens

    @property
    def resident_mb(self) -> float:
        """The front's memory, where the system tells."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3


@asynccontextmanager
async def server(base: Path) -> AsyncGenerator[Started]:
    """A server of its own, from when it accepts requests."""
    pack = base / "custom_nodes"
    pack.mkdir(parents=True, exist_ok=True)
    (pack / "bench.py").write_text(_pack())
    environment = os.environ | {
        "WEFT_BASE_DIRECTORY": str(base),
        "WEFT_PORT": "0",
        "WEFT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    began = perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "server.py")),
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stderr
    url = ""
    while not url:
        line = (await process.stderr.readline()).decode()
        assert line, "the server ended"
        if match := re.search(r"http://\S+", line):
            url = match[0]
    draining = asyncio.create_task(_drain(process.stderr))
    try:
        yield Started(url, process.pid, perf_counter() - began)
    finally:
        process.terminate()
        await process.wait()
        draining.cancel()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.readline():
        pass


def _pack() -> str:
    """The nodes of ``graphs`` as a pack that the server loads."""
    text = (Path(__file__).with_name("graphs.py")).read_text()
    classes = text[text.index("class BenchNumber") : text.index("def chain")]
    return f"from executor import Context, Node\n\n{classes}"


async def _measure(base: Path, row: Row) -> None:
    async with server(base) as started:
        row("server accepts requests", f"{started.seconds:.2f} s", "≤ 1 s")
        await measure(started.url, row)
    await _full_queue(base / "full", row)


async def _full_queue(base: Path, row: Row) -> None:
    """How a server starts on 100,000 queued jobs."""
    async with open_ledger(base / "user" / "weft.sqlite") as ledger:
        for thousand in range(100):
            jobs = (NewJob(prompt=json.dumps(trivial(1000 * thousand + i))) for i in range(1000))
            await asyncio.gather(*map(ledger.submit, jobs))
    async with server(base) as started:
        row("restart with 100,000 queued jobs", f"{started.seconds:.2f} s", "≤ 3 s")
        async with aiohttp.ClientSession() as session:
            client = Client(session, started.url)
            row("GET /queue then", ms(min([await client.get("/queue") for _ in range(5)])), "")
        row("the front's memory then", f"{started.resident_mb:.0f} MB", "≤ 400 MB")


def main(against: str | None = None) -> None:
    """Print the figures beside what they should be, and beside another server's at ``against``."""
    rows: list[list[str]] = []
    theirs: dict[str, str] = {}
    if against is not None:
        asyncio.run(
            measure(against, lambda what, figure, _: theirs.update({what: figure}), (1_000,))
        )
    with TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), lambda *cells: rows.append(list(cells))))
    heads = ["what", "measured", "target"]
    if against is not None:
        heads.append(against)
        rows = [[*row, theirs.get(row[0], "")] for row in rows]
    show("The server over loopback, trivial nodes", heads, rows)
