"""Weft's own page makes pictures: what a person does with it, in a real browser."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browsing import ROOT, Page, Server, running_server
from PIL import Image

STEPS = 4  # few: what is tested is the way to the picture, not the picture

# Records what is said of the job: some of it is there for less than a test takes to look.
RECORD = """
window.said = [];
new MutationObserver(() => said.push(document.getElementById("at-work").textContent))
    .observe(document.getElementById("at-work"), {childList: true});
"""
NATURAL = "return [arguments[0].naturalWidth, arguments[0].naturalHeight]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert find_spec("comfyui_frontend_package") is None, (
        "an installed frontend takes the page's place"
    )
    with running_server(tmp_path_factory.mktemp("base")) as server:
        yield server


@pytest.fixture
def page(driver: Any, server: Server) -> Iterator[Page]:
    """The page as somebody finds it who is here for the first time."""
    page = Page(driver)
    page.open(f"{server.address}/api/features")  # of the same origin, and keeps nothing itself
    page.run("localStorage.clear(); sessionStorage.clear()")
    page.open(server.address)
    page.one('#line[data-state="connected"]')
    page.run(RECORD)
    page.complaints()
    yield page
    complaints = page.complaints()
    stopped = "return Promise.all([...jobs.keys()].map(cancel)).then(() => true)"
    page.run(stopped)  # what a test has left behind would hold up the next
    assert complaints == []


def begin(page: Page, example: str) -> None:
    """Open an example, with few steps."""
    page.press(f'[data-example="{example}"]')
    page.one(".node")
    for steps in page.all('[data-input="steps"]'):
        steps.clear()
        steps.send_keys(str(STEPS))


def field(title: str, name: str) -> str:
    """The selector of an input of the node of a title."""
    return f'[aria-label="{title}"] [data-input="{name}"]'


def queue(page: Page) -> str:
    """Queue what is open: the id of the job, which the stage shows now."""
    shown = "return followed?.id ?? ''"
    before = page.run(shown)
    page.press("#queue")
    page.until(lambda: page.run(shown) != before, "the stage shows the job")
    page.until(lambda: page.run("return said.length"), "something is said of the job")
    return page.run(shown)


def done(page: Page) -> list[list[int]]:
    """Width and height of the pictures on the stage, when the job is done."""
    page.until(lambda: page.run("return followed?.state") == "done", "the job is done")
    page.until(lambda: page.text("#at-work").startswith("Done"), "it is said")
    sizes = """const found = [...document.querySelectorAll("#cloth .pictures img")];
        return found.every((image) => image.complete)
            && found.map((image) => [image.naturalWidth, image.naturalHeight])"""
    return page.until(lambda: page.run(sizes), "there are pictures")


def past(page: Page) -> int:
    """How many jobs the history says there are."""
    words = page.text("#total")
    return int(words.split()[0]) if words else 0


def test_text_becomes_a_picture(page, server):
    before = past(page)
    begin(page, "text_to_image")
    page.write(field("Prompt", "text"), "a blue star on a white background")
    queue(page)
    assert done(page) == [[128, 128]]
    said = page.run("return said")
    assert any(words.startswith("KSampler: step ") for words in said), said
    assert {node.get_attribute("data-state") for node in page.all(".node")} <= {"done", "cached"}
    page.until(lambda: past(page) == before + 1, "the history has the job")
    with Image.open(server.base / "output" / server.outputs()[-1]) as saved:
        assert "a blue star on a white background" in saved.info["prompt"]


def test_a_picture_of_ones_own_is_painted_over(page, server, tmp_path):
    Image.new("RGB", (128, 64), (200, 30, 30)).save(tmp_path / "mine.png")
    begin(page, "image_to_image")
    page.one('.picture input[type="file"]').send_keys(str(tmp_path / "mine.png"))
    chosen = "return document.querySelector('[data-input=image]').selectedOptions[0].textContent"
    page.until(lambda: page.run(chosen) == "mine.png", "the uploaded picture is chosen")
    shown = page.one(".picture img")
    page.until(lambda: page.run(NATURAL, shown) == [128, 64], "the uploaded picture is shown")
    queue(page)
    assert done(page) == [[128, 64]]
    assert (server.base / "input" / "mine.png").is_file()


def test_a_hole_is_filled(page):
    begin(page, "inpaint")
    queue(page)
    assert done(page) == [[128, 128]]


def test_a_wrong_input_is_told_where_it_is(page):
    begin(page, "text_to_image")
    steps = field("KSampler", "steps")
    page.write(steps, "0")
    page.press("#queue")
    wrong = page.one('[aria-invalid="true"]')
    assert wrong.get_attribute("data-input") == "steps"
    fault = page.one(f"#{wrong.get_attribute('aria-describedby')}")
    assert fault.text == "steps must be ≥ 1, got 0"
    assert page.run("return document.activeElement === arguments[0]", wrong)
    assert "node 5" in page.text("#notice")
    assert page.run("return said") == []
    (complaint,) = page.complaints()  # the browser's own line about the answer 400
    assert "/api/prompt" in complaint
    page.write(steps, str(STEPS))
    assert page.all('[aria-invalid="true"]') == []
    queue(page)
    done(page)


def test_a_file_that_was_wrong_from_the_beginning_is_shown_with_what_is_wrong(page, tmp_path):
    prompt = json.loads((ROOT / "workflows/text_to_image.json").read_text("utf-8"))
    prompt["1"]["inputs"]["ckpt_name"] = "elsewhere.safetensors"
    prompt["5"]["inputs"]["model"] = ["77", 0]
    (tmp_path / "wrong.json").write_text(json.dumps(prompt))
    page.one("#file").send_keys(str(tmp_path / "wrong.json"))
    page.one(".node.has-faults")
    assert "elsewhere.safetensors" in page.text('[aria-label="Load Checkpoint"] .field .fault')
    assert "77" in page.text('[aria-label="KSampler"] > .fault')


def test_a_running_job_is_watched_and_cancelled(page):
    begin(page, "text_to_image")
    page.write(field("KSampler", "steps"), "10000")
    queue(page)
    page.until(lambda: float(page.one("#progress").get_attribute("value")) > 0, "it gets on")
    preview = page.one("#cloth .preview")
    page.until(lambda: page.run(NATURAL, preview)[0], "a preview is shown")
    assert page.text('.node[data-state="running"] .step').endswith("/ 10000")
    listed = page.text('#waiting [data-status="in_progress"]')
    assert listed.startswith("Text to image")
    assert "running, " in listed
    page.press("#cancel")
    page.until(lambda: page.text("#at-work") == "Cancelled.", "it is cancelled")
    page.until(lambda: not page.one("#queue-part").is_displayed(), "the queue is empty")
    page.one('#past [data-status="cancelled"]')


def test_the_page_finds_its_job_again_when_the_connection_was_lost(page):
    begin(page, "text_to_image")
    page.write(field("KSampler", "steps"), "60")
    queue(page)
    page.until(lambda: "step" in page.text("#at-work"), "it samples")
    page.run("socket.close()")
    page.until(lambda: page.run("return socket.readyState") == 1, "it is connected again")
    done(page)


def test_what_ended_while_the_connection_was_lost_is_shown(page):
    """What a page misses that is connected again only when all is over."""
    begin(page, "text_to_image")
    page.run("connect = () => {}; socket.close()")
    page.until(lambda: "no connection" in page.text("#line"), "it is said")
    queue(page)
    asked = "return fetch('api/queue').then((answer) => answer.text())"
    empty = '{"queue_running":[],"queue_pending":[]}'
    page.until(lambda: page.run(asked) == empty, "the job is over")
    assert page.text("#at-work") == "Waits in the queue."
    page.run("socket.onclose = null; jobs.forEach(catchUp)")
    done(page)


def test_a_job_is_removed_from_the_history(page):
    begin(page, "text_to_image")
    job = queue(page)
    done(page)
    page.one(f'#past li:first-child [data-job="{job}"]')
    page.press("#past button")
    page.press("#large-forget")
    page.until(lambda: not page.all(f'#past [data-job="{job}"]'), "it is not listed any more")


def test_a_job_of_the_past_is_opened_large_and_loaded_again(page):
    begin(page, "text_to_image")
    page.write(field("KSampler", "seed"), str(2**64 - 1))  # no number that JavaScript has
    page.write(field("Prompt", "text"), "two red circles")
    job = queue(page)
    done(page)
    page.press("#close")
    page.press(f'#past [data-job="{job}"]')
    large = page.one("#large-figure img")
    page.until(lambda: page.run(NATURAL, large) == [128, 128], "the picture is large")
    page.press("#large-load")
    page.one(".node")
    assert page.one(field("KSampler", "seed")).get_attribute("value") == str(2**64 - 1)
    assert page.one(field("Prompt", "text")).get_attribute("value") == "two red circles"
    assert page.one(field("KSampler", "steps")).get_attribute("value") == str(STEPS)


def test_seeds_are_new_each_time_but_the_first(page):
    begin(page, "text_to_image")
    seed = field("KSampler", "seed")
    first = page.one(seed).get_attribute("value")
    queue(page)
    done(page)
    assert page.one(seed).get_attribute("value") == first
    queue(page)
    assert page.one(seed).get_attribute("value") != first
    done(page)
    kept = page.one(seed).get_attribute("value")
    page.press("#new-seed")
    queue(page)
    done(page)
    assert page.one(seed).get_attribute("value") == kept
    cached = page.all(".node[data-state=cached]")
    assert len(cached) >= 5  # with nothing new, there was nothing to do


def test_a_picture_brings_its_workflow(page):
    picture = ROOT / "workflows" / "pictures" / "inpaint_00001_.png"
    page.one("#file").send_keys(str(picture))
    assert page.one(field("Load Image", "image"))
    assert page.text("#name") == "inpaint_00001_"


def test_the_editors_file_is_opened(page, tmp_path):
    drawn: dict[str, Any] = {
        "nodes": [
            {
                "id": 3,
                "type": "CLIPTextEncode",
                "title": "What to paint",
                "mode": 0,
                "inputs": [{"name": "clip", "type": "CLIP", "link": None}],
                "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}],
                "widgets_values": ["a tree"],
            }
        ],
        "links": [],
    }
    (tmp_path / "drawn.json").write_text(json.dumps(drawn))
    page.one("#file").send_keys(str(tmp_path / "drawn.json"))
    assert page.one(field("What to paint", "text")).get_attribute("value") == "a tree"


def test_a_file_without_a_workflow_is_refused_with_words(page, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    page.one("#file").send_keys(str(tmp_path / "plain.png"))
    page.until(lambda: "carries no workflow" in page.text("#notice"), "it is said")
    (complaint,) = page.complaints()
    assert "/api/workflow" in complaint


def test_what_was_open_is_open_again_after_a_reload(page):
    begin(page, "text_to_image")
    page.write(field("Prompt", "text"), "a green tree")
    page.driver.refresh()
    assert page.one(field("Prompt", "text")).get_attribute("value") == "a green tree"


@pytest.mark.parametrize("width", [360, 768, 1024, 1700])
def test_nothing_sticks_out_at_any_width(page, width):
    page.driver.set_window_size(width, 900)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        sizes = "return [document.documentElement.scrollWidth, innerWidth]"
        assert page.run(sizes) == [width, width]
        begin(page, "image_to_image")
        assert page.run(sizes) == [width, width]
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_suffices(page):
    """Tab, Enter and Ctrl+Enter lead from the empty page to a job."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.run("return document.activeElement.matches(arguments[0])", selector):
                return
            ActionChains(page.driver).send_keys(Keys.TAB).perform()
        raise AssertionError(f"{selector} is not reached by the keyboard")

    page.one('[data-example="text_to_image"]')
    tab_to('[data-example="text_to_image"]')
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.one(".node")
    tab_to(field("KSampler", "steps"))
    page.driver.switch_to.active_element.clear()
    page.driver.switch_to.active_element.send_keys(str(STEPS))
    page.chord(Keys.ENTER)
    done(page)
