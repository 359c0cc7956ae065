"""A task that pays at its very end alone: a key, a door, a goal, which a bonus for what is new finds."""

from typing import Any

import gymnasium as gym
import numpy as np

import proximo

SIZE = 8
"""Squares along each side of both rooms; the wall between them is a column of its own."""
LIMIT = 160
"""Steps after which an episode is cut; 46 are enough."""
MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0], [0, 0]])
WALL, WIDTH = SIZE, 2 * SIZE + 1
START, KEY, DOOR, GOAL = (SIZE - 1, 0), (0, SIZE - 1), (WALL, 0), (WIDTH - 1, SIZE - 1)


class KeyAndDoor(gym.vector.VectorEnv[Any, Any, Any]):
    """Copies of two rooms with a locked door between them, in NumPy.

    An action is a step in one of four directions, or `use`: it takes the key where it lies, and opens the door beside
    it with the key in hand. Seen are the column, the row, the key and the door; the reward is 1 at the goal, else 0.
    """

    metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1) -> None:
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0.0, 1.0, (WIDTH + SIZE + 2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(len(MOVES))
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.place = np.tile(START, (self.num_envs, 1))
        self.key, self.open = np.zeros((2, self.num_envs), bool)
        self.steps = np.zeros(self.num_envs, int)
        return self._seen(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        moves = MOVES[actions]
        to = np.clip(self.place + moves, 0, (WIDTH - 1, SIZE - 1))
        blocked = (to[:, 0] == WALL) & ~((to == DOOR).all(1) & self.open)
        self.place = np.where(blocked[:, None], self.place, to)
        using = actions == len(MOVES) - 1
        beside = np.abs(self.place - DOOR).sum(1) == 1
        self.open |= using & self.key & beside
        self.key |= using & (self.place == KEY).all(1)
        self.steps += 1
        won = (self.place == GOAL).all(1)
        cut = (self.steps >= LIMIT) & ~won
        final, ended = self._seen(), won | cut
        self.place[ended], self.key[ended], self.open[ended], self.steps[ended] = START, False, False, 0
        infos = {"final_obs": final, "_final_obs": ended} if ended.any() else {}
        return self._seen(), won.astype(np.float64), won, cut, infos

    def _seen(self) -> Any:
        columns = np.eye(WIDTH, dtype=np.float32)[self.place[:, 0]], np.eye(SIZE, dtype=np.float32)[self.place[:, 1]]
        return np.concatenate([*columns, np.stack([self.key, self.open], 1).astype(np.float32)], 1)


def make(num_envs: int = 32) -> KeyAndDoor:
    return KeyAndDoor(num_envs)


def main(steps: int = 200_000, run: str = "runs/key-and-door", seed: int = 0, weight: float = 0.5) -> proximo.Run:
    return proximo.train(
        make,
        steps=steps,
        run=run,
        seed=seed,
        environments=32,
        rollout_length=128,
        learning_rate="1e-3",
        network={"hidden": (64, 64)},
        update={"minibatch_size": 512, "epochs": 4, "entropy_coefficient": 0.01},
        normalizers={"observations": False, "rewards": "off"},
        rnd={"weight": weight, "learning_rate": 1e-3},
    )


if __name__ == "__main__":
    for bonus in (0.5, 0.0):
        for seed in (0, 1, 2):
            run = main(run=f"runs/key-and-door-{bonus}-{seed}", seed=seed, weight=bonus)
            print(f"rnd.weight {bonus}, seed {seed}: {run.results['final_sampled']:.2f} of the episodes reach the goal")
