"""Placeholders in file names, as ComfyUI's users write them."""

from datetime import datetime
from typing import Any

import pytest

from executor.placeholders import expand

NOW = datetime(2026, 3, 4, 5, 6, 7)
PROMPT: dict[str, Any] = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 42, "cfg": 8.0, "model": ["2", 0]}},
    "2": {
        "class_type": "KSampler",
        "inputs": {"seed": 43, "denoise": 0.55, "add_noise": True},
        "_meta": {"title": "Second pass v1.5"},
    },
    "3": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": 'a/b\\c:d*e?f"g<h>i|j\nk'},
        "_meta": None,
    },
    "5": {"class_type": "Dots", "inputs": {"text": "..", "half": "a\ud800", "wide": "狐" * 50}},
    "4": {"class_type": "Long", "inputs": {"text": "x" * 500}, "_meta": {"title": 7}},
}


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("plain", "plain"),
        ("%date:yyyy-MM-dd%", "2026-03-04"),
        ("%date:yyyy-MM-dd hh-mm-ss%", "2026-03-04 05-06-07"),
        ("%date:yy.M.d h.m.s%", "26.3.4 5.6.7"),
        ("%date:yyyyMMdd%/x", "20260304/x"),
        ("%year%%month%%day%-%hour%%minute%%second%", "20260304-050607"),
        ("%width%x%height%", "640x480"),
        ("%KSampler.seed%", "42"),
        ("%KSampler.cfg%", "8"),
        ("%Second pass v1.5.denoise%", "0.55"),
        ("%Second pass v1.5.add_noise%", "true"),
        ("%CLIPTextEncode.text%", "a_b_c_d_e_f_g_h_i_j_k"),
        ("%Long.text%", "x" * 100),
        ("%Dots.text%/x", "__/x"),
        ("%Dots.half%", "a_"),
        ("%Dots.wide%", "狐" * 33),
        # What means nothing stays, and hides nothing behind it.
        ("100%_%year%", "100%_2026"),
        ("%%year%", "%2026"),
        ("%unknown%", "%unknown%"),
        ("%Nobody.seed%", "%Nobody.seed%"),
        ("%KSampler.steps%", "%KSampler.steps%"),
        ("%KSampler.model%", "%KSampler.model%"),
        ("50% a.b%year%", "50% a.b2026"),
        ("%", "%"),
    ],
)
def test_placeholders_are_filled_in(prefix: str, expected: str) -> None:
    assert expand(prefix, now=NOW, size=(640, 480), prompt=PROMPT) == expected


def test_without_a_size_or_a_workflow_their_placeholders_stay() -> None:
    prefix = "%width%_%KSampler.seed%_%year%"
    assert expand(prefix, now=NOW) == "%width%_%KSampler.seed%_2026"


def test_a_value_is_not_looked_through_for_placeholders() -> None:
    prompt = {"1": {"class_type": "A", "inputs": {"text": "%year%"}}}
    assert expand("%A.text%", now=NOW, prompt=prompt) == "%year%"


def test_a_title_goes_before_a_class_of_the_same_name() -> None:
    prompt = {
        "1": {"class_type": "A", "inputs": {"n": 1}},
        "2": {"class_type": "B", "inputs": {"n": 2}, "_meta": {"title": "A"}},
    }
    assert expand("%A.n%", now=NOW, prompt=prompt) == "2"
