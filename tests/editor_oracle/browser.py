"""A page in a headless Chromium, driven over its DevTools protocol."""

import asyncio
import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Any, Self

from aiohttp import ClientSession, ClientWebSocketResponse

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--remote-debugging-port=0",
)
_START_S, _ANSWER_S = 60, 60


class Browser:
    """Opens an address on entering, and is gone with all its files on leaving."""

    socket: ClientWebSocketResponse

    def __init__(self, address: str) -> None:
        self.address = address
        self.ids = count(1)

    async def __aenter__(self) -> Self:
        program = shutil.which("chromium")
        if program is None:
            raise SystemExit("there is no chromium on the path; Debian's package has that name")
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = await asyncio.create_subprocess_exec(
            program,
            *FLAGS,
            f"--user-data-dir={self.folder.name}",
            self.address,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.session = ClientSession()
        async with asyncio.timeout(_START_S):
            self.socket = await self.session.ws_connect(await self._page(), max_msg_size=0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
        await self.session.close()
        self.process.terminate()
        await self.process.wait()
        self.folder.cleanup()

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        number = next(self.ids)
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        call = {"id": number, "method": "Runtime.evaluate", "params": parameters}
        await self.socket.send_json(call)
        async with asyncio.timeout(_ANSWER_S):
            while (answer := await self.socket.receive_json()).get("id") != number:
                pass
        result = answer["result"]
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"]["exception"]["description"])
        return result["result"].get("value")

    async def wait_for(self, expression: str) -> None:
        """Wait until an expression is true, or raise TimeoutError."""
        async with asyncio.timeout(_START_S):
            while await self.evaluate(expression) is not True:
                await asyncio.sleep(0.2)

    async def _page(self) -> str:
        """The address of the page's debugger."""
        port = Path(self.folder.name) / "DevToolsActivePort"
        while not port.exists():
            await asyncio.sleep(0.1)
        base = f"http://127.0.0.1:{port.read_text().split()[0]}"
        while True:
            async with self.session.get(f"{base}/json/list") as answer:
                for target in await answer.json():
                    if target["type"] == "page" and target["url"].startswith(self.address):
                        return target["webSocketDebuggerUrl"]
            await asyncio.sleep(0.1)
