"""Batches of environments: EnvPool, Gymnasium in any autoreset mode, subprocesses, or the user's own."""

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.episodes import Episode, EpisodeCounter
from proximo.control.environments.lent import Source, copies, name_of, task_of
from proximo.control.environments.names import UnknownEnvironmentError, known_name, list_environments
from proximo.control.environments.own_code import code_of
from proximo.control.environments.sources import make_environments

__all__ = [
    "Episode",
    "EpisodeCounter",
    "Observation",
    "Source",
    "Step",
    "UnknownEnvironmentError",
    "VectorEnvironment",
    "code_of",
    "copies",
    "known_name",
    "list_environments",
    "make_environments",
    "name_of",
    "task_of",
]
