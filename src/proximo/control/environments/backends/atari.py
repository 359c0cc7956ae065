"""Atari through Gymnasium (ALE), prepared as EnvPool prepares it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from proximo.control.environments.backends.answers import EPISODE_OVER, RAW_REWARD
from proximo.errors import UserError


def register_atari() -> None:
    """Makes the `ALE/...` ids known to Gymnasium.

    Raises:
        UserError: When ale-py is not installed.
    """
    try:
        import ale_py
    except ModuleNotFoundError as error:
        raise UserError("the ALE/... environments need ale-py: `pip install ale-py opencv-python-headless`") from error
    gymnasium.register_envs(ale_py)


def make_atari(
    name: str,
    *,
    episodic_life: bool = False,
    reward_clip: bool = False,
    noop_max: int = 30,
    frame_skip: int = 4,
    stack_num: int = 4,
    use_fire_reset: bool = True,
    max_episode_steps: int = 27_000,
    **options: Any,
) -> gymnasium.Env:
    """One ALE environment with observations uint8 [stack_num, 84, 84]; the options have EnvPool's names.

    Args:
        name: An id such as `ALE/Pong-v5`, whose own sticky actions (0.25) stay unless `repeat_action_probability` says
            otherwise; EnvPool's `Pong-v5` has none.
        episodic_life: A lost life terminates the episode that is learnt from; the game itself goes on.
        reward_clip: Learn from the sign of the reward.
        noop_max: At most so many idle frames start a game.
        frame_skip: Frames that an action lasts; the last two are max-pooled.
        stack_num: Frames per observation.
        use_fire_reset: Press FIRE where a game waits for it.
        max_episode_steps: Steps (of `frame_skip` frames) after which a game is truncated.
        **options: Passed to `gymnasium.make`.
    """
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    frames = max_episode_steps * frame_skip
    env = gymnasium.make(name, frameskip=1, max_num_frames_per_episode=frames, disable_env_checker=True, **options)
    try:
        env = AtariPreprocessing(env, noop_max=noop_max, frame_skip=frame_skip, screen_size=84)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{name} needs OpenCV: `pip install opencv-python-headless`") from error
    return FrameStackObservation(AtariEpisodes(env, episodic_life, reward_clip, use_fire_reset), stack_num)


class AtariEpisodes(gymnasium.Wrapper):
    """Life-long episodes, clipped rewards and the first FIRE; reports in the infos when the game itself is over.

    Gymnasium's own `terminal_on_life_loss` starts a new game at every lost life, so later lives would never be seen.
    """

    def __init__(self, env: gymnasium.Env, episodic_life: bool, reward_clip: bool, use_fire_reset: bool) -> None:
        super().__init__(env)
        game: Any = env.unwrapped
        self._episodic_life, self._reward_clip = episodic_life, reward_clip
        self._fires = use_fire_reset and "FIRE" in game.get_action_meanings()[:2]
        self._lives_left = lambda: int(game.ale.lives())
        self._lives, self._over = 0, True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts a new game, or the next life of this one."""
        lost_life = not self._over and seed is None and self._episodic_life
        if lost_life:
            observation, _, terminated, truncated, info = self.env.step(0)
            lost_life = not (terminated or truncated)
        if not lost_life:
            observation, info = self.env.reset(seed=seed, options=options)
        if self._fires:
            observation, _, terminated, truncated, info = self.env.step(1)
            if terminated or truncated:
                observation, info = self.env.reset()
        self._lives, self._over = self._lives_left(), False
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._over = bool(terminated or truncated)
        info = {**info, EPISODE_OVER: self._over}
        lives = self._lives_left()
        terminated = bool(terminated or (self._episodic_life and lives < self._lives))
        self._lives = lives
        paid = float(reward)
        if self._reward_clip:
            info[RAW_REWARD] = paid
        return observation, float(np.sign(paid)) if self._reward_clip else paid, terminated, bool(truncated), info
