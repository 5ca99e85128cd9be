"""Packs of nodes by others: what lies in ``custom_nodes``, and what installed packages offer.

A pack is a ``.py`` file or a package whose classes subclass ``executor.Node``; an installed one has
an entry point in the group ``weft.nodes``. One that cannot be loaded disables only itself. A pack
adds classes; it never replaces one. The server and each worker load the same packs in the same
order, so that they know the same classes.
"""

import json
import logging
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from types import ModuleType

from executor.node import Node
from executor.paths import Folders
from executor.settings import Settings

log = logging.getLogger(__name__)

PACKAGE = "custom_nodes"
"""The module below which packs of the folder are imported."""

GROUP = "weft.nodes"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A pack of nodes as it was found."""

    name: str
    path: str  # a file or folder, or what an entry point names
    nodes: tuple[str, ...]  # the classes that it added, by their names on the wire
    error: str | None  # what is wrong with it


def load_plugins(settings: Settings, folders: Folders) -> tuple[Plugin, ...]:
    """Load all packs, those of the folders first; none, if the settings say so."""
    if not settings.custom_nodes:
        return ()
    found = [_load_path(path) for directory in folders.custom_nodes for path in _packs(directory)]
    for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        found.append(_load(entry.name, entry.value, entry.module, entry.load))
    for plugin in found:
        if plugin.error:
            log.error("pack %s (%s): %s", plugin.name, plugin.path, plugin.error)
        else:
            log.info("pack %s has %s", plugin.name, ", ".join(plugin.nodes))
    return tuple(found)


def _packs(directory: Path) -> list[Path]:
    """The files and folders that are packs; ``x.disabled`` is none, as in ComfyUI."""
    try:
        entries = sorted(directory.iterdir())
    except OSError:  # there is no such folder
        return []
    return [
        path
        for path in entries
        if not path.name.startswith((".", "_"))
        and not path.name.endswith(".disabled")
        and (path.is_dir() or path.suffix == ".py")
    ]


def _load_path(path: Path) -> Plugin:
    """Load a pack of the folder."""
    stem = path.stem if path.is_file() else path.name
    name = f"{PACKAGE}.{re.sub(r'[^0-9A-Za-z_]', '_', stem)}"
    return _load(stem, str(path), name, lambda: _import(name, path))


def _import(name: str, path: Path) -> None:
    """Import a file or package under a name, so that what it imports of itself is found."""
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise ImportError("it has no __init__.py")
    if name in sys.modules:
        raise ImportError(f"another pack is {name} already")
    parent = sys.modules.setdefault(PACKAGE, ModuleType(PACKAGE))
    parent.__path__ = []
    folders = [str(path)] if path.is_dir() else None
    spec = util.spec_from_file_location(name, file, submodule_search_locations=folders)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "and a loader"
    module = sys.modules[name] = util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _load(name: str, path: str, module: str, load: Callable[[], object]) -> Plugin:
    """Load a pack, and see what it did to the classes that there are."""
    before, modules = dict(Node.registry), set(sys.modules)
    try:
        load()
    except (Exception, SystemExit) as error:  # somebody else's code: the door of plugins
        _restore(before)
        # So that another pack which needs the same modules has their classes made anew.
        root = module if module.startswith(f"{PACKAGE}.") else module.split(".")[0]
        for loaded in set(sys.modules) - modules:
            if loaded == root or loaded.startswith(f"{root}."):
                del sys.modules[loaded]
        return Plugin(name, path, (), f"it cannot be imported: {type(error).__name__}: {error}")
    if "torch" in sys.modules and "torch" not in modules:
        log.warning("pack %s imports torch at once, which slows the start; do it in run()", name)
    after = dict(Node.registry)
    added = {wire: cls for wire, cls in after.items() if wire not in before}
    faults = [
        f"there is a class {wire} in {old.__module__} already, which is kept"
        for wire, old in before.items()
        if after.get(wire) is not old
    ]
    for wire, cls in list(added.items()):
        if fault := _fault(cls):
            faults.append(f"{wire} cannot be used: {fault}")
            del added[wire]
    _restore({**before, **added})
    if not after.keys() - before.keys() and not faults and module not in modules:
        faults.append(
            "it has no node: subclass executor.Node (packs made for ComfyUI do not work as they "
            "are)"
        )
    return Plugin(name, path, tuple(added), "; ".join(faults) or None)


def _restore(classes: dict[str, type[Node]]) -> None:
    Node.registry.clear()
    Node.registry.update(classes)


def _fault(cls: type[Node]) -> str | None:
    """What keeps a class from being described, which would otherwise fail for all at once."""
    try:
        cls.outputs()
        for item in cls.inputs().values():
            json.dumps([item.default, item.choices, dict(item.options)], allow_nan=False)
    except Exception as error:  # annotations that are no ports, names that do not exist …
        return f"{type(error).__name__}: {error}"
    return None
