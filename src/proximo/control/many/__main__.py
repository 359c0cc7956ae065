"""A process that trains for another one, which has started it."""

import json
import os
import signal
import sys
import threading
from typing import Any

from proximo.control.many.asking import answer
from proximo.runs.console.streams import outlive_readers


def main() -> int:
    """Train as the first line of standard input says, and tell what came of it; 2 where the user has something to mend.

    Standard output belongs to the answer alone: whatever else is printed goes where messages go.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    outlive_readers()
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    came = answer(asked)
    answers.write(json.dumps(came))
    answers.close()
    return 2 if "error" in came else 0


def _stop_without_parent() -> None:
    """Stop as upon SIGTERM once the process that began this one is gone, and its end of the pipe with it."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
