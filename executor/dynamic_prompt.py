"""Prompts with choices in them, as ComfyUI's editor resolves before it sends a workflow.

``{red|blue} hat`` becomes ``red hat`` or ``blue hat``; choices may hold choices. ``/* … */`` and
``// …`` are comments. A backslash keeps ``{``, ``|`` or ``}`` as it is.
"""

import re
from random import Random

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r]*", re.DOTALL)
_TOKEN = re.compile(r"\\[{|}]|[{|}]|\\|[^\\{|}]+")


def resolve(text: str, random: Random) -> str:
    """The text with one alternative of each choice, and without comments.

    What nothing closes is closed by the end; a ``}`` that closes nothing stays as it is.
    """
    frames: list[list[str]] = [[""]]  # the alternatives of each choice that is open

    def close() -> None:
        alternatives = frames.pop()
        # Not `choice`, whose way from a random number to an index is not promised to stay.
        frames[-1][-1] += alternatives[int(random.random() * len(alternatives))]

    for token in _TOKEN.findall(_COMMENT.sub("", text)):
        is_inside = len(frames) > 1
        if token == "{":
            frames.append([""])
        elif token == "}" and is_inside:
            close()
        elif token == "|" and is_inside:
            frames[-1].append("")
        else:
            frames[-1][-1] += token[1:] if token[0] == "\\" and len(token) == 2 else token
    while len(frames) > 1:
        close()
    return frames[0][0]
