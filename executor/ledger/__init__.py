"""The durable queue: jobs, what became of them, and the events that clients may ask for again.

    async with open_ledger(path) as ledger:
        accepted = await ledger.submit(NewJob(prompt=text))

Only the front process holds it. Light: the standard library alone.
"""

from executor.ledger.ledger import Ledger, open_ledger
from executor.ledger.records import (
    Accepted,
    Counts,
    DueHook,
    EventKind,
    FullJob,
    JobBody,
    JobEvent,
    JobFile,
    JobPage,
    JobRecord,
    NewHook,
    NewJob,
    Requeued,
    State,
    TakenJob,
)

__all__ = [
    "Accepted",
    "Counts",
    "DueHook",
    "EventKind",
    "FullJob",
    "JobBody",
    "JobEvent",
    "JobFile",
    "JobPage",
    "JobRecord",
    "Ledger",
    "NewHook",
    "NewJob",
    "Requeued",
    "State",
    "TakenJob",
    "open_ledger",
]
