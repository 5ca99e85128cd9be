"""The arguments of ``weft serve`` and ``server.py``, by ComfyUI's names where it has them.

An argument is a setting; what is not given is left to the environment and to ``weft.toml``. Scripts
written for ComfyUI carry over: what only it needs is taken and passed over.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor.settings import Settings

PASSED_OVER = (
    *("--auto-launch", "--disable-auto-launch", "--windows-standalone-build"),
    *("--dont-print-server", "--multi-user", "--enable-manager", "--log-stdout"),
    *("--gpu-only", "--highvram", "--normalvram"),
    *("--disable-smart-memory", "--fast", "--use-pytorch-cross-attention"),
)
"""ComfyUI's own: how it opens browsers, and how it manages memory, which Weft decides itself.

Models stay on a GPU anyway until others need their room.
"""

LOW_MEMORY = "2GiB"
"""What models may take with ``--lowvram``: it leaves the rest of a small GPU to pictures."""


def add_serve_arguments(parser: ArgumentParser) -> None:
    """Let a parser take them; each has the name of its setting."""
    add = parser.add_argument_group("where").add_argument
    add(
        "--listen",
        metavar="ADDRESS",
        nargs="?",
        const="0.0.0.0,::",
        help="where to listen, several separated by commas: by default on 127.0.0.1, for this "
        "machine only; without an ADDRESS, on all networks",
    )
    add("--port", metavar="PORT", help="by default 8188; 0 takes any free one")
    add(
        "--allow-anonymous",
        action="store_const",
        const=True,
        help="answer on networks without any token: everybody there may do everything",
    )
    add = parser.add_argument_group("files").add_argument
    add(
        "--base-directory",
        metavar="DIR",
        type=Path,
        help="what holds models, input, output, temp, custom_nodes, user, and weft.toml; by "
        "default the current directory",
    )
    for place in ("input", "output", "temp", "user"):
        add(f"--{place}-directory", metavar="DIR", type=Path, help=f"in place of DIR/{place}")
    add(
        "--extra-model-paths-config",
        dest="extra_model_paths",
        metavar="FILE",
        nargs="+",
        action="extend",
        type=Path,
        help="files that say where further models are, like extra_model_paths.yaml",
    )
    add(
        "--front-end-root",
        metavar="DIR",
        type=Path,
        help="a web frontend to serve, in place of the installed one",
    )
    add(
        "--disable-all-custom-nodes",
        dest="custom_nodes",
        action="store_const",
        const=False,
        help="load no packs of nodes",
    )
    add = parser.add_argument_group("devices").add_argument
    add("--cpu", dest="device", action="store_const", const="cpu", help="compute on the CPU")
    add(
        "--cuda-device",
        dest="device",
        metavar="N",
        type="cuda:{}".format,
        help="compute on this GPU only",
    )
    for names, dtype in (
        (("--force-fp32", "--fp32-unet"), "float32"),
        (("--force-fp16", "--fp16-unet"), "float16"),
        (("--bf16-unet",), "bfloat16"),
    ):
        about = f"compute diffusion models in {dtype}"
        add(*names, dest="dtype", action="store_const", const=dtype, help=about)
    add(
        "--model-bytes",
        metavar="SIZE",
        help="how much of a GPU's memory models may take, like 6GiB; a larger model is computed "
        "part by part; by default what is free",
    )
    for name, most in (("--lowvram", LOW_MEMORY), ("--novram", "0")):
        about = f"the same as --model-bytes {most}"
        add(name, dest="model_bytes", action="store_const", const=most, help=about)
    add(
        "--reserve-vram",
        dest="reserved_bytes",
        metavar="GB",
        type="{}GiB".format,
        help="how much of a GPU's memory to leave to other programs",
    )
    add(
        "--preview-method",
        metavar="METHOD",
        help="none, auto, latent2rgb or taesd: how to show pictures in the making to clients that "
        "do not say; by default none",
    )
    add(
        "--log-format",
        metavar="FORMAT",
        help="text or json: how to write the log, to stderr; by default text",
    )
    for name in PASSED_OVER:
        add(name, dest="passed_over", action="append_const", const=name, help=SUPPRESS)


def settings_of(arguments: Namespace) -> "Settings":
    """The settings that the arguments, the environment and ``weft.toml`` make.

    Raises SettingsError, which names everything that cannot be.
    """
    from executor.settings import Settings

    given: dict[str, Any] = {
        name: value
        for name, value in vars(arguments).items()
        if name in Settings.model_fields and value is not None
    }
    return Settings.from_environment(**given)
