"""`proximo replay` as text or JSON."""

import json
from pathlib import Path

from proximo.inspection import replay


def show(folder: Path, iteration: int | None, change: str | None, *, as_json: bool) -> int:
    """Print what `replay` finds."""
    found = replay(folder, iteration, change)
    if as_json:
        print(json.dumps({"run": str(folder), **found.describe()}))
        return 0
    from proximo.runs.console.progress import print_table

    print(f"iteration {found.iteration} of {folder} (kept: {', '.join(map(str, found.kept))}): {found.verdict}")
    headings = ["", "as it ran"] + ([f"with {found.change}"] if found.change else [])
    print_table(found.rows(), headings)
    print("\n".join(found.lines))
    return 0
