"""What a node is: a pydantic model of its inputs, whose ``run`` makes its outputs.

Everything is said once, in the class: annotations are the inputs, ``run``'s return type the
outputs, the class keywords the metadata, the docstring the description. ``Input`` and ``Output``
are the views of that which validation, the wire and the documentation read. A checked node may hold
``Link``s in place of values that are not there yet.
"""

import types
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import annotated_types
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from executor.ports import FileChoice, Port, Widget

if TYPE_CHECKING:
    from executor.context import Context

NodeId: TypeAlias = str

_WIRE: Mapping[type, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}


@dataclass(frozen=True, slots=True)
class Link:
    """Stands for the value that another node will put out at a slot."""

    source: NodeId
    slot: int


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a node class, as its annotation says it."""

    name: str
    wire: str  # INT, FLOAT, STRING, BOOLEAN, COMBO, or a port's name
    is_required: bool
    default: Any = None
    port: Port | None = None
    choices: tuple[Any, ...] | None = None
    file: FileChoice | None = None
    at_least: float | None = None
    at_most: float | None = None
    step: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Output:
    """One output slot of a node class."""

    name: str
    wire: str


class Node(BaseModel):
    """Base of every node: subclass it, annotate the inputs, write ``run``.

    ``run`` is given the values of all inputs as attributes and never writes to them. It returns
    what its annotation says (a ``NamedTuple`` for several outputs, nothing for none) or is a
    generator of ``Steps`` that does.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    registry: ClassVar[dict[str, type["Node"]]] = {}
    """Every class by its wire names, further names (``aliases``) included."""

    category: ClassVar[str]
    display_name: ClassVar[str]
    is_output: ClassVar[bool]
    aliases: ClassVar[tuple[str, ...]]
    version: ClassVar[int]
    always_runs: ClassVar[bool]

    @classmethod
    def __init_subclass__(
        cls,
        *,
        category: str,
        is_output: bool = False,
        aliases: tuple[str, ...] = (),
        display_name: str | None = None,
        version: int = 1,
        always_runs: bool = False,
    ) -> None:
        """Register the class.

        Args:
            category: where menus show it, like ``"image/upscaling"``.
            is_output: it leaves something behind, so a workflow is run for its sake.
            aliases: further wire names of the same node.
            version: raise it when ``run`` comes to give other results, so that old ones are not
            taken from a cache.
            always_runs: it does what no cache can repeat, so it runs anew in each job.
        """
        super().__init_subclass__()
        cls.category, cls.is_output, cls.aliases = category, is_output, aliases
        cls.display_name, cls.version = display_name or cls.__name__, version
        cls.always_runs = always_runs
        for name in (cls.__name__, *aliases):
            Node.registry[name] = cls

    @field_validator("*", mode="wrap")
    @classmethod
    def _check(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Let links stand where values will be.

        ``true`` is no number and half a character no text, whatever Python says.
        """
        if type(value) is Link:
            return value
        if isinstance(value, bool) and cls.inputs()[info.field_name or ""].wire != "BOOLEAN":
            raise PydanticCustomError(
                "no_boolean", "got {value}, which is a boolean", {"value": str(value).lower()}
            )
        if isinstance(value, str) and not _is_text(value):
            raise PydanticCustomError("no_text", "a text has no halves of characters")
        return handler(value)

    def run(self, ctx: "Context") -> Any:
        """Make the outputs."""
        raise NotImplementedError

    def files(self) -> Iterator[tuple[str, str, str]]:
        """The files that ``run`` will read, as far as they are known: input, folder, name of each.

        Their content is part of the node's content key. Override it where a name stands inside a
        text.
        """
        for name, spec in self.inputs().items():
            value = getattr(self, name)
            if spec.file is not None and isinstance(value, str):
                yield name, spec.file.folder, value

    @classmethod
    @cache
    def inputs(cls) -> Mapping[str, Input]:
        """The inputs by name, in the order of their declaration, which editors rely on."""
        return {name: _input(name, spec) for name, spec in cls.model_fields.items()}

    @classmethod
    @cache
    def outputs(cls) -> tuple[Output, ...]:
        """The output slots, read from ``run``'s return annotation."""
        result: Any = get_type_hints(cls.run, include_extras=True)["return"]
        if get_origin(result) is Generator:
            result = get_args(result)[2]
        if result is type(None):
            return ()
        if hasattr(result, "_fields"):
            hints = get_type_hints(result, include_extras=True)
            return tuple(Output(name, wire_of(hint)) for name, hint in hints.items())
        wire = wire_of(result)
        return (Output(wire, wire),)

    @classmethod
    def description(cls) -> str:
        """The docstring, on one line."""
        return " ".join((cls.__doc__ or "").split())


def _is_text(value: str) -> bool:
    """Whether it can be written anywhere: JSON may hold half a surrogate pair, UTF-8 may not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def port_of(annotation: Any) -> Port | None:
    """The port that a type annotation names, if it names one."""
    own: Any = getattr(annotation, "port", None)
    if isinstance(own, Port):
        return own
    if get_origin(annotation) is Annotated:
        marked = next((a for a in get_args(annotation)[1:] if isinstance(a, Port)), None)
        return marked or port_of(get_args(annotation)[0])
    return None


def wire_of(annotation: Any) -> str:
    """The wire name of a type: its port's, or INT, FLOAT, STRING, BOOLEAN, COMBO."""
    port = port_of(annotation)
    if port is not None:
        return port.wire
    if get_origin(annotation) is Annotated:
        return wire_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "COMBO"
    if isinstance(annotation, type) and annotation in _WIRE:
        return _WIRE[annotation]
    raise TypeError(
        f"{annotation!r} is no port and no constant: annotate it with a Port from executor.ports"
    )


def _input(name: str, spec: FieldInfo) -> Input:
    """What a pydantic field says of an input."""
    annotation: Any = spec.annotation
    markers = list(spec.metadata)
    if get_origin(annotation) in (
        Union,
        types.UnionType,
    ):  # `Mask | None`: an input that may be left out
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    while get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        markers += inner
    options = {
        key: value for m in markers if isinstance(m, Widget) for key, value in m.options.items()
    }
    file = next((m for m in markers if isinstance(m, FileChoice)), None)
    port = next((m for m in markers if isinstance(m, Port)), None) or port_of(annotation)
    literal = get_args(annotation) if get_origin(annotation) is Literal else None
    return Input(
        name=name,
        wire=port.wire if port else "COMBO" if file else wire_of(annotation),
        is_required=spec.is_required(),
        default=None if spec.is_required() else spec.get_default(call_default_factory=True),
        port=port,
        choices=literal,
        file=file,
        at_least=_limit(markers, annotated_types.Ge, "ge"),
        at_most=_limit(markers, annotated_types.Le, "le"),
        step=_limit(markers, annotated_types.MultipleOf, "multiple_of") or options.get("step"),
        options={**options, **(file.options if file else {})},
    )


def _limit(markers: list[Any], kind: type, name: str) -> Any:
    """A bound among a field's markers, which pydantic may have kept whole or taken apart."""
    for marker in markers:
        for part in marker.metadata if isinstance(marker, FieldInfo) else (marker,):
            if isinstance(part, kind):
                return getattr(part, name)
    return None
