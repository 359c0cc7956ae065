"""Every example runs, in reduced size, and does what it says."""

import ast
import functools
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import pytest
import tiny
import torch
from words import word_tokenizer

import proximo

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as where it is imported: classes are found again by their module's name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _short_evaluations(monkeypatch):
    """Twenty episodes to their ends, as an evaluation takes them, last longer than these few iterations."""
    monkeypatch.setattr(proximo, "train", functools.partial(proximo.train, episodes=2, episode_limit=100))
    monkeypatch.setattr(proximo, "distill", functools.partial(proximo.distill, episodes=2))


@pytest.fixture
def short_rollouts(monkeypatch):
    """For examples in which nothing has to be learnt: a preset's iteration of 2,048 steps becomes one of 512."""
    for name in ("train", "distill"):
        monkeypatch.setattr(proximo, name, functools.partial(getattr(proximo, name), rollout_length=32))


@pytest.fixture(autouse=True)
def _forget_the_examples():
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


def test_no_example_is_longer_than_a_screen():
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 40, file.name


def test_a_loop_of_ones_own_prints_each_iteration(tmp_path, capsys):
    run = example("own_loop").main(4096, str(tmp_path / "run"))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(proximo.metrics(run.path))
    assert all(" steps  " in line and " KL " in line for line in told)


def test_callbacks_count_and_would_stop(tmp_path):
    module = example("callbacks")
    run = module.main(4096, str(tmp_path / "run"))
    counts = [row["good_iterations"] for row in proximo.metrics(run.path)]
    assert counts == sorted(counts)
    assert module.stop_when_good(None, {"return": None})
    assert not module.stop_when_good(None, {"return": 480.0})


def test_schedules_are_followed(tmp_path):
    run = example("own_schedule").main(4096, str(tmp_path / "run"))
    rates = [row["learning_rate"] for row in proximo.metrics(run.path)]
    assert rates[0] < max(rates) <= 1e-3, "it warms up"
    assert run.config.update.clip == "0.3 -> 0.1"


def test_three_seeds_are_three_runs(tmp_path, capsys, short_rollouts):
    finals = example("three_seeds").main(1024, str(tmp_path / "runs"))
    assert list(finals) == [0, 1, 2]
    assert capsys.readouterr().out.count("seed ") == 3


def test_a_network_of_ones_own_reads_two_keys_and_is_loaded_again(tmp_path, short_rollouts):
    run = example("own_network").main(1024, str(tmp_path / "run"))
    policy = proximo.load(run.path)
    assert type(policy.policy.network.module).__name__ == "Net"
    assert policy.policy.network.module.actor.in_features == 128
    assert policy.act({"angle": [1.0, 0.0], "speed": [0.0]}).shape == (1,)


def test_an_encoder_of_ones_own_widens_its_key(tmp_path, short_rollouts):
    run = example("encoders").main(1024, str(tmp_path / "run"))
    policy = proximo.load(run.path).policy
    assert policy.network.actor[0].in_features == 4 * 8 + 9


def test_the_mirror_loss_is_reported_and_lowers_what_it_prices(tmp_path):
    module = example("mirror_loss")
    run = module.main(8_000, str(tmp_path / "run"))
    policy, state = proximo.load(run.path), torch.tensor([0.1, -0.2, 0.3, 0.4])
    assert all(row["mirror"] >= 0 for row in proximo.metrics(run.path))
    assert policy.act(state * module.STATE) == pytest.approx(-policy.act(state), abs=0.3)


def test_an_algorithm_of_ones_own_learns_without_a_critic(tmp_path):
    run = example("own_algorithm").main(40_000, str(tmp_path / "run"))
    rows = proximo.metrics(run.path)
    assert {row["explained_variance"] for row in rows} == {None}
    assert {row["gradient_steps"] for row in rows} == {run.config.rollout_size // run.config.update.minibatch_size}
    assert rows[-1]["return"] > 2 * rows[0]["return"], "a random policy holds the pole for 22 steps"


def test_a_simulator_of_ones_own_is_stepped_as_one(tmp_path):
    run = example("own_simulator").main(32_000, str(tmp_path / "run"))
    rows = proximo.metrics(run.path)
    assert run.config.environments == 64
    assert sum(row["truncations_missed"] for row in rows) == 0
    assert rows[-1]["return"] > rows[1]["return"]


def test_a_reward_of_ones_own_scores_each_response_and_is_watched(tmp_path):
    tiny.llama(64, layers=3).save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    module = example("own_reward")
    assert module.on_topic(["?"] * 2, ["It will Rain", "no"], topic=["rain", "sea"]) == [1 - 3 / 50, -1 / 50]
    run = module.main(str(tmp_path / "model"), 64, str(tmp_path / "run"))
    rows = proximo.metrics(run.path)
    assert [row["step"] for row in rows] == [32, 64]
    assert all(0 < row["words"] <= 24 for row in rows)
    assert rows[0]["reward/on_topic"] == rows[0]["score"] < 0


def test_a_robot_is_driven_from_each_export_as_by_its_policy(tmp_path):
    returns = example("exported").main(4096, str(tmp_path / "run"))
    assert list(returns) == ["policy", "numpy", "onnx", "torchscript", "c"]
    assert set(returns.values()) == {returns["policy"]}, "a pendulum that falls after a while falls at the same step"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_each_example_is_shown_in_the_docs(file):
    assert f"examples/{file.name}" in (EXAMPLES.parent / "docs" / "building-on-proximo.md").read_text("utf-8")


class Bare(ast.NodeTransformer):
    """Takes away what a page leaves out: annotations and docstrings of functions and classes."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def bare(self, node):
        node.body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
        return self.generic_visit(node)

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.bare(node)

    def visit_ClassDef(self, node):
        return self.bare(node)


def defined(text):
    """The functions and classes of a source, by name, as plain text."""
    tree = Bare().visit(ast.parse(text))
    return {x.name: ast.unparse(x) for x in tree.body if isinstance(x, ast.FunctionDef | ast.ClassDef)}


def test_what_the_docs_show_of_an_example_is_what_it_runs():
    page = (EXAMPLES.parent / "docs" / "building-on-proximo.md").read_text("utf-8")
    about, compared = page.split("```python\n"), 0
    for before, block in itertools.pairwise(about):
        shown = defined(block.partition("```")[0])
        named = re.findall(r"`examples/(\w+\.py)`", before)
        runs = defined((EXAMPLES / named[-1]).read_text("utf-8")) if named else {}
        for name in shown.keys() - {"stop_when_good"}:  # that one is run as it stands, by test_docs_code
            assert shown[name] == runs.get(name), f"{name} of {named[-1:]}"
            compared += 1
    assert compared >= 5


def test_a_student_that_sees_less_learns_from_its_teacher(tmp_path, short_rollouts):
    module = example("teacher_and_student")
    returns = module.main(512, str(tmp_path))
    assert list(returns) == ["teacher", "student", "student and PPO", "PPO alone"]
    assert [row["beta"] for row in proximo.metrics(tmp_path / "student")] == [0.0]
