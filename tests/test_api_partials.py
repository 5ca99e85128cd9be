"""Pictures in the making for those who stream them: how many, when, and of which branch."""

from typing import Any, cast

import pytest

from executor.api.partials import Partials
from executor.dispatch import Happening
from executor.events import Progress
from executor.fabric.messages import Preview
from executor.seats import Running


class Job:
    """All that is asked of a running job here."""

    id = "job"


def told(partials: Partials, happening: Happening) -> None:
    partials.hear(cast("Running", cast("Any", Job())), happening, None)


def step(partials: Partials, done: int, node: str = "0:5") -> None:
    """A sampler of twelve steps comes one further, and its picture is drawn."""
    told(partials, Progress("job", node, done, 12))
    told(partials, Preview("job", 1, node, f"{node} at {done}".encode()))


@pytest.mark.parametrize(("count", "at"), [(0, []), (1, [6]), (2, [4, 8]), (3, [3, 6, 9])])
def test_so_many_are_told_evenly_over_the_steps_and_no_more(count: int, at: list[int]) -> None:
    partials = Partials()
    with partials.listening("job", count, "0:") as partial:
        for done in range(1, 13):
            step(partials, done)
        found = [partial.pictures.get_nowait() for _ in range(partial.pictures.qsize())]
    assert found == [f"0:5 at {done}".encode() for done in at]


def test_other_branches_and_other_jobs_are_not_looked_at() -> None:
    partials = Partials()
    with (
        partials.listening("job", 3, "0:") as partial,
        partials.listening("other", 3, "0:") as other,
    ):
        step(partials, 12, "1:5")
        assert partial.pictures.empty()
        step(partials, 12)
        assert partial.pictures.qsize() == 1
        assert other.pictures.empty()


def test_nothing_is_kept_for_those_who_left() -> None:
    partials = Partials()
    with partials.listening("job", 3):
        pass
    step(partials, 12)
    assert partials._waiting == {}
