"""Facts of one run, as the page shows them."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from proximo.runs.health.history import number
from proximo.runs.storage.files import parse_json
from proximo.views.metrics_others import text_of_metric
from proximo.views.metrics_texts import TEXTS
from proximo.views.numbers import clock, short
from proximo.views.seen import Seen

LONGEST = 1000
"""Characters of a sample that a page shows."""


def text_of(name: str) -> dict[str, Any]:
    """Label, unit, sentence and kind of axis of a metric."""
    text = text_of_metric(name)
    if text is None:
        return {"label": name, "unit": "", "sentence": "", "log": False}
    own = text.label if name in TEXTS else name.partition("/")[2]  # of a family, what the user calls it
    return {"label": own, "unit": text.unit, "sentence": text.sentence, "log": text.log}


def column(run: Seen, name: str) -> list[float | None]:
    """A metric, recorded or made from what is: one value for each row."""
    if name == "kl_per_token":
        pairs = zip(run.column("kl"), run.column("response_length"), strict=True)
        return [kl / length if kl is not None and length else None for kl, length in pairs]
    if name == "ended_by_limit":
        pairs = zip(run.column("truncations"), run.column("terminations"), strict=True)
        return [
            cut / (cut + over) if cut is not None and over is not None and cut + over else None for cut, over in pairs
        ]
    return run.column(name)


def band_of(name: str, values: Sequence[float | None]) -> list[float | None] | None:
    """Amber below, amber above, red above; None each where there is no such limit."""
    text = TEXTS.get(name)
    if text is None or text.band is None:
        return None
    band, scale = text.band, 1.0
    if band.share_of_first:
        first = next((x for x in values if x is not None), None)
        if first is None or first <= 0:  # a differential entropy may be negative: then no share of it is a limit
            return None
        scale = first
    return [limit * scale if isfinite(limit) else None for limit in (band.low, band.high, band.red)]


HEADLINE = {
    "state": "Running: a process writes to it now; finished: it has done all its steps, or its own rule or "
    "callback ended it; failed: an error ended it; "
    "stopped: it was stopped or killed, and can be resumed; empty: no iteration has ended yet.",
    "environment steps": "Steps of the environment that training has done so far, all copies and agents together.",
    "responses": "Responses that the policy has written in training so far.",
    "gradient steps": "Steps that the optimiser has done so far.",
    "iterations": "How often the metrics were recorded: of PPO once for each round of collecting and learning.",
    "time": "Wall time of the training so far, all of its sessions together.",
    "speed": "What training has done so far divided by its wall time.",
    "final policy": "Return of the last policy in the evaluation at the end, where it takes its most probable actions: "
    "mean ± standard deviation over the episodes.",
    "best checkpoint": "The same of the checkpoint that did best in training, or of the last policy where that is "
    "better in these episodes.",
    "held-out accuracy": "Share of pairs that training has not seen in which the model scores the better response "
    "higher: with its standard error. That of the curve is of the pairs that are being learnt.",
    "held-out loss": "Mean loss per token, in nats, of texts that training has not seen: before it and after it.",
}
"""A sentence for each headline that is no metric, by its label."""
_FACT = "fact/"


def texts_of_headlines() -> dict[str, dict[str, Any]]:
    """What the page says of them, by the names that `headline` gives."""
    return {
        _FACT + label: {"label": label, "unit": "", "sentence": sentence, "log": False}
        for label, sentence in HEADLINE.items()
    }


def headline(run: Seen) -> list[list[str]]:
    """`[label, text, name of its sentence]` of the numbers that a reader asks for first."""
    rows, last = run.rows, run.rows[-1] if run.rows else {}
    steps, seconds = number(last.get("step")), number(last.get("time"))
    facts = [_fact("state", f"{run.state}: {run.error}" if run.error else run.state), _fact(run.unit, short(steps))]
    facts.append(_fact("iterations", short(len(rows))))
    if seconds:
        facts.append(_fact("time", clock(seconds)))
        facts.append(_fact("speed", f"{short((steps or 0) / seconds)} {run.unit.split()[-1]} / s"))
    if run.result:
        values = [x for x in run.column(run.result) if x is not None]
        label = TEXTS[run.result].label
        facts.append([f"{label}, last", short(values[-1]), run.result])
        facts.append(
            [f"{label}, best", short((min if TEXTS[run.result].better == "lower" else max)(values)), run.result]
        )
    for name, label in (("final_deterministic", "final policy"), ("best_checkpoint", "best checkpoint")):
        if (value := number(run.results.get(name))) is not None:
            spread = number(run.results.get(f"{name}_std"))
            facts.append(_fact(label, short(value) + (f" ± {short(spread)}" if spread is not None else "")))
    facts += _held_out(run.results)
    for name in ("judge", "kl"):
        values = _over_all(run, name)
        if values:
            way = f"{short(values[0])} to {short(values[-1])}" if len(values) > 1 else short(values[0])
            facts.append([TEXTS[name].label, way, name])
    return facts


def _held_out(results: Mapping[str, Any]) -> list[list[str]]:
    """What a reward model, or supervised fine-tuning, came to on data that was kept apart."""
    facts = []
    accuracy, error = number(results.get("accuracy")), number(results.get("accuracy_se"))
    if accuracy is not None and error is not None:
        pairs = f", {results['pairs']:,} pairs" if number(results.get("pairs")) else ""
        facts.append(_fact("held-out accuracy", f"{short(accuracy)} ± {short(error)}{pairs}"))
    losses = [number(results.get(f"validation_loss{end}")) for end in ("_before", "")]
    if known := [short(x) for x in losses if x is not None]:
        facts.append(_fact("held-out loss", " to ".join(known)))
    return facts


def _over_all(run: Seen, name: str) -> list[float]:
    """A metric over the whole run; a judge has looked before the first iteration too, and after the last."""
    ends = [number(run.results.get(f"{name}_{end}")) for end in ("first", "last")]
    known = [x for x in ends if x is not None]
    return known if len(known) == len(ends) else [x for x in run.column(name) if x is not None]


def _fact(label: str, text: str) -> list[str]:
    return [label, text, _FACT + label]


def phases(run: Seen) -> dict[str, float]:
    """Seconds of each phase, all iterations together."""
    totals: dict[str, float] = {}
    for row in run.rows:
        for name, value in row.items():
            if name.startswith("seconds/") and (seconds := number(value)) is not None:
                phase = name.removeprefix("seconds/")
                totals[phase] = totals.get(phase, 0.0) + seconds
    return {name: float(f"{value:.4g}") for name, value in totals.items() if value > 0}


def samples(run: Seen, most: int) -> list[dict[str, Any]]:
    """At most so many of a language run's texts, from all over it: `step`, `prompt`, `response`, `score`."""
    try:
        lines = (run.folder / "samples.jsonl").read_bytes().split(b"\n")
    except OSError:
        return []
    lines = [line for line in lines[:-1] if line]
    count = min(most, len(lines))
    chosen = [lines[i * (len(lines) - 1) // max(1, count - 1)] for i in range(count)]
    found = []
    for line in chosen:
        try:
            row = parse_json(line)
            text = {name: str(row[name])[:LONGEST] for name in ("prompt", "response")}
            found.append({"step": int(row["responses"]), **text, "score": short(number(row.get("score")))})
        except (ValueError, TypeError, KeyError):  # torn by a kill
            continue
    return found
