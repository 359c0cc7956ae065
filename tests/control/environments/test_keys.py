"""A setting names the parts of an observation that are seen; text is left out, what looks privileged is asked about."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.environments.visible_leaves import KeptLeaves
from proximo.control.evaluation.results import evaluate_run
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.verify import verify_control
from proximo.errors import UserError

BOTH = pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
PART = spaces.Box(-9, 9, (2,), np.float32)


class Sentence(gymnasium.Space):
    """Text of another class than Gymnasium's, as Minigrid's missions are."""

    def __init__(self):
        super().__init__(dtype=str)

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


class Parted(gymnasium.Env):
    """Shows the parts that are named; the action mask forbids 0."""

    action_space = spaces.Discrete(2)

    def __init__(self, *names):
        self.parts = {name: PART for name in names}
        if "arm" in names:
            self.parts["arm"] = spaces.Dict({"joint": PART, "hand": spaces.Tuple((PART, PART))})
        if "mission" in names:
            self.parts["mission"] = spaces.Text(9)
        if "words" in names:
            self.parts["words"] = Sentence()
        if "action_mask" in names:
            self.parts["action_mask"] = spaces.MultiBinary(2)
        self.observation_space = spaces.Dict(self.parts)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self.seen(), {}

    def step(self, action):
        self.now += 1
        return self.seen(), float(action), False, self.now == 5, {}

    def seen(self):
        special = {"mission": "go left", "words": "go", "action_mask": np.array([0, 1], np.int8)}
        special["arm"] = {"joint": np.full(2, 5.0, np.float32), "hand": (np.full(2, 6.0, np.float32),) * 2}
        return {name: special.get(name, np.full(2, len(name), np.float32)) for name in self.parts}


class InTuple(Parted):
    def __init__(self):
        super().__init__("state", "velocity")
        self.observation_space = spaces.Tuple((spaces.Text(9), PART, PART))

    def seen(self):
        return ("go", np.full(2, 1.0, np.float32), np.full(2, 2.0, np.float32))


def seen(make, *keys, backend="gymnasium", steps=6, **options):
    """The names of what is seen, after steps over the end of an episode."""
    environments = make_environments(make, 2, backend=backend, observation_keys=keys, **options)
    observation, _ = environments.reset([0, 1])
    for _ in range(steps):
        step = environments.step(np.ones(2, np.int64))
        assert set(step.final_observation) == set(step.observation) == set(observation)
    environments.close()
    return sorted(map(str, observation)), environments.notes


@BOTH
@pytest.mark.parametrize(
    ("names", "keys", "kept"),
    [
        (("state", "velocity"), (), ["state", "velocity"]),
        (("state", "velocity"), ("state",), ["state"]),
        (("state", "velocity", "critic"), ("not:critic",), ["state", "velocity"]),
        (("state", "velocity", "critic"), ("*", "not:c*"), ["state", "velocity"]),
        (("state", "privileged_state"), ("state", "privileged_state"), ["privileged_state", "state"]),
        (("state", "velocity", "action_mask"), ("velocity",), ["action_mask", "velocity"]),
        (("state", "velocity", "mission", "words"), (), ["state", "velocity"]),
        (("state", "velocity", "mission"), ("*",), ["state", "velocity"]),
    ],
)
def test_what_is_named_is_seen(names, keys, kept, backend):
    assert seen(lambda: Parted(*names), *keys, backend=backend)[0] == kept


def test_text_is_told_once_for_each_part():
    _, notes = seen(lambda: Parted("state", "mission", "words"))
    assert [note.split(" is text")[0] for note in notes] == ["observation 'mission'", "observation 'words'"]
    assert seen(lambda: Parted("state", "mission"), "state")[1] == ()  # nothing is left out that was not asked for


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_vector_environment_keeps_the_same(mode):
    def make():
        return SyncVectorEnv([lambda: Parted("state", "velocity", "mission")] * 2, autoreset_mode=mode)

    assert seen(make)[0] == ["state", "velocity"]
    assert seen(make, "velocity")[0] == ["velocity"]


@BOTH
def test_parts_of_parts_and_of_tuples_keep_their_paths(backend):
    environments = make_environments(
        lambda: Parted("state", "arm"), 2, backend=backend, observation_keys=("arm.hand.1", "arm.joint")
    )
    observation, _ = environments.reset([0, 1])
    environments.close()
    assert set(observation) == {"arm"}
    assert set(observation["arm"]) == {"joint", "hand"}
    assert set(observation["arm"]["hand"]) == {1}
    assert seen(InTuple, backend=backend)[0] == ["1", "2"]
    assert seen(InTuple, "2", backend=backend)[0] == ["2"]


@pytest.mark.parametrize(
    "part",
    [
        "privileged_state",
        "privileged",
        "obs_privileged",
        "critic",
        "critic_obs",
        "Privileged",
        "obs_critic",
        "asymmetric_critic",
        "critic-observations",
        "priv_obs",
        "priv_info",
        "obs_privileged_1",
        "criticObs",
    ],
)
def test_what_looks_privileged_needs_a_decision(part):
    make = lambda: Parted("state", part)  # noqa: E731
    with pytest.raises(UserError) as caught:
        make_environments(make, 2)
    message = str(caught.value)
    assert f"shows {part!r} (2 numbers)" in message
    assert "give observation_keys = ['state'] (--observation-keys state) to leave it out" in message
    assert "\n" not in message
    assert seen(make, "state")[0] == ["state"]
    assert seen(make, "state", part)[0] == sorted(["state", part])


@pytest.mark.parametrize("part", ["critical_heat", "unprivileged", "state", "private", "criticality"])
def test_what_does_not_look_privileged_needs_none(part):
    assert part in seen(lambda: Parted("velocity", part))[0]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (("stat",), "names 'stat', and .* shows state, velocity: did you mean state?"),
        (("not:*",), "nothing of the observation of .* is left"),
        (("mission", "state"), "asks for 'mission' of .*, which is text"),
    ],
)
def test_keys_that_can_not_be_followed_are_refused(keys, why):
    names = ("state", "velocity", "mission") if "mission" in keys else ("state", "velocity")
    with pytest.raises(UserError, match=why):
        make_environments(lambda: Parted(*names), 1, observation_keys=keys)


def test_one_array_has_no_parts():
    with pytest.raises(UserError, match="name parts of an observation, and CartPole-v1 shows only"):
        make_environments("CartPole-v1", 1, backend="gymnasium", observation_keys=("state",))


def test_envpool_keeps_the_same():
    environments = make_environments("MuJoCoPlayground/LeapCubeRotateZAxis-v1", 1, observation_keys=("state",))
    assert set(environments.reset([0])[0]) == {"state"} == set(environments.step(np.zeros((1, 16))).observation)
    environments.close()
    with pytest.raises(UserError, match="'privileged_state' \\(105 numbers\\)"):
        make_environments("MuJoCoPlayground/LeapCubeRotateZAxis-v1", 1)
    grid = make_environments("MiniGrid-Empty-5x5-v0", 1)
    assert set(grid.reset([0])[0]) == {"direction", "image"}
    assert "'mission' is text" in grid.notes[0]


def parted():
    return Parted("state", "velocity", "privileged_state")


def test_the_setting_holds_in_load_evaluate_resume_and_verification(tmp_path):
    settings = {"steps": 256, "environments": 2, "rollout_length": 32, "episodes": 2, "update": {"minibatch_size": 64}}
    call = {**settings, "progress": "quiet", "observation_keys": ["state", "velocity"], "run": tmp_path / "run"}
    name = f"{__name__}:parted"
    proximo.train(name, stop_at=128, **call)
    run = proximo.train(name, **call)
    assert run.results["exact_resume"]
    assert evaluate_run(run.path, 2)["final_deterministic"] == run.results["final_deterministic"]
    policy, observation = proximo.load(run.path), parted().reset()[0]
    assert policy.policy.observations.vector_size == 4
    whole = policy.value(observation)
    assert policy.value({name: observation[name] for name in ("state", "velocity")}) == whole
    assert policy.value({**observation, "privileged_state": np.full(2, 1e9)}) == whole
    config = TrainConfig(environment=name, **{k: v for k, v in settings.items() if k != "update"})
    assert verify_control(
        TrainConfig(**{**vars(config), "observation_keys": ("state",), "rollout_length": 256}), 1, parted
    ).exact


def test_an_observation_of_text_alone_or_of_no_number_is_refused_with_a_way_out():
    space = spaces.Dict({"what": spaces.Text(5)})
    with pytest.raises(UserError, match=r"it has only text \(what\); show numbers, as with gymnasium"):
        KeptLeaves.of(space, name="task")
    with pytest.raises(UserError, match="is empty; an agent needs at least one number to look at"):
        ObservationSpec.of(spaces.Box(-1, 1, (0,)))
