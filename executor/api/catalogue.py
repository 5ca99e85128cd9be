"""``/object_info``: every node class, with the files that its inputs may name.

The text is made when somebody first asks and kept until a folder changes, since it is asked for
more often than that.
"""

import asyncio
import threading
from collections.abc import Sequence

from aiohttp import web

from executor.api.definitions import definitions
from executor.api.replies import json_text, text_reply
from executor.node import Node
from executor.paths import Folders, Listing


class Catalogue:
    """The node classes as clients see them."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._seen: dict[str, Listing] = {}  # folders as they were when the texts were made
        self._texts: dict[str, str] = {}  # by class
        self._text = ""

    def text(self) -> str:
        """All definitions as JSON. Looks at the disk, so it is called in a thread."""
        with self._lock:
            self._renew()
            return self._text

    def text_of(self, name: str) -> str:
        """The definition of one class; nothing, if there is none."""
        with self._lock:
            self._renew()
            return f"{{{self._texts[name]}}}" if name in self._texts else "{}"

    def _renew(self) -> None:
        is_same = all(
            self._folders.listing(folder) is listing for folder, listing in self._seen.items()
        )
        if is_same and self._texts:
            return
        self._seen = {}
        made = definitions(Node.registry, self._names)
        self._texts = {name: f"{json_text(name)}:{json_text(made[name])}" for name in made}
        self._text = f"{{{','.join(self._texts.values())}}}"

    def _names(self, folder: str) -> Sequence[str]:
        """The files of a folder; of one that a pack made up, none."""
        if folder not in self._folders.directories:
            return ()
        if folder not in self._seen:
            self._seen[folder] = self._folders.listing(folder)
        return self._seen[folder].names


CATALOGUE: web.AppKey[Catalogue] = web.AppKey("catalogue", Catalogue)


async def object_info(request: web.Request) -> web.Response:
    """All node classes."""
    return text_reply(await asyncio.to_thread(request.app[CATALOGUE].text))


async def object_info_of_class(request: web.Request) -> web.Response:
    """One node class, by name."""
    name = request.match_info["name"]
    return text_reply(await asyncio.to_thread(request.app[CATALOGUE].text_of, name))


routes = [
    web.get("/object_info", object_info),
    web.get("/object_info/{name}", object_info_of_class),
]
