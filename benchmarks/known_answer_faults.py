"""Mistakes that can be put into a control run while it trains: what other libraries have had, and ours must notice."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from proximo.control.training.estimation import Estimator
from proximo.control.training.rollout import Collector
from proximo.control.training.training import Training
from proximo.core.statistics import RunningMoments


@contextmanager
def frozen_normalizer() -> Iterator[None]:
    """The observation normaliser takes nothing in."""
    with patch.object(RunningMoments, "absorb", lambda *_: None):
        yield


@contextmanager
def frozen_huge_normalizer() -> Iterator[None]:
    """The observation normaliser has another task's deviations, 100,000, and keeps them."""
    whole = RunningMoments.absorb

    def absorb(self: RunningMoments, x: Any, *rest: Any) -> None:
        if not self.mean.ndim:  # of rewards or returns
            whole(self, x, *rest)
        elif not self.count:
            self.count += 1000.0
            self.squares += 1000.0 * 1e10

    with patch.object(RunningMoments, "absorb", absorb):
        yield


@contextmanager
def moving_rewards() -> Iterator[None]:
    """The reward scaler moves before the rewards that it scales."""
    whole = Training._rewards

    def moved(self: Training, rollout: Any) -> Any:
        self.scaler.absorb(rollout.reward, rollout.terminated | rollout.truncated, rollout.valid)
        return whole(self, rollout)

    with patch.object(Training, "_rewards", moved):
        yield


@contextmanager
def moving_observations() -> Iterator[None]:
    """The observation normaliser moves between acting and learning."""
    whole = Training._rewards

    def moved(self: Training, rollout: Any) -> Any:
        self.policy.normalizer.moments.absorb(rollout.inputs["vector"])
        if self.closed_form:
            self.closed_form.freeze()
        return whole(self, rollout)

    with patch.object(Training, "_rewards", moved):
        yield


@contextmanager
def no_final_observations() -> Iterator[None]:
    """What a truncated episode really reached is forgotten: V(first observation of the next) is taken."""
    whole = Collector._note

    def note(self: Collector, t: int, step: Any, memory: Any, finals: list) -> None:
        whole(self, t, step, memory, [])

    with patch.object(Collector, "_note", note):
        yield


@contextmanager
def faked_final_observations() -> Iterator[None]:
    """The environment hands out the next episode's first observation as the last one."""
    whole = Collector._note

    def note(self: Collector, t: int, step: Any, memory: Any, finals: list) -> None:
        if step.final_observation is not step.observation:
            step = replace(step, final_observation=np.array(step.observation))
        whole(self, t, step, memory, finals)

    with patch.object(Collector, "_note", note):
        yield


@contextmanager
def reset_rows_count() -> Iterator[None]:
    """Rows that only report a reset are learnt from."""
    whole = Estimator.batch

    def batch(self: Estimator, rollout: Any, rewards: Any) -> Any:
        made = whole(self, rollout, rewards)
        return made.replace(weight=made.weight * 0 + 1)

    with patch.object(Estimator, "batch", batch):
        yield
