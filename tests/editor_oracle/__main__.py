"""``python -m tests.editor_oracle [FILE …]``: are editor files converted as the editor does it?

Asks ComfyUI's own frontend, in a headless Chromium, for the API format of each file, and says where
ours differs. Without files, those are the Stable Diffusion templates that come with ComfyUI. Needs
``chromium`` on the path, and ``pip install comfyui-frontend-package==1.27.10
comfyui-workflow-templates==0.1.95``: others' work under the GPL, of which nothing is kept here.
Nodes of classes that Weft does not have are left out, as neither side has a word for their widgets;
files with dynamic prompts differ, as the frontend throws dice.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from executor.editor import to_prompt
from executor.node import Node
from tests.editor_oracle.browser import Browser
from tests.editor_oracle.front import serving

TEMPLATES = [
    "default",
    "image2image",
    "inpaint_example",
    "inpaint_model_outpainting",
    "lora",
    "lora_multiple",
    "embedding_example",
    "hiresfix_latent_workflow",
    "hiresfix_esrgan_workflow",
    "esrgan_example",
    "latent_upscale_different_prompt_model",
    "controlnet_example",
    "2_pass_pose_worship",
    "depth_controlnet",
    "depth_t2i_adapter",
    "mixing_controlnets",
    "area_composition",
    "area_composition_square_area_for_subject",
    "gligen_textbox_example",
    "sdxl_simple_example",
    "sdxl_refiner_prompt_example",
    "sdxlturbo_example",
    "sdxl_revision_text_prompts",
    "sdxl_revision_zero_positive",
]

READY = "!!(window.app?.graph && Object.keys(window.LiteGraph.registered_node_types).length > 20)"
ASK = """(async () => {
    await window.app.loadGraphData(%s, true, false);
    return JSON.stringify((await window.app.graphToPrompt()).output);
})()"""


def folder_of(package: str) -> Path:
    """Where a package lies that is served, or read, but never imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise SystemExit(f"{name} is not installed; see the first lines of {__file__}")
    return Path(spec.origin).parent


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """Where two prompts differ, a line each; titles aside, which are in the editor's language."""
    for node_id in sorted(theirs.keys() | ours.keys()):
        their, our = theirs.get(node_id), ours.get(node_id)
        if their is None or our is None:
            yield f"node {node_id} is only in {'ours' if their is None else 'theirs'}"
        elif our["class_type"] in Node.registry:
            if their["class_type"] != our["class_type"]:
                yield f"node {node_id}: class {their['class_type']}, ours {our['class_type']}"
            for name in sorted(their["inputs"].keys() | our["inputs"].keys()):
                pair = [side["inputs"].get(name, "nothing") for side in (their, our)]
                if pair[0] != pair[1]:
                    where = f"{our['class_type']} (node {node_id}).{name}"
                    yield f"{where}: {pair[0]!r}, ours {pair[1]!r}"


async def compare(paths: list[Path]) -> int:
    """Compare each file; answers how many differ."""
    count = 0
    static = folder_of("comfyui_frontend_package") / "static"
    async with serving(static) as address, Browser(address) as browser:
        await browser.wait_for(READY)
        for path in paths:
            editor = json.loads(path.read_text(encoding="utf-8"))
            theirs = json.loads(await browser.evaluate(ASK % json.dumps(editor)))
            converted = to_prompt(editor)
            ours = converted.prompt
            known = sum(spec["class_type"] in Node.registry for spec in ours.values())
            found = [*map(str, converted.problems), *differences(theirs, ours)]
            count += bool(found)
            verdict = "differs" if found else "same"
            lines = [f"{path.stem}: {verdict}; {known} of {len(ours)} nodes compared", *found]
            sys.stdout.write("\n  ".join(lines) + "\n")
    return count


def main() -> int:
    """Compare the files named on the command line, or the templates."""
    import_module("nodes")  # which registers them
    paths = [Path(word) for word in sys.argv[1:]]
    if not paths:
        templates = folder_of("comfyui_workflow_templates") / "templates"
        paths = [templates / f"{name}.json" for name in TEMPLATES]
    return 1 if asyncio.run(compare(paths)) else 0


if __name__ == "__main__":
    sys.exit(main())
