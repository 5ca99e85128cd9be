"""A real server with the shipped model, for clients by others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from server_process import WAIT_S, ServerProcess, server_process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is in this folder needs packages from the network, and longer than other tests."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.clients)
            item.add_marker(pytest.mark.timeout(4 * WAIT_S))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with server_process(tmp_path_factory.mktemp("base")) as server:
        yield server
