"""A run that does not beat its own first policy, and why: the likeliest reasons, from its numbers and its own steps."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from proximo.control.probes.answers import Answers, ask, problems
from proximo.control.probes.experience import from_updates
from proximo.errors import UserError
from proximo.runs.doctor.diagnosis import Change, Diagnosis, change, diagnosis
from proximo.runs.doctor.learning import learning
from proximo.runs.doctor.record import Record
from proximo.runs.doctor.step import SOUND_KL, smaller
from proximo.runs.health.history import number
from proximo.runs.health.returns import SURE, Returns
from proximo.runs.replay.entry import read

_CODES = {"noise": "P049", "blind": "P048", "ignored": "P047", "late": "P057"}
FEW_STEPS = 128
"""Of a rollout; the presets' have 80 (A2C, which takes one step for each) to 8,192."""


def probe(run: Record) -> Answers | None:
    """What the run's own last steps say, which it keeps for replays; None where it keeps none, or sees only images."""
    if run.folder is None:
        return None
    try:
        seen = from_updates(read(run.folder / "replay"))
    except UserError:  # none is kept, or they are damaged: `proximo replay` says so
        return None
    gamma = run.setting("gamma")
    return None if seen is None else ask(seen, gamma if isinstance(gamma, float) and 0 <= gamma < 1 else 0.99)


def learnt_nothing(run: Record) -> Iterator[Diagnosis]:
    """Later episodes are no better than the first policy's; reasons before what they explain.

    Red where the run's own steps show that some actions pay better than others, so that a better policy exists. Where
    they do not, the task may have nothing to gain: then amber, but for what no sound run shows.
    """
    seen = learning(run)
    if seen is None or seen.improved or seen.worse or not seen.fair or run.of_self_play:
        return
    if not seen.nothing:
        yield from _doubts(run)
        return
    found = [*_settings(run), *_from_steps(run)]
    gain = run.probed is not None and run.probed.something_to_gain
    yield from _as_red(found) if gain and found and found[0].finding.code.number != "P030" else found
    said = f"first policy {seen.first}, later at best {seen.best}"
    if gain:
        said += "; some actions pay better than others in its own steps, so there is something to learn"
    elif run.probed is not None:
        said += "; no action is seen to pay better than another: perhaps there is nothing to gain"
    yield diagnosis("P046", "red" if gain else "amber", said, *_more_steps(run))


WHOLE = 1.0
"""Deviations of one episode: a policy that has lost as much is red. No run that learns was seen to lose 0.4."""


def worse(run: Record) -> Iterator[Diagnosis]:
    """The late policies return less than the first, and what explains it best."""
    seen = learning(run)
    if seen is None or not seen.worse:
        return
    lost = -seen.late.above(seen.begun)[1]
    why, changes = _why_worse(run)
    found = [] if seen.improved else [*_settings(run), *_from_steps(run)]
    yield from _as_red(found) if lost >= WHOLE else found
    said = f"first policy {seen.begun}, lately {seen.late}, {lost:.2g} deviations of one episode less; {why}"
    yield diagnosis("P064", "red" if lost >= WHOLE else "amber", said, *changes)


FEWEST_EVALUATED = 10


def evaluated_worse(run: Record) -> Iterator[Diagnosis]:
    """The last policy's most probable actions return far less, in the evaluation at the end, than the first policy.

    Training acts with noise: a policy may pay there, and not without its noise, as one that turns between two goals.
    """
    seen, final = learning(run), _evaluated(run)
    if seen is None or seen.worse or final is None or run.of_self_play:
        return
    sure, size = final.above(seen.begun)
    if final.count < FEWEST_EVALUATED or sure > -SURE or size > -WHOLE:
        return
    said = f"its most probable actions return {final} in the evaluation at the end, the first policy {seen.begun}"
    sampled, changes = number(run.results.get("final_sampled")), []
    if sampled is not None and sampled > final.mean:
        said += f"; sampled actions return {sampled:,.4g}"
        changes.append(Change("act with deterministic=False, or train on until the noise is small"))
    yield diagnosis("P064", "amber", said, *changes)


def _evaluated(run: Record) -> Returns | None:
    """The evaluation at the end; None where there was none."""
    names = ("episodes", "final_deterministic", "final_deterministic_std")
    count, mean, std = (number(run.results.get(name)) for name in names)
    return None if count is None or mean is None or std is None else Returns(count, mean, std**2)


LARGE_KL, MUCH_CLIPPED = 0.03, 0.3
"""Of an update, as a habit: healthy runs of docs/doctor.md have 0.001 to 0.03 nats; and of its samples."""


def _why_worse(run: Record) -> tuple[str, tuple[Change, ...]]:
    """The likeliest reason, and what to change first."""
    paid = run.measured("ended_mean")
    if run.measured("ended_task_mean").size and paid[-(len(paid) // 3) :].mean() > paid[: len(paid) // 3].mean():
        change_it = Change("look at what the wrapper pays for: that rises while the task's own return falls")
        return "what it learns from, a wrapper's reward, rose meanwhile", (change_it,)
    kl, clipped = (_median(run, name) for name in ("approx_kl", "clip_fraction"))
    if kl > LARGE_KL or clipped > MUCH_CLIPPED:
        return f"its updates are large: KL {kl:.2g} nats, clip fraction {clipped:.2g}", smaller(run, kl)
    return "nothing in its numbers says why", smaller(run, 4 * SOUND_KL)


def _median(run: Record, name: str) -> float:
    values = run.measured(name)
    return float(np.median(values)) if len(values) else 0.0


def _doubts(run: Record) -> Iterator[Diagnosis]:
    """Where it looks as if something was learnt, and that may be chance: what is wrong with the environment, amber."""
    for problem in problems(run.probed) if isinstance(run.probed, Answers) else ():
        if problem.name != "blind":
            yield diagnosis(_CODES[problem.name], "amber", problem.evidence)


def _as_red(found: list[Diagnosis]) -> list[Diagnosis]:
    """The first of them as red, if none is."""
    if not found or any(each.finding.severity == "red" for each in found):
        return found
    return [replace(found[0], finding=replace(found[0].finding, severity="red")), *found[1:]]


def _more_steps(run: Record) -> Iterator[Change]:
    """A longer rollout, where one has so few steps that an update is mostly chance."""
    length, count = run.amount("rollout_length"), run.amount("environments")
    if 0 < length * count < FEW_STEPS:
        yield change("rollout_length", int(length), int(2048 // count))


def _settings(run: Record) -> Iterator[Diagnosis]:
    """What the settings and the numbers of the updates say."""
    bonus, entropy = run.schedule("update.entropy_coefficient"), run.measured("entropy")
    held = len(entropy) > 0 and "std" not in run.rows[0] and entropy[-1] > 0.9 * entropy[0] > 0
    if bonus is not None and bonus.start >= 0.1 and held:
        said = f"entropy {entropy[0]:.2g} at first, {entropy[-1]:.2g} at the end, with a bonus of {bonus.start:g}"
        yield diagnosis("P026", "red", said, change("update.entropy_coefficient", bonus.start, 0.01))
    if _sure_from_the_start(run):
        yield diagnosis(
            "P025", "red", f"entropy {entropy[0]:.2g} in the first iteration already: nothing is ever tried"
        )
    yield from _small_inputs(run)
    size = run.measured("return_rms")
    if len(size) and 0 < np.median(size) < 1e-3:
        now = run.setting("normalizers.rewards")
        changes = (change("normalizers.rewards", now, "scale"),) if now == "off" else ()
        yield diagnosis("P031", "red", f"returns of size {np.median(size):.2g}", *changes)
    gamma, lengths = run.setting("gamma"), run.measured("episode_length")
    # Twice as strict as `horizon`, which has to leave runs alone that learn.
    length = float(np.median(lengths)) if len(lengths) else 0.0
    if isinstance(gamma, float) and 0 <= gamma < 0.95 and 1 / (1 - gamma) < 0.2 * length:
        said = f"gamma = {gamma} sees {1 / (1 - gamma):.1f} steps ahead, and an episode has {length:,.0f}"
        yield diagnosis("P033", "amber", said, change("gamma", gamma, "0.99"))
    limit, norm = run.amount("update.max_grad_norm"), run.measured("grad_norm")
    if limit and len(norm) and np.median(norm) > 1e4 * limit:
        said = f"a gradient of norm {np.median(norm):,.2g} is cut to {limit:g}"
        changes = (change("update.max_grad_norm", limit, 0.5),) if limit < 0.01 else ()
        yield diagnosis("P023", "red" if changes else "amber", said, *changes)


def _sure_from_the_start(run: Record) -> bool:
    """Whether the first policy nearly always does the same: of two choices, it takes the other once in 110 steps."""
    entropy = run.column("entropy")
    return "std" not in run.rows[0] and bool(0 <= entropy[0] < 0.05)


def began_sure(run: Record) -> Iterator[Diagnosis]:
    """Amber of a run that learns nevertheless."""
    if _sure_from_the_start(run):
        yield diagnosis("P025", "amber", f"entropy {run.column('entropy')[0]:.2g} in the first iteration already")


def _small_inputs(run: Record) -> Iterator[Diagnosis]:
    """Nothing that the network sees is as large as 0.01; its weights are meant for inputs of size 1."""
    largest, clip = run.measured("observation_max"), run.amount("normalizers.clip")
    if not len(largest) or not 0 < np.median(largest) < 0.01:
        return
    said = f"the largest number that it sees is {np.median(largest):.2g}"
    if 0 < clip < 0.1 and run.setting("normalizers.observations"):
        yield diagnosis(
            "P040", "red", f"{said}, with normalizers.clip = {clip:g}", change("normalizers.clip", clip, 10.0)
        )
    else:
        yield diagnosis("P040", "red", said, change("normalizers.observations", False, True))


def _from_steps(run: Record) -> Iterator[Diagnosis]:
    """What the run's own steps say of the environment and the network."""
    told = run.probed
    if not isinstance(told, Answers):
        return
    if not told.looks:
        yield diagnosis("P060", "red", f"the same action was as likely in each of {told.steps:,} states")
    for problem in problems(told):
        yield diagnosis(_CODES[problem.name], "red" if problem.strong else "amber", problem.evidence)
    explained = run.column("explained_variance")[len(run.rows) // 2 :]
    usual = float(np.nanmedian(explained)) if np.isfinite(explained).any() else np.nan
    if told.returns_told > 0.3 and usual < 0.05 and told.looks:
        said = f"explained variance {usual:.2g}, where a new regression explains {told.returns_told:.0%} of the returns"
        yield diagnosis("P030", "amber", said)
