"""How far the policy moved: too far, too little, without a clip, for too many epochs."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.critic import SMALLEST_STD
from proximo.runs.doctor.diagnosis import Change, Diagnosis, change, diagnosis
from proximo.runs.doctor.learning import fell, learning
from proximo.runs.doctor.record import Record, running_median
from proximo.runs.health.codes import Severity
from proximo.runs.health.history import number

SOUND_KL = 0.01  # nats per update: in the middle of the healthy runs of docs/doctor.md (0.001 to 0.03)


def no_clip(run: Record) -> Iterator[Diagnosis]:
    """Several epochs without a clip, and a KL no clipped run shows: as a habit, or once (the policy may end there)."""
    habit, worst = _median(run, "approx_kl"), float(run.measured("approx_kl").max(initial=0.0))
    if (
        run.has("update.clip")
        and run.setting("update.clip") is None
        and run.setting("update.epochs") != 1
        and (habit > 0.05 or worst > 1)
    ):
        yield diagnosis(
            "P021",
            "red",
            f"KL {habit:.2g} nats per update, {worst:.2g} at most, with update.clip = none and "
            f"{run.setting('update.epochs')} epochs",
            change("update.clip", None, 0.2),
        )


def epochs(run: Record) -> Iterator[Diagnosis]:
    """More than twice the usual 3 to 10 epochs (Schulman et al. 2017), and a quarter of the samples is clipped."""
    count, fraction, kl = run.setting("update.epochs"), _median(run, "clip_fraction"), _median(run, "approx_kl")
    if isinstance(count, int) and count > 20 and fraction > 0.25:
        yield diagnosis(
            "P024",
            "red",
            f"{count} epochs, KL {kl:.2g} nats, clip fraction {fraction:.2g}",
            change("update.epochs", count, 10),
            change("update.target_kl", run.setting("update.target_kl"), 0.03),
        )


def too_large(run: Record) -> Iterator[Diagnosis]:
    """KL that no limit in use allows: 0.1 nats as a habit; or 5 once (e^-5: the old policy did that 1 time in 150)."""
    # After the last step, a third: KL grows with the square of the way, and the mean of a square is a third of its end.
    kl = np.fmax(np.nan_to_num(run.column("approx_kl")), run.column("final_approx_kl") / 3)
    std = run.column("std")
    if std[0] < SMALLEST_STD:  # KL = (change of the mean)^2 / (2 std^2): it is the deviation that is too small
        return
    worst, habit = int(kl.argmax()), float(np.median(kl))
    stopped = _stopped_share(run)
    if kl[worst] > 5 or habit > 0.1:
        yield diagnosis("P020", "red", _cliff(run, worst), *smaller(run, float(kl[worst])), iteration=worst)
    elif stopped > 0.5 and not _held_back(run):
        yield diagnosis(
            "P020",
            "red",
            f"in {stopped:.0%} of the iterations one gradient step passed target_kl",
            *smaller(run, 1000 * SOUND_KL),
        )
    elif kl[worst] > 0.1:
        yield diagnosis("P020", "amber", _cliff(run, worst), *smaller(run, float(kl[worst])), iteration=worst)


def too_small(run: Record) -> Iterator[Diagnosis]:
    """A fiftieth of the smallest healthy KL (0.001) and nothing clipped, in the first half, before a schedule ends.

    Amber where no setting is at fault and either the run did learn or no action pays better than another: then small
    steps are right, for there is nothing to gain.
    """
    half = slice(0, max(1, len(run.rows) // 2))
    # What one step did is seen after it alone: before it, the ratio is 1.
    kl = np.fmax(run.column("approx_kl"), run.column("final_approx_kl"))[half]
    fraction = np.nan_to_num(run.column("clip_fraction")[half])
    if len(kl) < 3 or not np.isfinite(kl).any():
        return
    usual = float(np.nanmedian(kl))
    if _held_back(run):
        said = f"in {_stopped_share(run):.0%} of the iterations one gradient step passed target_kl, KL {usual:.2g} nats"
        yield diagnosis("P022", "red", said, *_too_low(run, 1.0))
    elif usual < 2e-5 and np.nanmedian(fraction) < 1e-3 and not collapsed(run) and _stopped_share(run) < 0.5:
        # KL grows with the square of the step.
        factor = min(1000.0, (0.5 * SOUND_KL / max(usual, 1e-12)) ** 0.5)
        changes, seen = _too_low(run, factor), learning(run)
        if not changes and _frozen(run):
            yield diagnosis("P058", "red", f"KL 0 nats in each of {len(run.rows)} iterations")
            return
        told = len(run.measured("ended")) > 0  # else an older version's run, of whose episodes nothing is known
        sound = not changes and told and ((seen is not None and seen.improved) or not _to_gain(run))
        said = f"KL {usual:.2g} nats per update"
        changes = changes or ((_rate(run, factor),) if seen is None else _higher(run, factor))
        yield diagnosis("P022", "amber" if sound else "red", said, *changes)


def _higher(run: Record, factor: float) -> tuple[Change, ...]:
    """A higher rate; where it is as high as any in use, the gradient is what is too small."""
    rate = run.schedule("learning_rate")
    if rate is not None and factor * rate.extremes[1] > HIGHEST_RATE:
        factor = HIGHEST_RATE / rate.extremes[1]
        if factor < 10:
            return (
                Change("look for what keeps the gradient small: outputs that are squashed, rewards that hardly differ"),
            )
    return (_rate(run, factor),)


def _to_gain(run: Record) -> bool:
    """False if the run's own steps show no action that pays better than another."""
    return run.probed is None or run.probed.something_to_gain


def _frozen(run: Record) -> bool:
    """Whether no update of all has moved the policy by one bit."""
    kl = np.stack([run.column(name) for name in ("approx_kl", "final_approx_kl", "exact_kl")])
    return (
        bool(run.measured("exact_kl").size)
        and not np.nan_to_num(kl).any()
        and bool(run.measured("gradient_steps").all())
    )


LOWEST_RATE, HIGHEST_RATE, LOWEST_KL = 1e-5, 3e-3, 1e-4
"""A thirtieth of the lowest rate of any preset, and the highest; a hundredth of the lowest KL limit in use
(0.01)."""


def _held_back(run: Record) -> bool:
    """Whether a target far below any in use ends the updates after one step."""
    return 0 < run.amount("update.target_kl") < LOWEST_KL and _stopped_share(run) > 0.5


def _too_low(run: Record, factor: float) -> tuple[Change, ...]:
    """Settings that no sound run has, of all that hold a step back."""
    found, rate = [], run.schedule("learning_rate")
    if rate is not None and rate.extremes[1] < LOWEST_RATE and factor > 1:
        found.append(_rate(run, factor))
    for name, low, high, usual in (
        ("adam_epsilon", 0.0, 0.01, 1e-5),  # far above a gradient's root mean square it divides the step
        ("update.max_grad_norm", 1e-3, np.inf, 0.5),  # Adam's epsilon is 1e-5, and a gradient has thousands of numbers
        ("update.target_kl", LOWEST_KL, np.inf, 0.03),
    ):
        value = run.amount(name)
        if value and not low <= value <= high:
            found.append(change(name, value, usual))
    return tuple(found)


SMALLEST_CLIP = 0.005
"""A twentieth of the smallest range in use (0.1)."""


def tiny_clip(run: Record) -> Iterator[Diagnosis]:
    """A sample is left out as soon as its probability has moved by less than a hundredth."""
    clip = run.schedule("update.clip")
    if clip is None or not 0 <= clip.extremes[1] < SMALLEST_CLIP:
        return
    seen = learning(run)
    kl, fraction = _median(run, "approx_kl"), _median(run, "clip_fraction")
    said = f"update.clip = {clip.start:g}: KL {kl:.2g} nats, clip fraction {fraction:.2g}"
    severity: Severity = "amber" if seen is not None and seen.improved else "red"
    yield diagnosis("P059", severity, said, change("update.clip", clip.start, 0.2))


def fell_off(run: Record) -> Iterator[Diagnosis]:
    """More than half of what had been won was lost again; or a third of what there was from the start."""
    returns = run.column(run.kind.result)
    known = np.flatnonzero(np.isfinite(returns))
    if len(known) < 5 or run.of_self_play:
        return
    if run.kind.noisy:
        returns[known] = running_median(returns[known])
    first, last = returns[known[0]], returns[known[-1]]
    best = int(known[returns[known].argmax()])
    won, lost = returns[best] - first, returns[best] - last
    size = max(abs(first), abs(returns[best]), _median(run, "score_std"), 1e-9)
    if lost > 0.3 * size and lost > 0.5 * won and fell(run):
        steep = _steepest(returns, known, best)
        severity: Severity = "red" if lost > 0.8 * won else "amber"
        said = f"{returns[best]:,.4g} at iteration {best}, {last:,.4g} at the end; most was lost {_cliff(run, steep)}"
        yield diagnosis("P043", severity, said, *smaller(run, 4 * SOUND_KL), iteration=steep)


def collapsed(run: Record) -> bool:
    """True if the policy has become deterministic: then no step moves it, however large."""
    entropy = run.measured("entropy")
    return "std" not in run.rows[0] and len(entropy) > 0 and bool(entropy.min() < 0.05 * entropy[0])


def _stopped_share(run: Record) -> float:
    """Share of the iterations that `target_kl` ended after one gradient step."""
    stopped = (run.column("stopped_by_kl") > 0) & (run.column("gradient_steps") == 1)
    return float(stopped.mean())


def _median(run: Record, name: str) -> float:
    values = run.measured(name)
    return float(np.median(values)) if len(values) else 0.0


def _cliff(run: Record, iteration: int) -> str:
    """KL and clip fraction there, and the return in the iterations after it."""
    row = run.rows[iteration]
    said = [f"at iteration {iteration}: KL {number(row.get('approx_kl')) or 0.0:.2g} nats"]
    final = number(row.get("final_approx_kl")) or 0.0
    if final > 3 * (number(row.get("approx_kl")) or 0.0):
        said.append(f"{final:.2g} after its last step")
    said.append(f"clip fraction {number(row.get('clip_fraction')) or 0.0:.2g}")
    name = run.kind.result
    returns = run.column(name)
    before = returns[: iteration + 1][np.isfinite(returns[: iteration + 1])]
    after = returns[iteration + 1 :][np.isfinite(returns[iteration + 1 :])]
    if len(before) and len(after):
        said.append(f"{name} {before[-1]:,.4g}, at worst {after.min():,.4g} afterwards")
    return ", ".join(said)


def _steepest(returns: np.ndarray, known: np.ndarray, best: int) -> int:
    """The iteration after the best one in which most was lost."""
    after = known[known >= best]
    return int(after[1:][np.diff(returns[after]).argmin()]) if len(after) > 1 else best


def smaller(run: Record, kl: float) -> tuple[Change, ...]:
    """A rate that brings an update's KL to a sound one, for it grows with the square of the step; and a limit."""
    changes = [_rate(run, min(0.5, max(0.01, (SOUND_KL / kl) ** 0.5)))]
    if run.has("update.target_kl") and run.setting("update.target_kl") is None:
        changes.append(change("update.target_kl", None, 0.03))
    return tuple(changes)


def _rate(run: Record, factor: float) -> Change:
    rate, schedule = run.setting("learning_rate"), run.schedule("learning_rate")
    if schedule is None:
        return Change(f"multiply the learning rate by {factor:.1g}")
    start, end = (f"{x * factor:.1g}" for x in (schedule.start, schedule.end))
    return Change("learning-rate", str(rate), start if start == end else f"'{start} -> {end}'")
