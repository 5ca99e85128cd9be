"""A real server, and what a test does with a page of it: look, press, write, wait."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_S = 120
"""For a worker to load torch, or a picture to be made, on a machine that does much else."""


class Server:
    """``server.py`` in a folder of its own."""

    def __init__(self, base: Path, port: int) -> None:
        self.base, self.port = base, port
        self.address = f"http://127.0.0.1:{port}"

    def outputs(self) -> list[str]:
        """The names of all pictures that were saved."""
        return sorted(path.name for path in (self.base / "output").rglob("*.png"))


@contextmanager
def running_server(base: Path, **settings: Any) -> Generator[Server]:
    """A server that answers, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Server(base, free.getsockname()[1])
    given = {"base_directory": base, "port": server.port, "device": "cpu", **settings}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    environ |= {f"WEFT_{name.upper()}": str(value) for name, value in given.items()}
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "server.py"], cwd=ROOT, env=environ, stdout=log, stderr=log
        )
        try:
            _wait_for_answer(server, process)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_answer(server: Server, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            with urlopen(f"{server.address}/api/features", timeout=5):
                return
        except OSError:
            pass
        log = (server.base / "log").read_text(errors="replace")
        assert process.poll() is None, f"the server ended:\n{log}"
        assert time.monotonic() < until, f"the server does not answer:\n{log}"
        time.sleep(0.1)


class Page:
    """What tests do with a browser: look, press, type, wait."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get(address)

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns."""
        return self.driver.execute_script(script, *given)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        """The element of a selector, waited for."""
        return self.until(lambda: self.all(selector), f"{selector} is there")[0]

    def press(self, selector: str) -> None:
        """Press what is there, as soon as it can be."""

        def pressed() -> bool:
            try:
                self.one(selector).click()
            except self._passing:
                return False
            return True

        self.until(pressed, f"{selector} can be pressed")

    def write(self, selector: str, text: str) -> None:
        """Put a text in the place of another."""
        element = self.one(selector)
        element.clear()
        element.send_keys(text)

    def chord(self, key: str) -> None:
        """Press a key while Control is held."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        keys = ActionChains(self.driver).key_down(Keys.CONTROL).send_keys(key)
        keys.key_up(Keys.CONTROL).perform()

    def drag(self, selector: str, right_px: int) -> None:
        """Drag the pointer from the middle of an element to the right."""
        from selenium.webdriver.common.action_chains import ActionChains

        pointer = ActionChains(self.driver).move_to_element(self.one(selector)).click_and_hold()
        pointer.move_by_offset(right_px, 0).move_by_offset(-right_px, 0).release().perform()

    def text(self, selector: str) -> str:
        """What is written there; an empty text too."""
        return self.until(lambda: [self.one(selector).text], f"{selector} can be read")[0]

    @property
    def _passing(self) -> tuple[type[Exception], ...]:
        from selenium.common.exceptions import (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
        )

        return (
            ElementClickInterceptedException,
            ElementNotInteractableException,
            StaleElementReferenceException,
        )

    def until(self, ask: Callable[[], Any], what: str, wait_s: float = WAIT_S) -> Any:
        """What asking gives, as soon as it is something."""
        until = time.monotonic() + wait_s
        while True:
            try:
                if found := ask():
                    return found
            except self._passing:
                pass
            if time.monotonic() > until:
                raise AssertionError(f"waited {wait_s} s in vain: {what}\n{self.complaints()}")
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """What the browser has logged as errors since it was last asked."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
