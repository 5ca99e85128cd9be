"""``/object_info``: every node class, with the files that its inputs may name.

The text is made when somebody first asks and kept until a folder changes, since it is asked for
more often than that. Who may not see all uploads gets one made for the occasion.
"""

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence

from aiohttp import web

from executor.api.definitions import definitions
from executor.api.keys import FOLDERS
from executor.api.ownership import readable
from executor.api.replies import json_reply, json_text, text_reply
from executor.api.tokens import scope_of
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

    def text_with(self, inputs: Mapping[str, Sequence[str]]) -> str:
        """The same with other names in the folders of uploads."""
        with self._lock:
            self._renew()
            made = definitions(
                Node.registry, lambda of: inputs[of] if of in inputs else self._names(of)
            )
        return json_text(made)

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
    catalogue, inputs = request.app[CATALOGUE], await _own_inputs(request)
    if inputs is None:
        return text_reply(await asyncio.to_thread(catalogue.text))
    return text_reply(await asyncio.to_thread(catalogue.text_with, inputs))


async def object_info_of_class(request: web.Request) -> web.Response:
    """One node class, by name."""
    name, inputs = request.match_info["name"], await _own_inputs(request)
    if inputs is None:
        return text_reply(await asyncio.to_thread(request.app[CATALOGUE].text_of, name))
    text = await asyncio.to_thread(request.app[CATALOGUE].text_with, inputs)
    definition = json.loads(text).get(name)
    return json_reply({} if definition is None else {name: definition})


async def _own_inputs(request: web.Request) -> Mapping[str, Sequence[str]] | None:
    """The names in the folders of uploads, for a caller who may not see all of them."""
    if scope_of(request) is None:
        return None
    folders, found = request.app[FOLDERS], dict[str, Sequence[str]]()
    for folder in ("input", "latents"):
        names = await asyncio.to_thread(folders.names, folder)
        found[folder] = await readable(request, "input", names)
    return found


routes = [
    web.get("/object_info", object_info),
    web.get("/object_info/{name}", object_info_of_class),
]
