"""Where a file keeps a CLIP text encoder: below which prefix, and in whose names.

Light: no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from executor.models import layout
from executor.models.header import Header
from executor.models.layout import Stored

_ROOTS = {False: "embeddings.token_embedding.weight", True: "token_embedding.weight"}
_PROJECTIONS = {False: "text_projection.weight", True: "text_projection"}


@dataclass(frozen=True, slots=True)
class TextPlace:
    """A text encoder in a file."""

    header: Header
    prefix: str
    is_open_clip: bool  # OpenCLIP's own names, with q, k and v in one matrix

    @property
    def has_projection(self) -> bool:
        """Whether its pooled output's projection is there."""
        return self._projection in self.header.tensors

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        found = self.header.parameters(self.prefix)
        if self.has_projection and not self._projection.startswith(self.prefix):
            found += self.header.parameters(self._projection)
        return found

    def stored(self, names: Iterable[str]) -> Mapping[str, str | Stored]:
        """Where every tensor of a ``CLIPTextModel`` is, with projection or without."""
        if self.is_open_clip:
            return layout.open_clip_names(names, self.prefix)
        return layout.text_names(names, self.prefix)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors by the file's names, without prefix."""
        return self.header.shapes_below(self.prefix)

    @property
    def _projection(self) -> str:
        beside = self.prefix if self.is_open_clip else self.prefix.removesuffix("text_model.")
        return beside + _PROJECTIONS[self.is_open_clip]


def text_place(header: Header, prefixes: Sequence[str]) -> TextPlace | None:
    """The text encoder below the first of these prefixes that there is one below."""
    for prefix in prefixes:
        for is_open_clip, root in _ROOTS.items():
            if prefix + root in header.tensors:
                return TextPlace(header, prefix, is_open_clip)
    return None


def text_places(header: Header) -> list[TextPlace]:
    """Every CLIP text encoder in a file, wherever it is."""
    found = dict[str, TextPlace]()
    for name in header.tensors:
        for is_open_clip, root in _ROOTS.items():
            if name == root or name.endswith(f".{root}"):
                prefix = name.removesuffix(root)
                found.setdefault(prefix, TextPlace(header, prefix, is_open_clip))
                break
    return list(found.values())
