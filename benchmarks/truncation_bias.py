"""What rsl_rl, skrl and Proximo take a cut episode to be worth, on a ring of cells whose values are known.

Six cells in a ring, 1 is paid for leaving cell 0, whatever is done; an episode starts anywhere and is cut after 5
steps. The value of a cell follows from the distance to cell 0. The others in a virtual environment of their own
(`pip install rsl-rl-lib==5.5.1 skrl==2.1.1 tensordict`), for none of them is a dependency of Proximo's:

    python benchmarks/truncation_bias.py proximo exact      # or previous, drop
    python benchmarks/truncation_bias.py rsl_rl
    python benchmarks/truncation_bias.py skrl               # or: skrl bootstrap
"""

import sys
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

CELLS, LIMIT, COUNT, LENGTH = 6, 5, 256, 8
GAMMA, LAM = 0.7, 0.95
EYE = np.eye(CELLS, dtype=np.float32)
TRUE = np.linalg.solve(np.eye(CELLS) - GAMMA * np.roll(np.eye(CELLS), 1, axis=1), np.eye(CELLS)[0])


class Ring(gymnasium.vector.VectorEnv):
    """Observations are one-hot cells; a clock cuts after 5 steps, and the next episode begins in the same step."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space = gymnasium.spaces.Box(0, 1, (CELLS,), np.float32)
    single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    num_envs = COUNT

    def reset(self, *, seed=None, options=None):
        self.drawn = np.random.default_rng(seed)
        self.at = self.drawn.integers(CELLS, size=COUNT)
        self.now = self.drawn.integers(LIMIT, size=COUNT)
        return EYE[self.at], {}

    def step(self, actions):
        reward = (self.at == 0).astype(np.float64)
        reached, self.now = (self.at + 1) % CELLS, self.now + 1
        cut = self.now == LIMIT
        self.at = np.where(cut, self.drawn.integers(CELLS, size=COUNT), reached)
        self.now[cut] = 0
        return EYE[self.at], reward, np.zeros(COUNT, bool), cut, {"final_obs": EYE[reached], "_final_obs": cut}


def ring():
    """For Proximo."""
    return Ring()


def proximo_values(truncation, seed):
    """Values of the cells."""
    import proximo

    run = proximo.train(
        ring,
        steps=300 * COUNT * LENGTH,
        environments=COUNT,
        rollout_length=LENGTH,
        gamma=GAMMA,
        lam=LAM,
        truncation=truncation,
        seed=seed,
        run=f"runs/truncation-{truncation}-{seed}",
        fresh=True,
        progress="quiet",
        learning_rate=3e-3,
        normalizers={"rewards": "off"},
        network={"hidden": [32], "activation": "elu"},
        update={"epochs": 4, "minibatch_size": COUNT * LENGTH // 2},
        episodes=1,
        episode_limit=5,
    )
    return proximo.load(run.path).value(EYE)


def rsl_rl_values(_, seed):
    """The same of rsl_rl's critic."""
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    class Env:
        """The ring in rsl_rl's shape."""

        num_envs, num_actions, max_episode_length, device, cfg = COUNT, 1, LIMIT, "cpu", {}

        def __init__(self):
            self.ring = Ring()
            self.seen = self.shown(self.ring.reset(seed=seed)[0])
            self.episode_length_buf = torch.zeros(COUNT, dtype=torch.long)

        def shown(self, cells):
            return TensorDict({"policy": torch.from_numpy(cells)}, batch_size=[COUNT])

        def get_observations(self):
            return self.seen

        def step(self, actions):
            cells, reward, _, cut, _ = self.ring.step(actions)
            self.seen, cut = self.shown(cells), torch.from_numpy(cut)
            return self.seen, torch.from_numpy(reward).float(), cut.long(), {"time_outs": cut.float()}

    torch.manual_seed(seed)
    net = {"class_name": "MLPModel", "hidden_dims": [32], "activation": "elu"}
    noise = {"class_name": "GaussianDistribution", "init_std": 1.0}
    algorithm = {"class_name": "PPO", "gamma": GAMMA, "lam": LAM, "learning_rate": 3e-3, "schedule": "fixed"}
    algorithm |= {"num_learning_epochs": 4, "num_mini_batches": 2, "use_clipped_value_loss": False}
    groups = {"actor": ["policy"], "critic": ["policy"]}
    cfg = {"num_steps_per_env": LENGTH, "save_interval": 10**9, "algorithm": algorithm, "obs_groups": groups}
    runner = OnPolicyRunner(
        Env(), {**cfg, "actor": {**net, "distribution_cfg": noise}, "critic": dict(net)}, None, "cpu"
    )
    runner.learn(300)
    with torch.no_grad():
        return runner.alg.critic(TensorDict({"policy": torch.from_numpy(EYE)}, batch_size=[CELLS])).squeeze(1).numpy()


def skrl_values(bootstrap, seed):
    """The same of skrl's, as its PPO is by default, or with `time_limit_bootstrap`."""
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model

    torch.manual_seed(seed)
    ring = Ring()
    spaces = {"observation_space": ring.single_observation_space, "action_space": ring.single_action_space}

    def layers():
        return torch.nn.Sequential(torch.nn.Linear(CELLS, 32), torch.nn.ELU(), torch.nn.Linear(32, 1))

    class Actor(GaussianMixin, Model):
        """Mean and deviation."""

        def __init__(self):
            Model.__init__(self, **spaces, device="cpu")
            GaussianMixin.__init__(self)
            self.net, self.log_std = layers(), torch.nn.Parameter(torch.zeros(1))

        def compute(self, inputs, role=""):
            return self.net(inputs["observations"]), {"log_std": self.log_std}

    class Critic(DeterministicMixin, Model):
        """Value."""

        def __init__(self):
            Model.__init__(self, **spaces, device="cpu")
            DeterministicMixin.__init__(self)
            self.net = layers()

        def compute(self, inputs, role=""):
            return self.net(inputs["observations"]), {}

    cfg = PPO_CFG(rollouts=LENGTH, learning_epochs=4, mini_batches=2, discount_factor=GAMMA, gae_lambda=LAM)
    cfg.learning_rate, cfg.value_clip, cfg.time_limit_bootstrap = 3e-3, 0.0, bootstrap == "bootstrap"
    cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
    models = {"policy": Actor(), "value": Critic()}
    memory = RandomMemory(memory_size=LENGTH, num_envs=COUNT, device="cpu")
    agent = PPO(models=models, memory=memory, cfg=cfg, device="cpu", **spaces)
    agent.init()
    agent.enable_training_mode(True)
    steps, seen = 300 * LENGTH, torch.from_numpy(ring.reset(seed=seed)[0])
    for t in range(steps):
        with torch.no_grad():
            actions = agent.act(seen, None, timestep=t, timesteps=steps)[0]
            answer = [torch.as_tensor(x) for x in ring.step(actions)[:4]]
            cells, reward, over, cut = (x if x.dim() == 2 else x.unsqueeze(1) for x in answer)
            agent.record_transition(
                observations=seen,
                states=None,
                actions=actions,
                rewards=reward.float(),
                next_observations=cells,
                next_states=None,
                terminated=over,
                truncated=cut,
                infos={},
                timestep=t,
                timesteps=steps,
            )
        agent.post_interaction(timestep=t, timesteps=steps)
        seen = cells
    with torch.no_grad():
        return models["value"].net(torch.from_numpy(EYE)).squeeze(1).numpy()


if __name__ == "__main__":
    library, how = (*sys.argv[1:], "")[:2]
    values = {"proximo": proximo_values, "rsl_rl": rsl_rl_values, "skrl": skrl_values}[library]
    found = np.stack([values(how, seed) for seed in range(3)])
    errors = found - TRUE
    print("true  ", TRUE.round(3))
    print(f"{library} {how}".strip(), found.mean(0).round(3), "3 seeds")
    largest = np.abs(errors.mean(0)).max()
    print(f"largest error of the mean {largest:.3f}, between seeds {found.std(0).max():.3f}")
