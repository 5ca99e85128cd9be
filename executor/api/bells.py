"""Who waits for news of one job, and how they are woken.

A bell says only that there may be something new; what it is, they ask the ledger.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


class Bells:
    """A bell for each that waits."""

    def __init__(self) -> None:
        self.is_closing = False
        self._bells: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listening(self, job_id: str) -> Generator[asyncio.Event]:
        """An event that is set whenever something happened to the job."""
        bell = asyncio.Event()
        bells = self._bells.setdefault(job_id, set())
        bells.add(bell)
        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells and self._bells.get(job_id) is bells:
                del self._bells[job_id]

    def ring(self, job_id: str) -> None:
        """Something happened to a job."""
        for bell in self._bells.get(job_id, ()):
            bell.set()

    def ring_all(self) -> None:
        """Something may have happened to any job."""
        for bells in self._bells.values():
            for bell in bells:
                bell.set()

    def close(self) -> None:
        """The server goes: nobody shall wait any longer."""
        self.is_closing = True
        self.ring_all()
