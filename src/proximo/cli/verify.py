"""`proximo verify-resume` as text or JSON."""

import json
from pathlib import Path

from proximo.inspection import verify_resume


def verify(folder: Path, iterations: int | None, *, as_json: bool) -> int:
    """Print what `verify_resume` finds; 0, or 1 where the run does not resume exactly."""
    result = verify_resume(folder, iterations)
    print(json.dumps({"run": str(folder), **result.describe()}) if as_json else "\n".join(result.lines))
    return 0 if result.exact else 1
