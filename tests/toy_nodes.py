"""Nodes of no use but to test the machine that runs them."""

from typing import Annotated, BinaryIO, Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor

from executor import (
    Conditioning,
    Context,
    Eval,
    FileChoice,
    Image,
    InputError,
    Inputs,
    Latent,
    Model,
    Node,
    Seed,
    Steps,
)
from executor.ports import Canvas, Cond, DiffusionModel
from executor.sampling.guidance import repeated

CALLS: list[str] = []
"""The names of the nodes that ran; tests clear it."""


class ToyNumber(Node, category="testing"):
    """A constant."""

    value: int = 0

    def run(self, ctx: Context) -> int:
        CALLS.append(f"number {self.value}")
        return self.value


class ToyAdd(Node, category="testing"):
    """The sum of two numbers."""

    a: int
    b: int = 0

    def run(self, ctx: Context) -> int:
        CALLS.append("add")
        return self.a + self.b


class Divided(NamedTuple):
    quotient: int
    rest: int


class ToyDivide(Node, category="testing"):
    """Quotient and rest."""

    a: int
    by: Annotated[int, Field(ge=1)] = 1

    def run(self, ctx: Context) -> Divided:
        return Divided(*divmod(self.a, self.by))


class ToySink(Node, category="testing", is_output=True):
    """Keep a number as a text file."""

    value: float
    name: str = "toy"

    def run(self, ctx: Context) -> None:
        CALLS.append("sink")

        def write(file: BinaryIO) -> None:
            file.write(str(self.value).encode())

        ctx.save(self.name, ".txt", write)


class ToyMany(Node, category="testing"):
    """One input of each kind."""

    image: Image
    latent: Latent
    positive: Conditioning
    seed: Seed = 0
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    mode: Literal["soft", "hard"] = "soft"
    text: str = ""
    is_on: bool = True
    file: Annotated[str, FileChoice("input")] = "scene.png"

    def run(self, ctx: Context) -> Image:
        return self.image


class ToyFail(Node, category="testing"):
    """Fail."""

    a: int = 0

    def run(self, ctx: Context) -> int:
        raise InputError("it had to be")


class ToyFile(Node, category="testing"):
    """The size of a file."""

    file: Annotated[str, FileChoice("input")] = "scene.png"

    def run(self, ctx: Context) -> int:
        return ctx.find("input", self.file).stat().st_size


class ToyLiar(Node, category="testing"):
    """Return something else than it says."""

    def run(self, ctx: Context) -> int:
        return None  # pyright: ignore[reportReturnType]


class ToyModel:
    """A model of Gaussian data: denoised = gain · x / (1 + sigma²) + a tenth of its mean token."""

    latent_channels, latent_scale, device = 4, 1.0, "cpu"
    patches = ()

    def __init__(self, name: str, gain: float = 0.7) -> None:
        self.key, self.gain = name, gain
        self.calls: list[int] = []
        """The rows of each forward pass."""

    def inputs(self, cond: Cond, canvas: Canvas, *, is_negative: bool) -> Inputs:
        return Inputs(repeated(cond.tokens, len(canvas.clean)))

    def denoise(self, x: Tensor, sigma: Tensor, inputs: Inputs) -> Tensor:
        self.calls.append(len(x))
        if self.key == "broken" and len(x) > 1:
            raise RuntimeError("more than one row")
        tokens = inputs.tokens.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return self.gain * x / (1 + sigma.view(-1, 1, 1, 1) ** 2) + tokens / 10


MODELS: dict[str, ToyModel] = {}
"""The models that tests look into, by name."""


class ToyLoad(Node, category="testing"):
    """A model."""

    name: str = "m"

    def run(self, ctx: Context) -> Model:
        return cast(DiffusionModel, MODELS.setdefault(self.name, ToyModel(self.name)))


class ToySample(Node, category="testing"):
    """Euler steps from sigma 10 to 0, one row."""

    model: Model
    seed: Seed = 0
    steps: Annotated[int, Field(ge=1)] = 4
    size: int = 2
    start: Latent | None = None

    def run(self, ctx: Context) -> Steps[Latent]:
        noise = torch.Generator().manual_seed(self.seed)
        x = 10 * torch.randn(1, 4, self.size, self.size, generator=noise)
        if self.start is not None:
            x = x + self.start.samples
        sigmas = torch.linspace(10, 0, self.steps + 1)
        inputs = Inputs(tokens=torch.full((1, 3, 2), float(self.seed % 7)))
        for step in range(self.steps):
            sigma, sigma_next = sigmas[step], sigmas[step + 1]
            denoised = yield Eval(self.model, x, sigma[None], inputs, step, self.steps)
            x = x + (x - denoised) / sigma * (sigma_next - sigma)
        return Latent(x)


class ToyMean(Node, category="testing"):
    """The mean of a latent."""

    latent: Latent

    def run(self, ctx: Context) -> float:
        return float(self.latent.samples.mean())


KEPT: dict[str, Tensor] = {}
"""What ``ToyKeep`` was given, by name."""


class ToyKeep(Node, category="testing", is_output=True):
    """Show a latent to the test."""

    samples: Latent
    name: str = "kept"

    def run(self, ctx: Context) -> None:
        KEPT[self.name] = self.samples.samples.clone()
