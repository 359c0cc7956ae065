"""What random actions have shown -> findings, and the screen that shows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from proximo.control.check.explore import COUNT, Observed
from proximo.control.check.explore import examine as explore
from proximo.control.environments import Source
from proximo.control.probes.answers import Answers, problems
from proximo.runs.health import Finding, found
from proximo.runs.health.codes import Severity


@dataclass(frozen=True)
class Examination:
    """Findings about an environment under random actions."""

    seen: Observed
    findings: tuple[Finding, ...]
    """The worst first."""

    @property
    def health(self) -> str:
        """The colour of the worst finding."""
        return self.findings[0].severity if self.findings else "green"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return plain(self.seen, list(self.findings))

    def __str__(self) -> str:
        """One screen, the worst first."""
        return format_examination(self.seen, list(self.findings))


def examine(source: Source, *, seed: int = 0, backend: str = "auto") -> Examination:
    """Step an environment with random actions, and name all that is unusual about it.

    Raises:
        UserError: it can not be made, or returns what can not be learnt from.
    """
    seen = explore(source, seed=seed, backend=backend)
    return Examination(seen, tuple(findings(seen)))


def findings(seen: Observed) -> list[Finding]:
    """All that is unusual about an environment, the worst first."""
    rules = (_seeds, _ends, _rewards, _observations, _actions, _told, _speed)
    return sorted((finding for rule in rules for finding in rule(seen)), key=lambda finding: finding.rank)


def _seeds(seen: Observed) -> Iterator[Finding]:
    if not seen.repeats:
        yield found("E005", "red", f"two copies with the same seeds differ within {seen.repeated} steps")
    elif not seen.forgets:
        yield found("E006", "red", f"after {seen.steps:,} steps, a reset with the first seeds gives other episodes")


def _ends(seen: Observed) -> Iterator[Finding]:
    each, lengths = seen.steps // COUNT, seen.lengths
    if not lengths and each < 1000:
        return  # too slow to tell: the usual limits are 200 to 1,000 steps
    if not lengths:
        # Atari's limit is 27,000 steps, and random play ends long before it.
        yield found("E001", "red" if each >= 2000 else "amber", f"no episode ended in {each:,} steps of each copy")
    elif max(lengths) == 1:
        yield found("E011", "amber", f"each of {len(lengths)} episodes ended at its first step")
    elif len(lengths) >= COUNT and len(set(lengths)) == 1 and not seen.truncated:
        yield found("E008", "amber", f"each of {len(lengths)} episodes terminated at step {lengths[0]:,}")


def _rewards(seen: Observed) -> Iterator[Finding]:
    size = float(np.sqrt((seen.rewards**2).mean()))
    if not seen.rewards.any():
        yield found("E010", "red", f"each of {len(seen.rewards):,} rewards was 0")
    elif np.ptp(seen.rewards) == 0 and len(set(seen.lengths)) <= 1:
        # Where lengths differ, a reward of 1 per step says enough (CartPole).
        yield found(
            "E010", "amber", f"each of {len(seen.rewards):,} rewards was {seen.rewards[0]:g}, up to a time limit"
        )
    elif size > 50 or size < 1e-3:
        # A return is some 100 rewards, and a critic starts at 0 with outputs of size 1.
        yield found("E002", "red" if size > 1000 else "amber", f"root mean square {size:,.3g}")


def _observations(seen: Observed) -> Iterator[Finding]:
    if not seen.size.size:
        return
    still = np.flatnonzero(seen.spread == 0)
    if len(still):
        yield found("E003", "amber", f"{_named(still)} of {len(seen.size)} never changed")
    sizes = np.where(seen.scaled, seen.size, 0.0)
    largest = int(sizes.argmax())
    if sizes[largest] > 30:
        # tanh is flat beyond 3, and a network is initialised for inputs of size 1.
        severity: Severity = "red" if sizes[largest] > 1e4 else "amber"
        yield found("E004", severity, f"number {largest} has a root mean square of {sizes[largest]:,.3g}")


def _actions(seen: Observed) -> Iterator[Finding]:
    if seen.bounds is not None and (seen.bounds[1] > 100 or seen.bounds[0] < 0.01):
        yield found("E007", "amber", f"ranges from {seen.bounds[0]:g} to {seen.bounds[1]:g} wide: {seen.action_space}")


_CODES = {"noise": "E014", "blind": "E013", "ignored": "E012", "late": "E015"}


def _told(seen: Observed) -> Iterator[Finding]:
    """Whether actions matter, observations tell, and rewards are earned, as random actions see it.

    Where all is chance there is no fault to name: the facts say so. Without any reward nothing can be told of returns.
    """
    if seen.told is None or seen.told.chance or not seen.rewards.any() or max(seen.lengths, default=2) == 1:
        return
    for problem in problems(seen.told):
        yield found(_CODES[problem.name], "red" if problem.strong else "amber", problem.evidence)


def _speed(seen: Observed) -> Iterator[Finding]:
    if seen.rate < 500:
        yield found("E009", "amber", f"{seen.rate:,.0f} steps/s: a million take {1e6 / seen.rate / 3600:,.1f} hours")


def facts(seen: Observed) -> dict[str, str]:
    """What was seen, by name."""
    lengths, rewards = seen.lengths, seen.rewards
    episodes = f"{len(lengths)}, {seen.terminated} terminated, {seen.truncated} truncated"
    if lengths:
        episodes += f"; {min(lengths):,} to {max(lengths):,} steps, mean {np.mean(lengths):,.0f}"
    sizes = seen.size[seen.scaled]
    kinds = {"numbers": len(sizes), "choices": len(seen.size) - len(sizes)}
    numbers = ", ".join([f"{n} {kind}" for kind, n in kinds.items() if n] + ["images"] * seen.images)
    if sizes.size:
        numbers += f"; root mean square {sizes.min():.2g} to {sizes.max():.2g}"
    scale = f"mean {rewards.mean():.3g}, deviation {rewards.std():.3g}, {rewards.min():.3g} to {rewards.max():.3g}"
    return {
        "episodes": episodes,
        "ends": _how_they_end(seen),
        "reward": scale,
        "observation": numbers,
        "action": seen.action_space,
        "follows": _what_follows(seen.told),
        "same seed": "same episode" if seen.repeats and seen.forgets else "another episode",
        "speed": f"{seen.rate:,.0f} steps/s ({COUNT} copies, {seen.backend})",
    }


def _how_they_end(seen: Observed) -> str:
    if not seen.lengths:
        return "none was seen"
    if not seen.truncated:
        return "never truncated here: see that a time limit ends the episode of a policy that never fails"
    if not seen.terminated:
        return "never terminated here, only truncated: the critic is asked for the value beyond each end"
    return "terminated and truncated"


def _what_follows(told: Answers | None) -> str:
    if told is None:
        return "was not asked"
    if told.chance:
        return "neither observations nor rewards follow from anything: a lottery"
    shares = {
        "of the next observation from this one": told.foretold,
        "from the action": max(0.0, told.follows.share),
        "of the returns from the observation": told.returns_told,
    }
    return ", ".join(f"{share:.0%} {what}" for what, share in shares.items() if share == share)


def plain(seen: Observed, wrong: list[Finding]) -> dict[str, Any]:
    """For JSON."""
    return {
        "environment": seen.name,
        "health": wrong[0].severity if wrong else "green",
        "findings": [finding.plain() for finding in wrong],
        "facts": facts(seen),
        "steps": seen.steps,
        "steps_per_second": seen.rate,
    }


def format_examination(seen: Observed, wrong: list[Finding]) -> str:
    """One screen, the worst first."""
    lines = [f"{wrong[0].severity if wrong else 'green'}  {seen.name}: {seen.steps:,} steps with random actions"]
    for finding in wrong:
        lines += ["", f"{finding.severity} {finding.code.label}: {finding.code.cause}"]
        lines += [f"  seen    {finding.evidence}", f"  change  {finding.code.remedy}", f"  more    {finding.code.more}"]
    return "\n".join([*lines, "", *(f"  {name:<12}{text}" for name, text in facts(seen).items())])


def _named(indices: np.ndarray) -> str:
    shown = ", ".join(str(i) for i in indices[:5]) + (", …" if len(indices) > 5 else "")
    return f"number{'' if len(indices) == 1 else 's'} {shown}"
