"""Whatever the autoreset mode, the valid rows are the transitions that a single environment makes."""

import gymnasium
import numpy as np
import pytest
from environments_for_tests import Counting, counting_vector, rollout, step_often
from gymnasium.vector import AutoresetMode

from proximo.control.environments import make_environments
from proximo.errors import UserError

SEEDS = [0, 1, 6]
MODES = {
    "own": lambda **options: make_environments(lambda: Counting(**options), 3),
    "own subprocesses": lambda **options: make_environments(lambda: Counting(**options), 3, backend="subprocess"),
} | {
    f"{mode.name} {'subprocesses' if processes else ''}{'' if copy else 'without copy'}": (
        lambda m=mode, p=processes, c=copy, **options: make_environments(
            lambda: counting_vector(3, m, p, c, **options), 3
        )
    )
    for mode in AutoresetMode
    for processes, copy in ((False, True), (False, False), (True, True))
}


def policy(observation):
    return (observation @ np.array([1, 2, 3], np.float32)).astype(np.int64) % 5


def by_hand(seed, count):
    """The first transitions of one environment, reset whenever its episode is over."""
    env = Counting()
    observation, _ = env.reset(seed=seed)
    rows = []
    for _ in range(count):
        action = int(policy(observation[None])[0])
        reached, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation.tolist(), action, reward, reached.tolist(), terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else reached
    return rows


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def make(request):
    made = []

    def making(**options):
        made.append(request.param(**options))
        return made[-1]

    yield making
    for environments in made:
        environments.close()


def test_valid_rows_are_the_transitions_of_single_environments(make):
    rows = rollout(make(), SEEDS, 40, policy)
    for seed, row in zip(SEEDS, rows, strict=True):
        assert len(row) > 15
        assert row == by_hand(seed, len(row))


def test_started_marks_the_first_observation_of_every_episode(make):
    environments = make()
    environments.reset(SEEDS)
    for _ in range(30):
        step = environments.step(np.zeros(3, np.int64))
        assert np.array_equal(step.started, step.observation[:, 2] == 0)
        over = step.terminated | step.truncated
        assert np.array_equal(step.episode_over, over)
        assert not over[~step.valid].any()
        assert not step.reward[~step.valid].any()
        same = step.final_observation is step.observation
        assert same == np.array_equal(step.final_observation, step.observation)


def test_a_second_reset_starts_again_from_its_seeds(make):
    environments = make()
    first = rollout(environments, SEEDS, 7, policy)
    assert rollout(environments, SEEDS, 7, policy) == first
    assert rollout(environments, [3, 4, 5], 7, policy) != first


def test_what_was_returned_is_never_written_again(make):
    environments = make()
    observation, _ = environments.reset(SEEDS)
    kept = [(observation, observation.copy())]
    for _ in range(10):
        step = environments.step(np.zeros(3, np.int64))
        arrays = (step.observation, step.final_observation, step.reward, step.terminated, step.truncated)
        kept += [(array, array.copy()) for array in arrays]
    assert all(np.array_equal(array, copy) for array, copy in kept)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_nested_observations_reach_their_true_end(make, form):
    environments = make(form=form)
    environments.reset(SEEDS)
    key, other = ("where", "step") if form == "dict" else (0, 1)
    reached_end = 0
    for _ in range(25):
        step = environments.step(np.zeros(3, np.int64))
        for view in (step.observation, step.final_observation):
            counts = view[other] if form == "dict" else view[other][:, 0, 0]
            assert np.array_equal(counts, view[key][:, 2])
        over = step.terminated | step.truncated
        assert (step.final_observation[key][over, 2] > 0).all()
        reached_end += over.sum()
    assert reached_end > 5


def test_a_mask_belongs_to_the_observation_it_comes_with(make):
    environments = make(masked=True)
    observation, mask = environments.reset(SEEDS)
    for _ in range(30):
        for row, (seed, episode, now) in zip(mask, observation, strict=True):
            allowed = {int(now) % 5, int(episode) % 5} if seed % 2 == 0 else set(range(5))
            assert set(np.flatnonzero(row)) == allowed
        step = environments.step(np.zeros(3, np.int64))
        observation, mask = step.observation, step.mask


def test_no_mask_where_none_is_reported(make):
    environments = make()
    assert environments.reset(SEEDS)[1] is None
    assert environments.step(np.zeros(3, np.int64)).mask is None


@pytest.mark.parametrize("mode", [None, "sometimes"])
def test_an_unknown_autoreset_mode_is_refused(mode):
    def made():
        vector = counting_vector(2)
        vector.metadata = {} if mode is None else {"autoreset_mode": mode}
        return vector

    with pytest.raises(UserError, match=r"NEXT_STEP, AutoresetMode\.SAME_STEP, AutoresetMode\.DISABLED"):
        make_environments(made, 2)


def test_same_step_autoreset_that_hides_the_final_observation_is_refused():
    class Hiding(gymnasium.vector.VectorWrapper):
        def step(self, actions):
            *rest, infos = self.env.step(actions)
            infos.pop("final_obs", None)
            return *rest, infos

    environments = make_environments(lambda: Hiding(counting_vector(2)), 2)
    environments.reset([0, 1])
    with pytest.raises(UserError, match="final_obs"):
        step_often(environments, np.zeros(2, np.int64))
