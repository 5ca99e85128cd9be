"""``import weft``, and the command ``weft``: in an installation this file is ``weft/__init__.py``.

PyPI has packages named ``executor`` and ``nodes``, so an installation puts nothing but the folder
``weft`` into site-packages. That folder, or the clone that an editable installation belongs to,
holds ``executor``, ``nodes`` and the rest; importing this puts it first on the path. Light: what is
asked for is imported when it is asked for.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor import *  # noqa: F403  (the names are executor's own promise)


def _home() -> Path:
    """The folder that holds ``executor`` and ``nodes``."""
    here = Path(__file__).resolve().parent
    if (here / "executor").is_dir():
        return here
    for entry in sys.path:  # an editable installation has put its clone there
        if Path(entry, "executor", "launcher.py").is_file():
            return Path(entry).resolve()
    raise ImportError(
        "the clone that was installed with `pip install -e` is gone; run that again in a clone"
    )


HOME = _home()
sys.path[:] = [str(HOME), *(entry for entry in sys.path if entry != str(HOME))]


def main() -> int:
    """Run the command line; answers its exit code."""
    from executor.__main__ import main

    return main()


def __getattr__(name: str) -> Any:
    """Whatever ``executor`` promises."""
    import executor

    return getattr(executor, name)


def __dir__() -> list[str]:
    import executor

    return sorted({*globals(), *executor.__all__})
