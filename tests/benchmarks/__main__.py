"""Run the benchmarks: all of them, or those named. See ``--help``."""

import argparse
from collections.abc import Callable, Mapping

from . import graphs, ledger, models, pictures, server

BENCHMARKS: Mapping[str, Callable[[], None]] = {
    "graphs": graphs.main,
    "ledger": ledger.main,
    "server": server.main,
    "loading": models.loading,
    "unet": models.unet,
    "pictures": pictures.main,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    names = parser.parse_args().names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()


main()
