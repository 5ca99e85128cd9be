"""What the commands of ``weft`` do, one module each, and what they have in common.

They translate between a terminal and the engine: arguments and files to a checked job, events to
progress bars, paths and JSON. They decide nothing about graphs or models.
"""

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended, as the shell sees it."""

    DONE = 0
    FAILED = 1
    WRONG_INPUT = 2
    INTERRUPTED = 130
