"""What every benchmark needs: the best of several timings, and a table to show them in."""

import sys
from collections.abc import Callable, Sequence
from time import process_time


def best_of(times: int, run: Callable[[], object]) -> float:
    """The least CPU seconds that ``run`` took, which other programs hardly disturb."""
    seconds: list[float] = []
    for _ in range(times):
        began = process_time()
        run()
        seconds.append(process_time() - began)
    return min(seconds)


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    cells = [list(map(str, heads)), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.write(f"\n{title}\n\n" + "\n".join(lines) + "\n")
    sys.stdout.flush()
