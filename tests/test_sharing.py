"""What one side of guidance lends the other."""

from dataclasses import replace
from typing import Any

import torch

from executor.ports import Area, Cond, Control, Grounding
from executor.sampling.sharing import shared

NETWORK: Any = object()


def control() -> Control:
    return Control(NETWORK, torch.zeros(1, 8, 8, 3))


def cond(*controls: Control, shares: bool = False, area: Area | None = None) -> Cond:
    return Cond(torch.zeros(1, 3, 2), controls=controls, shares_controls=shares, area=area)


def test_controls_that_are_to_be_shared_are_the_negative_prompts_too() -> None:
    one, two = control(), control()
    (found,) = shared([cond(one, two, shares=True)], [cond()])
    assert found.controls == (one, two)
    (found,) = shared([cond(one)], [cond()])
    assert found.controls == ()


def test_several_negative_prompts_take_turns() -> None:
    one, two, three = control(), control(), control()
    lending = [cond(c, shares=True) for c in (one, two, three)]
    found = shared(lending, [cond(), cond()])
    assert [c.controls for c in found] == [(three,), (two,)]
    found = shared(lending[:1], [cond(), cond()])
    assert [c.controls for c in found] == [(one,), ()]


def test_a_negative_prompt_with_controls_of_its_own_keeps_all_as_it_is() -> None:
    one, own = control(), control()
    found = shared([cond(one, shares=True)], [cond(own), cond()])
    assert [c.controls for c in found] == [(own,), ()]


def test_prompts_of_an_area_neither_lend_nor_borrow() -> None:
    one, area = control(), Area(8, 8, 0, 0)
    assert shared([cond(one, shares=True, area=area)], [cond()])[0].controls == ()
    assert shared([cond(one, shares=True)], [cond(area=area)])[0].controls == ()


def test_phrases_at_places_are_always_shared() -> None:
    boxes = Grounding(NETWORK, ())
    (found,) = shared([replace(cond(control()), grounding=boxes)], [cond()])
    assert found.grounding is boxes
    assert found.controls == ()
    own = Grounding(NETWORK, ())
    (found,) = shared([replace(cond(), grounding=boxes)], [replace(cond(), grounding=own)])
    assert found.grounding is own
    (found,) = shared([cond()], [cond()])
    assert found.grounding is None
