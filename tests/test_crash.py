"""The real server is killed, and told to stop, while jobs come and run: none that it took is lost.

An attempt that a kill ends between a picture's saving and its noting may leave a file that no job
lists: that is all that may be left over.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import pytest
from PIL import Image
from server_process import WAIT_S, ServerProcess, server_process, text_to_image

pytestmark = pytest.mark.timeout(4 * WAIT_S)  # workers load torch, more than once

CLIENTS, MANY = 3, 30


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose worker works already."""
    with server_process(tmp_path_factory.mktemp("base")) as server:
        server.over(server.submit(small("first")))
        yield server


class Client(threading.Thread):
    """Submits jobs, one after the other, until the server is gone."""

    def __init__(self, server: ServerProcess, name: str) -> None:
        super().__init__(name=name)
        self.server = server
        self.acknowledged: list[str] = []

    def run(self) -> None:
        with suppress(OSError, HTTPException):
            while True:
                prompt = small(f"{self.name}_{len(self.acknowledged)}")
                self.acknowledged.append(self.server.submit(prompt, client_id=self.name))
                time.sleep(0.01)


def small(prefix: str) -> dict[str, Any]:
    """A picture that takes no model."""
    red = {"width": 8, "height": 8, "batch_size": 1, "color": 0xFF0000}
    saved = {"images": ["1", 0], "filename_prefix": prefix}
    return {
        "1": {"class_type": "EmptyImage", "inputs": red},
        "2": {"class_type": "SaveImage", "inputs": saved},
    }


def busy(server: ServerProcess, name: str) -> tuple[str, list[Client]]:
    """Bring the server into the middle of things: a job that samples, and clients that go on."""
    clients = [Client(server, f"{name}_{number}") for number in range(CLIENTS)]
    for client in clients:
        client.start()
    server.until(lambda: sum(len(c.acknowledged) for c in clients) >= MANY, "they submit")
    prompt = text_to_image(f"{name}_long", seed=len(name), steps=30)
    long = server.submit(prompt, front=True)

    def runs() -> bool:
        return long in [item[1] for item in server.get("/queue")["queue_running"]]

    server.until(runs, "it samples")
    return long, clients


def acknowledged(long: str, clients: list[Client]) -> set[str]:
    """All that the server has taken, when it is gone."""
    for client in clients:
        client.join()
    return {long}.union(*(client.acknowledged for client in clients))


def pictures_of(server: ServerProcess, jobs: set[str]) -> list[str]:
    """The names of all pictures in the history, of which these jobs are, each once and well."""
    for job in jobs:
        assert server.over(job)["status"]["status_str"] == "success"
    status, body = server.ask("GET", "/history?max_items=10000")
    assert status == 200
    entries = json.loads(body, object_pairs_hook=list)  # a job twice would show
    twice = [job for job, count in Counter(job for job, _ in entries).items() if count > 1]
    assert not twice
    names: list[str] = []
    for entry in json.loads(body).values():
        made = [image for output in entry["outputs"].values() for image in output["images"]]
        assert len(made) == 1
        with Image.open(server.base / "output" / made[0]["filename"]) as picture:
            picture.load()
        names.append(made[0]["filename"])
    assert len(set(names)) == len(names), "no two jobs have one picture"
    return names


def files(server: ServerProcess, prefix: str) -> list[str]:
    return sorted(path.name for path in (server.base / "output").glob(f"{prefix}_*.png"))


def test_after_kill_9_every_acknowledged_job_ends_once(server: ServerProcess) -> None:
    long, clients = busy(server, "killed")
    server.kill()
    jobs = acknowledged(long, clients)
    server.start()
    names = pictures_of(server, jobs)
    assert files(server, "killed_long") == ["killed_long_00001_.png"], "it was not near its end"
    assert set(files(server, "killed")) >= {name for name in names if name.startswith("killed")}
    # A job may have been taken whose client did not hear of it any more.
    assert 0 <= sum(name.startswith("killed") for name in names) - len(jobs) <= CLIENTS


def test_told_to_stop_it_ends_in_good_order_and_goes_on_at_the_next_start(
    server: ServerProcess,
) -> None:
    long, clients = busy(server, "stopped")
    assert server.stop() == 0
    jobs = acknowledged(long, clients)
    server.start()
    names = pictures_of(server, jobs)
    mine = sorted(name for name in names if name.startswith("stopped"))
    assert mine == files(server, "stopped"), "nothing is left over, as nothing was cut off"
    assert 0 <= len(mine) - len(jobs) <= CLIENTS


@pytest.mark.slow  # the 30 s that running jobs are given
def test_told_to_stop_it_queues_again_what_does_not_end_in_time(server: ServerProcess) -> None:
    endless = server.submit(text_to_image("endless", steps=10_000))

    def runs() -> bool:
        return endless in [item[1] for item in server.get("/queue")["queue_running"]]

    server.until(runs, "it samples")
    assert server.stop() == 0
    server.start()
    server.until(runs, "it samples again")
    server.ask("POST", "/interrupt")
    assert server.over(endless)["status"]["completed"] is False
    assert files(server, "endless") == []
