"""A student learns what its teacher would do: where it acts itself, from what it sees, with a memory of its own."""

import functools
import json
from contextlib import ExitStack, closing
from types import SimpleNamespace

import hidden_tasks
import numpy as np
import pytest
import torch
from hidden_tasks import SIZES
from mirrored_tasks import TwoSided
from pages import blocks

import proximo
from proximo.control.distill import student_settings
from proximo.control.distillation.training import training_of
from proximo.control.environments import make_environments
from proximo.control.models.noise import basis
from proximo.control.models.policy import TAUGHT
from proximo.control.training.replay import replay_world
from proximo.control.verify import verify_control
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.replay.entry import read
from proximo.runs.replay.report import replay

CART = f"{hidden_tasks.__name__}:cart"
BLIND = {"observations": {"student": ["position"]}}
GRU = {"network": {"memory": "gru", "memory_size": 32, "hidden": [32]}}


def balanced(folder, steps):
    call = {
        "environments": 8,
        "rollout_length": 32,
        "episodes": 2,
        "episode_limit": 100,
        "progress": "quiet",
        "learning_rate": 1e-3,
    }
    return proximo.train(CART, steps=steps, run=folder, **call, update={"minibatch_size": 64}, seed=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run that has begun to balance, from positions and velocities."""
    return balanced(tmp_path_factory.mktemp("distil") / "teacher", 2048)


@pytest.fixture(scope="module")
def memory_teacher(tmp_path_factory):
    """One that has learnt little, and has a memory."""
    folder = tmp_path_factory.mktemp("distil") / "memory"
    call = {"environments": 2, "rollout_length": 32, "episodes": 1, "progress": "quiet"}
    network = {"memory": "lstm", "memory_size": 8, "hidden": [8]}
    return proximo.train(CART, steps=128, run=folder, network=network, update={"minibatch_size": 64}, **call)


def begun(stack, teacher, source=CART, **settings):
    """A distillation that has been started."""
    base = student_settings(teacher.path)
    given = {**SIZES, **settings, "update": {**SIZES["update"], **settings.get("update", {})}}
    config = from_mapping(type(base), given, where="a test", base=base)
    environments = make_environments(source, config.environments, observation_keys=config.visible_in_training)
    stack.enter_context(closing(environments))
    training = training_of(config, environments)
    training.start()
    return training


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_teacher_takes_its_share_of_the_steps_and_the_student_the_rest(teacher, beta):
    with ExitStack() as stack:
        training = begun(stack, teacher, update={"beta": beta}, **BLIND)
        training.prepare()
        rollout = training.collect()
        right = training.mixed.teacher.policy.distribution(rollout.inputs[TAUGHT][..., :2], None).mode()
        assert torch.equal(rollout.taken, right if beta else rollout.action)
        assert not torch.equal(rollout.action, right)


def test_what_is_written_down_is_the_teachers_distribution(teacher):
    with ExitStack() as stack:
        training = begun(stack, teacher, **BLIND)
        first = proximo.load(teacher.path)
        observation, _ = training.environments.reset([1, 2])
        collector = training.collector
        collector.restart([1, 2])
        batch = training.estimate(training.collect())
        said = training.policy.teacher(batch).parts[0].probs.reshape(-1, 2, 2)[0]
        shown = {name: torch.from_numpy(x) for name, x in first.policy.encode(observation).items()}
        assert torch.allclose(said, first.policy.step_distribution(shown).parts[0].probs)


@pytest.mark.parametrize(
    "network",
    [
        *({"noise": noise} for noise in ("log", "scalar", "shared", "state", "fixed", "gsde")),
        {"actions": "beta"},
        {"actions": "squashed", "noise": "state"},
    ],
    ids=lambda network: " ".join(network.values()),
)
def test_whatever_the_teachers_noise_is_its_distribution_is_written_down(network, tmp_path):
    # The rate is high, so that deviations have left where they began.
    call = {"steps": 32, "environments": 2, "rollout_length": 16, "episodes": 1, "progress": "quiet"}
    network = {"hidden": [8], **network}
    update = {"minibatch_size": 8, "epochs": 4}
    first = proximo.train(TwoSided, run=tmp_path, network=network, learning_rate=0.05, update=update, **call)
    own = proximo.load(first.path).policy
    with ExitStack() as stack:
        training = begun(stack, first, TwoSided, network={**network, "noise": "log"})
        batch = training.estimate(rollout := training.collect())
        said = training.policy.teacher(batch)
    true = own.step_distribution({"vector": rollout.inputs["vector"].reshape(-1, 3)})
    assert type(said) is type(true)
    assert said.tensors().keys() == true.tensors().keys()
    for name, x in true.tensors().items():
        told = said.tensors()[name]
        assert torch.allclose(told.expand(len(x), -1).reshape(-1), x.reshape(-1), atol=1e-6), name
    assert said.kl(true).abs().max() < 1e-5


def test_a_students_task_has_the_delay_the_repeats_and_the_history_of_its_teachers(tmp_path):
    call = {"steps": 32, "episodes": 1, "progress": "quiet", **SIZES}
    task = {"action_delay": 2, "action_repeat": 3, "history": {"rest": 4}}
    first = proximo.train(f"{hidden_tasks.__name__}:two_sided", run=tmp_path / "a", **task, **call)
    student = proximo.distill(first, run=tmp_path / "b", **call)
    loaded = [proximo.load(run.path).policy.observations.vector_size for run in (first, student)]
    assert loaded == [9, 9]
    own = [read_toml(run.path / "config.toml") for run in (first, student)]
    assert [own[1][name] for name in task] == [own[0][name] for name in task] == list(task.values())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(teacher):
    with ExitStack() as stack:
        training = begun(stack, teacher, update={"value_coefficient": 0.0}, learning_rate=0.0)
        training.policy.load_state_dict(training.mixed.teacher.policy.state_dict())
        values = training.iterate()
    assert values["imitation_kl"] < 1e-6
    assert values["grad_norm"] < 1e-5


@pytest.mark.parametrize("network", [{}, GRU["network"]], ids=["plain", "gru"])
def test_a_students_noise_may_follow_from_its_state_and_stay(network, tmp_path):
    # What is added to the means is linear in the last hidden layer, by the same numbers all through a rollout.
    call = {"steps": 32, "episodes": 1, "progress": "quiet", **SIZES, "rollout_length": 20}
    first = proximo.train(TwoSided, run=tmp_path, network={"hidden": [8]}, **{**call, "update": {"minibatch_size": 40}})
    network = {"hidden": [8], "noise": "gsde", **network}
    settings = {"network": network, "rollout_length": 20, "update": {"minibatch_size": 40, "beta": 0.0}}
    with ExitStack() as stack:
        training = begun(stack, first, TwoSided, **settings)
        training.prepare()
        rollout = training.collect()
        policy, memory = training.policy, rollout.memory
        if memory is None:
            outputs = policy.outputs({"vector": rollout.inputs["vector"]})[0]
            for row in range(2):
                moved = rollout.action[:, row] - outputs[:, row, :3]
                seen = basis(outputs[:, row, 3:])
                left = moved - seen @ torch.linalg.lstsq(seen, moved).solution
                assert left.abs().max() < 1e-4 < 0.1 < moved.abs().max()
        assert np.isfinite(training.iterate()["imitation_kl"])
        config = training.config
    assert verify_control(config, 2, TwoSided).exact


@pytest.mark.slow
def test_a_student_with_a_memory_does_without_velocities_what_its_teacher_does_with_them(tmp_path):
    teacher = balanced(tmp_path / "teacher", 40_000)
    call = {"steps": 32_000, "environments": 8, "seed": 0, "episodes": 10, "progress": "quiet", **GRU, **BLIND}
    student = proximo.distill(teacher, run=tmp_path / "student", learning_rate="3e-3 -> 0", **call)
    assert teacher.results["final_deterministic"] > 400
    assert student.results["final_deterministic"] >= 0.95 * teacher.results["final_deterministic"]


@pytest.mark.parametrize("settings", [BLIND, {**BLIND, **GRU}], ids=["plain", "gru"])
def test_a_distillation_resumes_exactly(teacher, memory_teacher, settings):
    for run in (teacher, memory_teacher):
        base = student_settings(run.path)
        network = settings.get("network", {"memory": "none"})
        config = from_mapping(type(base), {**SIZES, **settings, "network": network}, where="a test", base=base)
        assert verify_control(config, 2, hidden_tasks.cart).exact


def test_a_teacher_that_goes_on_learning_stays_what_it_was_for_its_student(memory_teacher, tmp_path):
    call = {**SIZES, "steps": 32 * 12, "episodes": 1, "progress": "quiet", **BLIND}
    whole = proximo.distill(memory_teacher, run=tmp_path / "whole", **call)
    proximo.distill(memory_teacher, run=tmp_path / "parts", stop_at=32 * 6, **call)
    call_on = {"environments": 2, "rollout_length": 32, "episodes": 1, "progress": "quiet", "steps": 256}
    network = {"memory": "lstm", "memory_size": 8, "hidden": [8]}
    on = {**call_on, "network": network, "update": {"minibatch_size": 64}, "allow_change": True}
    proximo.train(CART, run=memory_teacher.path, **on)
    parts = proximo.distill(memory_teacher, run=tmp_path / "parts", **call)
    weights = [proximo.load(run.path).policy.state_dict() for run in (whole, parts)]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())


def test_an_update_of_a_student_is_repeated_to_the_last_bit(teacher, tmp_path):
    with ExitStack() as stack:
        training = begun(stack, teacher, **BLIND, **GRU)
        for _ in range(2):
            training.iterate()
        training.ring.write(tmp_path)
    there = read(tmp_path)
    with ExitStack() as stack:
        found = replay(there, there.choose(None), replay_world(there, stack), None)
    assert found.exact, found.verdict


def test_a_students_run_is_a_run_and_ppo_goes_on_from_it(memory_teacher, tmp_path):
    call = {**SIZES, "steps": 32 * 8, "episodes": 2, "progress": "quiet"}
    student = proximo.distill(memory_teacher, CART, run=tmp_path / "student", **call, **BLIND, **GRU)
    assert proximo.load(student.path).act({"position": np.zeros(2, np.float32)}).shape == ()
    assert np.isfinite(proximo.evaluate(student.path, 2)["final_deterministic"])
    assert proximo.export(student.path, "numpy", observations=8).path.exists()
    groups = {"observations": {"actor": ["position"]}, "learning_rate": 0.0, "start_from": student}
    tuned = proximo.train(CART, run=tmp_path / "tuned", **call, **groups, **GRU)
    weights = [proximo.load(run.path).policy.network.state_dict() for run in (student, tuned)]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    rows = proximo.metrics(student.path)
    assert [row["beta"] for row in rows] == [
        0.75,
        0.5,
        0.25,
        0,
        0,
        0,
        0,
    ]  # one rollout only shows what numbers look like
    assert all("approx_kl" not in row and row["imitation_kl"] >= 0 for row in rows)


def test_continuous_actions_are_learnt_with_their_deviations(tmp_path):
    call = {"environments": 4, "rollout_length": 16, "episodes": 1, "progress": "quiet", "network": {"log_std": -1.0}}
    first = proximo.train("Pendulum-v1", steps=64, run=tmp_path / "a", update={"minibatch_size": 64}, **call)
    call |= {"network": {"log_std": 0.0}, "update": {"minibatch_size": 64}, "learning_rate": 1e-2}
    student = proximo.distill(first, run=tmp_path / "b", steps=64 * 60, **call)
    rows = proximo.metrics(student.path)
    log_std = [float(proximo.load(run.path).policy.log_std.detach()) for run in (first, student)]
    assert rows[-1]["imitation_kl"] < 0.05 * rows[0]["imitation_kl"]
    assert log_std[1] == pytest.approx(log_std[0], abs=0.1)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"observations": {"student": ["positions"]}}, "did you mean position"),
        ({"observations": {"student": ["position"], "teacher": ["velocity"]}}, "reads 4 numbers, and velocity of"),
        ({"observations": {"student": ["position"], "actor": ["velocity"]}}, "say the same in a distillation"),
        ({"obs_groups": {"student": ["position"], "policy": ["velocity"]}}, "sets student and policy, which are one"),
        ({"obs_groups": {"rnd_state": ["position"]}}, "the sets rnd_state, and here are student"),
        ({"update": {"beta": 2.0}}, r"beta = 2.0 must lie in \[0, 1\]"),
        ({"update": {"clip": 0.2}}, "has no clip"),
        ({"environment": "Pendulum-v1"}, "Pendulum-v1"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(memory_teacher, settings, why, tmp_path):
    call = {"steps": 64, "progress": "quiet", **settings}
    with pytest.raises(UserError, match=why):
        proximo.distill(memory_teacher, run=tmp_path / "run", **call)
    assert not (tmp_path / "run").exists()


def test_the_sets_of_rsl_rl_for_a_distillation_are_understood(teacher, tmp_path):
    call = {**SIZES, "steps": 64, "episodes": 1, "progress": "quiet"}
    groups = {"policy": ["position"], "teacher": ["position", "velocity"]}
    student = proximo.distill(teacher, run=tmp_path / "a", obs_groups=groups, **call)
    seen = student.config.observations
    assert (seen.actor, seen.teacher, seen.student) == (("position",), ("position", "velocity"), ())
    same = proximo.distill(teacher, run=tmp_path / "b", **call, **BLIND)
    assert rows_of(student) == rows_of(same)


def rows_of(run):
    """What is the same in two runs of the same settings."""
    clocks = ("time", "seconds", "memory")
    return [{k: x for k, x in row.items() if not k.startswith(clocks)} for row in proximo.metrics(run)]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_views_of_a_distillation_are_refused_where_nobody_is_taught(role, tmp_path):
    seen = {"actor": ["position"], role: ["velocity"]}
    with pytest.raises(UserError, match=rf"observations.{role} = \['velocity'\] is of `proximo distill`"):
        proximo.train(CART, observations=seen, steps=64, progress="quiet", run=tmp_path)


def test_teacher_and_algorithm_belong_together(tmp_path):
    with pytest.raises(UserError, match="belong together"):
        proximo.train(CART, "distill", steps=64, progress="quiet", run=tmp_path)


def test_the_command_line_distils_and_says_what_it_needs(prompt, memory_teacher, tmp_path):
    sizes = ("--environments", 2, "--rollout-length", 16, "--update.minibatch-size", 32, "--episodes", 1)
    given = ("distill", memory_teacher.path, "--steps", 64, "--observations.student", "position", *sizes)
    code, said, _ = prompt(*given, "--run", "student", "--quiet", "--json")
    assert code == 0
    assert json.loads(said)["steps"] >= 64
    for words, why in (
        (("distill",), "which teacher"),
        (("distill", "nothing"), "holds no run"),
        (("distill", memory_teacher.path, "a", "b"), "one word too many"),
        ((*given[:2], "--observations.student", "position", "--observations.actor=velocity"), "say the same here"),
    ):
        code, _, error = prompt(*words)
        assert code == 2
        assert why in error
        assert len(error.strip().splitlines()) == 1


def test_the_block_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    balanced("runs/teacher", 512)
    (text,) = blocks("symmetry-and-distillation.md", "python")
    reduced = functools.partial(proximo.distill, steps=512, episodes=1, progress="quiet")
    exec(text, space := {"proximo": SimpleNamespace(distill=reduced)})
    assert proximo.metrics(space["student"])[-1]["step"] >= 512
    assert proximo.load(space["student"]).act({"position": np.zeros((1, 2), np.float32)}).shape[0] == 1
