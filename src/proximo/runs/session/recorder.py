"""Record of an iteration's numbers: judged, written and shown, the same in both worlds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proximo.runs.console.progress import Progress
from proximo.runs.health import TruthMeter, verdict_on_error
from proximo.runs.storage.metrics import MetricsWriter, read_metrics


@dataclass
class Recorder:
    """Metrics file, console and truth meter of one run; what the file holds already is recalled."""

    metrics: MetricsWriter
    progress: Progress
    meter: TruthMeter = field(default_factory=TruthMeter)

    def __post_init__(self) -> None:
        """A resumed run's verdicts are those of one that never stopped."""
        self.meter.recall(read_metrics(self.metrics.path))

    def iteration(self, step: int, values: Mapping[str, Any], own: Sequence[str] = ()) -> dict[str, Any]:
        """Record one iteration; wall times are under `seconds/PHASE`.

        Args:
            step: at its end.
            values: what was measured, by name.
            own: names of these that are shown too: of callbacks, and of an algorithm of the user's own.

        Returns:
            The row that was written, without its time.
        """
        verdict = self.meter.judge({"step": step, **values})
        row = {**values, **verdict.row}
        self.metrics.write(step, row)
        self.progress.show_also(own)
        phases = {name.removeprefix("seconds/"): x for name, x in values.items() if name.startswith("seconds/")}
        self.progress.update(step, {**values, "verdict": verdict.line}, phases)
        for sentence in self.meter.news(verdict):
            self.progress.message(sentence)
        return {"step": step, **row}

    def failure(self, step: int, error: Exception) -> None:
        """Record the error that ends a run: a last row that holds nothing but the verdict."""
        self.metrics.write(step, {**verdict_on_error(error).row, "error": str(error)})
