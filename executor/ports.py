"""The types that travel along links, with their shapes, ranges and units; said here once.

Light: nothing here imports torch. A port is known to pydantic, to the graph checker and to the wire
by its ``Port`` marker; to the type checker it is the class that it really is.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from torch import Tensor

    from executor.patches import Patch
    from executor.steps import ControlInput, Inputs
else:  # torch is imported by whoever runs a node, never by whoever declares one
    Tensor = Any


@dataclass(frozen=True, slots=True)
class Port:
    """A kind of value that links carry: its name on the wire, and how a value of it is told."""

    wire: str
    about: str
    ndim: int | None = None  # a tensor of so many dimensions
    has: str | None = None  # or a value with this attribute

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def check(self, value: Any) -> Any:
        """The value itself, if it is of this kind."""
        if self.ndim is not None and getattr(value, "ndim", None) != self.ndim:
            shape = getattr(value, "shape", None)
            got = f"a tensor of shape {tuple(shape)}" if shape is not None else type(value).__name__
            raise PydanticCustomError(
                "port",
                "{wire} is {about}; got {got}",
                {"wire": self.wire, "about": self.about, "got": got},
            )
        if self.has is not None and not hasattr(value, self.has):
            got = type(value).__name__
            raise PydanticCustomError(
                "port",
                "{wire} is {about}; got {got}",
                {"wire": self.wire, "about": self.about, "got": got},
            )
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """Pictures as the VAE encodes them.

    ``samples`` are in the VAE's own, unscaled space. ``noise_mask`` says where a sampler may change
    them (1: free, 0: kept), at any resolution. ``batch_index`` gives the place of each row in the
    batch that its noise is drawn for, so that one picture of a batch can be made again alone.
    """

    samples: Tensor  # (B, C, H/8, W/8)
    noise_mask: Tensor | None = None  # (B or 1, H, W), in [0, 1]
    batch_index: tuple[int, ...] | None = None

    port: ClassVar[Port] = Port("LATENT", "a batch of latents (B, C, H/8, W/8)", has="samples")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return cls.port.__get_pydantic_core_schema__(source, handler)


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of the latent, in latent pixels (1 for 8 of the picture)."""

    height: int
    width: int
    y: int
    x: int


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What SDXL is told of the picture to make, in pixels (Podell et al. 2023, §2.2)."""

    height: int  # before it was cropped and scaled for training
    width: int
    crop_y: int = 0
    crop_x: int = 0
    target_height: int | None = None  # None: as high as it was
    target_width: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Control:
    """A picture that steers a prompt through a network beside the U-Net, and when it does."""

    network: "ControlNetwork"
    picture: Tensor  # (B, H, W, 3) in [0, 1]
    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Phrase:
    """What is to be seen in a rectangle of the picture."""

    pooled: Tensor  # (1, P): the text encoder's pooled output
    area: Area


@dataclass(frozen=True, slots=True, eq=False)
class Grounding:
    """Phrases that a network beside the U-Net puts at their places."""

    network: "GroundingNetwork"
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPicture:
    """Pictures as a CLIP vision model understands them."""

    embeds: Tensor  # (B, P): what is in them
    last: Tensor  # (B, N, D): states after its last layer,
    penultimate: Tensor  # (B, N, D): and before it


@dataclass(frozen=True, slots=True)
class PicturePrompt:
    """Encoded pictures that say what is to be seen, as a text does."""

    picture: EncodedPicture
    strength: float = 1.0
    noise_augmentation: float = 0.0  # how far it need not be kept to: 0 closely, 1 not at all


@dataclass(frozen=True, slots=True, eq=False)
class Cond:
    """One encoded prompt, where and when in the picture it holds, and what comes with it."""

    tokens: Tensor  # (B, T, D)
    pooled: Tensor | None = None  # (B, P): the text encoder's pooled output
    area: Area | None = None  # None: everywhere
    strength: float = 1.0  # weight beside the others that hold at the same place
    mask: Tensor | None = None  # (B or 1, H, W) in [0, 1]
    mask_strength: float = 1.0
    is_cropped_to_mask: bool = False  # evaluate only the mask's bounding box
    start_percent: float = 0.0  # of the sampling, 0 = all noise
    end_percent: float = 1.0
    size: PictureSize | None = None  # None: that of the picture being made
    aesthetic_score: float | None = None  # what the SDXL refiner is told; None: its usual ones
    concat: Tensor | None = None  # (B, C, H/8, W/8), unscaled: seen beside the noisy latent
    concat_mask: Tensor | None = None  # (B, H, W): which part of ``concat`` is to be painted
    controls: tuple[Control, ...] = ()
    shares_controls: bool = False  # with the negative prompt, unless that has some of its own
    grounding: Grounding | None = None
    pictures: tuple[PicturePrompt, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """The latent that sampling starts from, as far as a model's further inputs depend on it."""

    clean: Tensor  # (B, C, h, w), without noise, in the model's scaled latent space
    mask: Tensor | None = None  # (B, 1, h, w): where sampling may change it
    seed: int = 0  # of the noise, from which other noise follows (unCLIP's)


Prediction: TypeAlias = Literal["epsilon", "v", "x0", "lcm", "edm"]
"""What a network's output is: the noise; Salimans & Ho's v; the picture; the noise, with a
consistency model's boundary (Luo et al. 2023); Karras et al.'s F (2022, eq. 7)."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a network was trained to predict, and at which noise."""

    prediction: Prediction = "epsilon"
    has_zero_terminal_snr: bool = False  # the last timestep is all noise (Lin et al. 2023)
    sigmas: tuple[float, float] | None = None  # least and largest, all between; None: 1,000 steps


class NoiseSchedule(Protocol):
    """How much noise there is at each training timestep of a model."""

    @property
    def sigmas(self) -> Tensor:
        """Rising, float32: (1000,) but for distilled models."""
        ...

    @property
    def sigma_min(self) -> float: ...
    @property
    def sigma_max(self) -> float: ...
    def timestep(self, sigma: Tensor) -> Tensor:
        """The training timestep of each sigma, float32, the same shape."""
        ...

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma at a fractional timestep, interpolated in log sigma."""
        ...

    def percent_to_sigma(self, percent: float) -> float:
        """Sigma when so much (0…1) of the sampling is done."""
        ...


class DiffusionModel(Protocol):
    """A denoising network with its patches, ready to be evaluated."""

    @property
    def key(self) -> Hashable:
        """Equal for equal weights and patches: their evaluations can share a forward pass."""
        ...

    @property
    def schedule(self) -> NoiseSchedule: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def latent_scale(self) -> float:
        """What unscaled latents are multiplied with for this model (0.18215 for SD 1.x)."""
        ...

    @property
    def device(self) -> Any: ...
    @property
    def patches(self) -> "tuple[Patch, ...]":
        """What it does otherwise than its network alone would."""
        ...

    def patched(self, patch: "Patch") -> "DiffusionModel":
        """The same with one patch more; of its key only if that acts inside the network."""
        ...

    def with_objective(self, objective: Objective) -> "DiffusionModel":
        """The same network, taken to have been trained otherwise; its key is another."""
        ...

    def inputs(self, cond: Cond, canvas: Canvas, *, is_negative: bool) -> "Inputs":
        """What the network is given for a prompt, one row for each of the canvas; no controls.

        Raises InputError for a prompt that another model's text encoder has encoded.
        """
        ...

    def denoise(self, x: Tensor, sigma: Tensor, inputs: "Inputs") -> Tensor:
        """The denoised latent for each row of ``x`` (B, C, h, w) at its own ``sigma`` (B,)."""
        ...


class ControlNetwork(Protocol):
    """A network that reads a picture and steers a U-Net: a ControlNet or a T2I-Adapter."""

    @property
    def key(self) -> Hashable:
        """Equal for equal weights."""
        ...

    def fitted(self, model: DiffusionModel) -> "ControlNetwork":
        """The network as it steers this model. Raises InputError if it is made for another."""
        ...

    def hints(self, picture: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """A picture (B, H, W, C) as the network uses it for a latent of this size, each (B, …).

        Computed once for a whole sampling. Raises InputError for a picture that it cannot read.
        """
        ...

    def residuals(
        self, seen: Tensor, timesteps: Tensor, inputs: "Inputs", control: "ControlInput"
    ) -> "Residuals":
        """What the U-Net adds to its own, for rows ``seen`` (B, C, h, w) at ``timesteps`` (B,)."""
        ...


class GroundingNetwork(Protocol):
    """Layers that let a U-Net put phrases at places of the picture: GLIGEN."""

    @property
    def key(self) -> Hashable:
        """Equal for equal weights."""
        ...

    def check(self, model: DiffusionModel) -> None:
        """Raises InputError for a model that the layers are not made for."""
        ...

    def objects(self, phrases: Sequence[Phrase], height: int, width: int) -> Tensor:
        """The phrases at their places in a latent of this size, as the layers see them (1, N, D).

        N is always the same. Raises InputError if there are more phrases than that.
        """
        ...

    def fused(self, network: Any) -> AbstractContextManager[None]:
        """While this holds, a U-Net has the layers, and takes ``objects`` for them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What is added to a U-Net's skip connections, to its middle and on its way down."""

    skips: Sequence[Tensor] = ()  # (B, C, h, w), one for each skip connection, from the first
    middle: Tensor | None = None
    # (B, C, h, w), behind the input blocks of these numbers in the original layout: T2I-Adapters
    features: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])


class TextEncoder(Protocol):
    """Turns prompts into conditionings."""

    def encode(self, text: str) -> "Conditioning":
        """Read weights ``(word:1.2)`` and ``embedding:name``, and encode in chunks of 75 tokens."""
        ...

    def encode_parts(self, text_l: str, text_g: str) -> "Conditioning":
        """A prompt for each of SDXL's two encoders. Raises InputError for any other's."""
        ...

    def with_last_layer(self, layer: int) -> "TextEncoder":
        """The same encoder, stopping at an earlier hidden layer (-1 is the last)."""
        ...


class VisionEncoder(Protocol):
    """A CLIP vision model."""

    def encode_pictures(self, pixels: Tensor, *, is_cropped: bool = True) -> EncodedPicture:
        """Pictures (B, H, W, C) in [0, 1], cut to a square or squeezed into one."""
        ...


class StyleReader(Protocol):
    """A network that makes tokens of a prompt of a picture's style."""

    def style_tokens(self, picture: EncodedPicture) -> Tensor:
        """The tokens (1, N, D) of encoded pictures, one after the other.

        Raises InputError for pictures that another vision model has encoded.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tiling:
    """Squares in which a picture is encoded or decoded, where the whole is too large; in pixels."""

    size: int
    overlap: int  # of neighbours, which fade into one another there


class Autoencoder(Protocol):
    """Turns pictures into latents and back."""

    def encode(self, pixels: Tensor, tiling: Tiling | None = None) -> Tensor:
        """(B, H, W, C) in [0, 1] → unscaled latents (B, C, H/8, W/8): the mode of the posterior."""
        ...

    def decode(self, samples: Tensor, tiling: Tiling | None = None) -> Tensor:
        """Unscaled latents (B, C, h, w) → (B, 8h, 8w, 3) in [0, 1]."""
        ...


class Upscaler(Protocol):
    """A network that makes pictures larger, or better."""

    def upscale(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) in [0, 1] → (B, s · H, s · W, 3) in [0, 1], for the network's factor s."""
        ...


Image: TypeAlias = Annotated[
    Tensor, Port("IMAGE", "a batch of pictures (B, H, W, C), float32 in [0, 1]", ndim=4)
]
Mask: TypeAlias = Annotated[
    Tensor, Port("MASK", "a batch of masks (B, H, W), float32 in [0, 1]", ndim=3)
]
Conditioning: TypeAlias = Annotated[
    Sequence[Cond], Port("CONDITIONING", "encoded prompts, a tuple of Cond", has="__iter__")
]
Model: TypeAlias = Annotated[DiffusionModel, Port("MODEL", "a diffusion model", has="denoise")]
Clip: TypeAlias = Annotated[TextEncoder, Port("CLIP", "a text encoder", has="encode")]
Vae: TypeAlias = Annotated[Autoencoder, Port("VAE", "an autoencoder", has="decode")]
UpscaleModel: TypeAlias = Annotated[
    Upscaler, Port("UPSCALE_MODEL", "a network that makes pictures larger", has="upscale")
]
ControlNet: TypeAlias = Annotated[
    ControlNetwork, Port("CONTROL_NET", "a ControlNet or a T2I-Adapter", has="residuals")
]
ClipVision: TypeAlias = Annotated[
    VisionEncoder, Port("CLIP_VISION", "a CLIP vision model", has="encode_pictures")
]
ClipVisionOutput: TypeAlias = Annotated[
    EncodedPicture, Port("CLIP_VISION_OUTPUT", "encoded pictures", has="embeds")
]
StyleModel: TypeAlias = Annotated[
    StyleReader, Port("STYLE_MODEL", "a style adapter", has="style_tokens")
]
Gligen: TypeAlias = Annotated[GroundingNetwork, Port("GLIGEN", "a GLIGEN network", has="objects")]


@dataclass(frozen=True, slots=True)
class Widget:
    """How an editor shows an input, where its type does not say it; ComfyUI's option names."""

    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FileChoice:
    """Marks a text input as the name of a file in a named folder (``checkpoints``, ``input`` …)."""

    folder: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


Seed: TypeAlias = Annotated[
    int, Field(ge=0, le=2**64 - 1), Widget({"control_after_generate": True})
]
Text: TypeAlias = Annotated[str, Widget({"multiline": True, "dynamicPrompts": True})]
