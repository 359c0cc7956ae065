"""The off-policy reference: Stable-Baselines3's DQN with a replay buffer, for experiments."""

import time
from collections.abc import Iterable
from typing import Any

import gymnasium
import torch

from proximo.errors import UserError

SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_final_eps": 0.04,
    },
    "LunarLander-v3": {
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 0,
        "gamma": 0.99,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": 1,
        "exploration_final_eps": 0.1,
    },
}
"""Those of rl-zoo3's dqn.yml for these tasks, but for one gradient step after every fourth step on LunarLander, as is
Stable-Baselines3's default: four would take four times as long. Both have two hidden layers of 256.
"""
EXPLORED = {"CartPole-v1": 8_000, "LunarLander-v3": 12_000}
"""Steps until the exploration is down to its least: its shares there are of 50,000 and of 100,000 steps."""
Episode = tuple[int, float, float]
"""Environment steps and seconds of processor time since the beginning, and the return of an episode that ended then."""


def require(tasks: Iterable[str]) -> None:
    """See that DQN can be trained on some tasks, before anything else is measured.

    Raises:
        UserError: Stable-Baselines3, or what a task needs, is not installed.
    """
    try:
        import stable_baselines3  # noqa: F401
    except ImportError as error:
        raise UserError("DQN needs stable-baselines3: `pip install '.[lab]'` in a clone of Proximo") from error
    for task in tasks:
        try:
            gymnasium.make(task).close()
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"{task} needs Box2D: `pip install '.[lab,box2d]'` in a clone of Proximo") from error


def dqn_episodes(task: str, seed: int, steps: int) -> list[Episode]:
    """The training episodes of DQN (Mnih et al. 2015), without greedy evaluations.

    Args:
        task: one of `SETTINGS`.
        seed: of the environment, the network and the exploration.
        steps: of the one environment.
    """
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor

    environment = Monitor(gymnasium.make(task))
    episodes: list[Episode] = []
    started = time.process_time()

    class Noting(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    spent = time.process_time() - started
                    episodes.append((self.num_timesteps, spent, float(info["episode"]["r"])))
            return True

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chosen = {**SETTINGS[task], "exploration_fraction": min(1.0, EXPLORED[task] / steps)}
        width = {"net_arch": [256, 256]}
        learner = DQN("MlpPolicy", environment, **chosen, policy_kwargs=width, seed=seed, device="cpu")
        learner.learn(steps, callback=Noting())
    finally:
        torch.set_num_threads(threads)
        environment.close()
    return episodes
