"""ComfyUI's own frontend works against Weft, in its oldest and newest supported version.

What is pressed and read is found by roles, labels and ids that its users and extensions rely on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy
import pytest
from browsing import ROOT, Page, Server, running_server
from frontend_packages import NEWEST, fetched
from PIL import Image

LOADED = "return !!(window.app?.graph && app.graph._nodes?.length && !app.graph.__old)"

# Notes what the frontend itself hears and shows: some of it is over before a test can look.
RECORD = """
window.heard = {};
for (const type of ["progress", "progress_state", "execution_success", "execution_interrupted",
                    "execution_error", "b_preview_with_metadata", "b_preview"])
    app.api.addEventListener(type, ({detail}) => (heard[type] ??= []).push(detail));
window.titles = [];
new MutationObserver(() => titles.push(document.title))
    .observe(document.querySelector("title"), {childList: true});
"""
NODE = "const node = app.graph._nodes.find((n) => n.type === arguments[0]);"
SET = NODE + "node.widgets.find((w) => w.name === arguments[1]).value = arguments[2]"
GET = NODE + "return node?.widgets.find((w) => w.name === arguments[1]).value"


class Frontend(Page):
    """The frontend in the browser, and the server behind it."""

    def __init__(self, driver: Any, server: Server, version: str) -> None:
        super().__init__(driver)
        self.server, self.version = server, version

    def begin(self) -> None:
        """Load it as a browser that was never here, and keep it from its first-time dialog."""
        self.post("/api/settings", {"Comfy.TutorialCompleted": True})
        self.open(self.server.address)
        self.run("localStorage.clear(); sessionStorage.clear()")
        self.reload()

    def reload(self) -> None:
        self.open(self.server.address)
        self.until(lambda: self.run(LOADED), "a graph is loaded")
        self.run("app.graph.__old = true")
        self.run(RECORD)

    def get(self, path: str) -> Any:
        with urlopen(f"{self.server.address}{path}", timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, value: Any) -> None:
        request = Request(f"{self.server.address}{path}", json.dumps(value).encode())
        with urlopen(request, timeout=30):
            pass

    def load(self, file: Path) -> None:
        """Open a file as from the menu."""
        self.run("app.graph.__old = true; app.graph.clear()")
        self.one("#comfy-file-input").send_keys(str(file))
        self.until(lambda: self.run("return app.graph._nodes.length"), f"{file.name} is loaded")

    def change(self, node: str, widget: str, value: Any) -> None:
        self.run(SET, node, widget, value)

    def widget(self, node: str, widget: str) -> Any:
        return self.run(GET, node, widget)

    def queue(self) -> None:
        """Press the button that runs the graph."""
        self.press('[data-testid="queue-button"] button, button[data-testid="queue-button"]')

    def heard(self, type: str) -> list[Any]:
        return self.run("return window.heard[arguments[0]] ?? []", type)

    def done(self) -> None:
        """Wait for the end of the job."""

        def over() -> bool:
            assert not self.heard("execution_error"), self.heard("execution_error")
            return bool(self.heard("execution_success"))

        self.until(over, "the job is done")

    def picture(self) -> list[int]:
        """Width and height of the picture in the node that saved it."""
        shown = "const [image] = node?.imgs ?? []; return image?.naturalWidth ?? 0"
        asked = NODE + "app.canvas.centerOnNode(node); app.canvas.setDirty(true, true);" + shown
        self.until(lambda: self.run(asked, "SaveImage"), "the node shows its picture")
        return self.run(
            NODE + "return [node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]", "SaveImage"
        )


@pytest.fixture(scope="module", params=["1.27.10", NEWEST])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, str]]:
    root = fetched(request.param)
    with running_server(tmp_path_factory.mktemp("base"), front_end_root=root) as server:
        yield server, request.param


@pytest.fixture
def frontend(driver: Any, served: tuple[Server, str]) -> Frontend:
    frontend = Frontend(driver, *served)
    frontend.begin()
    return frontend


def test_the_default_graph_makes_a_picture(frontend):
    if frontend.version == NEWEST:  # its own is for a model of another family
        frontend.load(ROOT / "workflows" / "text_to_image.json")
    else:
        frontend.change("CheckpointLoaderSimple", "ckpt_name", "weft-tiny.safetensors")
        frontend.change("EmptyLatentImage", "width", 128)
        frontend.change("EmptyLatentImage", "height", 128)
    frontend.change("KSampler", "steps", 8)
    frontend.queue()
    frontend.done()
    assert frontend.picture() == [128, 128]
    steps = [progress["value"] for progress in frontend.heard("progress")]
    assert steps
    assert steps == sorted(steps)
    assert steps[-1] == 8
    assert frontend.heard("progress_state")
    titles = frontend.run("return titles")
    assert any("%" in title for title in titles), titles


def test_a_job_is_in_the_history_with_its_picture(frontend):
    frontend.load(ROOT / "workflows" / "text_to_image.json")
    frontend.change("KSampler", "steps", 2)
    frontend.queue()
    frontend.done()
    tab = "assets-tab-button" if frontend.version == NEWEST else None
    frontend.press(f'[data-testid="{tab}"]' if tab else 'button[aria-label="Queue (q)"]')
    shown = """return [...document.querySelectorAll("[class*=side] img")].some((image) =>
        image.src.includes("/api/view?") && image.naturalWidth === 128)"""
    frontend.until(lambda: frontend.run(shown), "the picture is listed")


def test_a_running_job_is_previewed_and_cancelled(frontend):
    frontend.load(ROOT / "workflows" / "text_to_image.json")
    frontend.change("KSampler", "steps", 10_000)
    frontend.queue()
    frontend.until(lambda: frontend.heard("progress"), "it gets on")
    frontend.until(lambda: frontend.heard("b_preview_with_metadata"), "a preview comes")
    frontend.press('button[aria-label="Cancel current run"]')
    frontend.until(lambda: frontend.heard("execution_interrupted"), "it is cancelled")
    queue = frontend.get("/api/queue")
    assert queue == {"queue_running": [], "queue_pending": []}


def test_a_picture_is_uploaded_and_painted_over(frontend, tmp_path):
    Image.new("RGB", (128, 64), (200, 30, 30)).save(tmp_path / "mine.png")
    frontend.load(ROOT / "workflows" / "image_to_image.json")
    frontend.change("KSampler", "steps", 4)
    # Press the node's button, and answer the dialog that it opens.
    frontend.run(
        """HTMLInputElement.prototype.click = function () { window.asking = this; };"""
        + NODE
        + """const button = node.widgets.find((w) => w.type === "button" || w.name === "upload");
        button.callback(button.value, app.canvas, node);
        asking.id = "asking"; asking.style.display = "block"; document.body.append(asking);""",
        "LoadImage",
    )
    frontend.one("#asking").send_keys(str(tmp_path / "mine.png"))
    frontend.until(
        lambda: "mine.png" in frontend.widget("LoadImage", "image"), "the node has the picture"
    )
    frontend.run("delete HTMLInputElement.prototype.click")
    frontend.queue()
    frontend.done()
    assert frontend.picture() == [128, 64]
    assert (frontend.server.base / "input" / "mine.png").is_file()


def test_a_hole_is_filled(frontend):
    frontend.load(ROOT / "workflows" / "inpaint.json")
    frontend.change("KSampler", "steps", 4)
    frontend.queue()
    frontend.done()
    assert frontend.picture()[0] > 0


def test_a_mask_is_painted_in_its_editor(frontend):
    """What is painted becomes the picture's transparency, which is where a hole is filled."""
    frontend.load(ROOT / "workflows" / "inpaint.json")
    frontend.change("KSampler", "steps", 4)
    frontend.change("LoadImage", "image", "red_circle.png")
    frontend.run(NODE + "node.widgets[0].callback(node.widgets[0].value)", "LoadImage")
    shown = NODE + "return node.imgs?.[0]?.src.includes('red_circle') && node.imgs[0].naturalWidth"
    frontend.until(lambda: frontend.run(shown, "LoadImage"), "the node shows the picture")
    frontend.run(NODE + "app.canvas.selectNode(node)", "LoadImage")
    frontend.run("app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
    canvas = '[role="dialog"] canvas' if frontend.version == NEWEST else "#maskCanvas"
    painted = """return [...document.querySelectorAll(arguments[0])].slice(-2).some((canvas) =>
        canvas.width === 128
        && canvas.getContext("2d")?.getImageData(64, 64, 1, 1).data[3] > 128)"""

    def paint() -> bool:  # again, if the editor was not ready yet
        frontend.drag(canvas, 60)
        return frontend.run(painted, canvas)

    frontend.until(paint, "the picture is painted on")
    save = (
        "//button[normalize-space()='Save'][ancestor::*[@role='dialog' or contains(@id, 'mask')]]"
    )
    frontend.driver.find_element("xpath", save).click()
    frontend.until(
        lambda: "clipspace" in frontend.widget("LoadImage", "image"), "the node has the painting"
    )
    frontend.queue()
    frontend.done()
    assert frontend.picture() == [128, 128]
    name = frontend.widget("LoadImage", "image").removesuffix(" [input]")
    with Image.open(frontend.server.base / "input" / name) as saved:
        alpha = numpy.asarray(saved.convert("RGBA"))[..., 3]
    assert alpha.shape == (128, 128)
    assert alpha[64, 64] < 128  # the brush of 1.27.10 is not quite opaque
    assert alpha[2, 2] == 255


def test_a_workflow_is_saved_and_found_again(frontend):
    frontend.load(ROOT / "workflows" / "text_to_image.json")
    frontend.change("KSampler", "steps", 17)
    frontend.chord("s")
    name = frontend.one('[role="dialog"] input')
    frontend.until(lambda: name.is_displayed(), "a name is asked for")
    name.clear()
    name.send_keys(f"mine {frontend.version}\n")
    listed = "/api/userdata?dir=workflows&recurse=true&split=false&full_info=true"

    def kept() -> bool:
        try:
            return f"mine {frontend.version}.json" in {
                file["path"] for file in frontend.get(listed)
            }
        except OSError:  # 404 before the first is saved
            return False

    frontend.until(kept, "the server has the workflow")
    frontend.begin()  # the browser remembers nothing
    assert frontend.widget("KSampler", "steps") != 17
    frontend.press('button[aria-label="Workflows (w)"]')
    label = f"mine {frontend.version}" + ("" if frontend.version == NEWEST else ".json")
    named = f"//*[contains(@class, 'side-bar')]//span[text()='{label}']"
    found = frontend.until(lambda: frontend.driver.find_elements("xpath", named), "it is listed")
    found[-1].click()
    frontend.until(lambda: frontend.widget("KSampler", "steps") == 17, "it is open")


def test_a_picture_brings_its_graph(frontend):
    frontend.load(ROOT / "workflows" / "pictures" / "text_to_image_00001_.png")
    prompt = json.loads((ROOT / "workflows" / "text_to_image.json").read_text("utf-8"))
    assert frontend.widget("KSampler", "seed") == prompt["5"]["inputs"]["seed"]


def test_settings_stay(frontend):
    setting = "Comfy.Graph.CanvasInfo"
    before = frontend.run("return app.extensionManager.setting.get(arguments[0])", setting)
    frontend.run("app.extensionManager.setting.set(...arguments)", setting, not before)
    frontend.until(
        lambda: frontend.get("/api/settings").get(setting) is not before, "the server keeps it"
    )
    frontend.begin()
    assert frontend.run("return app.extensionManager.setting.get(arguments[0])", setting) != before


def test_a_wrong_input_is_told(frontend):
    frontend.load(ROOT / "workflows" / "text_to_image.json")
    frontend.change("KSampler", "sampler_name", "nope")
    frontend.queue()
    frontend.until(
        lambda: "nope" in frontend.run("return document.body.innerText"), "the mistake is shown"
    )
    assert frontend.get("/api/queue")["queue_pending"] == []
