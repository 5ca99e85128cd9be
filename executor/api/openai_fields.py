"""The fields of OpenAI's image requests, as their clients send them, and a few more.

Forms send all as text, so numbers may come as text. Fields that nobody knows are ignored, as those
of newer clients are. All that is wrong is said at once.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from executor.api.fields import MOST_PROMPT, choice_of, words_of
from executor.api.picture_jobs import MOST_SEED, Format
from executor.api.refusal import Refusal

F = TypeVar("F", bound="PictureFields")

SIDES = range(64, 4097, 8)

QUALITY: Mapping[str, float] = {
    "auto": 1,
    "standard": 1,
    "medium": 1,
    "hd": 2,
    "high": 2,
    "low": 0.5,
}
"""How many of the usual steps are taken."""


def _size(value: str) -> str:
    if value == "auto":
        return value
    match = re.fullmatch(r"(\d{2,5})x(\d{2,5})", value)
    if match is None or not all(int(side) in SIDES for side in match.groups()):
        raise ValueError(
            'it must be "auto" or like "512x768", with sides that are multiples of 8 between '
            f"{SIDES[0]} and {SIDES[-1]}"
        )
    return value


def _blank(value: Any) -> Any:
    """Forms send an empty text for what is not said."""
    return None if value == "" else value


Size: TypeAlias = Annotated[str, AfterValidator(_size)]
_maybe = BeforeValidator(_blank)


class PictureFields(BaseModel):
    """What all requests for pictures have."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    model: str | None = None
    n: Annotated[Annotated[int, Field(ge=1, le=10)] | None, _maybe] = None
    size: Annotated[Size | None, _maybe] = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[Annotated[int, Field(ge=0, le=100)] | None, _maybe] = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    stream: Annotated[bool | None, _maybe] = None
    partial_images: Annotated[Annotated[int, Field(ge=0, le=3)] | None, _maybe] = None
    user: str | None = None
    # What OpenAI has not, and stable diffusion does.
    negative_prompt: Annotated[str | None, Field(max_length=MOST_PROMPT)] = None
    seed: Annotated[Annotated[int, Field(ge=0, le=MOST_SEED)] | None, _maybe] = None
    steps: Annotated[Annotated[int, Field(ge=1, le=500)] | None, _maybe] = None
    guidance_scale: Annotated[Annotated[float, Field(ge=0, le=100)] | None, _maybe] = None
    strength: Annotated[Annotated[float, Field(gt=0, le=1)] | None, _maybe] = None
    sampler: Annotated[str, choice_of("KSampler", "sampler_name")] | None = None
    scheduler: Annotated[str, choice_of("KSampler", "scheduler")] | None = None
    provider: Any = None

    @classmethod
    def read(cls: type[F], said: Mapping[str, Any]) -> F:
        """The fields of a request. Raises Refusal, which names all that are wrong."""
        try:
            fields = cls.model_validate(dict(said))
        except ValidationError as error:
            wrong = [(str(fault["loc"][0]), words_of(fault)) for fault in error.errors()]
            words = "; ".join(f"{name}: {what}" for name, what in wrong)
            raise Refusal(400, "invalid_value", words, param=wrong[0][0]) from error
        if fields.background == "transparent":
            words = 'background: pictures here are never transparent; leave it out, or "opaque"'
            raise Refusal(400, "invalid_value", words, param="background")
        return fields

    @property
    def format(self) -> Format:
        """Of the pictures in the answer."""
        return self.output_format or "png"

    @property
    def wants_data(self) -> bool:
        """Whether the pictures themselves shall be in the answer, not addresses of them."""
        return self.response_format == "b64_json" or bool(self.stream)

    def pixels(self) -> tuple[int, int] | None:
        """The width and height that were asked for, if any were."""
        if self.size in (None, "auto"):
            return None
        width, height = str(self.size).split("x")
        return int(width), int(height)

    def parameters(self, usual_steps: int) -> dict[str, Any]:
        """What the request sets of a template; None where it says nothing."""
        steps = self.steps
        if steps is None and self.quality is not None:
            steps = max(1, round(usual_steps * QUALITY[self.quality]))
        return {
            "negative_prompt": self.negative_prompt,
            "steps": steps,
            "guidance_scale": self.guidance_scale,
            "strength": self.strength,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
        }


class GenerationFields(PictureFields):
    """``POST /v1/images/generations``."""

    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT)]


class EditFields(GenerationFields):
    """``POST /v1/images/edits``, beside its pictures."""


class VariationFields(PictureFields):
    """``POST /v1/images/variations``, beside its picture."""

    prompt: Annotated[str, Field(max_length=MOST_PROMPT)] = ""
