"""Stand-ins for the environments of other libraries, with every trap of their contracts that is known.

All count: an episode of row i is cut after 4 steps, or terminates after 3 where i is odd; it shows the steps taken, and
pays one more than these.
"""

from types import SimpleNamespace
from typing import ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

LIMIT, END = 4, 3


class Counted:
    """Rows that count."""

    def start(self, rows):
        self.now, self.odd = torch.zeros(rows), torch.arange(rows) % 2 == 1

    def advance(self):
        """Reward, terminated, truncated, and the state that was reached; then what ended starts anew."""
        self.now = self.now + 1
        reached, reward = self.now.clone(), self.now + 1
        over = self.odd & (self.now == END)
        cut = ~over & (self.now == LIMIT)
        self.now = torch.where(over | cut, 0.0, self.now)
        return reward, over, cut, reached


class Groups(dict):
    """As a TensorDict: a batch size, and no Mapping's class."""

    batch_size = (4,)


class RslRl(Counted):
    """rsl_rl: buffers of its own that each step overwrites, ends of odd types, groups, a log that is one dict for ever.

    Args:
        ends: type of `dones` and `time_outs`: int64 as Isaac Lab, float32 as Playground, bool as Genesis.
        final: whether `final_obs` is shown, as Isaac Lab 3 can.
    """

    num_envs, num_actions, max_episode_length, device = 4, 2, LIMIT, "cpu"

    def __init__(self, ends=torch.int64, final=True):
        self.ends, self.final, self.extras, self.asked = ends, final, {"log": {"/reward/x": torch.tensor(2.0)}}, 0
        self.seen, self.paid = Groups(policy=torch.zeros(4, 1), critic=torch.zeros(4, 2)), torch.zeros(4)
        self.start(4)
        self.episode_length_buf = torch.zeros(4, dtype=torch.long)

    def get_observations(self):
        self.asked += 1
        assert self.asked == 1, "Playground's get_observations resets"
        return self.shown()

    def shown(self):
        self.seen["policy"][:, 0] = self.now
        self.seen["critic"][:] = self.now.unsqueeze(1)
        return self.seen

    def reset(self):
        self.start(4)
        return self.shown(), self.extras

    def step(self, actions):
        assert isinstance(actions, torch.Tensor)
        assert actions.dtype == torch.float32
        reward, over, cut, reached = self.advance()
        self.paid[:] = reward
        self.extras["time_outs"] = cut.to(self.ends)
        if self.final:
            column = reached.unsqueeze(1)
            self.extras["final_obs"] = Groups(policy=column, critic=column.expand(4, 2))
        return self.shown(), self.paid, (over | cut).to(self.ends), self.extras


class Manual(RslRl):
    """mjlab with `auto_reset = False`: shows the state that was reached, and waits for a reset of these rows."""

    cfg = type("Cfg", (), {"auto_reset": False})()

    def advance(self):
        reward, over, cut, reached = super().advance()
        self.now = reached
        return reward, over, cut, reached

    def reset(self, env_ids=None):
        if env_ids is None:
            return super().reset()
        assert env_ids.dtype == torch.int64
        self.now[env_ids] = 0
        return self.shown(), self.extras


class Wrapped(Manual):
    """The same within mjlab's wrapper for rsl_rl: it resets all rows, and what is in it resets some."""

    @property
    def unwrapped(self):
        return SimpleNamespace(reset=super().reset)

    def reset(self):
        return RslRl.reset(self)


class Tensors(gymnasium.vector.VectorEnv, Counted):
    """Gymnasium with tensors, strict about them, as ManiSkill: same step, its own name for final observations."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}
    num_envs = 4
    single_observation_space = spaces.Box(-99, 99, (1,), np.float32)
    single_action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, key="final_observation", kind=torch.Tensor):
        self.key, self.kind, self.seen = key, kind, torch.zeros(4, 1)
        if kind is torch.Tensor:
            self.device = torch.device("cpu")

    def reset(self, *, seed=None, options=None):
        self.start(4)
        self.seen[:, 0] = self.now
        return self.given(self.seen), {}

    def given(self, x):
        return x if self.kind is torch.Tensor else x.numpy()

    def step(self, actions):
        assert isinstance(actions, self.kind)
        reward, over, cut, reached = self.advance()
        self.seen[:, 0] = self.now
        infos = {self.key: self.given(reached.unsqueeze(1)), f"_{self.key}": self.given(over | cut)}
        return (*map(self.given, (self.seen, reward, over, cut)), infos)


class Puffer(Counted):
    """PufferLib: agents as rows of buffers, no final observation, and an agent that is away in the first episode."""

    num_agents = 4
    single_observation_space = spaces.Box(-99, 99, (1,), np.float32)
    single_action_space = spaces.Discrete(3)

    def __init__(self):
        self.observations = np.zeros((4, 1), np.float32)
        self.rewards, self.terminals, self.truncations = np.zeros(4, np.float32), np.zeros(4, bool), np.zeros(4, bool)
        self.masks = np.ones(4, bool)

    def reset(self, seed=0):
        self.start(4)
        self.observations[:] = 0
        self.masks[2] = False
        return self.observations, []

    def step(self, actions):
        reward, over, cut, _ = self.advance()
        buffers = (self.observations[:, 0], self.rewards, self.terminals, self.truncations)
        for buffer, x in zip(buffers, (self.now, reward, over, cut), strict=True):
            buffer[:] = x.numpy()
        self.masks[2] |= bool(cut[2])
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self):
        self.closed = True


class Parallel:
    """PettingZoo: two agents, of whom the second is gone a step before the episode is cut for the first."""

    possible_agents: ClassVar = ["a", "b"]
    metadata: ClassVar = {}

    def observation_space(self, agent):
        return spaces.Box(-99, 99, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        self.now, self.agents = 0, ["a", "b"]
        return self.shown(self.agents), {}

    def shown(self, agents):
        return {agent: np.float32([self.now]) for agent in agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.now += 1
        live, self.agents = self.agents, [a for a in self.agents if self.now < {"a": LIMIT, "b": END}[a]]
        ends, cuts = ({a: self.now == end and a == who for a in live} for who, end in (("b", END), ("a", LIMIT)))
        return self.shown(live), dict.fromkeys(live, self.now + 1.0), ends, cuts, {a: {} for a in live}

    def close(self):
        pass
