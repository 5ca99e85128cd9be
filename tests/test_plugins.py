"""Packs of nodes by others: found, loaded alike everywhere, harmless when they are broken."""

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from ledgers import on_a_loop
from servers import serving

import executor.plugins
from executor import Node
from executor.events import Executed
from executor.fabric.local import LocalWorker
from executor.fabric.messages import RunJob, Told
from executor.paths import Folders
from executor.plugins import Plugin, load_plugins
from executor.settings import Settings

README = Path(__file__).parents[1] / "README.md"

GOOD = '''
from executor import Context, Node

class {name}(Node, category="packs", is_output=True, aliases=("{name}Too",)):
    """Keep what the pack says."""

    word: str = "hello"

    def run(self, ctx: Context) -> None:
        ctx.save("pack", ".txt", lambda stream: stream.write(self.word.encode()))
'''


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Leave the classes and modules as they were."""
    classes, modules = dict(Node.registry), set(sys.modules)
    yield
    Node.registry.clear()
    Node.registry.update(classes)
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("custom_nodes", "their_pack"):
            del sys.modules[name]


def put(base: Path, name: str, text: str) -> None:
    path = base / "custom_nodes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def load(base: Path, **more: object) -> dict[str, Plugin]:
    """The packs of a base directory, by name."""
    settings = Settings(base_directory=base, **more)  # pyright: ignore[reportArgumentType]
    return {plugin.name: plugin for plugin in load_plugins(settings, Folders(settings))}


def test_a_file_and_a_package_are_packs(tmp_path: Path) -> None:
    put(tmp_path, "single.py", GOOD.format(name="PackSingle"))
    put(tmp_path, "my-pack/__init__.py", "from .inner import PackInner\n")
    put(tmp_path, "my-pack/inner.py", GOOD.format(name="PackInner"))
    found = load(tmp_path)
    assert found["single"] == Plugin(
        "single",
        str(tmp_path / "custom_nodes/single.py"),
        ("PackSingle", "PackSingleToo"),
        None,
    )
    assert found["my-pack"].nodes == ("PackInner", "PackInnerToo")
    assert Node.registry["PackInner"].__module__ == "custom_nodes.my_pack.inner"


def test_the_readmes_node_is_a_pack(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```py\n(.+?)\n```$", README.read_text(encoding="utf-8"), re.M | re.S)
    put(tmp_path, "negative.py", text)
    assert load(tmp_path)["negative"].nodes == ("Negative",)
    assert [output.wire for output in Node.registry["Negative"].outputs()] == ["IMAGE"]


def test_what_is_no_pack_is_passed_over(tmp_path: Path) -> None:
    broken = "raise ImportError('must not be imported')"
    for name in ("a.py.disabled", "b.disabled/__init__.py", ".c.py", "__pycache__/d.py", "e.txt"):
        put(tmp_path, name, broken)
    assert load(tmp_path) == {}
    assert load(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named"),
        ("class", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("x = 1", "it has no node"),
        ("NODE_CLASS_MAPPINGS = {}", "packs made for ComfyUI do not work"),
        ("def f(): f()\nf()", "RecursionError"),
        (GOOD.format(name="PackLate") + "\nraise ValueError('late')", "ValueError: late"),
    ],
)
def test_a_pack_that_fails_disables_only_itself_and_says_why(
    tmp_path: Path, text: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(Node.registry)
    put(tmp_path, "bad.py", text)
    put(tmp_path, "good.py", GOOD.format(name="PackGood"))
    with caplog.at_level(logging.INFO, "executor"):
        found = load(tmp_path)
    assert found["bad"].nodes == ()
    assert words in (found["bad"].error or "")
    assert found["good"].nodes == ("PackGood", "PackGoodToo")
    assert set(Node.registry) == {*before, "PackGood", "PackGoodToo"}
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert [words in error for error in errors] == [True]


def test_a_folder_without_a_module_says_so(tmp_path: Path) -> None:
    put(tmp_path, "empty/readme.txt", "")
    assert "it has no __init__.py" in (load(tmp_path)["empty"].error or "")


def test_a_pack_replaces_no_class_and_keeps_its_others(tmp_path: Path) -> None:
    class PackTaken(Node, category="testing"):
        """Was here first."""

    text = GOOD.format(name="PackTaken") + GOOD.format(name="PackOwn")
    put(tmp_path, "a.py", text)
    put(tmp_path, "b.py", GOOD.format(name="PackOwn"))
    put(tmp_path, "c.py", "from executor import Node\nNode.registry.clear()\n")
    found = load(tmp_path)
    assert Node.registry["PackTaken"] is PackTaken
    assert "a class PackTaken in test_plugins already" in (found["a"].error or "")
    assert found["a"].nodes == ("PackTakenToo", "PackOwn", "PackOwnToo")
    assert Node.registry["PackOwn"].__module__ == "custom_nodes.a"
    assert "a class PackOwn in custom_nodes.a already" in (found["b"].error or "")
    assert found["b"].nodes == ()
    assert "already, which is kept" in (found["c"].error or "")


def test_a_class_that_cannot_be_described_is_left_out(tmp_path: Path) -> None:
    put(
        tmp_path,
        "odd.py",
        GOOD.format(name="PackFine")
        + """
class PackOdd(Node, category="packs"):
    def run(self, ctx: Context) -> list[int]:
        return []
""",
    )
    found = load(tmp_path)["odd"]
    assert found.nodes == ("PackFine", "PackFineToo")
    assert "PackOdd cannot be used: TypeError" in (found.error or "")
    assert "PackOdd" not in Node.registry


def test_packs_can_be_switched_off_and_lie_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "home", "a.py", GOOD.format(name="PackA"))
    put(tmp_path / "away", "b.py", GOOD.format(name="PackB"))
    assert load(tmp_path / "home", custom_nodes=False) == {}
    assert "PackA" not in Node.registry
    (tmp_path / "home" / "extra_model_paths.yaml").write_text(
        f"elsewhere:\n  base_path: {tmp_path / 'away'}\n  custom_nodes: custom_nodes\n"
    )
    assert set(load(tmp_path / "home")) == {"a", "b"}


def test_two_packs_of_one_name_do_not_mix(tmp_path: Path) -> None:
    put(tmp_path, "x-y.py", GOOD.format(name="PackDash"))
    put(tmp_path, "x_y.py", GOOD.format(name="PackLine"))
    found = load(tmp_path)
    assert found["x-y"].nodes
    assert "another pack is custom_nodes.x_y already" in (found["x_y"].error or "")


def test_an_installed_pack_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_pack.py").write_text(GOOD.format(name="PackInstalled"))
    about = tmp_path / "their_pack-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pack\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        f"[{executor.plugins.GROUP}]\ntheirs = their_pack\nlost = their_pack.nothing\n"
        "with = their_pack:PackInstalled\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert metadata.version("their-pack") == "1.0"
    found = load(tmp_path)
    assert found["theirs"] == Plugin(
        "theirs", "their_pack", ("PackInstalled", "PackInstalledToo"), None
    )
    assert "ModuleNotFoundError" in (found["lost"].error or "")
    assert found["with"].error is None  # its classes are the first one's already


def test_a_pack_that_loads_torch_at_once_is_told_of(tmp_path: Path) -> None:
    """In a process of its own, which has no torch yet."""
    (tmp_path / "torch.py").write_text("")  # a quick one
    put(tmp_path, "heavy.py", "import torch\n" + GOOD.format(name="PackHeavy"))
    code = (
        "import logging; logging.basicConfig()\n"
        "from pathlib import Path\n"
        "from executor.plugins import load_plugins\n"
        "from executor.paths import Folders\n"
        "from executor.settings import Settings\n"
        "settings = Settings(base_directory=Path.cwd())\n"
        "load_plugins(settings, Folders(settings))\n"
    )
    root = str(Path(executor.plugins.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['.', {root!r}]\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pack heavy imports torch at once" in ran.stderr


@on_a_loop
async def test_packs_are_told_of_with_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, "bad.py", "1 / 0")
    put(tmp_path, "good.py", GOOD.format(name="PackGood"))
    plugins = tuple(load(tmp_path).values())
    async with serving(tmp_path, plugins, workers=0) as served:
        bad, good = await served.get("/api/plugins")
        assert bad["name"] == "bad"
        assert "division by zero" in bad["error"]
        assert good["nodes"] == ["PackGood", "PackGoodToo"]
        assert good["error"] is None
        told = (await served.get("/object_info/PackGood"))["PackGood"]
        assert told["python_module"] == "custom_nodes.good"


@pytest.mark.timeout(60)  # a worker imports torch
def test_a_worker_has_the_same_packs(tmp_path: Path) -> None:
    put(tmp_path, "good.py", GOOD.format(name="PackGood"))
    prompt = {"1": {"class_type": "PackGood", "inputs": {"word": "from the pack"}}}

    async def scene() -> None:
        worker = await LocalWorker.start(Settings(base_directory=tmp_path, device="cpu"), ())
        try:
            worker.send(RunJob("job", 1, prompt, {}, ("1",)))
            async for message in worker.messages():
                if isinstance(message, Told) and isinstance(message.event, Executed):
                    (file,) = message.event.files
                    assert (tmp_path / "output" / file.filename).read_text() == "from the pack"
                    return
            raise AssertionError("the worker ended")
        finally:
            worker.kill()
            await worker.ended()

    asyncio.run(scene())
