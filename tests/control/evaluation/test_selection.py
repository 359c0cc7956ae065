"""The best policy by evaluation: what it is the best of; training does not notice, and a stop changes nothing."""

import os
import signal

import gymnasium
import pytest
import torch
from same_runs import PLAN as SHORT
from same_runs import same_runs

import proximo
from proximo.cli.results import three_numbers
from proximo.control.evaluation.evaluate import Evaluation, evaluate, evaluation_environments
from proximo.control.evaluation.results import evaluate_run
from proximo.control.evaluation.selection import Selection
from proximo.control.loading import load_policy
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics

PLAN = {**SHORT, "episode_limit": None}  # episodes as long as the policies are good
EVALUATED = {**PLAN, "steps": 64 * 8, "evaluate_every": 64 * 2, "learning_rate": 0.03}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return proximo.train("CartPole-v1", run=str(tmp_path_factory.mktemp("s") / "whole"), **EVALUATED)


def test_the_best_policy_is_the_one_with_the_best_evaluation(whole):
    rows = read_metrics(whole.path / "metrics.jsonl")
    seen = [row["evaluation_return"] for row in rows if "evaluation_return" in row]
    assert len(seen) == 3, "every second iteration; the policy of the last one is looked at when all is done"
    best, about = load_policy(whole.path, "best"), load_checkpoint(whole.path / "checkpoints" / "best")[1]
    assert about["chosen_by"] == whole.results["best_chosen_by"] == "evaluation"
    assert about["mean_return"] >= max(seen) > min(seen)
    selection = Selection(whole.config, "CartPole-v1", None)
    environments = evaluation_environments(whole.config, "CartPole-v1", 2)
    again = evaluate(best, environments, 2, deterministic=True, seed=selection._seed)
    environments.close()
    assert again.mean == about["mean_return"]
    assert selection._seed != whole.config.seed, "chosen on other episodes than those of the final numbers"


def test_training_does_not_notice_that_it_is_evaluated(whole, tmp_path):
    plain = proximo.train("CartPole-v1", run=str(tmp_path / "plain"), **{**EVALUATED, "evaluate_every": None})
    assert plain.results["best_chosen_by"] == "training return"
    a, b = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (whole, plain))
    own = [name for name in a if name.startswith(("policy", "optimizer", "scaler", "random/generators"))]
    assert all(torch.equal(a[name], b[name]) for name in own)


def test_a_stopped_run_chooses_the_same(whole, tmp_path):
    for stop_at in (64 * 3, 64 * 4, 64 * 6):
        assert proximo.train("CartPole-v1", run=str(tmp_path / "r"), stop_at=stop_at, **EVALUATED).stopped
    same_runs(whole, proximo.train("CartPole-v1", run=str(tmp_path / "r"), **EVALUATED))


class Flag:
    """What happens, and has happened: no code of the environment's."""

    evaluating, asked = False, True


class Interrupting(gymnasium.Wrapper):
    """CartPole in which the process is asked to stop while it evaluates, and which then does not go on."""

    def __init__(self, flag):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.flag = flag

    def step(self, action):
        if self.flag.evaluating and not self.flag.asked:
            self.flag.asked = True
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()  # until the patience is over
        return self.env.step(action)


def test_an_evaluation_is_given_up_for_a_stop_and_done_later(tmp_path, monkeypatch):
    monkeypatch.setattr("proximo.runs.session.signals.StopRequest.__init__.__defaults__", (0.2,))
    flag = Flag()
    look = Selection.look

    def looking(self, training):
        flag.evaluating = True
        try:
            look(self, training)
        finally:
            flag.evaluating = False

    monkeypatch.setattr(Selection, "look", looking)

    def make():
        return Interrupting(flag)

    through = proximo.train(make, run=str(tmp_path / "through"), **EVALUATED)
    flag.asked = False
    stopped = proximo.train(make, run=str(tmp_path / "r"), **EVALUATED)
    assert stopped.stopped == "SIGTERM"
    same_runs(through, proximo.train(make, run=str(tmp_path / "r"), **EVALUATED))


@pytest.mark.parametrize(("last", "best"), [(5.0, 3.0), (3.0, 5.0), (4.0, 4.0)])
def test_the_best_policy_is_no_worse_than_the_last_one_in_the_evaluation_at_the_end(tmp_path, monkeypatch, last, best):
    """The return of training is one of the past: a policy that gets better is better than that at the end."""
    seen = dict(zip("abc", [Evaluation(True, (x,), (1,), (x,)) for x in (last, 1.0, best)], strict=True))
    monkeypatch.setattr("proximo.control.evaluation.at_the_end.evaluate_all", lambda *args, **settings: seen)
    run = proximo.train("CartPole-v1", run=str(tmp_path / "r"), **{**PLAN, "steps": 64 * 8, "learning_rate": 0.03})
    assert run.results["best_checkpoint"] == max(last, best)
    by, about = run.results["best_chosen_by"], load_checkpoint(run.path / "checkpoints" / "best")[1]
    assert by == about["chosen_by"] == ("evaluation at the end" if last > best else "training return")
    assert evaluate_run(run.path, 1)["best_chosen_by"] == by
    weights, final = (load_policy(run.path, name).state_dict() for name in ("best", "final"))
    assert last <= best or all(torch.equal(weights[name], final[name]) for name in final)


def test_an_evaluation_of_a_run_has_episodes_of_its_own(tmp_path):
    settings = {**PLAN, "steps": 64 * 2, "episodes": 6}
    run = proximo.train("Pendulum-v1", run=str(tmp_path / "r"), **settings)
    fresh, again = evaluate_run(run.path, 6), evaluate_run(run.path, 6)
    own = evaluate_run(run.path, 6, run.config.seed)
    # Those of training, where they are asked for.
    assert own["final_deterministic"] == pytest.approx(run.results["final_deterministic"])
    assert fresh["returns"] == again["returns"]
    assert not set(fresh["returns"]["final_deterministic"]) & set(own["returns"]["final_deterministic"])
    assert fresh["seed"] != own["seed"] == run.config.seed


@pytest.mark.parametrize(
    ("deterministic", "sampled", "said"), [(0.49, 0.95, True), (0.95, 0.49, False), (0.9, 0.95, False)]
)
def test_the_headline_names_both_ways_to_act_and_which_one_is_loaded(deterministic, sampled, said):
    both = {"final_deterministic": deterministic, "final_sampled": sampled, "best_checkpoint": deterministic}
    spread = {f"{name}_std": 0.3 for name in both}
    shown = three_numbers({**both, **spread, "episodes": 20})
    assert shown["final deterministic"].startswith(f"{deterministic:.1f} ±") or said
    assert shown["final sampled"] == f"{sampled:,.1f} ± 0.3"
    assert shown["proximo.load gives"].startswith("the final policy, which acts deterministically")
    assert ("sampled actions are better here" in shown["proximo.load gives"]) == said
