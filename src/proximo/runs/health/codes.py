"""Everything that can be wrong, as data: a code that never changes its meaning, what it means, what to change."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["amber", "red"]

PAGES = Path(__file__).parent / "pages"


@dataclass(frozen=True)
class Code:
    """One kind of finding. `proximo doctor CODE` prints its page, for someone who does not know PPO's inside."""

    number: str
    """`P012`: P of a run, E of an environment. Never given to another meaning."""
    slug: str
    cause: str
    """Meaning, as the end of a sentence."""
    remedy: str
    """First change to make."""

    @property
    def label(self) -> str:
        """`P012 ratio-not-one`."""
        return f"{self.number} {self.slug}"

    @property
    def page(self) -> Path:
        """The file of its page, which is shipped with the package."""
        return PAGES / f"{self.number}-{self.slug}.md"

    @property
    def text(self) -> str:
        """What its page says, without the link at its end, which leads nowhere but on the site."""
        return self.page.read_text("utf-8").rstrip().removesuffix("[All findings](README.md)").rstrip() + "\n"

    @property
    def more(self) -> str:
        """The command that prints its page."""
        return f"proximo doctor {self.number}"


# From what makes every other number meaningless to what only wastes time: of two findings of one severity, the
# first in this list is told first, since it explains the other.
_RUN = (
    Code("P001", "not-finite", "a number became NaN or infinite", "lower learning_rate; look for extreme rewards"),
    Code("P002", "weights", "sample weights are negative, or all of them are 0", "look at what sets the weights"),
    Code(
        "P012",
        "ratio-not-one",
        "the policy that learns is not the one that acted",
        "look for a normaliser that moves inside the iteration, dropout, or log-probs of clipped actions",
    ),
    Code(
        "P010",
        "normalizer-moved",
        "a normaliser changed between acting and learning",
        "let statistics take in a rollout only after the update that it is learnt from",
    ),
    Code("P011", "normalizer-frozen", "a normaliser takes nothing in", "let it absorb each rollout, or switch it off"),
    Code(
        "P013",
        "reset-rows-learnt",
        "rows that only report a reset are learnt from",
        "give them weight 0: report them as not valid",
    ),
    Code(
        "P014",
        "truncation-not-bootstrapped",
        "cut episodes are continued from a state that is not the one they reached",
        "make the environment report its final observation",
    ),
    Code(
        "P016",
        "sampler-gap",
        "responses are drawn from another distribution than the one that learns",
        "sample with the temperature of training, without top-k, top-p or repetition penalties",
    ),
    Code(
        "P015",
        "kl-negative",
        "the divergence from the reference is measured negative, which a divergence can not be",
        "sample from the policy itself; compare the sampler's log-probs with the trainer's",
    ),
    Code(
        "P055",
        "reward-indifferent",
        "the reward is the same for every response, so there is nothing to learn",
        "look at its scores of good and bad responses; look at score_clip and missing_eos_floor",
    ),
    Code(
        "P056",
        "nothing-to-learn-from",
        "nearly all responses have the same reward, so what is learnt is mostly the critic's mistakes",
        "make the task easier at first, or reward what comes close; sample more responses in an iteration (batch)",
    ),
    Code("P041", "no-reward", "rewards do not tell good from bad", "reward steps towards the goal; explore more"),
    Code(
        "P049",
        "reward-noise",
        "rewards follow from nothing that is seen or done",
        "look at how the reward is computed, and from the state of which step",
    ),
    Code(
        "P048",
        "observation-blind",
        "observations say nothing of what comes next or of what is paid",
        "look at what the observation is made of; give the policy a memory if the state is hidden",
    ),
    Code(
        "P057",
        "effect-late",
        "what an action does is seen or paid many steps later",
        "reward and observe the state that the action led to; else show the last actions, and raise gamma",
    ),
    Code(
        "P047",
        "actions-ignored",
        "what happens does not depend on the action",
        "follow one action from step() to where it acts; look at its scale",
    ),
    Code(
        "P042",
        "ending-pays",
        "the shorter the episode, the larger the return: the policy learns to end it",
        "check the reward's sign; pay for being alive, or punish failure",
    ),
    Code(
        "P017",
        "time-limit-as-end",
        "every episode ends at the same step, reported as a terminal state",
        "report a time limit as truncated, not as terminated",
    ),
    Code(
        "P063",
        "truncation-approximated",
        "a setting says that cut episodes go on otherwise than from the state they reached",
        'make the environment report its final observation and set truncation = "exact"',
    ),
    Code(
        "P062",
        "reward-term",
        "one part of the reward explodes, decides alone, or never acts",
        "bound it, or change its weight",
    ),
    Code("P044", "never-ends", "no episode ends", "give the environment a time limit that it reports as truncated"),
    Code(
        "P040",
        "observations-unscaled",
        "what the network sees is far from size 1",
        "switch normalizers.observations on, or divide by what each dimension can be",
    ),
    Code(
        "P031",
        "returns-unscaled",
        "what the critic must predict is far from size 1",
        'set normalizers.rewards = "scale", or divide the reward',
    ),
    Code(
        "P060",
        "policy-blind",
        "the policy does the same whatever it sees",
        "look at whether the network reads its inputs",
    ),
    Code(
        "P058",
        "policy-frozen",
        "no update changes the policy at all",
        "look for a detached output, or for parameters without gradient",
    ),
    Code(
        "P021",
        "no-clip",
        "nothing stops the policy from leaving the data it learns from",
        "set update.clip = 0.2, or one epoch",
    ),
    Code(
        "P032",
        "critic-not-trained",
        "the critic's loss has no weight, so it never learns",
        "set update.value_coefficient = 0.5",
    ),
    Code(
        "P033",
        "horizon-short",
        "rewards some steps ahead count almost nothing",
        "raise gamma: 1 / (1 - gamma) steps are seen",
    ),
    Code("P024", "too-many-epochs", "a rollout is learnt from until it says nothing new", "lower update.epochs"),
    Code("P020", "step-too-large", "the policy changes too much in one update", "lower learning_rate; set target_kl"),
    Code(
        "P059",
        "clip-too-small",
        "the clip leaves a sample out as soon as the policy has hardly moved",
        "set update.clip = 0.2",
    ),
    Code("P022", "step-too-small", "the policy hardly changes", "raise learning_rate"),
    Code(
        "P050",
        "reward-hacking",
        "the score rises and the responses become poorer: the reward's mistakes are learnt",
        "raise kl.coefficient; train a better reward model; stop earlier",
    ),
    Code(
        "P061",
        "past-the-peak",
        "a judge that is not optimised liked the policy better before: later steps learnt the reward's mistakes",
        "train with stop_at_peak, or take the policy in best_policy",
    ),
    Code(
        "P053",
        "length-drift",
        "responses become much longer or shorter than they were",
        "make the reward blind to length, or subtract a price per word",
    ),
    Code(
        "P026",
        "entropy-rising",
        "the policy becomes more random instead of better",
        "lower update.entropy_coefficient",
    ),
    Code(
        "P028",
        "std-stuck",
        "the deviation of actions does not move any more",
        "widen network.log_std_range on the side where it stands, or set network.noise = fixed if it is to stand",
    ),
    Code(
        "P025",
        "entropy-collapsed",
        "the policy has stopped trying anything new",
        "raise update.entropy_coefficient, or lower learning_rate",
    ),
    Code(
        "P052", "no-end", "responses do not end by themselves", "raise response_limit; fine-tune on responses with EOS"
    ),
    Code("P051", "kl-runaway", "the policy is very far from its reference", "raise kl.coefficient, or set kl.target"),
    Code("P054", "duplicates", "many responses are the same", "raise kl.coefficient; lower learning_rate"),
    Code(
        "P064",
        "worse-than-first",
        "episodes return less than those of the first policy",
        "ask `proximo doctor RUN` for the likeliest reason; lower learning_rate",
    ),
    Code(
        "P046",
        "learnt-nothing",
        "episodes are no better than those of the first policy",
        "look at the findings before this one and at `proximo doctor ENVIRONMENT`; else train longer",
    ),
    Code(
        "P030",
        "critic-useless",
        "the critic predicts returns no better than their mean",
        "give the critic more to learn",
    ),
    Code(
        "P027",
        "actions-at-bounds",
        "most actions are cut off at their bounds",
        "narrow the action bounds to what the task can use, or lower network.log_std",
    ),
    Code("P043", "fell-off", "the return fell far below what it had been", "lower learning_rate; set target_kl"),
    Code(
        "P023",
        "gradient-clipped",
        "the gradient is cut to a small part of itself in every step",
        "scale rewards and observations",
    ),
    Code(
        "P045",
        "memory-grows",
        "the process takes more and more memory",
        "look for what the environment or reward function keeps",
    ),
)

_ENVIRONMENT = (
    Code("E005", "not-reproducible", "the same seed and actions give another episode", "draw from self.np_random only"),
    Code("E006", "reset-leaks", "a reset does not forget what was before it", "set every variable in reset"),
    Code("E011", "ends-at-once", "episodes end at their first step", "look at the condition that ends an episode"),
    Code("E001", "never-ends", "no episode ended", "add a time limit (gymnasium.wrappers.TimeLimit)"),
    Code("E008", "time-limit-as-end", "every episode terminates at the same step", "report a time limit as truncated"),
    Code("E010", "no-reward", "every reward is the same", "reward progress; random actions find nothing"),
    Code(
        "E014",
        "reward-noise",
        "rewards follow from nothing that is seen or done",
        "look at how the reward is computed, and from the state of which step",
    ),
    Code(
        "E013",
        "observation-blind",
        "observations say nothing of what comes next or of what is paid",
        "look at what the observation is made of; with a hidden state give the policy a memory",
    ),
    Code(
        "E015",
        "effect-late",
        "what an action does is seen or paid many steps later",
        "reward and observe the state that the action led to",
    ),
    Code(
        "E012",
        "actions-ignored",
        "what happens does not depend on the action",
        "follow one action from step() to where it acts; look at its scale",
    ),
    Code("E002", "reward-scale", "rewards are far from size 1", 'set normalizers.rewards = "scale", or divide them'),
    Code("E004", "observation-large", "an observation is far from size 1", "set normalizers.observations = true"),
    Code("E003", "observation-constant", "an observation never changes", "leave it out"),
    Code("E007", "action-bounds", "the bounds of the actions are far from ±1", "give the bounds that the task can use"),
    Code("E009", "slow", "steps take long", "use more processes: backend subprocess; profile the environment's step"),
)


def _by_number(codes: Iterable[Code]) -> dict[str, Code]:
    return {code.number: code for code in codes}


CODES = _by_number((*_RUN, *_ENVIRONMENT))
"""By number, causes before their consequences."""

BY_SLUG = {code.slug: code for code in _RUN}
"""Codes of a run by slug: the errors of `core.invariants` begin with one."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen."""

    code: Code
    severity: Severity
    evidence: str
    """The numbers that say so: "KL 0.9 nats, clip fraction 0.7"."""

    def plain(self) -> dict[str, str]:
        """For JSON."""
        code = self.code
        return {
            "code": code.number,
            "slug": code.slug,
            "severity": self.severity,
            "cause": code.cause,
            "evidence": self.evidence,
            "remedy": code.remedy,
            "more": code.more,
        }

    @property
    def rank(self) -> tuple[int, int]:
        """Sorts the worst first."""
        return (0 if self.severity == "red" else 1, list(CODES).index(self.code.number))


def found(number: str, severity: Severity, evidence: str) -> Finding:
    """A finding of the code with this number."""
    return Finding(CODES[number], severity, evidence)
