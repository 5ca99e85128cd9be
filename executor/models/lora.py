"""LoRAs put on models: which entry of a file changes which parameter, and what fits nothing.

The model is not written to; what comes back is another one, whose changed weights are merged when
it is first used (``weights``). A file for another family is refused, in words that say for which.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, cast

from executor.errors import InputError, ModelFileError
from executor.models import adapters, lora_names
from executor.models.adapters import Adapter
from executor.models.lora_file import Entry, LoraFile
from executor.models.lora_names import NetworkName
from executor.models.weights import Change, Weights
from executor.ports import DiffusionModel, TextEncoder

log = logging.getLogger(__name__)

_SHOWN = 3  # of the tensors that fit nothing
_UNET: Sequence[NetworkName] = ("unet",)
_TEXT: Sequence[NetworkName] = ("text", "text_2")


class Changeable(Protocol):
    """A model or text encoder whose weights can be changed."""

    @property
    def title(self) -> str: ...
    @property
    def networks(self) -> Mapping[NetworkName, Weights[Any]]: ...
    def with_networks(self, networks: Mapping[NetworkName, Weights[Any]]) -> "Changeable":
        """The same with other weights, for the networks that are named."""
        ...


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA's file, ready to be put on models (``executor.context.Lora``)."""

    file: LoraFile

    def on_model(self, model: DiffusionModel, strength: float) -> DiffusionModel:
        """A model with the LoRA on it; its text encoder is not concerned."""
        return cast("DiffusionModel", _put_on(self.file, ((model, strength),))[0])

    def on_both(
        self,
        model: DiffusionModel,
        clip: TextEncoder,
        *,
        strength_model: float,
        strength_clip: float,
    ) -> tuple[DiffusionModel, TextEncoder]:
        """A model and its text encoder with the LoRA on them; at strength 0 the same ones."""
        changed = _put_on(self.file, ((model, strength_model), (clip, strength_clip)))
        return cast("DiffusionModel", changed[0]), cast("TextEncoder", changed[1])


def _put_on(lora: LoraFile, targets: Sequence[tuple[object, float]]) -> list[object]:
    chosen = [_Fit.of(lora, target) for target, strength in targets if strength]
    is_off = len(chosen) < len(targets)  # what the file is for may be switched off
    if not (is_off and lora.entries and not any(fit.entries for fit in chosen)):
        _check(lora, chosen)
    fits = iter(chosen)
    return [next(fits).changed(lora, s) if s else target for target, s in targets]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A LoRA's entries for the networks of a model, and which of them fit."""

    target: Changeable
    entries: Sequence[Entry]
    adapters: Mapping[NetworkName, Mapping[str, Adapter]]  # by parameter
    misfits: Sequence[str]  # tensors of the file that there is no parameter for, or of another size

    @classmethod
    def of(cls, lora: LoraFile, target: object) -> "_Fit":
        if not _is_changeable(target):
            raise InputError(
                f"{type(target).__name__} cannot take a LoRA: it is not of Weft's own loaders, "
                "and has no weights that Weft could change"
            )
        found: dict[NetworkName, dict[str, Adapter]] = {}
        entries: list[Entry] = []
        misfits: list[str] = []
        is_unet = "unet" in target.networks
        for network in _UNET if is_unet else _TEXT:
            meant = lora.entries.get(network, ())
            weights = target.networks.get(network)
            shapes = weights.shapes if weights and meant else {}
            list_modules = lora_names.unet_modules if is_unet else lora_names.text_modules
            modules = list_modules(shapes) if shapes else {}
            fitting = found[network] = {}
            entries += meant
            for entry in meant:
                name = f"{modules.get(entry.module)}.{entry.leaf}"
                shape = shapes.get(name)
                if shape is None:
                    misfits.append(entry.tensor)
                elif not adapters.fits(entry.adapter, shape):
                    misfits.append(
                        f"{entry.tensor} (of {adapters.size(entry.adapter.shape)}, "
                        f"where {name} is {adapters.size(shape)})"
                    )
                else:
                    fitting[name] = entry.adapter
        return cls(target, entries, found, misfits)

    @property
    def count(self) -> int:
        """How many parameters are changed."""
        return sum(map(len, self.adapters.values()))

    def changed(self, lora: LoraFile, strength: float) -> object:
        """The model with what fits on it."""
        networks = self.target.networks
        changed: dict[NetworkName, Weights[Any]] = {
            name: networks[name].changed(Change((lora, strength), found, strength))
            for name, found in self.adapters.items()
            if found
        }
        return self.target.with_networks(changed) if changed else self.target


def _is_changeable(target: object) -> TypeGuard[Changeable]:
    return hasattr(target, "with_networks") and hasattr(target, "networks")


def _check(lora: LoraFile, fits: Sequence[_Fit]) -> None:
    """Raises ModelFileError for a LoRA of another family; logs what one that fits has besides."""
    titles = " and ".join(fit.target.title for fit in fits)
    for fit in fits:
        unet = fit.target.networks.get("unet")
        width = None if unet is None else _context(unet)
        if None not in (width, lora.context) and width != lora.context:
            raise ModelFileError(
                f"{lora.name} is a LoRA for {lora.purpose}: it reads prompts {lora.context} wide. "
                f"This model is {fit.target.title}, which reads {width}; use a LoRA that was made "
                "for its family"
            )
    misfits = [tensor for fit in fits for tensor in fit.misfits]
    if not any(fit.count for fit in fits):
        seen = [*misfits, *lora.unread]
        why = f": {_examples(seen)}" if seen else ""
        raise ModelFileError(
            f"{lora.name} is a LoRA for {lora.purpose}; nothing in it fits {titles}{why}. "
            "Use one that was made for this family of models"
        )
    left_out = [*misfits, *lora.unread]
    if left_out:
        log.warning(
            "%s: %d of its tensors fit nothing in %s and are left out: %s",
            lora.name,
            len(left_out),
            titles,
            _examples(left_out),
        )


def _context(unet: Weights[Any]) -> int | None:
    """How wide the prompts are that a U-Net reads."""
    return next((s[1] for n, s in unet.shapes.items() if n.endswith("attn2.to_k.weight")), None)


def _examples(tensors: Sequence[str]) -> str:
    return ", ".join(tensors[:_SHOWN]) + (" …" if len(tensors) > _SHOWN else "")
