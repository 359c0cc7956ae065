"""What PPO on a language model can be told. No torch here: the command line reads this before torch is loaded."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from proximo.core.schedules import Schedule, as_setting, require_rate_to_steer
from proximo.core.settings import UpdateSettings
from proximo.language.config import is_day, require_seed


@dataclass(frozen=True)
class KLSettings:
    """How far the policy may go from the reference."""

    coefficient: float = 0.05
    """β: the price of one nat, in units of the standardised score. At 0, without a budget, there is no reference: it is
    neither held nor run, and no KL to it is measured."""
    target: float | None = None
    """KL to hold, nats per response: β adapts to it (Ziegler et al. 2019); None keeps β."""
    horizon: int = 2048
    """Responses over which β changes by about 20 % when the KL is 20 % off the target."""
    budget: float | None = None
    """Nats per response at which training ends, with the policy as it then is; None is no end."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        if not 0 <= self.coefficient < math.inf:
            raise ValueError(
                f"kl.coefficient = {self.coefficient} must be at least 0, and finite: divergence is not to be paid for"
            )
        for name in ("target", "horizon", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"kl.{name} = {value} must be positive and finite")
        if self.target is not None and self.coefficient == 0:
            raise ValueError(
                f"kl.coefficient = {self.coefficient} must be positive where kl.target is set: the price is adapted by "
                "factors, and 0 would stay 0"
            )


@dataclass(frozen=True)
class SharingSettings:
    """How policy, reference and critic share weights."""

    mode: Literal["full", "lora", "top_layers"] = "full"
    """full: own copies; lora: adapters on one base, the reference is the base without them; top_layers: one frozen
    trunk, run once per token, with own upper layers for policy and critic."""
    top_layers: int = 4
    """Upper layers that are trained (mode top_layers)."""
    lora_rank: int = 16
    """Rank of the adapters (mode lora)."""
    lora_alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank (mode lora)."""
    critic: Literal["shared", "separate"] = "shared"
    """shared: a value head on the policy's hidden states; separate: an own network (full), adapter (lora) or top."""
    critic_from: Literal["policy", "reward"] = "policy"
    """What a separate critic starts from; reward needs mode full and a reward model with the policy's tokenizer."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        if self.top_layers < 1 or self.lora_rank < 1 or not 0 < self.lora_alpha < math.inf:
            raise ValueError(
                f"sharing.top_layers = {self.top_layers}, lora_rank = {self.lora_rank} and "
                f"lora_alpha = {self.lora_alpha} must be positive and finite"
            )
        if self.critic_from == "reward" and (self.critic, self.mode) != ("separate", "full"):
            raise ValueError("sharing.critic_from = reward needs sharing.critic = separate and sharing.mode = full")


@dataclass(frozen=True)
class ScaleSettings:
    """How several ranks hold one model; for one process these change nothing."""

    shard: Literal["none", "full"] = "none"
    """none: each rank holds all weights; full: each holds its part of the weights, gradients and moments of policy,
    critic and reference, and a layer is gathered when it computes (FSDP2)."""
    offload: bool = False
    """Whether the frozen reference's part lies in main memory, where the run is on GPUs (shard full)."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        if self.offload and self.shard != "full":
            raise ValueError("scale.offload = true needs scale.shard = full: it is parts of weights that are put away")


@dataclass(frozen=True)
class PPOConfig:
    """PPO on a language model with a KL penalty against the model it starts from."""

    kind: ClassVar[str] = "language"

    policy: str = ""
    """Folder (or hub name) of the model to train: it is also the reference. RUN/sft if none is named."""
    rewards: dict[str, float] = field(default_factory=dict)
    """What scores a response, with its weight: folders of reward models and functions as module:function. Those given
    are all there are: RUN/reward is taken only where none is named."""
    combine: Literal["sum", "mean", "min", "mean-std"] = "sum"
    """How the weighted scores of several rewards become one: an ensemble of reward models is believed only as far as
    all of its members agree by min, or by mean-std, the mean less their standard deviation."""
    modules: str = ""
    """Folder of the modules that `rewards` names as module:function; if empty, the current one, if it has them."""
    prompts: str = ""
    """JSONL or Parquet file, or datasets folder, with a `prompt` per row."""
    held_out: str = ""
    """The same, never trained on: what `evaluate` and `chat` answer; empty takes the training prompts."""
    held_out_pairs: str = ""
    """Pairs that people judged and the reward model never saw: preflight asks it about 64 of them; without them it
    warns that nobody has."""
    judge: str = ""
    """What scores held-out prompts while the run goes on and is not optimised: folder of a judge or of another reward
    model, or module:function. RUN/judge where there is one and none is named; without one nobody judges."""
    judge_every: int = 8
    """Iterations between two such measurements."""
    judge_prompts: int = 64
    """Prompts that each of them asks, the last ones of `held_out`; answers are drawn anew each time."""
    stop_at_peak: bool = False
    """Whether the run ends once the judge's score has passed its peak, with the policy that the judge liked best."""
    run: str = ""
    """Folder of the run; a name is made if empty."""
    preset: str = ""
    """Where these settings come from."""
    seed: int = 0
    """Of sampling, shuffling and initialisation."""
    responses: int = 4096
    """Responses sampled in the whole run."""
    batch: int = 64
    """Responses per iteration."""
    minutes: float | None = None
    """Minutes of training: the run ends after the iteration that passes them. What the judge takes is not counted, so
    that a run with a judge learns as much as one without; None is no limit."""
    prompt_limit: int = 512
    """Longest prompt in tokens; longer ones are dropped, counted and said."""
    response_limit: int = 64
    """Cap on a response in tokens."""
    temperature: float = 1.0
    """Of sampling, and of every scoring of what was sampled."""
    top_k: int = 0
    """Must be 0: cut-off sampling draws from another distribution than the one whose ratio PPO takes."""
    top_p: float = 1.0
    """Must be 1, for the same reason."""
    missing_eos_floor: float | None = -1.0
    """A response that does not end scores min(score, floor); None leaves its score."""
    score_clip: float | None = 5.0
    """The weighted score is held within this distance of 0; None is off."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """λ of generalised advantage estimation."""
    learning_rate: float | str = "1e-5 -> 0"
    """Step size, a number or a schedule (`1e-5 -> 0`, `cosine 1e-5 -> 1e-6`)."""
    adam_epsilon: float = 1e-8
    """Adam's ε. A gradient of norm 1 over n trained numbers has a root mean square of 1 / sqrt(n): ε has to be far
    below that, or the steps of large models shrink (1e-5 halves those of 7 billion numbers)."""
    warmup: float = 0.03
    """Share of the run over which the learning rate rises from 0."""
    kl: KLSettings = field(default_factory=KLSettings)
    sharing: SharingSettings = field(default_factory=SharingSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    update: UpdateSettings = field(
        default_factory=lambda: UpdateSettings(
            epochs=4, minibatch_size=32, value_coefficient=0.1, max_grad_norm=1.0, target_kl=0.05
        )
    )
    token_budget: int = 4096
    """Tokens, padding included, that go through a network at once; changes no gradient."""
    compute: Literal["auto", "float32", "bfloat16"] = "float32"
    """Type of the matrix products: auto takes bfloat16 where the processor has instructions for it, or else float32;
    weights, log-probs and losses stay float32."""
    old_log_probs: Literal["auto", "sampler", "rescore"] = "auto"
    """Whose log-probs are the ratio's denominator: auto takes the sampler's if they agree with the trainer's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where everything runs; auto takes a GPU that is there."""
    threads: int | None = None
    """Threads that compute on a CPU. None takes one per core, or fewer where other programs take some of the cores when
    the run begins (then it says so)."""
    checkpoint_every: int = 1024
    """Responses between two checkpoints."""
    replay_mb: float = 256
    """Megabytes of the last updates that are kept for `proximo replay`; 0 keeps none but one that fails."""
    keep: int = 1
    """How many numbered checkpoints stay."""
    undo: bool = True
    """Keep a copy of what an update moves (12 bytes per trained float32), so that one that fails or is interrupted is
    undone on the spot; without it the run goes back to its last checkpoint."""
    samples: int = 4
    """Sample texts kept per iteration."""
    record_mb: float = 100
    """Megabytes of records of every token for `proximo inspect`: the oldest but the first go; 0 records none."""
    date: str = ""
    """Day that a chat template writes if it writes the date, as 2026-11-28. Empty: the day the run begins on."""
    trust_remote_code: bool = False
    """Whether models may bring Python code of their own."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        require_seed(self.seed)
        if self.top_k != 0 or self.top_p != 1.0:
            raise ValueError(
                f"top_k = {self.top_k}, top_p = {self.top_p} must be 0 and 1: PPO's ratio is that of the distribution "
                "the tokens were drawn from, and a cut-off one is not what the policy computes"
            )
        if self.update.recompute_advantages or self.update.micro_batches != 1:
            raise ValueError(
                "update.recompute_advantages and update.micro_batches do not apply to language models: token_budget "
                "decides what goes through the network at once"
            )
        self.update.check_kind(self.kind)
        if self.sharing.critic == "separate" and not self.update.critic:
            raise ValueError(
                f"sharing.critic = separate: {type(self.update).__name__} learns no values, so it has no critic to be "
                "separate; leave it at shared"
            )
        if self.scale.shard == "full" and self.sharing.mode != "full":
            raise ValueError(
                f"scale.shard = full needs sharing.mode = full: with {self.sharing.mode} only a part of the weights is "
                "trained, and each rank holds them all; take one of the two"
            )
        if self.scale.shard == "full" and self.judge:
            raise ValueError(
                f"scale.shard = full has nobody judge on the way (judge = {self.judge}): rank 0 would ask it, and has "
                "a part of the policy only; leave judge empty, and compare afterwards"
            )
        object.__setattr__(self, "learning_rate", as_setting(self.learning_rate))
        rate = Schedule.parse(self.learning_rate, "learning_rate")
        require_rate_to_steer(rate, self.update.adaptive_kl)
        rules = {
            "responses": (self.responses >= 1, "positive"),
            "batch": (self.batch >= 1, "positive"),
            "prompt_limit": (self.prompt_limit >= 1, "positive"),
            "response_limit": (self.response_limit >= 1, "positive"),
            "temperature": (0 < self.temperature < math.inf, "positive and finite (greedy responses have no ratio)"),
            "missing_eos_floor": (math.isfinite(self.missing_eos_floor or 0.0), "a finite number, or None"),
            "score_clip": (self.score_clip is None or self.score_clip > 0, "positive"),
            "gamma": (0 <= self.gamma <= 1, "in [0, 1]"),
            "lam": (0 <= self.lam <= 1, "in [0, 1]"),
            "learning_rate": (rate.extremes[0] >= 0, "at least 0"),
            "adam_epsilon": (0 < self.adam_epsilon < math.inf, "positive and finite (0 / 0 is no step)"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "token_budget": (self.token_budget >= 1, "positive"),
            "minutes": (self.minutes is None or self.minutes > 0, "positive"),
            "checkpoint_every": (self.checkpoint_every >= 1, "positive"),
            "replay_mb": (self.replay_mb >= 0, "at least 0"),
            "record_mb": (self.record_mb >= 0, "at least 0"),
            "keep": (self.keep >= 1, "positive"),
            "judge_every": (self.judge_every >= 1, "positive"),
            "judge_prompts": (self.judge_prompts >= 2, "at least 2: a spread is measured over the prompts"),
            "threads": (self.threads is None or self.threads >= 1, "positive"),
            "date": (is_day(self.date), "a day as 2026-11-28, or empty"),
        }
        for name, (holds, bound) in rules.items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)} must be {bound}")
        for name, weight in self.rewards.items():
            if not math.isfinite(weight):
                raise ValueError(f"the weight of reward {name} is {weight}: it must be a finite number")
