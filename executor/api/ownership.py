"""Whose files are whose: what a caller may see of the input, output and temp folders.

A file is of the owners whose jobs left it, and of those who uploaded it. In the input folder, what
is nobody's was put there by whoever runs the server, for everybody. Elsewhere, what is nobody's is
for those alone who see everybody's: its job was forgotten, or was never one of this server.

A file's name in here is ``subfolder/filename``, as ``executor.paths.parts_of`` takes it apart.
"""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from executor.api.keys import FOLDERS, LEDGER
from executor.api.tokens import owner_of, scope_of
from executor.errors import PathError
from executor.paths import Folders, parts_of


async def may_read(request: web.Request, place: str, name: str) -> bool:
    """Whether a caller may see a file."""
    return bool(await readable(request, place, [name]))


async def readable(request: web.Request, place: str, names: Sequence[str]) -> list[str]:
    """Those of these files that a caller may see."""
    scope = scope_of(request)
    if scope is None:
        return list(names)
    plain = [_plain(name) for name in names]
    owners = await request.app[LEDGER].owners_of_files(place, plain)
    free = frozenset[str]()
    if place == "input" and not all(owners):
        # By the names on the disk: some file systems find a file under other names, too.
        free = await asyncio.to_thread(_uploadable, request.app[FOLDERS])
    return [
        name
        for name, as_kept, of in zip(names, plain, owners, strict=True)
        if scope in of or (not of and as_kept in free)
    ]


async def may_replace(request: web.Request, place: str, name: str) -> bool:
    """Whether a caller may put another file in the place of this one: if it is its own alone."""
    scope = scope_of(request)
    if scope is None:
        return True
    (owners,) = await request.app[LEDGER].owners_of_files(place, [_plain(name)])
    return owners == frozenset({scope})


async def note_upload(request: web.Request, place: str, name: str) -> None:
    """A caller has sent this file."""
    subfolder, _, filename = _plain(name).rpartition("/")
    await request.app[LEDGER].add_upload(filename, subfolder, place, owner_of(request))


def _uploadable(folders: Folders) -> frozenset[str]:
    return frozenset((*folders.names("input"), *folders.names("latents")))


def _plain(name: str) -> str:
    """A name without what does not matter in it; nothing, if it is none."""
    try:
        return "/".join(parts_of(name))
    except PathError:
        return ""
