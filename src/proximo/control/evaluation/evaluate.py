"""Whole episodes with a fixed policy, on seeds that training never sees; returns of the environment as it was given."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import Episode, Source, make_environments
from proximo.control.environments.base import VectorEnvironment
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.rollout import Actor, Collector
from proximo.core.batch import Action
from proximo.runs.session.signals import Interrupted

MOST_TOGETHER = 32
LONGEST = 30_000  # steps after which an episode is cut; Atari's longest have 27,000
_FEWEST = 1_000  # steps that an episode is given at least
_LESSONS = ("episodic_life", "reward_clip")  # what makes Atari easier to learn is no part of the task


@dataclass(frozen=True)
class Evaluation:
    """Episodes of one policy."""

    deterministic: bool
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    task_returns: tuple[float, ...]
    """Of the task itself, below the user's wrappers."""
    unfinished: int = 0
    """Episodes among them that were cut and count with what they had returned by then."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def task_mean(self) -> float | None:
        """Mean return of the task itself; None where no wrapper makes another of it."""
        return None if self.task_returns == self.returns else float(np.mean(self.task_returns))

    @property
    def games(self) -> dict[str, float]:
        """Shares of games that were won, drawn and lost: those that returned more than 0, 0 and less."""
        signs = np.sign(self.returns)
        return {name: float(np.mean(signs == sign)) for name, sign in (("won", 1), ("drawn", 0), ("lost", -1))}

    @property
    def std(self) -> float:
        """Standard deviation over episodes."""
        return float(np.std(self.returns))


class Deterministic:
    """A policy that takes the mode of its distribution."""

    def __init__(self, policy: ControlPolicy) -> None:
        self.policy = policy

    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Action:
        """As `ControlPolicy.act`, without noise."""
        return self.policy.act(inputs, memory, generator=generator, deterministic=True)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """As `ControlPolicy.log_prob`."""
        return self.policy.log_prob(output, action)

    def value(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """As `ControlPolicy.value`."""
        return self.policy.value(inputs, memory)


class SideBySide:
    """Several policies of the same spaces, the first of them in the first `each` rows, and so on.

    The last one has the rest too.
    """

    def __init__(self, actors: Sequence[Actor], each: int) -> None:
        self.actors, self.each = actors, each

    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Action:
        """As `ControlPolicy.act`, each with noise of its own: `noise` is of one of them."""
        count = len(next(iter(inputs.values())))
        ends = [i * self.each for i in range(len(self.actors))] + [count]
        actions = []
        for actor, start, end in zip(self.actors, ends[:-1], ends[1:], strict=True):
            held = None if memory is None else memory[start:end]
            rows = {name: x[start:end] for name, x in inputs.items()}
            actions.append(actor.act(rows, held, generator=generator))
        columns: dict[str, Any] = {}
        for field in fields(Action):
            parts = [getattr(action, field.name) for action in actions]
            columns[field.name] = None if parts[0] is None else torch.cat(parts)
        return Action(**columns)

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Never asked for: an evaluation needs none.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def value(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """As `log_prob`."""
        raise NotImplementedError


def evaluation_environments(config: TrainConfig, source: Source, episodes: int) -> VectorEnvironment:
    """Environments of the run's task without the help that training gives (lost lives, clipped rewards)."""
    options = {k: v for k, v in config.options.items() if k not in _LESSONS}
    return make_environments(
        source,
        min(episodes, MOST_TOGETHER),
        backend=config.backend,
        options=options,
        timeout=config.environment_timeout,
        frame_stack=config.frame_stack,
        action_repeat=config.action_repeat,
        action_delay=config.action_delay,
        history=config.history,
        any_count=True,
        mask_key=config.mask_key,
        observation_keys=config.visible,
    )


@dataclass(frozen=True)
class Watch:
    """Who follows an evaluation, which may take longer than the training before it."""

    tell: Callable[[str], None] = lambda _: None
    """Told a line now and then."""
    stopped: Callable[[], bool] = lambda: False
    """Asked before each step; True leaves the evaluation."""
    every: float = 5.0
    """Seconds between two lines."""


WATCHED_BY_NOBODY = Watch()


def longest_episode(config: TrainConfig, episodes: int, steps: int) -> int:
    """Steps after which an episode of an evaluation is cut.

    Where no episode of training has ended, there is no reason to wait much longer for one here.

    Args:
        config: of the run.
        episodes: that have ended in training.
        steps: of training so far.
    """
    if config.episode_limit is not None:
        return config.episode_limit
    return LONGEST if episodes else min(LONGEST, max(_FEWEST, steps // config.environments))


def evaluate(
    policy: ControlPolicy,
    environments: VectorEnvironment,
    episodes: int,
    *,
    deterministic: bool,
    seed: int,
    limit: int = LONGEST,
    watch: Watch = WATCHED_BY_NOBODY,
) -> Evaluation:
    """Run `episodes` episodes.

    Each environment runs the same number of episodes: taking whichever end first would favour short ones.

    Args:
        policy: as it is; nothing of it moves.
        environments: any number of them; surplus ones are left out.
        episodes: how many.
        deterministic: the mode of the distribution instead of a sample.
        seed: of the run; the seeds used are apart from those of training.
        limit: steps after which an episode is cut.
        watch: told how far it is, and asked whether to stop.

    Raises:
        Interrupted: `watch` says so.
    """
    return evaluate_all({"": (policy, deterministic)}, environments, episodes, seed=seed, limit=limit, watch=watch)[""]


def evaluate_all(
    policies: Mapping[str, tuple[ControlPolicy, bool]],
    environments: VectorEnvironment,
    episodes: int,
    *,
    seed: int,
    limit: int = LONGEST,
    watch: Watch = WATCHED_BY_NOBODY,
) -> dict[str, Evaluation]:
    """Evaluate several policies of the same spaces: on the same episodes, one after another.

    Where a batch has environments for all of them at once, each policy has some of these to itself, on other seeds; not
    where rows are agents of one copy, which would be moved by several policies.

    Args:
        policies: by name, each with whether it takes the mode of its distribution.
        environments: as for `evaluate`, and so are the rest.
        episodes: for each policy.
        seed: of the run.
        limit: steps after which an episode is cut.
        watch: told how far it is, and asked whether to stop.

    Raises:
        Interrupted: `watch` says so.
    """
    carried = any(policy.wrappers for policy, _ in policies.values())  # each policy its own, into all of the copies
    wide = environments.count >= len(policies) * episodes and not carried and environments.together == 1
    groups = [list(policies)] if wide else [[name] for name in policies]
    results: dict[str, Evaluation] = {}
    for names in groups:
        who = ", ".join(name.replace("_", " ") for name in names if name)
        told = replace(watch, tell=partial(_tell, watch, f"evaluating {who}: " if who else "evaluating: "))
        group = [policies[name] for name in names]
        results |= zip(names, _run(group, environments, episodes, seed, limit, told), strict=True)
    return results


def _tell(watch: Watch, who: str, text: str) -> None:
    watch.tell(who + text)


def _run(
    policies: Sequence[tuple[ControlPolicy, bool]],
    environments: VectorEnvironment,
    episodes: int,
    seed: int,
    limit: int,
    watch: Watch,
) -> list[Evaluation]:
    """Episodes of policies that act side by side, each in rows of its own."""
    if carried := policies[0][0].wrappers:
        environments.take_statistics(carried, fixed=True)
    count = environments.count
    each = min(episodes, count // len(policies))
    rounds = -(-episodes // each)
    device = next(policies[0][0].parameters()).device
    generator = torch.Generator(device).manual_seed(seeds.derive(seed, seeds.EVALUATION, 1, 1)[0])
    actors: list[Actor] = [Deterministic(policy) if deterministic else policy for policy, deterministic in policies]
    actor = actors[0] if len(actors) == 1 else SideBySide(actors, each)
    environments.leave_out_finals()  # nothing is learnt
    collector = Collector(environments, policies[0][0], actor, 1, generator)
    collector.listening = False
    episodes_seen = _Episodes(collector, each * len(policies), rounds, limit, watch)  # rows beyond do not count
    episodes_seen.run(seed)
    return [
        _of(policies[i][1], episodes_seen.rows[i * each : (i + 1) * each], rounds, episodes)
        for i in range(len(policies))
    ]


class _Episodes:
    """As many episodes in each of the first rows, each with whether it ended before it was cut.

    An episode that is cut goes on in its environment, which can not be reset alone, but counts no more. What its row is
    still to run is run when the others are done and all are reset. Where no row has ended any episode, that is a task
    without an end: what it has returned so far stands for all.
    """

    def __init__(self, collector: Collector, rows: int, rounds: int, limit: int, watch: Watch) -> None:
        self._collector, self._limit, self._watch = collector, limit, watch
        self.rows: list[list[tuple[Episode, bool]]] = [[] for _ in range(rows)]
        self._missing = np.full(rows, rounds)
        self._whole, self._steps, self._last = rows * rounds, 0, time.monotonic()

    def run(self, seed: int) -> None:
        """Run them all; `seed` is the run's."""
        count = self._collector.environments.count
        for turn in range(int(self._missing[0])):  # each turn ends or cuts at least one in each row
            index = turn + 1 if turn else 0  # 1 is the sampling's
            self._collector.restart(seeds.derive(seed, seeds.EVALUATION, index, count))
            self._until_all_ended_or_cut()
            if not self._missing.any():
                return
            if not any(ended for row in self.rows for _, ended in row):
                self.rows = [row * int(1 + left) for row, left in zip(self.rows, self._missing, strict=True)]
                return

    def _until_all_ended_or_cut(self) -> None:
        collector, rows = self._collector, len(self.rows)
        cut = np.zeros(rows, bool)
        while ((self._missing > 0) & ~cut).any():
            self._look_up()
            self._steps += 1
            rollout = collector.collect()
            assert collector.last_step is not None
            over = np.flatnonzero(collector.last_step.episode_over & collector.last_step.valid)
            for row, episode in zip(over.tolist(), rollout.episodes, strict=True):
                if row < rows and not cut[row]:
                    self._add(row, episode, ended=True)
            too_long = np.flatnonzero((collector.lengths[:rows] >= self._limit) & ~cut & (self._missing > 0))
            if len(too_long):
                so_far = collector.unfinished()
                for row in too_long.tolist():
                    self._add(row, so_far[row], ended=False)
                cut[too_long] = True

    def _add(self, row: int, episode: Episode, *, ended: bool) -> None:
        if self._missing[row] > 0:
            self.rows[row].append((episode, ended))
            self._missing[row] -= 1

    def _look_up(self) -> None:
        if self._watch.stopped():
            raise Interrupted
        if time.monotonic() - self._last >= self._watch.every:
            self._last = time.monotonic()
            done = self._whole - self._missing.sum()
            self._watch.tell(f"{done} of {self._whole} episodes, {self._steps:,} steps in each environment")


def _of(deterministic: bool, seen: list[list[tuple[Episode, bool]]], rounds: int, episodes: int) -> Evaluation:
    flat = [row[i] for i in range(rounds) for row in seen][:episodes]
    values, lengths, task_values = zip(*(episode for episode, _ in flat), strict=True)
    return Evaluation(deterministic, values, lengths, task_values, sum(not ended for _, ended in flat))
