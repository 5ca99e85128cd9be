"""What may be asked of the catalogue: filters, comparisons. All that is wrong is said at once."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from executor.api.fields import MOST_PROMPT, words_of
from executor.api.picture_jobs import MOST_SEED
from executor.api.refusal import Refusal
from executor.errors import nearest
from executor.models.families import FAMILIES
from executor.public_models import Task

F = TypeVar("F", bound="CatalogueFields")

MOST_COMPARED = 12
MOST_HOURS = 366 * 24
SORTS = (
    *("name", "family", "price", "requests", "success_rate", "latency", "speed", "last_used"),
    *("size", "parameters"),
)


def _known_family(value: str) -> str:
    names = [family.name for family in FAMILIES]
    if value not in names:
        raise ValueError(f"there is no family{nearest(value[:40], names)}")
    return value


def _known_sort(value: str) -> str:
    if value.removeprefix("-") not in SORTS:
        hint = nearest(value[:40], SORTS) or f"; it takes {', '.join(SORTS)}"
        raise ValueError(f"there is no such order{hint}, with - in front for the other way")
    return value


def _multiple_of_8(value: int) -> int:
    if value % 8:
        raise ValueError("it must be a multiple of 8")
    return value


_side = Annotated[int, Field(ge=64, le=4096), AfterValidator(_multiple_of_8)]


class CatalogueFields(BaseModel):
    """What all have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def read(cls: type[F], said: Mapping[str, Any]) -> F:
        """The fields of a request; forms send an empty text for what is not said.

        Raises Refusal, which names all that are wrong.
        """
        try:
            return cls.model_validate({name: v for name, v in said.items() if v != ""})
        except ValidationError as error:
            wrong = {str(fault["loc"][0]): cls._words(fault) for fault in error.errors()}
            words = "; ".join(f"{name}: {what}" for name, what in wrong.items())
            raise Refusal(400, "invalid_value", words, param=next(iter(wrong))) from error

    @classmethod
    def _words(cls, fault: Mapping[str, Any]) -> str:
        if fault["type"] == "extra_forbidden":
            hint = nearest(str(fault["loc"][0])[:40], cls.model_fields)
            return f"there is no such field{hint}"
        return words_of(fault)


class Filters(CatalogueFields):
    """The parameters of ``GET /catalogue``."""

    family: Annotated[str, AfterValidator(_known_family)] | None = None
    task: Task | None = None
    available: bool | None = None
    name: str = ""
    max_price: Annotated[float, Field(ge=0)] | None = None
    sort: Annotated[str, AfterValidator(_known_sort)] = "name"


class HistoryFields(CatalogueFields):
    """The parameters of a model's history."""

    hours: Annotated[int, Field(ge=1, le=MOST_HOURS)] = 24


class Comparison(CatalogueFields):
    """The body of ``POST /catalogue/compare``."""

    models: Annotated[list[str], Field(min_length=1, max_length=MOST_COMPARED)]
    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT)]
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] | None = None
    negative_prompt: Annotated[str, Field(max_length=MOST_PROMPT)] | None = None
    width: _side | None = None
    height: _side | None = None
    steps: Annotated[int, Field(ge=1, le=500)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None

    def values(self) -> dict[str, Any]:
        """What is set of each model's template; what is not said is as usual for each."""
        return self.model_dump(exclude={"models", "seed"}, exclude_none=True)
