"""A judge that watches a run: it changes nothing, resumes exactly, and stops the run where it is asked to."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

import proximo
from proximo import language
from proximo.language.rewards.terms import combined
from proximo.language.stages import JUDGE, configure
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint

PROMPTS = [{"prompt": f"w{i} w{i + 1}"} for i in range(4, 9)]
SMALL = {"responses": 48, "batch": 8, "response_limit": 4, "learning_rate": 1e-2, "checkpoint_every": 16, "threads": 1}
SMALL |= {"kl": {"coefficient": 0.1}, "update": {"epochs": 2, "minibatch_size": 4}, "progress": "quiet"}
SMALL |= {"preflight": "off", "judge_every": 1, "judge_prompts": 8}


def shorter(prompts, responses):
    """What people would say of `per_word`'s taste."""
    return [1.0 - 0.2 * len(r.split()) for r in responses]


def enough(prompts, responses):
    """Three words are best: `per_word` is right up to there."""
    return [-0.1 * (len(r.split()) - 3) ** 2 for r in responses]


def train(model, folder, **settings):
    return language.train(model, prompts=PROMPTS, rewards=tiny.per_word, run=folder, **{**SMALL, **settings})


def rows(run, leave_out=()):
    clock = ("time", "seconds", "tokens_per_second", "memory", *leave_out)
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in proximo.metrics(run)]


def trained(run):
    tensors, _ = load_checkpoint(latest_checkpoint(run.path / "checkpoints"))
    return {name: x for name, x in tensors.items() if name.startswith(("trained/", "optimizer/", "random"))}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("mode", ["full", "lora", "top_layers"])
def test_a_judged_run_learns_bit_for_bit_what_one_without_a_judge_does(tmp_path, tiny_folder, mode):
    sharing = {"mode": mode, "top_layers": 1, "lora_rank": 2}
    alone = train(tiny_folder, tmp_path / "alone", sharing=sharing)
    judged = train(tiny_folder, tmp_path / "judged", sharing=sharing, judge=shorter)
    assert equal(trained(alone), trained(judged))
    assert rows(alone) == rows(judged, leave_out=("judge",))
    seen = rows(judged)
    assert all(row["judge_se"] >= 0 and row["judge_distance"] >= 0 for row in seen)
    assert seen[-1]["judge_peak_low"] is None or seen[-1]["judge_peak_low"] >= 0
    assert "judge_peak" not in seen[0], "a curve needs more than two measurements"


def test_the_first_measurement_is_of_the_reference_itself(tmp_path, tiny_folder):
    trainer = language.Trainer(
        tiny_folder, prompts=PROMPTS, rewards=tiny.per_word, run=tmp_path / "run", judge=shorter, **SMALL
    )
    next(iter(trainer))
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))
    seen = state["callbacks"]["own meter"]
    assert seen["responses"] == [0, 8]
    assert max(map(abs, seen["divergences"][0])) < 1e-5, "the policy is still the reference"
    assert max(map(abs, seen["divergences"][1])) > 1e-5


def test_a_judged_run_that_was_stopped_goes_on_with_all_its_measurements(tmp_path, tiny_folder):
    whole = train(tiny_folder, tmp_path / "whole", judge=shorter)
    train(tiny_folder, tmp_path / "half", judge=shorter, stop_at=24)
    half = train(tiny_folder, tmp_path / "half", judge=shorter)
    assert rows(whole) == rows(half)
    assert whole.results == half.results


WITHOUT_A_PRICE = {"responses": 400, "batch": 16, "learning_rate": "3e-3", "kl": {"coefficient": 0.0}}
WITHOUT_A_PRICE |= {"missing_eos_floor": None, "judge_prompts": 32, "response_limit": 8}


def test_a_run_stops_at_the_peak_and_leaves_the_policy_of_the_peak(tmp_path, tiny_folder):
    settings = {"judge": enough, **WITHOUT_A_PRICE}
    stopped = train(tiny_folder, tmp_path / "stopped", stop_at_peak=True, **settings)
    assert stopped.results["ended"] == "the judge's score has passed its peak"
    assert stopped.results["responses"] < 400
    _, about = load_checkpoint(stopped.path / "checkpoints" / "best")
    assert about["judge"] == stopped.results["judge_best"] > stopped.results["judge_last"]
    unstopped = train(tiny_folder, tmp_path / "unstopped", **settings)
    assert unstopped.results["responses"] == 400
    assert unstopped.results["judge_last"] < unstopped.results["judge_best"]
    at_peak, last, kept = (
        load_file(folder / "model.safetensors")
        for folder in (unstopped.path / "best_policy", unstopped.policy, stopped.policy)
    )
    assert equal(at_peak, kept), "both runs are one until the first stops"
    assert not equal(at_peak, last)


def test_a_run_that_the_judge_never_likes_stops_too(tmp_path, tiny_folder):
    run = train(
        tiny_folder, tmp_path / "run", stop_at_peak=True, judge=shorter, **{**WITHOUT_A_PRICE, "response_limit": 24}
    )
    assert run.results["responses"] < 400
    assert run.results["judge_last"] < run.results["judge_first"]


def test_what_is_optimised_can_not_judge(tmp_path, tiny_folder):
    with pytest.raises(proximo.UserError, match="is one of the rewards: what is optimised can not judge"):
        train(tiny_folder, tmp_path / "run", judge=tiny.per_word)
    with pytest.raises(proximo.UserError, match="set judge"):
        train(tiny_folder, tmp_path / "run", stop_at_peak=True)
    with pytest.raises(proximo.UserError, match="judge_prompts = 1 must be at least 2"):
        train(tiny_folder, tmp_path / "run", judge=shorter, judge_prompts=1)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_price_on_the_kl_is_measured_from_its_reference_where_it_is_judged(tmp_path, tiny_folder):
    run = train(tiny_folder, tmp_path / "run", judge=shorter, kl={"coefficient": 0.0})
    assert all(row["kl"] is not None for row in rows(run))


def test_an_ensemble_is_believed_as_far_as_its_members_agree():
    scores = torch.tensor([[1.0, 2.0, torch.nan, torch.nan], [3.0, -2.0, 5.0, torch.nan]])
    assert combined(scores, "sum").tolist() == [4.0, 0.0, 5.0, 0.0]
    assert combined(scores, "mean").tolist() == [2.0, 0.0, 5.0, 0.0]
    assert combined(scores, "min").tolist() == [1.0, -2.0, 5.0, 0.0]
    assert combined(scores, "mean-std").tolist() == [1.0, -2.0, 5.0, 0.0]


def test_the_way_an_ensemble_is_combined_decides_what_is_optimised(tmp_path, tiny_folder):
    both = [tiny.per_word, shorter]
    for how in ("sum", "min"):
        run = language.train(
            tiny_folder, prompts=PROMPTS, rewards=both, combine=how, run=tmp_path / how, **{**SMALL, "responses": 8}
        )
        (row,) = rows(run)
        parts = [row["reward/per_word"], row["reward/shorter"]]
        assert row["score"] <= min(parts) + 1e-6 if how == "min" else abs(row["score"] - sum(parts)) < 1e-6


def test_the_judge_beside_a_new_run_is_taken_and_one_that_was_made_later_changes_nothing(tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / JUDGE).write_text("{}")
    assert configure("ppo", "", str(tmp_path)).judge == str(tmp_path / "judge")
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "config.toml").write_text('kind = "language"\n')
    assert configure("ppo", "", str(tmp_path)).judge == ""
    (tmp_path / "ppo" / "config.toml").write_text('kind = "language"\njudge = "other"\n')
    assert configure("ppo", "", str(tmp_path)).judge == "other"
