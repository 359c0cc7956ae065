"""Length, ends, variety and reward of a language model's responses."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.diagnosis import Change, Diagnosis, change, diagnosis
from proximo.runs.doctor.record import Kind, Record, start_and_end
from proximo.runs.health.history import number


def reward_hacking(run: Record) -> Iterator[Diagnosis]:
    """The score rose by more than its spread, and variety was lost or a judge that was held out disagrees."""
    before, after = start_and_end(run.measured("score"))
    spread = run.measured("score_std")
    if not len(spread) or not after - before > max(spread[0], 1e-6):
        return
    variety, same = (start_and_end(run.measured(name)) for name in ("distinct_2", "duplicates"))
    lengths, kl = start_and_end(run.measured("response_length")), start_and_end(run.measured("kl"))[1]
    unmeasured = bool(np.isnan(kl))  # nothing is paid for it, so there is no reference to measure it from
    said = [f"score {before:.2f} -> {after:.2f}", "KL not measured" if unmeasured else f"KL {kl:.0f} nats"]
    said.append(f"distinct-2 {variety[0]:.2f} -> {variety[1]:.2f}")
    said.append(f"length {lengths[0]:.0f} -> {lengths[1]:.0f}")
    rise, error = number(run.evaluation.get("rise_sd")), number(run.evaluation.get("rise_se")) or 0.0
    worse = rise is not None and rise < -2 * error
    if worse:
        said.append(f"held-out judge {rise:+.2f} standard deviations")
    if worse or variety[1] < 0.6 * variety[0] or same[1] > same[0] + 0.3:
        now = run.amount("kl.coefficient")
        changes = [change("kl.coefficient", now, 4 * now if now else 0.05)]
        if not unmeasured:
            changes.append(change("kl.budget", run.setting("kl.budget"), max(1.0, round(kl / 4))))
        yield diagnosis("P050", "red", ", ".join(said), *changes)


def past_the_peak(run: Record) -> Iterator[Diagnosis]:
    """The judge that watched the run scored it higher before, by more than chance explains, while the reward rose.

    Both means are of the same prompts with the same random numbers, so their difference has no more than the error of
    two: red beyond 3 of its standard errors, amber beyond 2. The best of many is high by chance: the mean of it and its
    neighbours is taken.
    """
    if run.setting("stop_at_peak"):
        return  # its policy is that of the peak
    judged = [(number(row.get("judge")), number(row.get("judge_se")), row) for row in run.rows]
    seen = [(mean, error, row) for mean, error, row in judged if mean is not None and error is not None]
    if len(seen) < 5:
        return
    means = np.array([mean for mean, _, _ in seen])
    smooth = np.convolve(means, np.ones(3) / 3, mode="valid")  # the i-th is around measurement i + 1
    best, last = int(smooth.argmax()), float(means[-2:].mean())
    fallen, error = float(smooth[best]) - last, float(np.hypot(seen[best + 1][1], seen[-1][1]))
    before, after = start_and_end(run.measured("score"))
    if best + 1 >= len(seen) - 2 or not after > before or not fallen > 2 * error:
        return
    way = number(seen[best + 1][2].get("judge_distance")) or 0.0
    now = run.amount("kl.coefficient")
    yield diagnosis(
        "P061",
        "red" if fallen > 3 * error else "amber",
        f"judge {smooth[best]:.2f} at √KL {way:.1f}, {last:.2f} at the end, while the score "
        f"went from {before:.2f} to {after:.2f}",
        change("stop_at_peak", run.setting("stop_at_peak"), True),
        change("kl.coefficient", now, 4 * now if now else 0.05),
    )


def length_drift(run: Record) -> Iterator[Diagnosis]:
    """Length changed by half, or grew up to the limit; red where the score follows it from the start."""
    before, after = start_and_end(run.measured("response_length"))
    limit = run.amount("response_limit") or np.inf
    filled = before < 0.85 * limit and after > 0.95 * limit
    if not before > 0 or (0.5 <= after / before <= 1.5 and not filled):
        return
    now = run.amount("kl.coefficient")
    follows = run.measured("score_length_correlation")
    pull = float(np.median(follows[: max(1, len(follows) // 2)])) if len(follows) else 0.0
    yield diagnosis(
        "P053",
        "red" if abs(pull) > 0.8 and (pull > 0) == (after > before) else "amber",
        f"{before:.0f} tokens at first, {after:.0f} at the end; correlation of score and length {pull:.2f}",
        Change("make the reward blind to length"),
        change("kl.coefficient", now, max(0.05, 4 * now)),
    )


def no_end(run: Record) -> Iterator[Diagnosis]:
    """Red where responses never ended by themselves; amber where they have stopped doing so."""
    finished = run.measured("finished")
    if not len(finished):
        return
    before, after = start_and_end(finished)
    limit = run.setting("response_limit")
    changes = [Change("fine-tune on responses that end with EOS")]
    if isinstance(limit, int):
        changes.insert(0, change("response_limit", limit, 2 * limit))
    if run.setting("missing_eos_floor") is None:
        changes.append(change("missing_eos_floor", None, -1.0))
    if max(before, after) < 0.1:
        yield diagnosis("P052", "red", f"{after:.0%} of the responses ended before {limit} tokens", *changes)
    elif after < 0.1:
        yield diagnosis(
            "P052", "amber", f"{before:.0%} of the responses ended at first, {after:.0%} at the end", *changes
        )


def duplicates(run: Record) -> Iterator[Diagnosis]:
    """A third more of the responses than at first repeat another."""
    before, after = start_and_end(run.measured("duplicates"))
    if after > before + 0.3:
        now = run.amount("kl.coefficient")
        yield diagnosis(
            "P054",
            "amber",
            f"{before:.0%} at first, {after:.0%} at the end",
            change("kl.coefficient", now, max(0.05, 2 * now)),
        )


KIND = Kind(
    result="score",
    noisy=True,  # a return is the mean of 100 episodes; a score is of one batch
    value_coefficient=0.1,
    reward_scaling=None,
    rules=(reward_hacking, past_the_peak, length_drift, no_end, duplicates),
)
"""What the doctor knows of language runs."""
