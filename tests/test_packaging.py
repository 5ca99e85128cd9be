"""What an installation puts where: built, installed and run for real, away from the clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(60)  # building and installing 16 MB takes seconds, not moments


def build(version: str, folder: Path) -> Path:
    """A wheel of the tree as it is; nothing is written to the tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", version, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def run(*command: str | Path, cwd: Path, path: str = "") -> str:
    """What a command prints, run in ``cwd`` with ``path`` first among Python's folders."""
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into; its dependencies are the environment's."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, capture_output=True)
    return folder


def test_a_wheel_puts_nothing_but_weft_into_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "weft",
        f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info",
    }


def test_a_wheel_carries_every_file_of_ours_and_the_shipped_model(wheel: Path) -> None:
    ours = {"weft/__init__.py", "weft/models/checkpoints/weft-tiny.safetensors"}
    for folder in ("executor", "nodes", "workflows"):
        files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
        ours |= {
            f"weft/{path.relative_to(ROOT).as_posix()}"
            for path in files
            if path.parent.name != "__pycache__" and path.name != "launcher.py"
        }
    assert ours <= set(zipfile.ZipFile(wheel).namelist())


def test_the_installed_command_needs_no_clone(site: Path, tmp_path: Path) -> None:
    assert "usage: weft" in run(site / "bin" / "weft", "--help", cwd=tmp_path, path=str(site))


def test_an_installation_has_the_model_and_pictures_that_its_workflows_load(
    site: Path, tmp_path: Path
) -> None:
    workflow = site / "weft" / "workflows" / "image_to_image.json"
    said = run(site / "bin" / "weft", "check", "--strict", workflow, cwd=tmp_path, path=str(site))
    assert "nothing is wrong" in said


def test_importing_weft_gives_what_executor_promises_and_loads_no_torch(
    site: Path, tmp_path: Path
) -> None:
    code = """
        import sys, weft
        light = {"torch", "pydantic"}.isdisjoint(sys.modules)
        import executor, nodes
        from weft import *
        same = all(globals()[name] is getattr(executor, name) for name in executor.__all__)
        listed = set(executor.__all__) <= set(dir(weft))
        print(light, same, listed, executor.__file__, nodes.__file__)
    """
    printed = run(sys.executable, "-c", dedented(code), cwd=tmp_path, path=str(site)).split()
    assert printed == [
        *("True", "True", "True"),
        str(site / "weft" / "executor" / "__init__.py"),
        str(site / "weft" / "nodes" / "__init__.py"),
    ]


def test_other_packages_of_the_same_names_do_not_get_in_the_way(site: Path, tmp_path: Path) -> None:
    for name in ("executor", "nodes"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    path = os.pathsep.join([str(tmp_path), str(site)])
    assert run(site / "bin" / "weft", "--version", cwd=tmp_path, path=path).startswith("weft ")


def test_an_editable_installation_uses_the_clone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("editable")
    zipfile.ZipFile(build("wheel:editable", folder)).extractall(folder)
    code = f"""
        import site
        site.addsitedir({str(folder)!r})
        import weft, executor
        print(weft.HOME, weft.Node.__module__, executor.__file__)
    """
    printed = run(sys.executable, "-c", dedented(code), cwd=tmp_path).split()
    assert printed == [str(ROOT), "executor.node", str(ROOT / "executor" / "__init__.py")]


def dedented(code: str) -> str:
    return "\n".join(line.strip() for line in code.splitlines())
