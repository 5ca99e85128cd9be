"""What an upscaler's file is, from its header: which network, of which sizes, under which names.

ESRGAN's files have three sets of names: the first authors' number a chain of layers, BSRGAN's and
Real-ESRGAN's name them. Light: no torch.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from executor.models.header import Header

_PREFIXES = ("", "params_ema.", "params.", "module.", "model.")  # of whoever saved the file
_BLOCK = re.compile(r"body\.(\d+)\.rdb(\d)\.conv(\d)\.(.+)")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A network that a file can be read into."""

    is_compact: bool
    config: Mapping[str, Any]  # of ``RRDBNet``, or of ``Compact``
    names: Mapping[str, str]  # what the file calls the parts that it calls otherwise
    prefix: str = ""

    def keys(self, names: Iterable[str]) -> dict[str, str]:
        """Under which name the file keeps each tensor of the network."""
        return {name: self.prefix + self._key(name) for name in names}

    def _key(self, name: str) -> str:
        match = _BLOCK.fullmatch(name)
        if match and "block" in self.names:
            return self.names["block"].format(*match.groups())
        module, _, kind = name.rpartition(".")
        return f"{self.names.get(module, module)}.{kind}"


def architecture_of(header: Header) -> Architecture | None:
    """The network in a file, or None if it is none of ours."""
    for prefix in _PREFIXES:
        shapes = {
            name.removeprefix(prefix): entry.shape
            for name, entry in header.tensors.items()
            if name.startswith(prefix)
        }
        found = _of_shapes(shapes, prefix)
        if found is not None:
            return found
    return None


def _of_shapes(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Architecture | None:
    if "body.0.rdb1.conv1.weight" in shapes:
        count = _count(shapes, r"conv_up(\d+)\.weight")
        return _rrdb(shapes, {}, prefix, _count(shapes, r"body\.(\d+)\.rdb1\.conv1\.weight"), count)
    if "RRDB_trunk.0.RDB1.conv1.weight" in shapes:
        count = _count(shapes, r"upconv(\d+)\.weight")
        names = {
            "block": "RRDB_trunk.{}.RDB{}.conv{}.{}",
            "conv_body": "trunk_conv",
            "conv_hr": "HRconv",
            **{f"conv_up{index}": f"upconv{index}" for index in range(1, count + 1)},
        }
        blocks = _count(shapes, r"RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight")
        return _rrdb(shapes, names, prefix, blocks, count)
    if "model.1.sub.0.RDB1.conv1.0.weight" in shapes:
        blocks = _count(shapes, r"model\.1\.sub\.(\d+)\.RDB1\.conv1\.0\.weight")
        # A chain: the first layer, the blocks, three for each doubling, and three for the end.
        last = max(int(match[1]) for name in shapes if (match := re.match(r"model\.(\d+)\.", name)))
        count = (last - 4) // 3
        names = {
            "block": "model.1.sub.{}.RDB{}.conv{}.0.{}",
            "conv_first": "model.0",
            "conv_body": f"model.1.sub.{blocks}",
            **{f"conv_up{index}": f"model.{3 * index}" for index in range(1, count + 1)},
            "conv_hr": f"model.{last - 2}",
            "conv_last": f"model.{last}",
        }
        return _rrdb(shapes, names, prefix, blocks, count)
    if {"body.0.weight", "body.1.weight"} <= shapes.keys() and len(shapes["body.1.weight"]) == 1:
        return _compact(shapes, prefix)
    return None


def _rrdb(
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
    prefix: str,
    blocks: int,
    doublings: int,
) -> Architecture | None:
    made = Architecture(False, {}, names)
    wanted = ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_last.weight")
    first, dense, last = (shapes.get(key, ()) for key in made.keys(wanted).values())
    # ESRGAN+ has further convolutions in its blocks, and is another network.
    if {len(first), len(dense), len(last)} != {4} or any(".conv1x1." in name for name in shapes):
        return None
    unshuffle = isqrt(first[1] // last[0])
    config = {
        "channels": last[0],
        "filters": first[0],
        "growth": dense[0],
        "blocks": blocks,
        "doublings": doublings,
        "unshuffle": unshuffle,
    }
    is_whole = first[1] == last[0] * unshuffle**2 and unshuffle in (1, 2, 4)
    return Architecture(False, config, names, prefix) if is_whole else None


def _compact(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Architecture | None:
    last = _count(shapes, r"body\.(\d+)\.weight") - 1
    first, end = shapes["body.0.weight"], shapes.get(f"body.{last}.weight", ())
    if len(first) != 4 or len(end) != 4 or last % 2:
        return None
    scale = isqrt(end[0] // first[1])
    if end[0] != first[1] * scale**2:
        return None
    config = {
        "channels": first[1],
        "filters": first[0],
        "layers": (last - 2) // 2,
        "scale": scale,
    }
    return Architecture(True, config, {}, prefix)


def _count(names: Iterable[str], pattern: str) -> int:
    """How many layers there are that are numbered like this."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})
