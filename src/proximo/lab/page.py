"""A page for each experiment: the figure, what it means, and every number beside its command."""

from collections.abc import Sequence
from pathlib import Path

from proximo.errors import UserError
from proximo.lab.experiment import Experiment, Judged, Row, Text


def write(experiment: Experiment, rows: Sequence[Row], judged: Sequence[Judged], folder: Path, about: str) -> Path:
    """Write NAME.md and NAME.svg.

    Args:
        experiment: that was run.
        rows: what it measured.
        judged: its claims.
        folder: where the page goes.
        about: command, machine and time, one sentence.

    Raises:
        UserError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = folder / f"{experiment.name}.svg"
    _draw(experiment, rows, figure)
    told = Text.of(experiment.name)
    text = "\n\n".join(
        [
            f"# {told.question}",
            f"![{told.question}]({figure.name})",
            told.meaning,
            "## Measured",
            f"**Expected.** {told.expected}",
            f"**Protocol.** {told.protocol}",
            experiment.shown(judged),
            about,
        ]
    )
    page = folder / f"{experiment.name}.md"
    page.write_text(text + "\n")
    return page


def _draw(experiment: Experiment, rows: Sequence[Row], file: Path) -> None:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("figures need matplotlib: `pip install '.[lab]'` in a clone of Proximo") from error
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    axes = figure.subplots()
    experiment.draw(axes, rows)
    axes.spines[["top", "right"]].set_visible(False)
    # Without a date, and with one salt for all names: the same rows give the same file.
    with mpl.rc_context({"svg.hashsalt": experiment.name, "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None})
