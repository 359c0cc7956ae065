"""What environments answer is read as people mean it, alike in this process and in others, or refused."""

import decimal
import sys
import types

import gymnasium
import numpy as np
import pytest
import torch
from answering import Answering
from environments_for_tests import step_often
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.control.environments import make_environments
from proximo.control.spaces.masks import MaskReader
from proximo.errors import UserError

BOTH = pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])


def first_step(make, backend="gymnasium", count=2, actions=None):
    environments = make_environments(make, count, backend=backend)
    try:
        environments.reset(range(count))
        return environments.step(np.zeros(count, np.int64) if actions is None else actions)
    finally:
        environments.close()


def refusal(make, backend="gymnasium", **settings):
    with pytest.raises(UserError) as caught:
        first_step(make, backend, **settings)
    return str(caught.value)


@BOTH
@pytest.mark.parametrize(
    ("reward", "number"),
    [
        (np.array([1.5]), 1.5),
        (np.array([[1.5]], np.float32), 1.5),
        ([1.5], 1.5),
        (torch.tensor(1.5), 1.5),
        (torch.tensor([1.5], requires_grad=True), 1.5),
        (decimal.Decimal("1.5"), 1.5),
        (np.float16(1.5), 1.5),
        (True, 1.0),
    ],
    ids=str,
)
def test_one_number_is_a_reward_in_whatever_it_is_wrapped(reward, number, backend):
    assert first_step(lambda: Answering(reward), backend).reward.tolist() == [number, number]


@BOTH
@pytest.mark.parametrize("reward", [None, np.ones(2), [], 1j, "much", {"r": 1.0}], ids=str)
def test_what_is_no_number_is_no_reward(reward, backend):
    message = refusal(lambda: Answering(reward), backend)
    assert "\n" not in message
    assert "environment 0 of" in message
    assert "at its step 1, returned" in message
    assert "as its reward: return one number" in message


@BOTH
@pytest.mark.parametrize(
    "ends", [{"terminated": np.array([True])}, {"terminated": 1}, {"truncated": torch.tensor(True)}]
)
def test_one_truth_ends_an_episode(ends, backend):
    step = first_step(lambda: Answering(**ends), backend)
    assert (step.terminated | step.truncated).all()


@BOTH
@pytest.mark.parametrize("end", [None, np.zeros(2, bool), "no", []], ids=str)
def test_no_truth_ends_no_episode(end, backend):
    assert "as truncated: return True or False" in refusal(lambda: Answering(truncated=end), backend)


@BOTH
@pytest.mark.parametrize(
    "info",
    [
        lambda now: None,
        lambda now: types.MappingProxyType({"x": now}),
        lambda now: {"status": now if now % 2 else "left", "path": np.zeros(now), "d": {} if now % 2 else 3},
        lambda now: {"final_obs": 3, "final_info": "x", "episode": 1, "_x": 2},
    ],
    ids=["None", "mapping", "changing", "names of Gymnasium's"],
)
def test_infos_are_the_users_own(info, backend):
    environments = make_environments(lambda: Answering(info=info), 2, backend=backend)
    environments.reset([0, 1])
    step_often(environments, np.zeros(2, np.int64))
    environments.close()


@BOTH
def test_an_info_that_is_none_is_refused(backend):
    assert "returned a list of 2 as its info: return a dict" in refusal(
        lambda: Answering(info=lambda now: [1, 2] if now else {}), backend
    )


PAIR = spaces.MultiDiscrete([2, 3])
BRANCHES = spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Discrete(2), "c": spaces.Box(0, 1, (2,))})


@pytest.mark.parametrize(
    ("space", "mask", "flat"),
    [
        (spaces.Discrete(3), [1, 0, 1], "101"),
        (spaces.Discrete(3), (True, False, True), "101"),
        (spaces.Discrete(3), torch.tensor([1, 0, 1]), "101"),
        (spaces.Discrete(3), np.array([1.0, 0.0, 1.0]), "101"),
        (PAIR, [1, 0, 0, 1, 1], "10011"),
        (PAIR, [[1, 0], [0, 1, 1]], "10011"),
        (PAIR, (np.array([1, 0], np.int8), np.array([0, 1, 1], np.int8)), "10011"),  # as MultiDiscrete.sample takes it
        (PAIR, np.array([[1, 0, 0], [0, 1, 1]]), "10011"),  # padded to the longest
        (PAIR, [[1, 0, 0], [0, 1, 1]], "10011"),
        (spaces.MultiDiscrete([3, 3]), np.array([[1, 0, 0], [0, 1, 1]]), "100011"),
        (spaces.MultiDiscrete([[2, 2], [2, 2]]), np.array([[[1, 0], [0, 1]], [[1, 1], [1, 0]]]), "10011110"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), ([1, 0], [0, 1, 1]), "10011"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), (None, [0, 1, 1]), "11011"),
        (BRANCHES, {"b": [0, 1, 1], "a": [1, 0], "c": None}, "10011"),  # a Dict sorts its keys
    ],
    ids=str,
)
def test_masks_are_read_as_people_write_them(space, mask, flat):
    assert MaskReader.of(space).read(mask).tolist() == [x == "1" for x in flat]


@pytest.mark.parametrize(
    ("space", "mask", "why"),
    [
        (PAIR, [1, 0], "2 entries"),
        (PAIR, np.ones(6), "6 entries"),  # no table: nothing says where the padding is
        (spaces.Discrete(2), ["yes", "no"], "other entries"),
        (spaces.Discrete(2), {"a": 1}, "can not be read"),
        (spaces.Discrete(2), [0.5, 1], "other entries"),
        (spaces.MultiBinary(4), [1, 1, 0, 1], "has no choices that could be forbidden"),
        (spaces.Box(0, 1, (2,)), [1, 1], "has no choices that could be forbidden"),
    ],
    ids=str,
)
def test_a_mask_that_fits_no_choices_is_refused(space, mask, why):
    with pytest.raises(ValueError, match=why):
        MaskReader.of(space).read(mask)


@BOTH
@pytest.mark.parametrize("mask", [[[1, 0], [0, 1, 1]], np.array([[1, 0, 0], [0, 1, 1]]), [1, 0, 0, 1, 1]], ids=str)
def test_a_mask_reaches_the_policy_flat(mask, backend):
    step = first_step(
        lambda: Answering(info=lambda now: {"action_mask": mask}, action=PAIR), backend, actions=np.zeros((2, 2), int)
    )
    assert step.mask.tolist() == [[True, False, False, True, True]] * 2


@BOTH
def test_a_mask_for_switches_is_refused_in_one_sentence(backend):
    make = lambda: Answering(info=lambda now: {"action_mask": [1, 0]}, action=spaces.MultiBinary(2))  # noqa: E731
    message = refusal(make, backend)
    assert "\n" not in message
    assert "MultiBinary(2) has no choices that could be forbidden: leave it out" in message


def test_masks_of_a_vector_environment_are_read_alike():
    def make():
        one = lambda: Answering(info=lambda now: {"action_mask": [[1, 0], [0, 1, 1]]}, action=PAIR)  # noqa: E731
        return SyncVectorEnv([one, one], autoreset_mode=AutoresetMode.NEXT_STEP)

    step = first_step(make, actions=np.zeros((2, 2), int))
    assert step.mask.tolist() == [[True, False, False, True, True]] * 2


class Batch(SyncVectorEnv):
    """Answers with what is made of an ordinary answer."""

    made = staticmethod(lambda *answer: answer)
    begun = staticmethod(lambda *answer: answer)

    def step(self, actions):
        return self.made(*super().step(actions))

    def reset(self, **options):
        return self.begun(*super().reset(**options))


def batch(made=Batch.made, begun=Batch.begun):
    kind = type("Made", (Batch,), {"made": staticmethod(made), "begun": staticmethod(begun)})
    return lambda: kind([Answering] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize(
    "rewards",
    [list, lambda r: r[:, None], torch.tensor, lambda r: torch.tensor(r, requires_grad=True), lambda r: r.astype(int)],
)
def test_one_number_for_each_environment_is_a_reward_of_a_batch(rewards):
    step = first_step(batch(lambda o, r, *rest: (o, rewards(r), *rest)))
    assert step.reward.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("made", "begun", "why"),
    [
        (lambda o, r, *rest: (o, None, *rest), Batch.begun, "returned rewards of shape ()"),
        (lambda o, r, te, *rest: (o, r, [None] * 2, *rest), Batch.begun, "returned None as terminated: return True"),
        (lambda o, r, te, *rest: (o, r, ["False"] * 2, *rest), Batch.begun, "returned a str as terminated: return"),
        (lambda o, r, te, *rest: (o, r, [float("nan")] * 2, *rest), Batch.begun, "returned a float as terminated"),
        (lambda o, r, te, tr, i: (o, r, te, [None] * 2, i), Batch.begun, "returned None as truncated: return True"),
        (lambda o, r, *rest: (o, [None] * 2, *rest), Batch.begun, "returned None as its reward: return one number"),
        (lambda o, r, *rest: (o, r + 1j, *rest), Batch.begun, "as its reward: return one number"),
        (
            lambda o, r, te, tr, i: (o, r, te, i),
            Batch.begun,
            "returned a tuple of 4 at its step 1 where (observations, rew",
        ),
        (lambda o, r, te, tr, i: (o, r, te, tr, [{}, {}]), Batch.begun, "returned a list as infos at its step 1"),
        (
            Batch.made,
            lambda o, i: o,
            "returned a ndarray of shape (2, 2) at its step 0 where (observations, infos) is due",
        ),
    ],
)
def test_a_batch_that_answers_otherwise_is_told_in_one_sentence(made, begun, why):
    message = refusal(batch(made, begun))
    assert why in message
    assert "\n" not in message


def test_a_batch_may_have_no_infos():
    assert first_step(batch(lambda *answer: (*answer[:4], None), lambda o, i: (o, None))).valid.all()


class MaskShown(Answering):
    """Shows its mask in the observation, in a form of the user's."""

    def __init__(self, space, mask, action=PAIR):
        super().__init__(action=action)
        self.mask = mask
        self.observation_space = spaces.Dict({"x": self.observation_space, "action_mask": space})

    def reset(self, **options):
        observation, info = super().reset()
        return {"x": observation, "action_mask": self.mask}, info

    def step(self, action):
        assert tuple(action) == (0, 1) or tuple(action) == (0, 2), f"the mask forbids {action}"
        observation, *rest = super().step(action)
        return {"x": observation, "action_mask": self.mask}, *rest


@BOTH
@pytest.mark.parametrize(
    ("space", "mask"),
    [
        (spaces.MultiBinary(5), np.array([1, 0, 0, 1, 1], np.int8)),
        (spaces.Box(0, 1, (2, 3), np.int8), np.array([[1, 0, 1], [0, 1, 1]], np.int8)),  # what is padded says nothing
        (spaces.Tuple((spaces.MultiBinary(2), spaces.MultiBinary(3))), (np.int8([1, 0]), np.int8([0, 1, 1]))),
    ],
    ids=["row", "table", "tuple"],
)
def test_a_mask_in_the_observation_is_obeyed_in_every_form(space, mask, backend, tmp_path):
    small = {"environments": 2, "rollout_length": 32, "steps": 64, "episodes": 1, "episode_limit": 5}
    run = proximo.train(
        lambda: MaskShown(space, mask),
        run=tmp_path / "run",
        progress="quiet",
        backend=backend,
        update={"minibatch_size": 64},
        **small,
    )
    action = proximo.load(run.path).act({"x": np.zeros(2, np.float32), "action_mask": mask}, deterministic=False)
    assert tuple(action) in {(0, 1), (0, 2)}


@pytest.mark.parametrize("action", [spaces.MultiBinary(2), spaces.Box(-1, 1, (2,))])
def test_a_mask_in_the_observation_of_what_has_no_choices_is_refused(action, tmp_path):
    with pytest.raises(UserError, match="the action has no choices that it could forbid: leave it out") as caught:
        proximo.train(
            lambda: MaskShown(spaces.MultiBinary(2), np.int8([1, 0]), action), run=tmp_path / "run", progress="quiet"
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Ends(Answering):
    """Ends the process, or tries to."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        if where == "made":
            sys.exit("no licence")

    def reset(self, **options):
        if self.where == "reset":
            sys.exit("no licence")
        return super().reset(**options)

    def step(self, action):
        if self.where == "step":
            sys.exit("no licence")
        return super().step(action)


@BOTH
@pytest.mark.parametrize("where", ["made", "reset", "step"])
def test_an_environment_that_would_end_the_process_is_named(where, backend):
    message = refusal(lambda: Ends(where), backend)
    assert "SystemExit: no licence" in message.splitlines()[0]
    assert where == "made" or "environment 0 of" in message


def test_a_vector_environment_that_would_end_the_process_is_named():
    assert "at its step 1: SystemExit: no licence" in refusal(batch(lambda *_: sys.exit("no licence")))


def test_a_module_that_would_end_the_process_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "script_that_exits.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(UserError, match="could not be imported"):
        make_environments("script_that_exits:make", 1)


class Old(gymnasium.Env):
    observation_space, action_space = spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(2)

    def reset(self):
        return np.zeros(2, np.float32)

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, {}


class OldReset(Old):
    def reset(self, seed=None):
        return np.zeros(2, np.float32)


class OldStep(Old):
    def reset(self, seed=None):
        return np.zeros(2, np.float32), {}


class OldGym:
    """An environment of the package gym, which need not be installed."""

    observation_space, action_space = Old.observation_space, Old.action_space
    reset, step = Old.reset, Old.step


@BOTH
@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (Old, "takes no seed in its reset"),
        (OldReset, "returned a ndarray of shape (2,) where (observation, info) is due"),
        (OldStep, "at its step 1, returned a tuple of 4 where (observation, reward, terminated, truncated, info)"),
        (OldGym, "is no gymnasium.Env, as those of the older gym are"),
    ],
)
def test_environments_of_the_old_gym_are_told_the_way(kind, what, backend):
    message = refusal(kind, backend)
    assert "\n" not in message
    assert what in message
    assert "shimmy" in message


class OnlySeed(Answering):
    def reset(self, seed=None):
        return super().reset(seed=seed)


def test_a_reset_need_take_no_options():
    assert first_step(OnlySeed).valid.all()


class Unlicensed(Answering):
    """Its spaces end the program."""

    @property
    def observation_space(self):
        sys.exit("no licence")

    @observation_space.setter
    def observation_space(self, space):
        pass


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_spaces_that_end_the_program_are_told(backend):
    with pytest.raises(UserError, match=r"Unlicensed could not be made: SystemExit: no licence"):
        make_environments(Unlicensed, 2, backend=backend)


class Listing(Answering):
    """Observes a list of any length, which no batch holds."""

    def __init__(self):
        super().__init__()
        far, near = spaces.Sequence(spaces.Box(0, 1, (2,))), spaces.Box(0, 1, (2,))
        self.observation_space = spaces.Dict({"far": far, "near": near})


def test_spaces_that_no_batch_of_processes_holds_are_refused_in_one_sentence():
    with pytest.raises(UserError, match="cannot be made a batch of 2"):
        make_environments(Listing, 2, backend="subprocess")
