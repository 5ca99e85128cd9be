"""What is in this folder fetches workflows by others, and takes longer than other tests."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give them a command of their own."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.published)
            item.add_marker(pytest.mark.timeout(600))
