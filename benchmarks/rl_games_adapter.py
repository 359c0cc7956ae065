"""rl_games 1.6.5 on EnvPool, with the numbers of its own halfcheetah_envpool.yaml, timed."""

import tempfile
import time

import envpool
import gymnasium
import numpy as np
import torch
from rl_games.common import env_configurations, vecenv
from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.ivecenv import IVecEnv
from rl_games.torch_runner import Runner


class Pool(IVecEnv):
    """EnvPool behind rl_games' face."""

    def __init__(self, config_name, num_actors, **kwargs):
        del config_name
        name, seed = kwargs["env_name"], kwargs["seed"]
        self.pool = envpool.make_gymnasium(name, num_envs=num_actors, num_threads=2, seed=seed)
        box = gymnasium.spaces.Box
        self.observation_space = box(-np.inf, np.inf, self.pool.observation_space.shape, np.float32)
        self.action_space = box(-1.0, 1.0, self.pool.action_space.shape, np.float32)

    def step(self, action):
        observation, reward, terminated, truncated, _ = self.pool.step(np.asarray(action, np.float64))
        return (
            observation.astype(np.float32),
            reward.astype(np.float32),
            terminated | truncated,
            {"time_outs": truncated},
        )

    def reset(self):
        return self.pool.reset()[0].astype(np.float32)

    def get_number_of_agents(self):
        return 1

    def get_env_info(self):
        return {"action_space": self.action_space, "observation_space": self.observation_space}


class Clock(AlgoObserver):
    """Steps and times at the end of each epoch."""

    def __init__(self):
        self.seen = []

    def after_print_stats(self, frame, epoch_num, total_time):
        self.seen.append((frame, time.perf_counter()))


def train(name: str, steps: int, seed: int, *, environments: int, rollout_length: int) -> dict:
    """Steps/s after the first epoch."""
    torch.set_num_threads(1)  # the better of 1 and 2 for it
    vecenv.register("POOL", lambda config_name, num_actors, **kwargs: Pool(config_name, num_actors, **kwargs))
    env_configurations.register("envpool", {"env_creator": lambda **kwargs: None, "vecenv_type": "POOL"})
    clock = Clock()
    runner = Runner(clock)
    runner.load({"params": _parameters(name, seed, environments, rollout_length, steps)})
    runner.run({"train": True, "play": False})
    (first, start), (last, end) = clock.seen[0], clock.seen[-1]
    return {"steps_per_second": (last - first) / (end - start), "seconds": end - start}


def _parameters(name: str, seed: int, environments: int, rollout_length: int, steps: int) -> dict:
    return {
        "seed": seed,
        "algo": {"name": "a2c_continuous"},
        "model": {"name": "continuous_a2c_logstd"},
        "network": {
            "name": "actor_critic",
            "separate": False,
            "space": {
                "continuous": {
                    "mu_activation": "None",
                    "sigma_activation": "None",
                    "mu_init": {"name": "default"},
                    "sigma_init": {"name": "const_initializer", "val": 0},
                    "fixed_sigma": True,
                }
            },
            "mlp": {
                "units": [128, 64, 32],
                "activation": "elu",
                "initializer": {"name": "variance_scaling_initializer", "scale": 2.0},
            },
        },
        "config": {
            "name": "benchmark",
            "env_name": "envpool",
            "device": "cpu",
            "device_name": "cpu",
            "train_dir": tempfile.mkdtemp(prefix="rl_games-"),
            "normalize_input": True,
            "normalize_value": True,
            "value_bootstrap": True,
            "reward_shaper": {"scale_value": 1},
            "normalize_advantage": True,
            "use_smooth_clamp": True,
            "gamma": 0.99,
            "tau": 0.95,
            "learning_rate": 5e-4,
            "lr_schedule": "adaptive",
            "kl_threshold": 0.008,
            "grad_norm": 1.0,
            "entropy_coef": 0.0,
            "truncate_grads": True,
            "e_clip": 0.2,
            "clip_value": False,
            "num_actors": environments,
            "horizon_length": rollout_length,
            "minibatch_size": 2048,
            "mini_epochs": 5,
            "critic_coef": 4,
            "bounds_loss_coef": 0.0,
            "max_epochs": max(3, -(-steps // (environments * rollout_length))),
            "env_config": {"env_name": name, "seed": seed},
        },
    }
