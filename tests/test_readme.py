"""The README tells the truth: its commands, examples, settings and files are really there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from registry_table import written

from executor.__main__ import main
from executor.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.+?)\n```$", README, re.M | re.S)


def test_the_first_two_blocks_are_commands_of_one_line_each() -> None:
    fences = re.findall(r"^```(\w+)$", README, re.M)
    assert fences[:2] == ["sh", "sh"]
    first, second = blocks("sh")
    assert "\n" not in first + second
    assert "weft run workflows/text_to_image.json" in first
    assert second.endswith("-m pytest")


def test_its_workflow_passes_the_check(folder: Path) -> None:
    (by_hand,) = blocks("json")
    Path("by_hand.json").write_text(by_hand)
    assert main(["check", "--strict", "by_hand.json"]) == 0


def test_its_program_makes_a_workflow_that_passes_the_check(folder: Path) -> None:
    (program,) = blocks("python")
    program = program.replace("import weft", "")  # this is a clone, on the path already
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert "KSampler" in {node["class_type"] for node in json.loads(read("repaint.json")).values()}
    assert main(["check", "--strict", "repaint.json"]) == 0


def test_every_setting_is_in_it_and_no_other() -> None:
    told = set(re.findall(rf"^\| `({PREFIX}\w+)`", README, re.M))
    assert told == {PREFIX + name.upper() for name in Settings.model_fields}


def test_every_command_is_in_it_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w+) ", capsys.readouterr().out, re.M)
    assert listed
    assert re.findall(r"^\| `weft (\w+)", README, re.M) == listed


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^):]+)\)", README))))
def test_what_it_links_to_is_there(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"tests/test_\w+\.py", README))))
def test_the_tests_that_show_its_claims_are_there(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("part", ["executor", "executor/models", "executor/sampling", "nodes"])
def test_its_map_names_every_module(part: str) -> None:
    told = README[README.index("## Map of files") :]
    for path in (ROOT / part).glob("[!_]*.py"):
        assert re.search(rf"\b{path.stem}\b", told), path.name


def test_its_table_of_what_there_is_comes_from_the_registries() -> None:
    assert written(README) == README, "run: python -m tests.registry_table"


def read(name: str) -> str:
    return Path(name).read_text(encoding="utf-8")
