"""What a person has to know of an environment is said before the first iteration."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.control.environments import make_environments


class Masked(gymnasium.Env):
    """Has its masks in a method alone."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}

    def action_masks(self):
        return [True, False]


def normalized():
    return gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1"))


def several(make):
    return SyncVectorEnv([make, make], autoreset_mode=AutoresetMode.NEXT_STEP)


def test_statistics_that_nobody_saves_are_told():
    lost = "NormalizeObservation inside the environments that were given learns statistics, and these are not saved"
    assert any(lost in note for note in make_environments(several(normalized), 2).notes)
    assert any("saved with it" in note for note in make_environments(normalized, 2).notes)
    plain = several(lambda: gymnasium.make("Pendulum-v1"))
    assert make_environments(plain, 2).notes == make_environments("Pendulum-v1", 2, backend="gymnasium").notes == ()


class Whitened(gymnasium.ObservationWrapper):
    """Running statistics under names of a person's own."""

    def __init__(self, env, names=("running_mean", "running_var", "n")):
        super().__init__(env)
        self.names = names
        self.__dict__ |= dict(zip(names, (np.zeros(3), np.ones(3), 1), strict=True))

    def observation(self, observation):
        mean, spread, count = (getattr(self, name) for name in self.names)
        change = (observation - mean) / (count + 1)
        spread = spread + ((observation - mean) * (observation - mean - change) - spread) / (count + 1)
        self.__dict__ |= dict(zip(self.names, (mean + change, spread, count + 1), strict=True))
        return ((observation - mean - change) / np.sqrt(spread + 1e-8)).astype(np.float32)


OWN_NAMES = [("running_mean", "running_var", "n"), ("_m", "_s2", "_count"), ("mu", "std", "seen")]


@pytest.mark.parametrize("names", OWN_NAMES)
def test_statistics_under_names_that_are_not_known_are_told(names):
    notes = make_environments(lambda: Whitened(gymnasium.make("Pendulum-v1"), names), 2).notes
    assert any(f"Whitened in the environment holds {names[0]}, {names[1]} and {names[2]}" in note for note in notes)
    known = make_environments(lambda: Whitened(gymnasium.make("Pendulum-v1"), ("mean", "var", "count")), 2).notes
    assert any("saved with it" in note for note in known)
    assert not any("holds" in note for note in known)


@pytest.mark.parametrize("source", [Masked, lambda: Masked(), several(Masked)])
def test_a_method_for_masks_that_is_not_called_is_told(source, tmp_path, capsys):
    proximo.train(
        source, steps=64, run=tmp_path / "r", rollout_length=32, update={"minibatch_size": 32}, progress="plain"
    )
    said = capsys.readouterr()
    assert (
        "the method action_masks of Masked is not called: masks are read from info['action_mask']"
        in said.err + said.out
    )
