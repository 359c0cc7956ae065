"""All questions put to some steps, and what the answers add up to."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import Literal

from proximo.control.probes import actions, signals
from proximo.control.probes.actions import NONE
from proximo.control.probes.experience import Experience
from proximo.control.probes.regression import Effect

WEAK = 1e-3
"""Share of every change that actions explain, below which they do as good as nothing: a healthy task has 0.02 to 1."""
UNSEEN = 0.015
"""Share that an effect may have and not be seen; above it, too little was tried to say that there is none. Of the sound
tasks that were looked at, Acrobot's actions explain least: 0.018 of what follows."""
LITTLE = 0.05
"""Share of a variance that is as good as none."""


@dataclass(frozen=True)
class Answers:
    """What the steps of a policy say of its environment; shares are NaN where there are too few steps to tell."""

    steps: int
    constant: bool
    """The observation never changes."""
    foretold: float
    """Share of the next observation's variance that the one before explains, of the number that it explains best."""
    returns_told: float
    """Share of the returns' variance that a new regression finds in the observation."""
    reward_told: float
    """Share of the rewards' variance that follows from what was seen, done, and seen next."""
    dense: bool
    """Rewards are of many values."""
    follows: Effect
    """Of the action on what is seen and paid next."""
    returns: Effect
    """Of the action on what is paid in the next 8 or 32 steps."""
    late: tuple[int, float] | None
    """Steps by which effects come late, and the share that they explain."""
    looks: bool
    """The policy's choice depends on what it sees."""

    @property
    def something_to_gain(self) -> bool:
        """Some actions are followed by better returns than others, so a better policy exists."""
        return self.returns.clear()

    @property
    def blind(self) -> bool:
        """Observations say nothing: neither of the next one nor of returns."""
        return self.constant or (self.foretold < LITTLE and self.returns_told < LITTLE)

    @property
    def alive(self) -> bool:
        """Observations follow from each other, as those of a body or a game with a state do."""
        return not self.constant and self.foretold > 0.5

    @property
    def ignored(self) -> bool:
        """Nothing that follows depends on the action, or hardly."""
        seen = self.follows
        if self.something_to_gain:
            return False
        if seen.clear():
            return seen.share < WEAK and seen.limit < UNSEEN
        return seen.limit < UNSEEN

    @property
    def chance(self) -> bool:
        """All is chance: neither observations nor rewards follow from anything, as in a lottery."""
        return self.noise and self.blind

    @property
    def noise(self) -> bool:
        """Rewards of many values follow from nothing that is seen or done."""
        return self.dense and self.reward_told < LITTLE


def ask(seen: Experience, gamma: float) -> Answers:
    """Put all questions.

    Args:
        seen: some thousand steps.
        gamma: discount of returns.
    """
    few = int(seen.counted.sum()) < 500
    untold = few or not seen.tries
    follows = NONE if untold else actions.on_what_follows(seen)
    return Answers(
        steps=int(seen.counted.sum()),
        constant=signals.constant(seen),
        foretold=nan if few else signals.foretold(seen),
        returns_told=nan if few else signals.returns_told(seen, gamma),
        reward_told=nan if few else signals.reward_told(seen),
        dense=signals.dense(seen.rewards[seen.counted]),
        follows=follows,
        returns=NONE if untold else actions.on_returns(seen, gamma),
        late=None if untold else actions.late(seen),
        looks=untold or signals.policy_looks(seen),
    )


@dataclass(frozen=True)
class Problem:
    """What may be wrong with an environment."""

    name: Literal["noise", "blind", "ignored", "late"]
    strong: bool
    """No sound environment looks so; else a game of luck may."""
    evidence: str


def problems(told: Answers) -> Iterator[Problem]:
    """What the answers speak for, the likeliest first."""
    if told.noise and not (told.late is not None and told.late[1] > 0.5):
        said = f"{told.reward_told:.1%} of the rewards' variance follows from what is seen and done"
        yield Problem("noise", told.alive, said)
    if told.constant:
        yield Problem("blind", False, "every observation was the same")
    elif told.blind:
        said = f"{told.foretold:.1%} of what is seen next and {told.returns_told:.1%} of the returns follow from it"
        yield Problem("blind", False, said)
    if told.late is not None and not told.follows.clear(WEAK):
        steps, share = told.late
        yield Problem("late", True, f"what explains {share:.0%} of a change or a reward lies {steps} steps before it")
    elif told.ignored and not told.blind:
        share, p = max(0.0, told.follows.share), told.follows.p
        said = f"in {told.steps:,} steps it explains {share:.2g} of what follows (p = {p:.2g})"
        yield Problem("ignored", told.alive, said)
    elif told.late is not None:
        steps, share = told.late
        yield Problem("late", False, f"what explains {share:.0%} of a change or a reward lies {steps} steps before it")
