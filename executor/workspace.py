"""What one user's workflows work with: folders, the device, the models loaded, the cache's budgets.

A ``Workspace`` is built once from the settings and gives each node run its ``Context``. Light:
torch and the model code are imported when a node first asks for them.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from executor.cache import Cache
from executor.context import Models, SavedFile
from executor.digests import Digests
from executor.node import Node
from executor.paths import Folders
from executor.placeholders import expand
from executor.provenance import MODEL_HASHES, model_files, model_hashes
from executor.saving import save_new
from executor.settings import Settings

if TYPE_CHECKING:
    import torch

    from executor.devices import Devices
    from executor.models.library import Library
    from executor.models.preview import Painter

# Of the free memory, what results for later runs may take unless the settings say how much: a
# quarter leaves room for the models in use and what they compute with.
_CACHE_SHARE = 0.25


class Workspace:
    """Folders, device and model library of one user's settings."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = datetime.now) -> None:
        # Before torch is loaded: its threads otherwise spin when idle. Beside other work a run took
        # 141 s instead of 25 s.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        self.settings = settings
        self.folders = Folders(settings)
        self.clock = clock

    @cached_property
    def devices(self) -> "Devices":
        """What this process computes on. Raises SettingsError for a device that is not there."""
        from executor.devices import Devices

        settings = self.settings
        chosen = Devices.choose(settings.device, settings.dtype)
        return chosen.limited(settings.model_bytes, settings.reserved_bytes)

    @property
    def device(self) -> "torch.device":
        """Where models run and tensors are."""
        return self.devices.device

    @cached_property
    def library(self) -> "Library":
        """The models loaded so far."""
        from executor.models.library import Library

        return Library(self.devices, partial(self.folders.find, "embeddings"))

    @cached_property
    def models(self) -> Models:
        """The models by the names of their files."""
        from executor.models.shelf import Shelf

        return Shelf(self.library, self.folders.find)

    @cached_property
    def digests(self) -> Digests:
        """The digests of models' files."""
        return Digests(self.folders.user)

    @cached_property
    def painter(self) -> "Painter":
        """What draws previews."""
        from executor.models.preview import Painter

        return Painter(self.devices, partial(self.folders.find, "vae_approx"))

    def new_cache(self) -> Cache:
        """A cache for this device, with the budgets of the settings."""
        import torch

        from executor.devices import free_bytes

        on_device, on_host = self.settings.device_cache_bytes, self.settings.host_cache_bytes
        if on_device is None:
            on_device = int(self.devices.free_bytes() * _CACHE_SHARE)
        if on_host is None:
            # A CPU's memory is the host's: what had to leave the one has no place in the other.
            is_host = self.device.type == "cpu"
            on_host = 0 if is_host else int(free_bytes(torch.device("cpu")) * _CACHE_SHARE)
        return Cache(self.device, on_device, on_host)

    def context(
        self,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
        send: Callable[[bytes], None] | None = None,
        models: Mapping[str, Path] | None = None,
    ) -> "NodeContext":
        """The context of one node run; ``send`` takes what it sends to the job's client."""
        return NodeContext(self, prompt or {}, extra_pnginfo or {}, send, models or {})

    def models_to_tell(self, nodes: Iterable[Node]) -> Mapping[str, Path]:
        """The files of models whose hashes the pictures of these nodes' job shall carry.

        They are being read from now on; none, unless the settings want that.
        """
        if not self.settings.model_hashes:
            return {}
        files = model_files(nodes, self.folders)
        self.digests.begin(files.values())
        return files


class NodeContext:
    """One node run's door to a workspace (``executor.context.Context``); remembers what it kept."""

    def __init__(
        self,
        workspace: Workspace,
        prompt: Mapping[str, Any],
        extra_pnginfo: Mapping[str, Any],
        send: Callable[[bytes], None] | None = None,
        models: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        self._workspace, self._send, self._models = workspace, send, models
        self._prompt, self._extra_pnginfo = prompt, extra_pnginfo
        self._files: list[SavedFile] = []

    @property
    def files(self) -> tuple[SavedFile, ...]:
        """What the node run left behind, in order."""
        return tuple(self._files)

    @property
    def device(self) -> "torch.device":
        """Where new tensors go."""
        return self._workspace.device

    @property
    def ancestral_seed_offset(self) -> int:
        """As the settings say."""
        return self._workspace.settings.ancestral_seed_offset

    @property
    def max_picture_pixels(self) -> int:
        """As the settings say."""
        return self._workspace.settings.max_picture_pixels

    @property
    def prompt(self) -> Mapping[str, Any]:
        """The workflow in API format."""
        return self._prompt

    @property
    def extra_pnginfo(self) -> Mapping[str, Any]:
        """Further text chunks for saved pictures; waits for hashes of models, if they are wanted.

        Those that a picture brought along, whose workflow runs again, were of other files.
        """
        told = {n: text for n, text in self._extra_pnginfo.items() if n != MODEL_HASHES}
        if self._models:
            told[MODEL_HASHES] = model_hashes(self._models, self._workspace.digests)
        return told

    def find(self, folder: str, name: str) -> Path:
        """The file of that name in a named folder."""
        return self._workspace.folders.find(folder, name)

    @property
    def models(self) -> Models:
        """The workspace's models."""
        return self._workspace.models

    def send(self, png: bytes) -> None:
        """To the job's client; into a temporary file, where there is none."""
        if self._send is not None:
            self._send(png)
            return

        def write(file: BinaryIO) -> None:
            file.write(png)

        self.save("ComfyUI_websocket", ".png", write, is_temporary=True)

    def save(
        self,
        prefix: str,
        suffix: str,
        write: Callable[[BinaryIO], None],
        *,
        kind: str = "images",
        is_temporary: bool = False,
        is_animated: bool = False,
        size: tuple[int, int] | None = None,
    ) -> SavedFile:
        """Keep a new file, its placeholders filled in from the clock and the workflow."""
        place: Literal["output", "temp"] = "temp" if is_temporary else "output"
        directory = self._workspace.folders.place(place)
        name = expand(prefix, now=self._workspace.clock(), size=size, prompt=self.prompt)
        path = save_new(directory, name, suffix, write)
        subfolder = path.parent.relative_to(directory).as_posix()
        subfolder = "" if subfolder == "." else subfolder
        saved = SavedFile(path.name, subfolder, place, kind, is_animated)
        self._files.append(saved)
        return saved
