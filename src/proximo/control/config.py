"""Everything a control run can be told, as frozen data. No torch here: `proximo --help` reads this."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

from proximo.control.ending import Until
from proximo.core.schedules import Schedule, as_setting, require_rate_to_steer, unfollowed
from proximo.core.settings import UpdateSettings


@dataclass(frozen=True)
class NetworkSettings:
    """The policy's networks."""

    custom: str = ""
    """Own network, `module:Name` of a class or function that makes an nn.Module; it takes the place of the layers
    below. See docs/building-on-proximo.md."""
    arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """Arguments of the own network by name."""
    encoders: Mapping[str, str] = field(default_factory=dict)
    """Own encoders of keys of a Dict observation, `KEY = "module:Name"`: each turns its key into features, which join
    those of the other keys before the hidden layers."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critic."""
    activation: Literal["tanh", "relu", "elu", "silu"] = "tanh"
    """Activation between the layers."""
    shared: bool = False
    """Actor and critic share the hidden layers (pixels always share their convolutions)."""
    orthogonal: bool = True
    """Orthogonal initialisation with gains √2 (hidden), 0.01 (actor) and 1 (critic); else torch's own."""
    pixels: Literal["auto", "nature", "impala"] = "auto"
    """Convolutions for images: Nature-CNN (Mnih et al. 2015) or IMPALA (Espeholt et al. 2018); auto takes Nature from
    36 pixels up."""
    memory: Literal["none", "gru", "lstm"] = "none"
    """Recurrent layer between the observation and the hidden layers."""
    memory_size: int = 64
    """Width of the recurrent layer."""
    actions: Literal["gaussian", "squashed", "beta"] = "gaussian"
    """Continuous actions: a Gaussian clipped to the bounds, a tanh-squashed one, or a Beta within them (Chou et al.
    2017), whose two numbers the network gives for each action in each state."""
    noise: Literal["log", "scalar", "shared", "state", "fixed", "gsde"] = "log"
    """What decides the deviation of Gaussian actions: log, its logarithm is learnt, one for each action; scalar, the
    deviation itself is (rsl_rl's scalar), one for each; shared, one logarithm for all; state, the network gives one for
    each action in each state; fixed, it stays at `log_std`; gsde, the noise is a linear function of the last hidden
    layer that stays the same for some steps (Raffin et al. 2021), and its logarithms are learnt."""
    noise_every: int = 0
    """Steps for which the noise of `gsde` stays the same; 0 is a whole rollout."""
    log_std: float | tuple[float, ...] = 0.0
    """Initial log standard deviation, in units of half the action range (of 1 where the action has no bounds): one
    number, or one for each continuous column of the action."""
    log_std_range: tuple[float, float] = (-5.0, 2.0)
    """Bounds of the log standard deviation: after each step it is put back to the nearest, from where it can return."""

    def __post_init__(self) -> None:
        """Refuse numbers that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        if self.custom and self.encoders:
            raise ValueError(
                f"encoders are parts of our networks, and custom = {self.custom} takes their place: read the keys there"
            )
        if self.custom and self.memory != "none":
            raise ValueError(f"memory = {self.memory} is of our networks: give custom = {self.custom} a state_size")
        if min(self.hidden, default=1) < 1 or self.memory_size < 1:
            raise ValueError(
                f"hidden = {self.hidden} and memory_size = {self.memory_size} must be widths of at least 1"
            )
        self._check_noise()

    def _check_noise(self) -> None:
        """See that the deviation starts where it may be.

        Raises:
            ValueError: it does not.
        """
        if self.actions == "beta" and (self.noise != "log" or self.log_std != 0.0):
            other = f"noise = {self.noise}" if self.noise != "log" else f"log_std = {self.log_std}"
            raise ValueError(f"{other} is of Gaussian actions, and actions = beta has no deviation of its own")
        if self.noise_every < 0 or (self.noise_every and self.noise != "gsde"):
            raise ValueError(f"noise_every = {self.noise_every} is of noise = gsde, and must be at least 0")
        if self.noise == "gsde" and self.custom:
            raise ValueError(f"noise = gsde reads our last hidden layer, and custom = {self.custom} takes its place")
        low, high = self.log_std_range
        start = self.log_std if isinstance(self.log_std, tuple) else (self.log_std,)
        if not all(low <= x <= high for x in start):
            raise ValueError(f"log_std = {self.log_std} must lie within log_std_range = {self.log_std_range}")
        if self.noise == "shared" and len({*start}) > 1:
            raise ValueError(
                f"noise = shared is one deviation for all actions: log_std = {self.log_std} must be one number"
            )
        if self.noise == "state" and not all(low < x < high for x in start):
            raise ValueError(
                f"noise = state comes to log_std_range = {self.log_std_range} without reaching it: log_std = "
                f"{self.log_std} must lie between, not on a bound"
            )


@dataclass(frozen=True)
class NormalizerSettings:
    """Running statistics. They move after each update, never inside an iteration."""

    observations: bool = False
    """Scale vector observations to mean 0, variance 1, clipped to ±`clip`."""
    clip: float = 10.0
    """Bound of normalised observations and of scaled rewards."""
    rewards: Literal["off", "scale", "return"] = "off"
    """scale: divide rewards by the running deviation of the discounted return. return: the critic predicts returns of
    mean 0 and variance 1 (its last layer is corrected whenever the statistics move). off: neither."""

    def __post_init__(self) -> None:
        """Refuse a bound that leaves nothing.

        Raises:
            ValueError: `clip` is not positive.
        """
        if not self.clip > 0:
            raise ValueError(f"normalizers.clip = {self.clip} must be positive")


@dataclass(frozen=True)
class ObservationSettings:
    """Parts of a Dict or Tuple observation by role: names as in `observation_keys`, joined in the order given."""

    actor: tuple[str, ...] = ()
    """Parts that the actor sees, as `state`: what the robot measures. Acting, loading and export need these alone."""
    critic: tuple[str, ...] = ()
    """Parts that the critic sees, as `state privileged_state`; it then has layers and a normaliser of its own, and no
    memory. If not given, it sees what the actor sees."""
    rnd: tuple[str, ...] = ()
    """Parts whose novelty `rnd` pays for, as rsl_rl's rnd_state, whoever else sees them; no images. If not given, those
    of the actor."""
    student: tuple[str, ...] = ()
    """Parts that the student of a distillation sees: another name of `actor` there, and none in config.toml."""
    teacher: tuple[str, ...] = ()
    """Parts that its teacher sees, in the order of the teacher's own. If not given, those of the student."""

    def __post_init__(self) -> None:
        """Refuse another's view without an actor's.

        Raises:
            ValueError: the actor's is missing.
        """
        for role in ("critic", "teacher", "rnd"):
            if (names := getattr(self, role)) and not self.actor and not self.student:
                raise ValueError(f"observations.{role} = {list(names)} needs observations.actor, what the actor sees")


@dataclass(frozen=True)
class SymmetrySettings:
    """A mirror symmetry of the task, where there is one: left is right. Declared alone, it is only measured."""

    observations: Mapping[str, str] = field(default_factory=dict)
    """By part of the observation (`vector` where it has none), what its mirror image holds: for each entry the number
    of the one that it takes, with a sign, as `-0 2 1`; `same` for what the mirror leaves, `flip` for an image."""
    actions: str = ""
    """The same for actions: Box columns, and a number for each choice or switch (`1 0` exchanges two choices)."""
    function: str = ""
    """In the place of both, `module:Name` of a function `mirror(observations, actions)` that gives the images."""
    augmentation: bool = False
    """Learn from the mirror image of each sample too, as if it had been seen."""
    mirror_loss: float = 0.0
    """Price on the squared difference of the mean action to that of the mirror image; 0 is off."""

    @property
    def declared(self) -> bool:
        """Whether there is one."""
        return bool(self.observations or self.function)

    @property
    def learnt(self) -> bool:
        """Whether anything is learnt from it."""
        return self.augmentation or self.mirror_loss > 0

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
            ValueError: they do not.
        """
        if self.function and (self.observations or self.actions):
            raise ValueError("symmetry.function takes the place of symmetry.observations and actions: give one of them")
        if bool(self.observations) != bool(self.actions):
            raise ValueError("symmetry.observations and symmetry.actions belong together: give both")
        if not 0 <= self.mirror_loss < math.inf:
            raise ValueError(f"symmetry.mirror_loss = {self.mirror_loss} must be finite and at least 0")
        if self.learnt and not self.declared:
            raise ValueError(
                "symmetry.augmentation and mirror_loss need symmetry.observations and actions, or function"
            )


@dataclass(frozen=True)
class SelfPlaySettings:
    """Who moves for the other seats of a game whose agents move in turn."""

    past: float = 0.5
    """Share of games against a past version of the policy; the others are against the policy as it is."""
    kept: int = 20
    """Past versions that are kept at most; from one too many on, every second is dropped, but for the newest."""
    every: int = 20_000
    """Environment steps between two versions that are kept."""

    def __post_init__(self) -> None:
        """Refuse numbers that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        if not 0 <= self.past <= 1:
            raise ValueError(f"self_play.past = {self.past} must lie in [0, 1]")
        if self.kept < 1 or self.every < 1:
            raise ValueError(f"self_play.kept = {self.kept} and self_play.every = {self.every} must be at least 1")


@dataclass(frozen=True)
class RndSettings:
    """Random network distillation: a bonus for what has been seen seldom, where the task pays too seldom to be found
    (Burda et al. 2018, arXiv:1810.12894).
    """

    weight: float = 0.0
    """Weight of the bonus's advantages beside those of the task; 0 is off, and 0.5 is Burda et al.'s."""
    gamma: float = 0.99
    """Discount of the bonus per step; its sum goes on over the ends of episodes."""
    features: int = 64
    """Numbers that the fixed random network gives, which a predictor learns."""
    learning_rate: float = 1e-4
    """Step size of its own Adam, of the predictor and of the critic of the bonus."""
    share: float = 0.25
    """Share of the samples of each minibatch that the predictor learns from: fewer keep things new for longer."""

    def __post_init__(self) -> None:
        """Refuse numbers that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        for name in ("weight", "learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"rnd.{name} = {getattr(self, name)} must be finite and at least 0")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"rnd.gamma = {self.gamma} must lie in [0, 1), for no episode ends the sum of the bonus")
        if not 0 < self.share <= 1:
            raise ValueError(f"rnd.share = {self.share} must lie in (0, 1]")
        if self.features < 1:
            raise ValueError(f"rnd.features = {self.features} must be at least 1")


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy. All settings are written to RUN/config.toml, which repeats the run."""

    kind: ClassVar[str] = "control"

    environment: str = ""
    """A task of EnvPool, Gymnasium or PettingZoo, or `module:function` that makes an environment."""
    preset: str = "tuned"
    """Source of the numbers below: paper, tuned, the name of an algorithm, or the path of a TOML file."""
    steps: int = 1_000_000
    """Environment steps to train for, in whole iterations of `environments` x `rollout_length`."""
    seed: int = 0
    """Seed of everything random; any whole number."""
    run: str = ""
    """Folder of the run; the same command on the same folder resumes (default: runs/ENVIRONMENT-PRESET-SEED)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks live; auto: where environments of tensors are, else on the CPU if environments x width of the
    widest layer is below 32,768."""
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    """Whether acting and the gradient are recorded as CUDA graphs and replayed; auto: on a GPU, where nothing forbids
    it, which is said."""
    backend: Literal["auto", "envpool", "gymnasium", "subprocess"] = "auto"
    """What steps the environments; auto is EnvPool where it has the task, else Gymnasium in this process."""
    environments: int = 8
    """Environments stepped together."""
    rollout_length: int = 256
    """Steps of each environment per iteration."""
    options: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """Arguments for the environment's maker; what is given adds to those of the preset or overrides them."""
    environment_timeout: float = 60.0
    """Seconds that an environment in a process of its own may take for one step or reset before the run gives it up."""
    frame_stack: int = 1
    """Observations shown together, the last one last."""
    history: Mapping[str, int] = field(default_factory=dict)
    """Observations of a part of a Dict that are shown together, by its name, as `{state = 5}`; oldest first."""
    action_repeat: int = 1
    """Times that each action is taken in one step, whose reward is the sum; EnvPool has its own option `frame_skip`."""
    action_delay: int = 0
    """Steps by which each action arrives late, as by a robot's computer and motors; an episode starts with the middle
    of the bounds. A policy that acts on a robot acts at once: the delay is the robot's own."""
    observation_keys: tuple[str, ...] = ()
    """Parts of a Dict or Tuple observation that the policy sees, by name (`state`, `camera.depth`) or pattern, or
    `not:NAME` for what it does not see; all but text if not given, and what looks privileged asks for a decision."""
    observations: ObservationSettings = ObservationSettings()
    mask_key: str | None = None
    """Key of a Dict observation that holds the action mask (`action_mask` is found by itself)."""
    learning_rate: float | str = "3e-4 -> 0"
    """Adam's step size: a number or a schedule over the run (`3e-4 -> 0`, `cosine 3e-4 -> 0 warmup 0.05`, `0: 3e-4,
    0.9: 3e-4, 1: 0`)."""
    adam_epsilon: float = 1e-5
    """Adam's ε (1e-5: Huang et al. 2022, detail 3). Far below a gradient's root mean square it changes nothing."""
    gamma: float = 0.99
    """Discount per step."""
    lam: float = 0.95
    """λ of generalised advantage estimation."""
    truncation: Literal["exact", "previous", "drop"] = "exact"
    """How a cut episode goes on: exact, by the value of the state that was reached, which the environment has to show;
    previous, by that of the state before (rsl_rl), which is biased; drop, its last step is not learnt from (brax)."""
    update: UpdateSettings = field(default_factory=UpdateSettings)
    minibatches: int | None = None
    """Minibatches that each rollout is cut into, where that is easier to say than their size: it is turned into
    `update.minibatch_size`, and is none in config.toml."""
    network: NetworkSettings = NetworkSettings()
    normalizers: NormalizerSettings = NormalizerSettings()
    symmetry: SymmetrySettings = SymmetrySettings()
    self_play: SelfPlaySettings = SelfPlaySettings()
    rnd: RndSettings = RndSettings()
    random_phase: int = 0
    """Cut each environment's first episode after a random number of steps, 1 to this many (an episode's length, as a
    rule), so that not all of them start and end together for ever; 0 is off. Not with EnvPool."""
    start_from: str = ""
    """Folder of another run (or RUN/checkpoints/NAME), on a task of the same spaces, from what was learnt in which this
    one starts; its optimiser, schedules and settings are new."""
    start_with: tuple[Literal["policy", "critic", "normalizers"], ...] = ("policy", "critic", "normalizers")
    """Parts of it that are taken: the policy, the critic with the statistics of returns, the statistics of
    observations."""
    teacher: str = ""
    """Folder of the run whose policy a student learns from (`proximo distill`, `update.algorithm = "distill"`)."""
    until: str = ""
    """Mean return of the last episodes at which the run ends by itself, as `return=475:100` (100 episodes)."""
    max_minutes: float | None = None
    """Minutes of training after which the run ends by itself, those before a resume included."""
    checkpoint_every: int = 250_000
    """Environment steps between checkpoints."""
    restart_every: int = 250_000
    """Environment steps after which the environments restart at a checkpoint even within episodes, so that a resumed
    run repeats no more. Before, they restart where most steps are in episodes that ended."""
    evaluate_every: int | None = None
    """Environment steps between evaluations of `episodes` episodes each, whose best policy is kept. With none, the best
    policy is that with the highest mean return of 100 training episodes."""
    replay_mb: float = 256
    """Megabytes of the last updates that are kept for `proximo replay`; 0 keeps none but one that fails."""
    keep: int = 2
    """Numbered checkpoints that are kept, beside the best and the final one."""
    episodes: int = 20
    """Episodes of each evaluation at the end."""
    episode_limit: int | None = None
    """Steps after which an episode of an evaluation is cut; none is 30,000, or, where no episode of training has ended,
    as many as each environment was trained for (1,000 at least)."""

    def __post_init__(self) -> None:
        """Refuse numbers that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        self.update.check_kind(self.kind)
        for name in (
            "steps",
            "environments",
            "rollout_length",
            "frame_stack",
            "action_repeat",
            "checkpoint_every",
            "restart_every",
            "keep",
            "episodes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        for name in ("evaluate_every", "episode_limit"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        self._check_observations()
        if self.minibatches is not None:
            self._size_minibatches(self.minibatches)
        if self.until:
            Until.parse(self.until)
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes = {self.max_minutes} must be positive")
        if self.start_from and "policy" not in self.start_with:
            raise ValueError(f"start_with = {list(self.start_with)} must hold policy: a critic is of its policy")
        for name in ("random_phase", "action_delay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 0")
        if not self.replay_mb >= 0:
            raise ValueError(f"replay_mb = {self.replay_mb} must be at least 0")
        if not self.environment_timeout > 0:
            raise ValueError(f"environment_timeout = {self.environment_timeout} must be positive")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} must lie in [0, 1]")
        object.__setattr__(self, "learning_rate", as_setting(self.learning_rate))
        rate = Schedule.parse(self.learning_rate, "learning_rate")
        if rate.extremes[0] < 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must be finite and at least 0")
        require_rate_to_steer(rate, self.update.adaptive_kl)
        if not 0 < self.adam_epsilon < math.inf:
            raise ValueError(f"adam_epsilon = {self.adam_epsilon} must be positive and finite: 0 / 0 is no step")

    def _size_minibatches(self, count: int) -> None:
        """Turn a number of minibatches into their size.

        Raises:
            ValueError: the rollout can not be cut so.
        """
        size, left = divmod(self.rollout_size, max(1, count))
        if left or count < 1:
            raise ValueError(
                f"minibatches = {count} must divide a rollout of {self.rollout_size} steps (environments "
                f"{self.environments} x rollout_length {self.rollout_length})"
            )
        object.__setattr__(self, "update", replace(self.update, minibatch_size=size))
        object.__setattr__(self, "minibatches", None)

    def _check_observations(self) -> None:
        """See that the settings about observations go together.

        Raises:
            ValueError: they do not.
        """
        seen = self.observations
        for role in ("student", "teacher"):
            if (names := getattr(seen, role)) and not self.teacher:
                raise ValueError(
                    f"observations.{role} = {list(names)} is of `proximo distill`, and nobody is taught here: "
                    "name what the policy sees with observations.actor"
                )
        if seen.student:
            object.__setattr__(self, "observations", replace(seen, actor=seen.student, student=()))
        if self.history and (self.frame_stack > 1 or min(self.history.values()) < 1):
            raise ValueError(
                f"history = {dict(self.history)} counts observations of parts, 1 at least, and frame_stack = "
                f"{self.frame_stack} those of a whole one: give one of them"
            )
        if self.observations.actor and self.observation_keys:
            raise ValueError("observation_keys and observations.actor both say what is seen: give one of them")
        if self.observations.critic and (self.network.custom or self.network.shared):
            other = f"custom = {self.network.custom}" if self.network.custom else "shared = true"
            raise ValueError(
                f"observations.critic gives the critic layers of its own, which network.{other} leaves no room for: "
                "leave one of them out"
            )

    @property
    def idle(self) -> tuple[str, ...]:
        """A sentence on each setting that was given and decides nothing, since another one is off."""
        said, plain = [], RndSettings()
        rate = Schedule.parse(self.learning_rate, "learning_rate")
        if text := unfollowed(rate, self.update.adaptive_kl):
            said.append(text)
        given = [f.name for f in fields(plain) if getattr(self.rnd, f.name) != getattr(plain, f.name)]
        if given and not self.rnd.weight:
            names = " and ".join(f"rnd.{name}" for name in given)
            said.append(f"{names} can do nothing while rnd.weight is 0: set it, to 0.5 for a start, or leave this out")
        if self.start_with != TrainConfig.start_with and not self.start_from:
            said.append(
                f"start_with = {list(self.start_with)} can do nothing without start_from, the run to start from"
            )
        return tuple(said)

    @property
    def visible(self) -> tuple[str, ...]:
        """Names of all parts of an observation that somebody sees; () for all but text."""
        return tuple(dict.fromkeys((*self.observations.actor, *self.observations.critic))) or self.observation_keys

    @property
    def visible_in_training(self) -> tuple[str, ...]:
        """The same, and what a teacher sees, or who pays for what is new."""
        return tuple(dict.fromkeys((*self.visible, *self.observations.teacher, *self.observations.rnd)))

    @property
    def rollout_size(self) -> int:
        """Environment steps of one iteration."""
        return self.environments * self.rollout_length
