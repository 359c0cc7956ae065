"""A game whose agents move in turn, in the shape of PettingZoo's `AECEnv` and with its traps; and one for two as one.

Nim: whoever takes the last of some stones (one to three at a time) has won, so whoever is to move with a multiple of
four has lost (Bouton 1901), which is all there is to know about it.
"""

from typing import ClassVar

import numpy as np
from gymnasium import spaces

MOST = 12
"""Stones at the start of a game, at most."""


class Nim:
    """Observations and masks are buffers that are overwritten, and who is not to move may do nothing.

    Who is dead waits for a step of None, and rewards are those since an agent's own last step.
    """

    possible_agents: ClassVar = ["first", "second"]
    metadata: ClassVar = {"name": "nim"}

    def __init__(self):
        self.seen = {"observation": np.zeros(MOST + 1, np.float32), "action_mask": np.zeros(3, np.int8)}
        self.told = []

    def observation_space(self, agent):
        return spaces.Dict(observation=spaces.Box(0, 1, (MOST + 1,)), action_mask=spaces.Box(0, 1, (3,), np.int8))

    def action_space(self, agent):
        return spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        assert seed is not None
        self.stones = int(np.random.default_rng(seed).integers(1, MOST + 1))
        self.agents, self.agent_selection = [*self.possible_agents], self.possible_agents[0]
        self.paid, self.over, self.infos = {a: 0.0 for a in self.agents}, False, {a: {} for a in self.agents}
        self.told.append([])

    def observe(self, agent):
        self.seen["observation"][:] = np.arange(MOST + 1) == self.stones
        self.seen["action_mask"][:] = (agent == self.agent_selection) & (np.arange(1, 4) <= self.stones)
        return self.seen

    def last(self, observe=True):
        agent = self.agent_selection
        return self.observe(agent), self.paid[agent], self.over, False, self.infos[agent]

    def step(self, action):
        agent = self.agent_selection
        if self.over:
            assert action is None
            self.agents.remove(agent)
            self.agent_selection = self.agents[0] if self.agents else agent
            return
        assert 1 <= action + 1 <= self.stones, "a move that its mask forbids"
        self.told[-1].append((agent, self.stones, int(action)))
        self.paid[agent] = 0.0
        self.stones -= int(action) + 1
        self.over = self.stones == 0
        for each in self.agents if self.over else ():
            self.paid[each] += 1.0 if each == agent else -1.0
        self.agent_selection = next(each for each in self.agents if each != agent)

    def close(self):
        pass


class Signals:
    """A `ParallelEnv` for two who win together: one sees a bit and says a word, the other hears it and says the bit."""

    possible_agents: ClassVar = ["speaker", "hearer"]
    metadata: ClassVar = {}

    def observation_space(self, agent):
        return spaces.Box(-1, 1, (4,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.chance = np.random.default_rng(seed)
        self.agents, self.bit, self.word = [*self.possible_agents], int(self.chance.integers(2)), None
        return self.shown(), {a: {} for a in self.agents}

    def shown(self):
        heard = 0 if self.word is None else 2 * self.word - 1
        speaking = self.word is None
        return {
            "speaker": np.float32([1, speaking, 2 * self.bit - 1, 0]),
            "hearer": np.float32([0, speaking, 0, heard]),
        }

    def step(self, actions):
        over, paid = self.word is not None, 0.0
        if over:
            paid = float(actions["hearer"] == self.bit)
        else:
            self.word = int(actions["speaker"])
        live = self.agents
        self.agents = [] if over else live
        answer = (dict.fromkeys(live, x) for x in (paid, over, False, {}))
        return self.shown(), *answer

    def close(self):
        pass
