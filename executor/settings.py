"""What a user may set: one frozen model, from the command line, the environment and a file.

Every field is said once, with its description; it is the variable ``WEFT_<FIELD>`` in the
environment and the key ``<field>`` in ``weft.toml``, which lies in the base directory. Nothing
here looks at the machine: what ``auto`` and ``None`` come to is decided by ``executor.devices`` and
by whoever holds a budget.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
)

from executor.errors import SettingsError, nearest
from executor.logs import LogFormat

PREFIX = "WEFT_"
FILE = "weft.toml"


def _names(value: Any) -> Any:
    """A list of names as the environment spells it: separated by commas."""
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]


def _paths(value: Any) -> Any:
    """A list of folders as the environment spells it: separated as in ``PATH``."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _tables(value: Any) -> Any:
    """Tables as the environment spells them: a JSON object."""
    return json.loads(value) if isinstance(value, str) else value


def _device(value: str) -> str:
    """The name of a device, if it is one."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("it must be auto, cpu, mps, cuda or cuda:N")
    return value


def _url(value: str) -> str:
    """The beginning of addresses, without a slash at its end."""
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", value):
        raise ValueError("it must be like https://weft.example")
    return value.rstrip("/")


Port: TypeAlias = Annotated[int, Field(ge=1, le=65535)]


class ModelSettings(BaseModel):
    """What ``[models.NAME]`` says of a model that applications can name."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    checkpoint: str
    text_to_image: Path | None = None  # templates in place of its family's
    image_to_image: Path | None = None
    inpaint: Path | None = None
    defaults: Mapping[str, Any] = {}  # parameters of the templates
    description: str = ""
    best_use: str = ""
    price: Annotated[float, Field(ge=0)] | None = None  # of a picture


class Settings(BaseModel):
    """All settings, with their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    base_directory: Path = Field(
        default_factory=Path.cwd,
        description="The user's own folder, which holds models, input, output and temp unless "
        "those are set. By default the current directory.",
    )
    model_directories: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = Field(
        default=(),
        description="Further folders laid out like models (checkpoints, loras, vae …), looked "
        "through after the user's own and before the one that ships with Weft. Several are "
        "separated as in PATH.",
    )
    input_directory: Path | None = Field(
        default=None, description="Where pictures and latents to load are. By default base/input."
    )
    output_directory: Path | None = Field(
        default=None, description="Where results are kept. By default base/output."
    )
    temp_directory: Path | None = Field(
        default=None, description="Where previews are kept. By default base/temp."
    )
    user_directory: Path | None = Field(
        default=None,
        description="Where the server keeps what the editor saves: workflows, its settings. "
        "By default base/user.",
    )
    extra_model_paths: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = Field(
        default=(),
        description="Files like ComfyUI's extra_model_paths.yaml, which say where other programs "
        "keep their models; besides base/extra_model_paths.yaml, if it is there.",
    )
    custom_nodes: bool = Field(
        default=True,
        description="Whether to load the packs of nodes in base/custom_nodes and those installed.",
    )
    device: Annotated[str, AfterValidator(_device)] = Field(
        default="auto",
        description="Where models run: cpu, cuda, cuda:1, mps; auto takes a GPU if there is one.",
    )
    workers: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(),
        description="The devices that the server starts a worker for, like cuda:0,cuda:1; a device "
        "may be named twice. By default every GPU, or else the one that device says.",
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto",
        description="The precision that diffusion models and text encoders are computed in; auto "
        "takes float32 on a CPU, and on a GPU half precision for diffusion models.",
    )
    ancestral_seed_offset: Annotated[int, Field(ge=0)] = Field(
        default=1,
        description="Added to a seed for the noise that ancestral samplers add at each step. "
        "1 is what ComfyUI does today on a CPU; 0 is what its version 0.3.64 did, where that noise "
        "began with the very numbers of the initial noise.",
    )
    model_bytes: ByteSize | None = Field(
        default=None,
        description="How much of the device's memory the weights of models may take, like 6GiB; "
        "what does not fit waits in host memory, and a model that is larger is computed part by "
        "part. By default what is free of a GPU, or 60 % of what is free of a host's memory.",
    )
    reserved_bytes: ByteSize = Field(
        default=ByteSize(0),
        description="How much of the device's memory models leave to other programs, like 1GiB.",
    )
    device_cache_bytes: ByteSize | None = Field(
        default=None,
        description="How much of the device's memory may hold results for later runs, like 4GiB. "
        "By default a share of what is free.",
    )
    host_cache_bytes: ByteSize | None = Field(
        default=None,
        description="How much of the host's memory may hold results for later runs. By default a "
        "share of what is free.",
    )
    max_batch_rows: Annotated[int, Field(ge=1)] = Field(
        default=32, description="How many rows one forward pass of a diffusion model may have."
    )
    # Pillow decodes no picture beyond the upper limit, whatever is asked of it.
    max_picture_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = Field(
        default=100_000_000,
        description="Pictures of more pixels than this, all frames together, are refused before "
        "they are decoded.",
    )

    listen: str = Field(
        default="127.0.0.1",
        description="The address that the server listens on; several are separated by commas. "
        "127.0.0.1 is this machine only, 0.0.0.0 every network that it is in.",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8188, description="The port that the server listens on; 0 takes any free one."
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(),
        description="Further names under which a server that listens on loopback only may be asked "
        "for, as behind a proxy; separated by commas. Others are refused, since web sites can make "
        "their names lead to this machine.",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="Whether a server that listens beyond this machine answers without any token: "
        "everybody who reaches it may do everything.",
    )
    public_url: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None,
        description="How clients reach the server, for addresses that it gives out, like "
        "https://weft.example. By default as the client that asks did.",
    )
    file_url_seconds: Annotated[int, Field(ge=1)] = Field(
        default=3600,
        description="For how long the address of a picture works, which needs no token.",
    )
    fetch_urls: bool = Field(
        default=False,
        description="Whether pictures may be given as http and https URLs, which the server then "
        "fetches, from public addresses only.",
    )
    fetch_bytes: Annotated[ByteSize, Field(ge=1)] = Field(
        default=ByteSize(32 * 2**20), description="How large a picture that is fetched may be."
    )
    outside_ports: Annotated[tuple[Port, ...], BeforeValidator(_names)] = Field(
        default=(80, 443),
        description="The ports that pictures are fetched from and webhooks sent to.",
    )
    webhook_hosts: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        default=(),
        description="Names or addresses of hosts that webhooks may be sent to though they are not "
        "public, on any port; separated by commas.",
    )

    models: Annotated[Mapping[str, ModelSettings], BeforeValidator(_tables)] = Field(
        default={},
        description="Models by the names that applications use, each with its checkpoint and, if "
        "they are not to be its family's, templates and defaults: tables [models.NAME] in "
        "weft.toml, JSON in the environment. Every checkpoint is a model by its file name anyway.",
    )
    default_model: str | None = Field(
        default=None,
        description="The model of applications that name none. By default the first.",
    )

    output_filter: str | None = Field(
        default=None,
        description="A node class with one input of pictures and one output of them, which may "
        "blank a picture: put in front of whatever applications' requests save.",
    )

    front_end_root: Path | None = Field(
        default=None,
        description="A folder with a web frontend to serve. By default that of the package "
        "comfyui-frontend-package if it is installed, else Weft's own page.",
    )
    preview_method: Literal["none", "auto", "latent2rgb", "taesd"] = Field(
        default="none",
        description="How pictures in the making are shown to clients that do not say; none shows "
        "them only to those that ask. auto takes TAESD where its file is in vae_approx.",
    )
    model_hashes: bool = Field(
        default=False,
        description="Whether saved pictures carry the hashes of the model files that they were "
        "made with, beside the workflow. Each file is read once for that.",
    )
    history_jobs: Annotated[int, Field(ge=0)] = Field(
        default=10_000,
        description="How many jobs that are over the history keeps; pictures are never deleted.",
    )
    history_days: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="For how many days the history keeps them. By default for ever."
    )
    log_format: LogFormat = Field(
        default="text",
        description="How the server writes its log: text for people, json for machines, an object "
        "a line.",
    )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **given: Any) -> "Settings":
        """The settings of ``weft.toml`` and of ``WEFT_…`` variables, which win over it.

        What is ``given`` wins over both. Raises SettingsError, which names everything that is
        unknown or cannot be.
        """
        variables = {PREFIX + name.upper(): name for name in cls.model_fields}
        faults = [
            f"{variable} is no setting{nearest(variable, variables)}"
            for variable in sorted(environ)
            if variable.startswith(PREFIX) and variable not in variables
        ]
        found = {
            name: environ[variable]
            for variable, name in variables.items()
            if environ.get(variable)  # a variable set to nothing is one that is not set
        }
        base = given.get("base_directory") or found.get("base_directory") or Path.cwd()
        file = Path(base) / FILE
        written = read_settings_file(file) if file.is_file() else {}
        for name in written:
            if name not in cls.model_fields:
                faults.append(f"{file}: {name} is no setting{nearest(name, cls.model_fields)}")
            elif name == "base_directory":
                faults.append(f"{file}: base_directory is where this file lies; set it elsewhere")
        written = {name: written[name] for name in cls.model_fields.keys() & written.keys()}
        for name in cls._path_fields() & written.keys():
            written[name] = _below(file.parent, written[name])
        try:
            settings = cls.model_validate({**written, **found, **given})
        except ValidationError as error:
            for fault in error.errors():
                name = str(fault["loc"][0])
                if name in given or name not in cls.model_fields:
                    where = name
                else:
                    where = PREFIX + name.upper() if name in found else f"{file}: {name}"
                faults.append(f"{where}: {fault['msg']}, got {str(fault['input'])!r}")
            raise SettingsError("\n".join(faults)) from error
        if faults:
            raise SettingsError("\n".join(faults))
        return settings

    @classmethod
    def _path_fields(cls) -> set[str]:
        """The settings that are paths, or lists of them."""
        return {name for name, spec in cls.model_fields.items() if _holds_path(spec.annotation)}


def _holds_path(annotation: Any) -> bool:
    return annotation is Path or any(_holds_path(part) for part in get_args(annotation))


def _below(folder: Path, value: Any) -> Any:
    """Paths as the file in this folder means them; what is no path is left to be refused."""
    match value:
        case str():
            return folder / value
        case list():
            return [_below(folder, part) for part in cast("list[Any]", value)]
        case _:
            return value


def read_settings_file(file: Path) -> dict[str, Any]:
    """What a TOML file says. Raises SettingsError if it is none."""
    import tomllib

    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is no TOML: {error}") from error
