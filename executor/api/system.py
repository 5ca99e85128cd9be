"""What the server runs on, and which folders and packs of nodes it has."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from executor import __version__
from executor.api.files import place_of
from executor.api.keys import DISPATCHER, FOLDERS, PLUGINS
from executor.api.ownership import readable
from executor.api.replies import json_reply
from executor.seats import Seat

SPOKEN_VERSION = "0.3.64"
"""The version of ComfyUI whose protocol is spoken; some clients compare it."""

MOST_FILES = 5_000


async def system_stats(request: web.Request) -> web.Response:
    """The machine, and each worker's device as it last told of it."""
    seats = request.app[DISPATCHER].seats
    torch = next((seat.ready.device.torch_version for seat in seats if seat.ready), "")
    total, free = memory_bytes()
    system = {
        "os": os.name,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": SPOKEN_VERSION,
        "weft_version": __version__,
        "python_version": sys.version,
        "pytorch_version": torch,
        "embedded_python": False,
        "argv": sys.argv[:1],  # the rest may hold what is not everybody's
    }
    return json_reply({"system": system, "devices": [_device(seat) for seat in seats]})


def _device(seat: Seat) -> dict[str, Any]:
    """A device in ComfyUI's words; of a worker that is still starting, its name."""
    device = seat.ready.device if seat.ready else None
    free, allocated = (
        (seat.figures.free_bytes, seat.figures.allocated_bytes) if seat.figures else (0, 0)
    )
    total = device.total_bytes if device else 0
    return {
        "name": f"{seat.name} {device.name}" if device and device.type == "cuda" else seat.name,
        "type": device.type if device else seat.name.split(":")[0].split(" ")[0],
        "index": device.index if device else None,
        "vram_total": total,
        "vram_free": free if seat.figures else total,
        "torch_vram_total": allocated,
        "torch_vram_free": 0,
    }


def memory_bytes() -> tuple[int, int]:
    """The host's memory, and what of it can be had; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        figures = {line.partition(":")[0]: line.split()[1] for line in lines if " kB" in line}
        return int(figures["MemTotal"]) * 1024, int(figures["MemAvailable"]) * 1024
    except (OSError, LookupError, ValueError):
        return 0, 0


async def folder_paths(request: web.Request) -> web.Response:
    """Where each folder is."""
    directories = request.app[FOLDERS].directories
    return json_reply({name: list(map(str, paths)) for name, paths in directories.items()})


async def newest_files(request: web.Request) -> web.Response:
    """The files right in the input, output or temp folder, newest first."""
    place = place_of(request.match_info["place"])
    names = await asyncio.to_thread(_newest_files, request.app[FOLDERS].place(place))
    return json_reply(await readable(request, place, names))


def _newest_files(directory: Path) -> list[str]:
    found: list[tuple[int, str]] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    found.append((-entry.stat().st_mtime_ns, entry.name))
    except OSError:  # nothing was ever kept there
        return []
    return [name for _, name in sorted(found)[:MOST_FILES]]


async def plugins(request: web.Request) -> web.Response:
    """The packs of nodes that were found, and what is wrong with those that do not work."""
    return json_reply(
        [
            {
                "name": plugin.name,
                "path": plugin.path,
                "nodes": list(plugin.nodes),
                "error": plugin.error,
            }
            for plugin in request.app[PLUGINS]
        ]
    )


routes = [
    web.get("/system_stats", system_stats),
    web.get("/internal/folder_paths", folder_paths),
    web.get("/internal/files/{place}", newest_files),
    web.get("/plugins", plugins),
]
