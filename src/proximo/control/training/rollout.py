"""Stepping environments with a policy: `[T, N]` of everything an update needs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.episodes import Episode, EpisodeCounter, first_episode
from proximo.control.environments.terms import Means
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.groups import CRITIC, RND
from proximo.control.spaces.masks import opened
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.batch import Action
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import under


class Actor(Protocol):
    """What acts: a `ControlPolicy`, or its `ClosedForm`. What `act` leaves out is asked for after the rollout."""

    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Any = None,
        *,
        generator: torch.Generator | None = None,
        noise: Any = None,
    ) -> Action:
        """Actions for `[N]` observations; `noise` is what the policy's `draw_noise` gave."""

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Of actions `[..., width]`, from what they were drawn from."""

    def value(self, inputs: Mapping[str, Tensor], memory: Any = None) -> Tensor:
        """The critic's output, `[...]`."""


@dataclass(frozen=True)
class FinalObservation:
    """The state a truncated episode really reached, where the rollout goes on with the next episode at once."""

    step: int
    rows: np.ndarray
    inputs: Mapping[str, Tensor]
    memory: Tensor | None


@dataclass(frozen=True)
class Rollout:
    """T steps of N environments. Tensors lie on the policy's device, arrays on the host; both are reused next time."""

    inputs: Mapping[str, Tensor]
    """Each `[T, N, ...]`."""
    last_inputs: Mapping[str, Tensor]
    """Each `[N, ...]`: what follows the last step."""
    last_memory: Tensor | None
    action: Tensor  # [T, N, width]
    log_prob: Tensor  # [T, N]
    value: Tensor  # [T, N], in the critic's units
    reward: np.ndarray  # [T, N] float64, as the environment gives it
    terminated: np.ndarray  # [T, N]
    truncated: np.ndarray  # [T, N]
    valid: np.ndarray  # [T, N]; False = the row only reports a reset
    starts: np.ndarray  # [T, N]; True = the observation is the first of an episode
    last_starts: np.ndarray  # [N]; the same of what follows the last step
    memory: Tensor | None
    """`[N, S]` before the first step."""
    finals: Sequence[FinalObservation]
    episodes: Sequence[Episode]
    """Those that ended."""
    clipped_fraction: float
    """Share of continuous action columns at their bounds."""
    said: Mapping[str, float] = field(default_factory=dict)
    """Means of what the environments said of themselves, by metric."""
    ends: Sequence[FinalObservation] = ()
    """The states that episodes reached, terminal ones too, where the next episode starts in the same step and they are
    known; only where somebody asks for them."""
    beside: Mapping[str, Tensor] = field(default_factory=dict)
    """Each `[T, N, ...]`: what neither actor nor critic see, `rnd.vector`."""
    last_beside: Mapping[str, Tensor] = field(default_factory=dict)
    """Each `[N, ...]`: the same after the last step."""
    executed: Tensor | None = None
    """`[T, N, width]`, what the environments were told where that is not `action`."""

    @property
    def taken(self) -> Tensor:
        """What the environments were told."""
        return self.action if self.executed is None else self.executed

    @property
    def followed_by_start(self) -> np.ndarray:
        """`[T, N]`: what is observed after this step is the first of an episode."""
        return np.concatenate([self.starts[1:], self.last_starts[None]])

    @property
    def steps(self) -> int:
        """Environment steps: rows that report a reset do not count."""
        return int(self.valid.sum())

    @property
    def done(self) -> np.ndarray:
        """`[T, N]`: nothing flows back over this row."""
        return self.terminated | self.truncated | ~self.valid


@dataclass
class Collector:
    """Steps `environments` with `actor` and remembers what happened."""

    environments: VectorEnvironment
    policy: ControlPolicy
    actor: Actor
    length: int
    generator: torch.Generator
    seconds: dict[str, float] = field(default_factory=lambda: {"environment": 0.0, "policy": 0.0})
    """Wall time since the caller last emptied it, by phase."""

    def __post_init__(self) -> None:
        """Make room for one rollout."""
        self.device = next(self.policy.parameters()).device
        self.shape = (self.length, self.environments.count)
        self._masked = self.policy.observations.has_mask
        self._counter = EpisodeCounter(self.environments.count)
        self._tensors: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        for name in ("terminated", "truncated", "valid", "starts"):
            self._arrays[name] = np.zeros(self.shape, bool)
        self._arrays["reward"] = np.zeros(self.shape, np.float64)
        self.last_step: Step | None = None
        self.random_phase = 0
        """Longest first episode, see `VectorEnvironment.stagger`; 0 for none that is cut."""
        self.exact = False
        """Whether the policy is shown float64, see `see`."""
        self._inputs: dict[str, Tensor] = {}
        self._said = Means()
        self._noise: Tensor | None = None
        self._shares_noise = self.policy.noise.kind == "gsde"  # which no closed form knows
        self.finals_wanted = True
        """Whether cut episodes go on from the states that they reached."""
        self.ends_wanted = False
        """Whether the states in which episodes ended for good are kept too."""
        self._ends: list[FinalObservation] = []
        self.beside: ObservationSpec | None = None
        """What is written down although neither actor nor critic see it."""
        self._seen_beside: dict[str, Tensor] = {}
        self.listening = True
        """Whether what the environments say of themselves is taken in."""

    def see(self, exact: bool) -> None:
        """Keep observations in float64, or not, from what the policy sees next on; see `ObservationSpec.encode`."""
        self.exact = exact
        for name in ("vector", f"{CRITIC}vector"):
            if not exact and name in self._inputs:
                self._inputs = {**self._inputs, name: self._inputs[name].to(torch.float32)}
            self._tensors.pop(f"inputs.{name}", None)
            self._arrays.pop(f"inputs.{name}", None)
        if not exact:
            self._seen_beside = {name: x.to(torch.float32) for name, x in self._seen_beside.items()}
        for name in self._seen_beside:
            self._tensors.pop(f"beside.{name}", None)
            self._arrays.pop(f"beside.{name}", None)

    def use(self, actor: Actor) -> None:
        """Let another one act; what only the former one told is forgotten."""
        self.actor = actor
        for name in ("log_prob", "value", "output"):
            self._tensors.pop(name, None)
            self._arrays.pop(name, None)

    def restart(self, seeds: Sequence[int]) -> None:
        """Start every environment anew, with one seed each."""
        observation, mask = self.environments.reset(seeds)
        self._masked = self._masked or mask is not None
        self.policy.masked = self.policy.masked or mask is not None
        self._starts = np.ones(self.environments.count, bool)
        self._inputs, self._seen_beside = self._encode(observation, mask, None), self._encode_beside(observation, None)
        self._memory = self.policy.initial_memory(self.environments.count)
        self._counter.restart([first_episode(seed, self.random_phase) for seed in seeds])

    def repeat(self, actions: Tensor, memory: Tensor | None) -> None:
        """Take actions again that were taken before, without asking the policy.

        Args:
            actions: `[T, N, width]`, on the CPU.
            memory: the policy's, after the last of them.
        """
        for action in actions.numpy():
            step = self.environments.step(self.policy.actions.to_environment(action))
            self._counter.update(step)
        self.last_step, self._starts, self._memory = step, step.started, memory
        self._inputs = self._encode(step.observation, step.mask, None)
        self._seen_beside = self._encode_beside(step.observation, None)

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """What the policy sees next, each `[N, ...]`."""
        return self._inputs

    @property
    def memory(self) -> Tensor | None:
        """The policy's memory before its next action, `[N, S]`."""
        return self._memory

    @property
    def longest_unfinished(self) -> int:
        """Steps so far of the longest episode in progress."""
        return int(self._counter.lengths.max())

    def unfinished(self) -> list[Episode]:
        """What there is so far of the episode in progress in each environment."""
        return self._counter.unfinished()

    @property
    def lengths(self) -> np.ndarray:
        """Steps so far of the episode in progress in each environment, int64 `[N]`."""
        return self._counter.lengths

    def collect(self) -> Rollout:
        """Take `length` steps in every environment."""
        finals: list[FinalObservation] = []
        episodes: list[Episode] = []
        self._ends = []
        before = None if self._memory is None else self._memory.clone()
        clock = time.perf_counter
        unwritten: list[tuple[int, Step, Tensor | None]] = []
        for t in range(self.length):
            start = clock()
            action = self._act(t)
            command = self.policy.actions.to_environment(action.action.cpu().numpy())
            acted = clock()
            self.environments.send(command)
            sent = clock()
            # What only has to be written down waits until the environments are at work.
            self._remember(t, action)
            self._write_down(unwritten, finals, episodes)
            noted = clock()
            step = self.environments.receive()
            received = clock()
            self._look(step, action.memory)
            unwritten.append((t, step, action.memory))
            self.seconds["environment"] += sent - acted + received - noted
            self.seconds["policy"] += acted - start + noted - sent + clock() - received
        self.last_step = step
        self._write_down(unwritten, finals, episodes)
        return self._rollout(before, finals, episodes)

    def _act(self, t: int) -> Action:
        """Act at step t of a rollout. Noise that stays for some steps begins anew with it: no checkpoint holds any."""
        if self._shares_noise and t % (self.policy.settings.noise_every or self.length) == 0:
            self._noise = self.policy.draw_noise(self.environments.count, self.generator)
        return self.actor.act(self._inputs, self._memory, generator=self.generator, noise=self._noise)

    def _remember(self, t: int, action: Action) -> None:
        for name, x in self._inputs.items():
            self._store(f"inputs.{name}", t, x)
        for name, x in self._seen_beside.items():
            self._store(f"beside.{name}", t, x)
        self._store("action", t, action.action)
        for name in ("log_prob", "value", "output"):
            if (x := getattr(action, name)) is not None:
                self._store(name, t, x)
        self._arrays["starts"][t] = self._starts

    def _store(self, name: str, t: int, x: Tensor) -> None:
        if name not in self._tensors:
            self._tensors[name] = torch.empty((self.length, *x.shape), dtype=x.dtype, device=x.device)
            if x.device.type == "cpu":
                self._arrays[name] = self._tensors[name].numpy()
        if x.device.type == "cpu":
            # On the CPU a NumPy view is written to: a third of the cost of a torch copy of this size.
            self._arrays[name][t] = x.numpy()
        else:
            self._tensors[name][t] = x

    def _look(self, step: Step, memory: Tensor | None) -> None:
        """Turn to what the policy sees next."""
        self._starts = step.started
        self._inputs = self._encode(step.observation, step.mask, None)
        self._seen_beside = self._encode_beside(step.observation, None)
        if memory is not None:
            started = torch.from_numpy(_plain(step.started)).to(self.device)
            memory = torch.where(started.unsqueeze(1), 0.0, memory)
        self._memory = memory

    def _write_down(
        self,
        steps: list[tuple[int, Step, Tensor | None]],
        finals: list[FinalObservation],
        episodes: list[Episode],
    ) -> None:
        for t, step, memory in steps:
            self._note(t, step, memory, finals)
            if self.listening:
                self._said.add(t, step.said)
            episodes += self._counter.update(step)
        steps.clear()

    def _note(self, t: int, step: Step, memory: Tensor | None, finals: list[FinalObservation]) -> None:
        arrays = self._arrays
        arrays["reward"][t], arrays["valid"][t] = step.reward, step.valid
        arrays["terminated"][t], arrays["truncated"][t] = step.terminated, step.truncated
        if step.final_observation is not step.observation:
            rows = np.flatnonzero(step.truncated & ~step.terminated)
            if len(rows):
                inputs = self._encode(step.final_observation, None, rows)
                index = torch.from_numpy(rows).to(self.device)
                finals.append(FinalObservation(t, rows, inputs, None if memory is None else memory[index]))
            if self.ends_wanted:
                self._note_ends(t, step)

    def _note_ends(self, t: int, step: Step) -> None:
        known = step.started & step.valid & (step.terminated | step.truncated)
        if step.final_known is not None:
            known = known & step.final_known
        if len(rows := np.flatnonzero(known)):
            reached = step.final_observation
            inputs = {**self._encode(reached, None, rows), **self._encode_beside(reached, rows)}
            self._ends.append(FinalObservation(t, rows, inputs, None))

    def _encode(self, observation: Observation, mask: np.ndarray | None, rows: np.ndarray | None) -> dict[str, Tensor]:
        encoded = self.policy.encode(observation, self.exact)
        if mask is not None and not self._masked:
            raise UserError(
                f"{self.environments.name} gives an action mask in a step and gave none in its reset; give one in both"
            )
        if self._masked:
            encoded["mask"] = self._mask(encoded.get("mask", mask), len(next(iter(encoded.values()))))
        return self._moved(encoded, rows)

    def _encode_beside(self, observation: Observation, rows: np.ndarray | None) -> dict[str, Tensor]:
        encoded = {} if self.beside is None else self.beside.encode(observation, self.exact)
        return self._moved({RND + name: x for name, x in encoded.items()}, rows)

    def _moved(self, encoded: Mapping[str, np.ndarray], rows: np.ndarray | None) -> dict[str, Tensor]:
        return {
            name: torch.from_numpy(_plain(x if rows is None else x[rows])).to(self.device, non_blocking=True)
            for name, x in encoded.items()
        }

    def _mask(self, mask: np.ndarray | None, count: int) -> np.ndarray:
        size = self.policy.actions.mask_size
        if mask is None:
            return np.ones((count, size), bool)
        if mask.shape != (count, size):
            raise UserError(
                f"{self.environments.name} gives an action mask of shape {mask.shape[1:]}, and its actions have {size} "
                "choices; a mask needs one entry for each choice"
            )
        # Nothing is chosen in a state where the episode is over, so a mask that allows nothing there is no mistake; the
        # environments' guard has refused it anywhere else.
        return opened(mask, self.policy.actions.choices)

    def _clipped(self, action: Tensor, valid: np.ndarray) -> float:
        return self.policy.actions.clipped_fraction(action.cpu().numpy()[valid])

    def _rollout(self, before: Tensor | None, finals: list[FinalObservation], episodes: list[Episode]) -> Rollout:
        arrays, tensors = self._arrays, self._tensors
        valid = arrays["valid"]
        action = tensors["action"]
        inputs = under("inputs.", tensors)
        start = time.perf_counter()
        log_prob = tensors["log_prob"] if "log_prob" in tensors else self.actor.log_prob(tensors["output"], action)
        value = tensors["value"] if "value" in tensors else self.actor.value(inputs)
        self.seconds["policy"] += time.perf_counter() - start
        return Rollout(
            inputs=inputs,
            last_inputs=self._inputs,
            last_memory=self._memory,
            action=action,
            log_prob=log_prob,
            value=value,
            **{name: arrays[name] for name in ("reward", "terminated", "truncated", "valid", "starts")},
            last_starts=self._starts,
            memory=before,
            finals=finals,
            episodes=episodes,
            clipped_fraction=self._clipped(action, valid),
            said=self._said.read(valid),
            ends=self._ends,
            beside=under("beside.", tensors),
            last_beside=self._seen_beside,
            executed=None,
        )


def _plain(array: np.ndarray) -> np.ndarray:
    """As torch takes it: views with negative strides (a mirrored image) and read-only arrays (of JAX) are copied."""
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")
