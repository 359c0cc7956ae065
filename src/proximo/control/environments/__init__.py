"""Batches of environments: EnvPool, Gymnasium in any autoreset mode, subprocesses, or the user's own."""

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.episodes import Episode, EpisodeCounter
from proximo.control.environments.sources import UnknownEnvironmentError, list_environments, make_environments

__all__ = [
    "Episode",
    "EpisodeCounter",
    "Observation",
    "Step",
    "UnknownEnvironmentError",
    "VectorEnvironment",
    "list_environments",
    "make_environments",
]
