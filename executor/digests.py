"""The sha256 of model files: computed once, in a thread of its own, and remembered.

What is remembered lies in the user's folder, by path, size and time, so that a file which was
replaced is read anew. A folder's digest is that of a line ``sha256  name`` for each of its files.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any, BinaryIO, cast

from executor.errors import FileError
from executor.paths import fingerprint
from executor.saving import save_as

log = logging.getLogger(__name__)

FILE = "model_digests.json"
SHORT = 10  # characters of a short hash, as Automatic1111's pictures carry it
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's content is known by."""

    sha256: str

    @property
    def short(self) -> str:
        """The beginning of it, as other programs show it."""
        return self.sha256[:SHORT]


class Digests:
    """Digests of files, of this process and of those before it."""

    def __init__(self, directory: Path) -> None:
        """``directory`` is the user's folder; nothing is written there before it is needed."""
        self._directory = directory
        self._lock = Lock()
        self._reading = Lock()  # one file after the other, which is how a disk is fastest
        self._known: dict[tuple[str, str], Future[Digest]] = {}

    def begin(self, paths: Iterable[Path]) -> None:
        """Have these files read, without waiting for it; faults are told to who asks for them."""
        for path in paths:
            with suppress(FileError):
                self._begun(path)

    def of(self, path: Path) -> Digest:
        """A file's digest; waits for it. Raises FileError if the file cannot be read."""
        return self._begun(path).result()

    def known(self, paths: Iterable[Path]) -> dict[Path, Digest]:
        """The digests of those of these files that were read before; nothing is read for it."""
        remembered, found = self._remembered(), dict[Path, Digest]()
        for path in paths:
            with suppress(OSError):
                entry = remembered.get(str(path.resolve()), {})
                if entry.get("fingerprint") == fingerprint(path):
                    found[path] = Digest(entry["sha256"])
        return found

    def _begun(self, path: Path) -> "Future[Digest]":
        try:
            identity = str(path.resolve()), fingerprint(path)
        except OSError as error:
            raise FileError(f"{path} cannot be read: {error.strerror or error}") from error
        with self._lock:
            found = self._known.get(identity)
            if found is None:
                found = self._known[identity] = Future()
                remembered = self._remembered().get(identity[0], {})
                if remembered.get("fingerprint") == identity[1]:
                    found.set_result(Digest(remembered["sha256"]))
                else:  # a daemon: who interrupts a run does not wait for gigabytes to be read
                    Thread(target=self._read, args=(found, *identity), daemon=True).start()
            return found

    def _read(self, found: "Future[Digest]", path: str, mark: str) -> None:
        try:
            with self._reading:
                digest = Digest(_sha256(Path(path)))
                self._remember(path, mark, digest)
        except OSError as error:
            with self._lock:
                del self._known[path, mark]  # another time it may be there
            found.set_exception(FileError(f"{path} cannot be read: {error.strerror or error}"))
        else:
            found.set_result(digest)

    def _remember(self, path: str, mark: str, digest: Digest) -> None:
        """Add it to the file, where others may have added theirs meanwhile."""
        remembered = self._remembered() | {path: {"fingerprint": mark, "sha256": digest.sha256}}

        def write(stream: BinaryIO) -> None:
            stream.write(json.dumps(remembered, indent=1, sort_keys=True).encode())

        try:
            save_as(self._directory, FILE, write)
        except FileError as error:  # it is found again next time
            log.warning("digests of models are not remembered: %s", error)

    def _remembered(self) -> dict[str, dict[str, str]]:
        """What is in the file; nothing of one that others have damaged."""
        try:
            content: Any = json.loads((self._directory / FILE).read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s cannot be read, and is written anew: %s", FILE, error)
            return {}
        entries = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
        return {path: entry for path, entry in entries.items() if _is_entry(entry)}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, Mapping):
        return False
    values = cast("Mapping[str, Any]", entry)
    return all(isinstance(values.get(name), str) for name in ("fingerprint", "sha256"))


def _sha256(path: Path) -> str:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
        return hashlib.sha256("".join(lines).encode(errors="surrogatepass")).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
