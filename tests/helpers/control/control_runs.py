"""Short training runs in memory, for tests."""

from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from proximo.control.config import (
    NetworkSettings,
    NormalizerSettings,
    ObservationSettings,
    SelfPlaySettings,
    TrainConfig,
)
from proximo.control.environments import make_environments
from proximo.control.loading import LoadedPolicy
from proximo.control.training.replay import replay_world
from proximo.control.training.training import Training
from proximo.core.settings import UpdateSettings
from proximo.runs.replay.entry import read
from proximo.runs.replay.report import replay


def configured(
    *, count=8, length=16, update=None, network=None, normalizers=None, observations=None, self_play=None, **settings
):
    """A configuration with small defaults; all of its groups are dicts."""
    update = {"epochs": 4, "minibatch_size": count * length // 2, **(update or {})}
    settings = {"steps": 10**9, "learning_rate": 0.01, "environment": "a test's", **settings}
    return TrainConfig(
        environments=count,
        rollout_length=length,
        update=UpdateSettings(**update),
        network=NetworkSettings(**{"hidden": (32,), **(network or {})}),
        normalizers=NormalizerSettings(**(normalizers or {})),
        observations=ObservationSettings(**(observations or {})),
        self_play=SelfPlaySettings(**(self_play or {})),
        **settings,
    )


def replayed(folder):
    """What each update that was kept in `folder` comes to when it is done again."""
    there = read(folder)
    for entry in there.entries:
        with ExitStack() as stack:
            yield replay(there, there.choose(entry.iteration), replay_world(there, stack), None)


@contextmanager
def running(source, *, closed_form=True, double=False, **settings):
    """A `Training` that has been started."""
    config = configured(**settings)
    environments = make_environments(
        source,
        config.environments,
        backend=config.backend,
        options=config.options,
        observation_keys=config.visible_in_training,
    )
    try:
        with torch.random.fork_rng():
            dtype = torch.get_default_dtype()
            torch.set_default_dtype(torch.float64 if double else dtype)
            try:
                training = Training(config, environments, closed_form=closed_form)
                training.start()
                yield training
            finally:
                torch.set_default_dtype(dtype)
    finally:
        environments.close()


def trained(source, iterations, **settings):
    """The training after some iterations."""
    with running(source, **settings) as training:
        for _ in range(iterations):
            training.iterate()
    return training


def encoded(policy, observations):
    """A batch of observations as the policy's inputs."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in policy.observations.encode(observations).items()
    }


def value(training, observations):
    """What the critic says of a batch of first observations, in rewards."""
    return LoadedPolicy(training.policy).value(observations)


def weights(training):
    """Everything learnt, as one vector."""
    return torch.cat([x.detach().reshape(-1).double() for x in training.policy.state_dict().values()])
