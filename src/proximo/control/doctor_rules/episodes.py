"""Rewards, ends and horizon of the environment."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.critic import SMALLEST_STD
from proximo.runs.doctor.diagnosis import Change, Diagnosis, change, diagnosis
from proximo.runs.doctor.learning import learning, task_returns
from proximo.runs.doctor.record import Record, start_and_end
from proximo.runs.health.codes import Severity


def _coefficient(run: Record) -> float:
    """The entropy bonus at the start."""
    schedule = run.schedule("update.entropy_coefficient")
    return schedule.start if schedule else 0.0


def entropy_collapsed(run: Record) -> Iterator[Diagnosis]:
    """Red where the settings ask for it or the return did not survive it; else a solved task may look so too."""
    continuous = "std" in run.rows[0]
    values = run.column("std" if continuous else "entropy")
    if not np.isfinite(values[0]):
        return
    bonus = _coefficient(run)
    gone = values < (SMALLEST_STD if continuous else 0.02 * values[0])
    if bonus < 0:
        gone |= values < 0.75 * values[0]  # on its way, and paid for it
    if not gone[-1]:
        return
    began = int(gone.argmax())
    severity: Severity = "red" if bonus < 0 or began == 0 or _suffered(run, began) else "amber"
    changes = []
    if bonus < 0 or not continuous:
        changes.append(change("update.entropy_coefficient", bonus, 0.0 if continuous else 0.01))
    if continuous and began == 0:
        changes.append(change("network.log_std", run.setting("network.log_std"), -1.0))
    said = f"{'std' if continuous else 'entropy'} {values[0]:.2g} at first, {values[-1]:.2g} at the end"
    if bonus:
        said += f", with update.entropy_coefficient = {bonus:g}"
    yield diagnosis("P025", severity, said, *changes, iteration=began)


def _suffered(run: Record, began: int) -> bool:
    """True if the return fell after that iteration by more than a tenth of its range."""
    returns = run.column("return")
    known = returns[np.isfinite(returns)]
    return bool(np.isfinite(returns[began]) and returns[-1] < returns[began] - 0.1 * np.ptp(known))


def entropy_rising(run: Record) -> Iterator[Diagnosis]:
    """The deviation more than doubled, while a bonus pays for it."""
    values, bonus = run.measured("std"), _coefficient(run)
    if len(values) and values[-1] > 2.5 * values[0] and bonus > 0:
        cut = run.measured("clipped_actions")[-1]
        yield diagnosis(
            "P026",
            "red" if cut > 0.6 else "amber",
            f"std {values[0]:.2g} -> {values[-1]:.2g}, {cut:.0%} of the actions at their bounds",
            change("update.entropy_coefficient", bonus, 0.0),
        )


def no_reward(run: Record) -> Iterator[Diagnosis]:
    """Every reward is 0; or every episode of the run returned the same."""
    means, spreads = run.measured("reward_mean"), run.measured("reward_std")
    returns, episodes = run.measured("return"), run.measured("episodes")
    if len(means) >= 3 and not means.any() and not spreads.any():
        yield diagnosis("P041", "red", f"every reward of {run.steps:,} steps was 0")
    elif (same := _same_task(run)) is not None:
        seen = learning(run)
        severity: Severity = "red" if seen is None or not seen.improved else "amber"
        said = f"the task itself pays {same:,.4g} in every episode; what varies is a wrapper's"
        yield diagnosis("P041", severity, said)
    elif len(returns) >= 5 and np.ptp(returns) == 0 and episodes[-1] >= 20:
        yield diagnosis("P041", "amber", f"each of {episodes[-1]:,.0f} episodes returned {returns[0]:,.4g}")


def _same_task(run: Record) -> float | None:
    """The return below the user's wrappers, if it is the same in all of many episodes and theirs is not."""
    if not run.measured("ended_task_mean").size:
        return None
    means, spreads, counts = (*task_returns(run), run.column("ended"))
    known = np.isfinite(means)
    if np.nansum(counts[known]) < 20 or not run.measured("ended_std").any():
        return None
    size = 1e-6 * max(1e-9, float(np.abs(means[known]).max()))
    same = np.ptp(means[known]) <= size and np.nanmax(spreads[known]) <= size
    return float(means[known][0]) if same else None


def ending_pays(run: Record) -> Iterator[Diagnosis]:
    """Every step costs, no episode is ever cut, and they become shorter and shorter.

    A task that is solved by ending early looks the same from here, unless its first episodes ran into a time limit:
    amber, and the page says how to tell. Where the task itself pays and what is learnt from costs, a wrapper has turned
    the sign: red; as where the task's own returns have become worse.
    """
    lengths = run.column("episode_length")
    returns = run.column("task_return" if len(run.measured("task_return")) else "return")
    known = np.isfinite(lengths) & np.isfinite(returns)
    if known.sum() < 5 or run.measured("truncations").any() or (run.measured("reward_mean") >= 0).any():
        return
    first, last = start_and_end(lengths[known])
    turned = bool((returns[known] > 0).all())
    if last < 0.8 * first and (turned or np.corrcoef(lengths[known], returns[known])[0, 1] < -0.9):
        paid, seen = float(np.median(run.measured("reward_mean"))), learning(run)
        yield diagnosis(
            "P042",
            "red" if turned or (seen is not None and seen.worse) else "amber",
            f"episodes of {first:.0f} steps became {last:.0f}, at a reward of {paid:.2g} per step"
            f"{', where the task itself pays' if turned else ''}",
            Change("look at the reward's sign: is a failure what ends an episode?"),
        )


def never_ends(run: Record) -> Iterator[Diagnosis]:
    """No episode in 4,000 steps of each environment; the usual limits are 200 to 1,000."""
    episodes, each = run.measured("episodes"), run.steps / (run.amount("environments") or 1)
    if len(episodes) and episodes[-1] == 0 and each >= 4000:
        yield diagnosis(
            "P044",
            "red",
            f"no episode ended in {each:,.0f} steps of each environment",
            Change("wrap the environment in gymnasium.wrappers.TimeLimit"),
        )


def approximated(run: Record) -> Iterator[Diagnosis]:
    """Episodes were cut, and `truncation` is not exact."""
    cut, setting = run.measured("truncations_approximated").sum(), run.setting("truncation")
    if cut and setting not in (None, "exact"):
        yield diagnosis(
            "P063",
            "amber",
            f"truncation = {setting}, and {cut:,.0f} episodes were cut",
            change("truncation", setting, "exact"),
        )


def horizon(run: Record) -> Iterator[Diagnosis]:
    """A discount below 0.9, which sees less than a tenth of an episode."""
    gamma, lengths = run.setting("gamma"), run.measured("episode_length")
    if not isinstance(gamma, int | float) or not len(lengths) or gamma >= 0.9:
        return
    seen, length = 1 / (1 - gamma), float(np.median(lengths))
    if seen < 0.1 * length:
        yield diagnosis(
            "P033",
            "red",
            f"gamma = {gamma} sees {seen:.1f} steps ahead, and an episode has {length:,.0f}",
            change("gamma", float(gamma), "0.99"),
        )
