"""What one side of guidance lends the other: controls and phrases that hold for both.

Some nodes steer the positive prompts only and leave it to sampling to steer the negative ones
alike, since guidance between a steered and an unsteered prediction would take the steering twice.
The rules are ComfyUI's.
"""

from collections.abc import Sequence
from dataclasses import replace

from executor.ports import Cond


def shared(positive: Sequence[Cond], negative: Sequence[Cond]) -> list[Cond]:
    """The negative prompts with what the positive ones bring for both sides.

    Only prompts that hold everywhere lend and borrow, each in turn; and none borrows where a
    negative prompt has some of its own.
    """
    result = list(negative)
    everywhere = [index for index, cond in enumerate(result) if cond.area is None]
    lending = [cond for cond in positive if cond.area is None]
    if not everywhere:
        return result
    if not any(result[index].controls for index in everywhere):
        lenders = [cond for cond in lending if cond.controls and cond.shares_controls]
        for turn, cond in enumerate(lenders):
            index = everywhere[turn % len(everywhere)]
            result[index] = replace(result[index], controls=cond.controls)
    if not any(result[index].grounding for index in everywhere):
        for turn, cond in enumerate(cond for cond in lending if cond.grounding):
            index = everywhere[turn % len(everywhere)]
            result[index] = replace(result[index], grounding=cond.grounding)
    return result
