"""A stand-in for JAX on NumPy, as far as functional environments ask for it, and some in the shape of Playground's."""

import copy
from types import SimpleNamespace

import numpy as np

JAX = SimpleNamespace(
    numpy=np,
    jit=lambda function: function,
    eval_shape=lambda function, *arguments: function(*arguments),
    vmap=lambda function: lambda *batches: _stacked([function(*row) for row in _rows(batches)]),
    random=SimpleNamespace(
        PRNGKey=lambda seed: np.array([0, seed], np.uint32),
        fold_in=lambda key, number: np.array([key[0] + number + 1, key[1]], np.uint32),
    ),
    lax=SimpleNamespace(cond=lambda holds, then, other: then() if holds else other()),
    tree=SimpleNamespace(map=lambda function, *trees: _mapped(function, trees)),
    dlpack=SimpleNamespace(from_dlpack=np.from_dlpack),
    devices=lambda: [SimpleNamespace(platform="cpu")],
)
"""Loops where JAX maps, and compiles nothing."""


class State:
    """Frozen in the real one."""

    def __init__(self, **parts):
        vars(self).update(parts)

    def replace(self, **parts):
        return State(**{**vars(self), **parts})


def _mapped(function, trees):
    first = trees[0]
    if isinstance(first, State):
        return State(**{key: _mapped(function, [vars(tree)[key] for tree in trees]) for key in vars(first)})
    if isinstance(first, dict):
        return {key: _mapped(function, [tree[key] for tree in trees]) for key in first}
    return function(*trees)


def _stacked(rows):
    return _mapped(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), rows)


def _rows(batches):
    count = len(next(leaf for leaf in map(_first_leaf, batches)))
    return [[_mapped(lambda leaf, i=i: leaf[i], [batch]) for batch in batches] for i in range(count)]


def _first_leaf(tree):
    while isinstance(tree, State | dict):
        tree = next(iter((vars(tree) if isinstance(tree, State) else tree).values()))
    return tree


LIMIT, END = 4, 3


class Functional:
    """One robot, which shows its steps. One whose seed is odd ends for good after 3 of them, with a NaN where it broke.

    Ends are float32, observations a Dict with what no robot measures, and the limit stands in a configuration only.
    """

    _config = SimpleNamespace(episode_length=LIMIT)
    action_size = 2
    observation_size = 3  # a number, or shapes by name

    def reset(self, rng):
        rng = np.asarray(rng)
        if rng.shape != (2,):
            raise TypeError(f"a key has the shape (2,), not {rng.shape}")
        info = {"odd": rng[1] % 2 == 1, "key": rng.copy()}
        return self.shown(np.float32(0), np.float32(0), info)

    def shown(self, now, done, info):
        broken = np.float32(np.nan) if done else now
        obs = {"state": np.stack([broken]), "privileged_state": np.stack([broken, info["key"][0]]).astype(np.float32)}
        return State(data=now, obs=obs, reward=now + 1, done=done, metrics={"reward/x": now * 2}, info=info)

    def step(self, state, action):
        assert action.shape == (2,)
        assert action.dtype == np.float32
        assert abs(action).max() <= 1
        now = state.data + np.float32(1)
        return self.shown(now, np.float32(state.info["odd"] & (now == END)), state.info)


class Batched:
    """As `VmapWrapper` and `EpisodeWrapper`: keys for all copies; a limit is `done` and `info["truncation"]`."""

    action_size = 2

    def __init__(self, env, limit=LIMIT):
        self.env, self.episode_length = env, limit

    def reset(self, rng):
        state = JAX.vmap(self.env.reset)(rng)
        return self.counted(state, np.zeros(len(rng), np.float32))

    def counted(self, state, steps):
        cut = (steps >= self.episode_length) & (state.done == 0)
        info = {**state.info, "steps": steps, "truncation": cut.astype(np.float32)}
        return state.replace(info=info, done=np.maximum(state.done, cut).astype(np.float32))

    def step(self, state, action):
        steps = state.info["steps"] + 1
        return self.counted(JAX.vmap(self.env.step)(state.replace(done=state.done * 0), action), steps)


class AutoReset(Batched):
    """As `BraxAutoResetWrapper`: the first state is cached, and takes the place of the state that was reached."""

    def __init__(self, env):
        self.env = env

    def reset(self, rng):
        state = self.env.reset(rng)
        return state.replace(info={**state.info, "AutoResetWrapper_first_obs": copy.deepcopy(state.obs)})

    def step(self, state, action):
        raise AssertionError("whoever takes this step never sees the state that a cut episode reached")
