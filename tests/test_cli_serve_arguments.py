"""The arguments of the server: ComfyUI's names, our settings."""

import os
import socket
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from pydantic import ByteSize

from executor.cli.serve_arguments import PASSED_OVER, add_serve_arguments, settings_of
from executor.errors import SettingsError
from executor.settings import Settings


def settings(*words: str) -> Settings:
    parser = ArgumentParser(allow_abbrev=False)
    add_serve_arguments(parser)
    return settings_of(parser.parse_args(words))


def test_every_argument_is_its_setting(folder: Path) -> None:
    chosen = settings(
        *("--listen", "::1", "--port", "9000", "--base-directory", str(folder)),
        *("--input-directory", "i", "--output-directory", "o", "--temp-directory", "t"),
        *("--user-directory", "u", "--extra-model-paths-config", "a.yaml", "b.yaml"),
        *("--extra-model-paths-config", "c.yaml", "--front-end-root", "web", "--cpu"),
        *("--preview-method", "taesd", "--disable-all-custom-nodes", "--force-fp16"),
        *(
            "--allow-anonymous",
            "--log-format",
            "json",
            "--model-bytes",
            "6GiB",
            "--reserve-vram",
            "1.5",
        ),
    )
    assert chosen == Settings(
        listen="::1",
        port=9000,
        base_directory=folder,
        input_directory=Path("i"),
        output_directory=Path("o"),
        temp_directory=Path("t"),
        user_directory=Path("u"),
        extra_model_paths=(Path("a.yaml"), Path("b.yaml"), Path("c.yaml")),
        front_end_root=Path("web"),
        device="cpu",
        preview_method="taesd",
        custom_nodes=False,
        dtype="float16",
        log_format="json",
        allow_anonymous=True,
        model_bytes=ByteSize(6 * 2**30),
        reserved_bytes=ByteSize(3 * 2**29),
    )


def test_listen_alone_means_everywhere_and_nothing_means_here(folder: Path) -> None:
    assert settings().listen == "127.0.0.1"
    assert settings("--listen").listen == "0.0.0.0,::"
    assert settings("--listen", "--port", "1").listen == "0.0.0.0,::"


def test_arguments_win_over_the_environment_which_wins_over_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("weft.toml").write_text('port = 1\ndtype = "float16"\npreview_method = "auto"\n')
    monkeypatch.setenv("WEFT_PORT", "2")
    monkeypatch.setenv("WEFT_DTYPE", "bfloat16")
    chosen = settings("--port", "3")
    assert (chosen.port, chosen.dtype, chosen.preview_method) == (3, "bfloat16", "auto")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--port", "99999"], "port: "),
        (["--port", "x"], "port: "),
        (["--preview-method", "all"], "preview_method: "),
        (["--cuda-device", "x"], "device: "),
        (["--reserve-vram", "x"], "reserved_bytes: "),
    ],
)
def test_what_cannot_be_is_told_by_its_setting(folder: Path, words: list[str], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        settings(*words)


def test_little_memory_is_a_small_share_for_models_or_none(folder: Path) -> None:
    assert settings("--lowvram").model_bytes == 2 * 2**30
    assert settings("--novram").model_bytes == 0


def test_one_gpu_can_be_chosen(folder: Path) -> None:
    assert settings("--cuda-device", "1").device == "cuda:1"


@pytest.mark.parametrize("word", PASSED_OVER)
def test_what_only_comfyui_needs_is_passed_over(folder: Path, word: str) -> None:
    assert settings(word) == Settings(base_directory=folder)


PACK = """
from executor import Context, Node

class Twice(Node, category="testing"):
    a: int = 0

    def run(self, ctx: Context) -> int:
        return 2 * self.a
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("more", [[], ["--disable-all-custom-nodes"]])
def test_packs_are_loaded_once_and_as_the_arguments_say(folder: Path, more: list[str]) -> None:
    base = folder / "base"
    (base / "custom_nodes").mkdir(parents=True)
    (base / "custom_nodes" / "twice.py").write_text(PACK)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the server ends, since it cannot listen
        port = str(taken.getsockname()[1])
        words = ["--base-directory", str(base), "--port", port, *more]
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-m", "executor", "serve", *words]
        ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert ran.returncode == 2
    assert "cannot listen" in ran.stderr
    assert ("pack twice has Twice" in ran.stderr) == (not more)
    assert "ERROR" not in ran.stderr
