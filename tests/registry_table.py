"""The README's table of what Weft has, made from the registries themselves.

``python -m tests.registry_table`` writes it into the README; ``test_readme`` holds it to be true.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import nodes
from executor.models.families import FAMILIES
from executor.node import Node

README = Path(__file__).parents[1] / "README.md"
HEAD = "## What it has\n"
WORDS = """
`python -m tests.registry_table` writes this section; `python -m pytest tests/test_readme.py` fails
where it is not what the code has.
"""


def section() -> str:
    """The section, from its heading on."""
    from executor.sampling.samplers import SAMPLERS
    from executor.sampling.schedules import SCHEDULERS

    rows = [
        ("families", _listed(family.title for family in FAMILIES if family.is_supported)),
        ("samplers", _listed(f"`{name}`" for name in SAMPLERS)),
        ("schedules", _listed(f"`{name}`" for name in SCHEDULERS)),
        *((f"nodes: {category}", _listed(names)) for category, names in _nodes()),
    ]
    return f"{HEAD}{WORDS}\n" + _table(("what", "which"), rows)


def _nodes() -> Iterable[tuple[str, Sequence[str]]]:
    """The names of all classes by the first word of their category, further names in brackets."""
    found: dict[str, list[str]] = defaultdict(list)
    own = {cls for cls in Node.registry.values() if cls.__module__.startswith(nodes.__name__ + ".")}
    for cls in sorted(own, key=lambda cls: cls.__name__):
        also = f" ({', '.join(f'`{name}`' for name in cls.aliases)})" if cls.aliases else ""
        found[cls.category.split("/")[0]].append(f"`{cls.__name__}`{also}")
    return sorted(found.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(readme: str) -> str:
    """The README with the section as it should be."""
    start = readme.index(HEAD)
    end = readme.index("\n## ", start) + 1
    return f"{readme[:start]}{section()}\n{readme[end:]}"


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
