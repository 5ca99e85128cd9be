"""The fields of a RunPod-style job: those of its endpoint of Stable Diffusion, or a whole workflow.

All that is wrong is said at once. Fields that nobody knows are ignored, as those of newer clients.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from executor.api.fields import MOST_PROMPT, choice_of, words_of
from executor.api.picture_jobs import MOST_SEED
from executor.api.refusal import Refusal
from executor.node import Node

M = TypeVar("M", bound=BaseModel)

SIDES = (128, 256, 384, 448, 512, 576, 640, 704, 768)
"""Of pictures, as the endpoint documents them. Models of larger pictures take others too."""

MOST_SIDE = 2048
MOST_MS = 7 * 24 * 3600 * 1000  # of a policy: a week


def _side(value: int) -> int:
    if value not in SIDES and (value % 8 or not max(SIDES) < value <= MOST_SIDE):
        raise ValueError(
            f"it must be one of {', '.join(map(str, SIDES))}, or a multiple of 8 up to {MOST_SIDE}"
        )
    return value


Side: TypeAlias = Annotated[int, AfterValidator(_side)]


class PictureInput(BaseModel):
    """The ``input`` of a request for pictures."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT)]
    negative_prompt: Annotated[str | None, Field(max_length=MOST_PROMPT)] = None
    width: Side | None = None
    height: Side | None = None
    init_image: str | None = None  # an address
    mask: str | None = None  # black is repainted, white is kept
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 7.5
    num_inference_steps: Annotated[int, Field(ge=1, le=500)] = 50
    num_outputs: Annotated[int, Field(ge=1, le=10)] = 1
    prompt_strength: Annotated[float, Field(ge=0, le=1)] = 0.8
    scheduler: Annotated[str, choice_of("DiffusersSampler", "scheduler")] = "K-LMS"
    seed: Annotated[int | None, Field(ge=0, le=MOST_SEED)] = None


class GivenPicture(BaseModel):
    """A picture that comes with a workflow, by the name that its nodes load."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, Field(min_length=1, max_length=200)]
    image: str  # base64, or a data URL


class WorkflowInput(BaseModel):
    """The ``input`` of a request that brings its own workflow."""

    model_config = ConfigDict(extra="ignore")

    workflow: dict[str, Any]
    images: list[GivenPicture] = []


class Policy(BaseModel):
    """For how long a job may wait and run, in milliseconds."""

    model_config = ConfigDict(extra="ignore")

    executionTimeout: Annotated[int | None, Field(ge=1, le=MOST_MS)] = None
    ttl: Annotated[int | None, Field(ge=1, le=MOST_MS)] = None
    lowPriority: bool = False


class JobFields(BaseModel):
    """The body of ``/run`` and ``/runsync``."""

    model_config = ConfigDict(extra="ignore")

    input: PictureInput | WorkflowInput
    webhook: Annotated[str | None, Field(max_length=2000)] = None
    policy: Policy = Policy()

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "JobFields":
        """The fields of a request. Raises Refusal, which names all that are wrong."""
        given = body.get("input")
        if not isinstance(given, dict):
            words = "input: it is required, an object with the fields of the job"
            raise Refusal(400, "bad_request", words, param="input")
        kind = WorkflowInput if "workflow" in given else PictureInput
        faults: list[str] = []
        found = _read(kind, cast("dict[str, Any]", given), "input.", faults)
        policy = _read(Policy, body.get("policy") or {}, "policy.", faults)
        webhook = body.get("webhook")
        if webhook is not None and not (isinstance(webhook, str) and len(webhook) <= 2000):
            faults.append("webhook: it must be an address")
        if faults or found is None or policy is None:
            raise Refusal(400, "bad_request", "; ".join(faults))
        return cls.model_construct(input=found, policy=policy, webhook=webhook)


def _read(kind: type[M], said: Any, where: str, faults: list[str]) -> M | None:
    """A part of a request; what is wrong with it is added to the faults."""
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        for fault in error.errors():
            name = where + ".".join(map(str, fault["loc"]))
            faults.append(f"{name.rstrip('.')}: {words_of(fault)}")
        return None


def with_scheduler(prompt: Mapping[str, Any], scheduler: str) -> dict[str, Any]:
    """A workflow whose samplers step as one of diffusers' schedulers does."""
    known = Node.registry["DiffusersSampler"].inputs()
    changed: dict[str, Any] = {}
    for node_id, node in prompt.items():
        changed[node_id] = node
        if node["class_type"] == "KSampler":
            inputs = {name: value for name, value in node["inputs"].items() if name in known}
            inputs["scheduler"] = scheduler
            changed[node_id] = {**node, "class_type": "DiffusersSampler", "inputs": inputs}
    return changed
