"""Jobs of the ledger as ComfyUI's queue and history show them.

The workflows in them may be large, and are JSON text already; they are put in as they are, never
parsed again.
"""

import json
from typing import Any

from executor.api.messages import rendered
from executor.api.replies import json_text
from executor.ledger import EventKind, FullJob, State

NEWEST = 100
"""Jobs in an answer to somebody who does not say how many. Each comes with its workflow, often
50 kB: frontends ask after every job, and more would be megabytes each time."""

MOST_JOBS = 1_000
"""In an answer to somebody who asks for more."""


def number_on_wire(number: float) -> float | int:
    """A place in the queue: whole where it can be, since some clients take nothing else."""
    return int(number) if number.is_integer() else number


def item_text(job: FullJob) -> str:
    """A job in the queue: ``[number, id, prompt, extra_data, outputs]``."""
    record, body = job.record, job.body
    number = json_text(number_on_wire(record.number))
    targets = json_text(body.targets)
    return f"[{number},{json_text(record.id)},{body.prompt},{body.extra_data},{targets}]"


def entry_text(job: FullJob) -> str:
    """A job in the history, with what came of it."""
    meta = {
        node_id: {
            "node_id": node_id,
            "display_node": node_id,
            "parent_node": None,
            "real_node_id": node_id,
        }
        for node_id in json.loads(job.outputs)
    }
    return (
        f'{{"prompt":{item_text(job)},"outputs":{job.outputs},'
        f'"status":{json_text(execution_status(job))},"meta":{json_text(meta)}}}'
    )


def execution_status(job: FullJob) -> dict[str, Any]:
    """How a job that is over ended, and the messages that told of it."""
    is_success = job.record.state is State.SUCCEEDED
    told = [event for event in job.events if event.kind is not EventKind.FAILED]
    return {
        "status_str": "success" if is_success else "error",  # the frontends know no other
        "completed": is_success,
        "messages": [list(rendered(event)) for event in told],
    }
