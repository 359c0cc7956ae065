"""What the live panel and the notebook's table cost: the share of a run's time, by a clock around every call of theirs.

    python benchmarks/console_cost.py                                  # HalfCheetah-v5, 200,000 steps
    python benchmarks/console_cost.py CartPole-v1 --steps 200000

The panel draws to a real pseudo-terminal of 100 columns, the table in a real kernel. Both draw on the run's own thread,
so that the clock sees all that they take but what terminal and browser do.
"""

import json
import os
import pty
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from health_cost import Clock, ask

import proximo
from proximo.runs.console.progress import Progress
from proximo.runs.storage.metrics import read_metrics


def share(environment: str, steps: int) -> dict[str, float]:
    """The share of a training that showing it takes, where this process shows it."""
    clock = Clock()
    Progress.update = clock.around("shown", Progress.update)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        proximo.train(environment, steps=steps, run=f"{folder}/run", episodes=1, progress="live")
        rows = read_metrics(Path(folder) / "run" / "metrics.jsonl")
    seconds = rows[-1]["time"]
    return {"seconds": round(seconds, 1), "iterations": len(rows), "share": round(clock.seconds["shown"] / seconds, 5)}


def on_a_terminal() -> None:
    """Give this process a terminal for stderr; what is written there is read and dropped."""
    ours, theirs = pty.openpty()
    os.environ.update(COLUMNS="100", TERM="xterm-256color")
    os.environ.pop("CI", None)
    os.dup2(theirs, 2)
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(ours, 65536), b"")], daemon=True).start()


def in_a_terminal(environment: str, steps: int) -> dict[str, float]:
    """Measured with stderr as a terminal."""
    before = os.dup(2)
    on_a_terminal()
    try:
        return share(environment, steps)
    finally:
        os.dup2(before, 2)


def in_a_notebook(environment: str, steps: int) -> dict[str, float]:
    """Measured in a kernel."""
    import nbformat
    from nbclient import NotebookClient

    cell = (
        f"import sys, json; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport console_cost\n"
        f"told = console_cost.share({environment!r}, {steps})\nprint(json.dumps(told))"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    said = "".join(x.text for x in book.cells[0].outputs if x.output_type == "stream" and x.name == "stdout")
    return json.loads(said.strip().splitlines()[-1])


def main() -> None:
    """Train twice and print the shares."""
    asked = ask(__doc__, 200_000)
    print(json.dumps({"notebook": in_a_notebook(asked.environment, asked.steps)}), flush=True)
    print(json.dumps({"terminal": in_a_terminal(asked.environment, asked.steps)}))


if __name__ == "__main__":
    main()
