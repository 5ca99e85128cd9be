"""The example workflows: each is checked, runs on the shipped model, and shows what it says."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import nodes
from executor.graph import check
from executor.paths import Folders
from executor.png_text import read_workflow
from executor.session import Session
from executor.settings import Settings
from executor.workflow import Workflow

FOLDER = Path(__file__).parents[1] / "workflows"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.json"))

Pixels = NDArray[np.float64]  # (H, W, 3), 0 to 255

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 50),
    "purple": (140, 60, 180),
    "pink": (245, 150, 195),
    "white": (250, 250, 250),
    "sky": (135, 195, 245),
    "grass": (80, 170, 70),
}
"""What the shipped model was taught these words with."""

NEAR = 70.0
"""Of two colours in RGB: training tints by up to 14, the VAE blurs; red and blue are 258 apart."""

pytestmark = pytest.mark.timeout(120)  # twenty steps and more of a real model, on a busy machine
assert nodes, "the classes are registered"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    base = tmp_path_factory.mktemp("base")
    return Session(Settings(base_directory=base, device="cpu"))


@pytest.fixture(scope="module")
def made(session: Session) -> Callable[[str], list[Pixels]]:
    """The pictures that an example leaves behind; each example runs once."""
    known: dict[str, list[Pixels]] = {}

    def pictures_of(name: str) -> list[Pixels]:
        if name not in known:
            files = session.run(prompt(name))
            known[name] = [pixels(path) for paths in files.values() for path in paths]
        return known[name]

    return pictures_of


def prompt(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(float)


def shows(picture: Pixels, colour: str) -> NDArray[np.bool_]:
    """Where a picture has nearly this colour (H, W)."""
    return np.linalg.norm(picture - COLOURS[colour], axis=-1) < NEAR


def share(picture: Pixels, colour: str) -> float:
    """How much of a picture has nearly this colour."""
    return float(shows(picture, colour).mean())


def border(picture: Pixels) -> Pixels:
    """The pixels within eight of an edge, as one row."""
    inner = np.ones(picture.shape[:2], bool)
    inner[8:-8, 8:-8] = False
    return picture[inner][None]


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / (one | other).sum())


# -- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_no_mistake_and_names_what_one_may_want_to_change(name, tmp_path) -> None:
    checked = check(prompt(name), Folders(Settings(base_directory=tmp_path)))
    assert (checked.problems, checked.warnings) == ((), ())
    assert checked.graph is not None
    assert len(checked.graph.nodes) == len(prompt(name)), "a node that nothing needs"
    assert all(spec["_meta"]["title"] for spec in prompt(name).values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_written_as_the_builder_writes_it(name, tmp_path) -> None:
    Workflow.load(FOLDER / f"{name}.json").save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (FOLDER / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pictures_in_the_readme_are_what_an_example_makes(name, made) -> None:
    kept = sorted(FOLDER.glob(f"pictures/{name}*_0*_.png"))
    pictures = made(name)
    assert len(kept) == len(pictures)
    for path, picture in zip(kept, pictures, strict=True):
        assert read_workflow(path).prompt == prompt(name)
        # Other machines round differently, and samplers that add noise amplify it: edges may move
        # a little. Another model or prompt differs by 30 and more.
        assert np.abs(pixels(path) - picture).mean() < 6, f"make {path.name} again (README)"


def test_the_readme_tells_of_every_example_and_shows_every_picture() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r'(?:src="|\]\()([^")]+)["\)]', text)
    assert all((FOLDER / target).exists() for target in targets)
    assert {f"{name}.json" for name in EXAMPLES} <= set(targets)
    kept = {f"pictures/{path.name}" for path in (FOLDER / "pictures").iterdir()}
    assert kept == {target for target in targets if target.startswith("pictures/")}


@pytest.mark.parametrize(
    ("example", "change"),
    re.findall(
        r'^\| \[(\w+)\].*--set "?([^"`]+?)"?`',
        (FOLDER / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    ),
)
def test_what_the_readme_proposes_can_be_set(example: str, change: str, tmp_path: Path) -> None:
    where, _, value = change.partition("=")
    node, _, name = where.rpartition(".")
    add = Workflow(prompt(example))
    add.set(node, **{name: value})
    assert add.prompt() != prompt(example)
    assert not check(add.prompt(), Folders(Settings(base_directory=tmp_path))).problems


def test_what_examples_load_ships_and_everything_that_ships_is_loaded() -> None:
    loaded: set[str] = {
        spec["inputs"]["image"]
        for name in EXAMPLES
        for spec in prompt(name).values()
        if spec["class_type"] == "LoadImage"
    }
    assert loaded == {path.name for path in (FOLDER / "input").iterdir()}


def test_an_example_that_ran_runs_no_node_again(session: Session, made) -> None:
    made("text_to_image")
    before: Mapping[str, int] = dict(session.engine.meter.node_runs)
    again = session.run(prompt("text_to_image"))
    assert dict(session.engine.meter.node_runs) == before
    assert len(again) == 1


# -- each of them ------------------------------------------------------------------------------


def test_text_to_image_shows_the_colours_of_its_prompt(made) -> None:
    (picture,) = made("text_to_image")
    assert picture.shape == (128, 128, 3)
    assert share(border(picture), "yellow") > 0.95
    assert share(picture, "yellow") + share(picture, "red") > 0.9
    assert share(picture[32:96, 32:96], "red") > 0.3


def test_image_to_image_repaints_and_keeps_the_layout(made) -> None:
    (picture,) = made("image_to_image")
    source = pixels(FOLDER / "input" / "red_circle.png")
    assert share(border(picture), "purple") > 0.95
    assert share(picture, "red") < 0.02
    # A circle of the model's own choice, in the middle, overlaps the source's by a half.
    assert overlap(shows(picture, "yellow"), shows(source, "red")) > 0.7


def test_inpaint_changes_what_the_hole_covers_and_nothing_else(made) -> None:
    (picture,) = made("inpaint")
    with Image.open(FOLDER / "input" / "star_with_hole.png") as source:
        before = np.asarray(source).astype(float)
    hole = before[..., 3] == 0
    assert 0.1 < hole.mean() < 0.3
    assert np.array_equal(picture[~hole], before[~hole][:, :3])
    inside = picture[hole][None]
    assert share(inside, "red") > 0.3
    assert share(inside, "red") + share(inside, "green") > 0.85


def test_outpaint_keeps_the_picture_and_goes_on_with_it(made) -> None:
    (picture,) = made("outpaint")
    source = pixels(FOLDER / "input" / "half_a_landscape.png")
    width, feathering = source.shape[1], 8
    assert picture.shape == (128, 128, 3)
    assert np.array_equal(picture[:, : width - feathering], source[:, :-feathering])
    added = picture[:, width:]
    assert share(added[:32], "sky") > 0.9
    assert share(added[-16:], "grass") > 0.9
    trunk_and_leaves = ~(shows(added, "sky") | shows(added, "grass"))
    assert trunk_and_leaves[40:112].mean() > 0.1


def test_hires_fix_enlarges_what_the_first_pass_painted(made) -> None:
    (picture,) = made("hires_fix")
    assert picture.shape == (192, 192, 3)
    assert share(border(picture), "purple") > 0.95
    assert 0.05 < share(picture, "yellow") < 0.6
    assert share(picture, "purple") + share(picture, "yellow") > 0.9


def test_of_batch_variations_one_is_made_again_alone(made) -> None:
    *four, again = made("batch_variations")
    assert len(four) == 4
    # A batch of another size rounds differently: fp32 noise of 1e-5 a step, far below a grey level,
    # which may still tip a rounding to 8 bits.
    assert np.abs(four[2] - again).max() <= 2
    for index, picture in enumerate(four):
        assert share(picture[-16:], "grass") > 0.5
        assert all(np.abs(picture - other).mean() > 8 for other in four[:index])


def test_regional_prompts_each_hold_on_their_side(made) -> None:
    (picture,) = made("regional_prompt")
    assert picture.shape == (128, 192, 3)
    left, right = picture[:, :96], picture[:, 96:]
    assert share(border(picture), "blue") > 0.9
    assert share(left, "red") > 0.1 > 0.02 > share(right, "red")
    assert share(right, "yellow") > 0.05 > 0.01 > share(left, "yellow")


def test_mask_composite_shows_one_picture_through_the_shape_of_others(made) -> None:
    (picture,) = made("mask_composite")
    ring = np.hypot(*(np.mgrid[:128, :128] - 63.5)) > 62  # outside of any disc
    assert share(picture[ring][None], "yellow") < 0.02
    inside = picture[24:104, 24:104]
    assert share(inside, "yellow") > 0.1
    assert share(inside, "purple") > 0.1


def test_sampler_comparison_puts_three_samplers_side_by_side(made) -> None:
    (picture,) = made("sampler_comparison")
    assert picture.shape == (128, 384, 3)
    for start in (0, 128, 256):
        house = picture[:, start : start + 128]
        assert share(house[-16:], "grass") > 0.7
        assert share(house[:16], "sky") > 0.7
        assert share(house[32:112], "red") > 0.02
        assert share(house[32:112], "white") > 0.05


def test_samplers_side_by_side_share_their_forward_passes(session: Session, made) -> None:
    made("sampler_comparison")
    assert (
        max(session.engine.meter.batches) >= 6
    )  # three samplers, each with and without the prompt
