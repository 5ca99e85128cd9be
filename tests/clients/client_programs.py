"""Runs programs that use a server through clients by others."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client_packages import (
    OF_SERVICES,
    javascript_packages,
    python_packages,
    service_packages,
)
from server_process import WAIT_S, ServerProcess

PROGRAMS = Path(__file__).with_name("programs")


def run_program(
    name: str, server: ServerProcess, workflow: Mapping[str, Any], folder: Path
) -> list[Path]:
    """Run a program with a workflow, in an empty folder: the pictures that it got.

    It is given the server's address, the workflow's file and a folder for them, and must not fail.
    """
    program, results = folder / name, folder / "results"
    shutil.copy(PROGRAMS / name, program)
    (folder / "workflow.json").write_text(json.dumps(workflow))
    results.mkdir()
    environ = dict(os.environ)
    if program.suffix == ".mjs":
        (folder / "node_modules").symlink_to(javascript_packages())
        interpreter = shutil.which("node")
        assert interpreter, "node is missing: apt-get install nodejs npm"
    else:
        is_service = name in OF_SERVICES
        environ["PYTHONPATH"] = str(service_packages(name) if is_service else python_packages())
        interpreter = sys.executable
    ran = subprocess.run(
        [interpreter, name, server.host, "workflow.json", "results"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    return sorted(results.iterdir())
