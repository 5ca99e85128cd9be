"""Run the benchmarks: all of them, or those named. See ``--help``."""

import argparse
from collections.abc import Callable, Mapping

from . import faces, graphs, ledger, loras, models, pictures, server

BENCHMARKS: Mapping[str, Callable[[], None]] = {
    "graphs": graphs.main,
    "ledger": ledger.main,
    "server": server.main,
    "faces": faces.main,
    "loading": models.loading,
    "loras": loras.main,
    "unet": models.unet,
    "pictures": pictures.main,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--against", metavar="URL", help="measure another server of the protocol beside this one"
    )
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if arguments.against and "server" not in names:
        parser.error("--against belongs to the benchmark server")
    for name in names:
        if name == "server":
            server.main(arguments.against)
        else:
            BENCHMARKS[name]()


main()
