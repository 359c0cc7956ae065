"""A judge that watches a run: it changes nothing, resumes exactly, and stops the run where it is asked to."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file

import proximo
from proximo import language
from proximo.lab.language.words import LONGEST, PROMPT, Words
from proximo.language.meter import meter as meter_module
from proximo.language.meter.meter import Meter
from proximo.language.rewards.terms import combined
from proximo.language.stages import JUDGE, configure
from proximo.runs.storage import metrics
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint

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
    return language.train(model, prompts=PROMPTS, run=folder, **{"rewards": tiny.per_word, **SMALL, **settings})


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


@pytest.mark.parametrize(
    ("means", "best"),
    [
        ([0.0, 2.0, 10.0, 10.0, 3.0], 3),  # not the one that fell, though two good ones stand before it
        ([1.0, 0.7, 1.2], 2),  # the reference is not best for being measured alone
        ([1.0, 0.8, 0.6, 0.4], 0),
        ([0.0, 1.0, 2.0, 3.0], 3),
        ([0.0, 5.0, 0.0, 3.0, 3.0, 3.0], 5),  # three good ones, rather than one by chance
    ],
)
def test_the_best_measurement_is_best_with_those_before_it_and_no_worse_than_they(means, best):
    meter = Meter.__new__(Meter)
    meter._scores = [[mean] for mean in means]
    assert meter.best == best


def test_measurements_draw_anew_so_that_their_mean_comes_to_the_exact_one(tmp_path):
    """Of a policy that does not move; 31 times 64 draws have a standard error of 0.022, 64 alone one of 0.125."""
    made = Words(1)
    run = learn(made, tmp_path / "run", made.judge, learning_rate=1e-12)
    _, state = load_checkpoint(latest_checkpoint(run.path / "checkpoints"))
    scores = torch.tensor(state["callbacks"]["own meter"]["scores"], dtype=torch.float64)
    assert len(scores) == 31
    error = float(scores.std()) / scores.numel() ** 0.5
    assert abs(float(scores.mean()) - made.known(made.model())[1]) < 4 * error
    assert 0.5 < float(scores.mean(1).std()) * 8 / float(scores.std()) < 1.5, "as apart as independent means are"


def test_a_judged_run_that_was_stopped_goes_on_with_all_its_measurements(tmp_path, tiny_folder):
    whole = train(tiny_folder, tmp_path / "whole", judge=shorter)
    train(tiny_folder, tmp_path / "half", judge=shorter, stop_at=24)
    half = train(tiny_folder, tmp_path / "half", judge=shorter)
    assert rows(whole) == rows(half)
    assert whole.results == half.results


NOW = [0.0]


def a_minute_each(prompts, responses):
    NOW[0] += 60.0
    return tiny.per_word(prompts, responses)


def an_hour_each(prompts, responses):
    NOW[0] += 3600.0
    return shorter(prompts, responses)


def test_the_minutes_of_a_run_are_its_own_and_not_its_judge_s(tmp_path, tiny_folder, monkeypatch):
    """By a clock that stands still but for the reward's minutes and the judge's hours."""
    clock = SimpleNamespace(monotonic=lambda: NOW[0], perf_counter=lambda: NOW[0])
    monkeypatch.setattr(metrics, "time", clock)
    monkeypatch.setattr(meter_module, "time", clock)
    budget = {"rewards": a_minute_each, "minutes": 3.5, "judge_every": 2}
    alone = train(tiny_folder, tmp_path / "alone", **budget)
    judged = train(tiny_folder, tmp_path / "judged", judge=an_hour_each, **budget)
    assert judged.results["responses"] == alone.results["responses"] == 32, "four iterations of a minute each"
    assert judged.results["ended"] == alone.results["ended"]
    train(tiny_folder, tmp_path / "half", judge=an_hour_each, stop_at=8, **budget)  # before the first row that judges
    train(tiny_folder, tmp_path / "half", judge=an_hour_each, stop_at=24, **budget)
    half = train(tiny_folder, tmp_path / "half", judge=an_hour_each, **budget)
    assert half.results == judged.results
    assert [row["time"] for row in proximo.metrics(half)][-1] > 3 * 3600, "the time of the run is that of the wall"


def learn(made, folder, judged, **settings):
    """PPO on the language of five words, without a price on the divergence, far past where the judge turns."""
    plan = {"responses": 1920, "batch": 64, "response_limit": LONGEST, "learning_rate": "3e-4", "warmup": 0.0}
    plan |= {"kl": {"coefficient": 0.0}, "missing_eos_floor": None, "score_clip": None, "replay_mb": 0}
    plan |= {"update": {"epochs": 2, "minibatch_size": 32, "value_coefficient": 0.5}, "judge_prompts": 64}
    return language.train(
        made.model(),
        tokenizer=made.tokenizer,
        prompts=[{"prompt": PROMPT}],
        rewards=made.scorer(made.reward),
        judge=made.scorer(judged),
        run=folder,
        **{**SMALL, **plan, **settings},
    )


def test_a_run_stops_past_the_peak_and_leaves_the_policy_of_the_peak(tmp_path):
    """The exact judge's mean of what it leaves, and of what the same run leaves that went on."""
    made = Words(1)
    stopped = learn(made, tmp_path / "stopped", made.judge, stop_at_peak=True)
    assert stopped.results["ended"] == "the judge's score has passed its peak"
    assert stopped.results["responses"] == stopped.results["judge_passed_at"] < 1920
    unstopped = learn(made, tmp_path / "unstopped", made.judge)
    assert unstopped.results["responses"] == 1920
    folders = {"peak": stopped.policy, "last": unstopped.policy, "best": unstopped.path / "best_policy"}
    exact = {name: made.known(made.model().from_pretrained(folder))[1] for name, folder in folders.items()}
    assert exact["peak"] > -0.5, "better than the reference"
    assert exact["last"] < -1, "worse than the reference"
    assert exact["peak"] == exact["best"], "both runs are one until the first stops"


def test_a_run_whose_judge_wants_what_the_reward_pays_for_goes_on(tmp_path):
    made = Words(1)
    run = learn(made, tmp_path / "run", made.taste, stop_at_peak=True)
    assert run.results["responses"] == 1920
    assert run.results["judge_passed_at"] is None
    assert run.results["judge_last"] > run.results["judge_first"] + 1


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


def end_at_40(trainer, metrics):
    return metrics["step"] < 40


def meter(trainer, metrics):
    return metrics["step"] < 16


def test_a_run_that_ends_between_two_looks_is_judged_at_its_end(tmp_path, tiny_folder):
    run = train(tiny_folder, tmp_path / "run", judge=enough, judge_every=4, callbacks=[end_at_40])
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["callbacks"]["own meter"]["responses"] == [0, 32]
    best = run.results["judge_best_responses"]
    assert best in (0, 32, 40)
    assert (run.path / "best_policy").exists() == (best != 40)


def test_a_callback_of_any_name_ends_a_run_by_its_name(tmp_path, tiny_folder):
    run = train(tiny_folder, tmp_path / "run", callbacks=[meter])
    assert run.results["ended"] == "callback meter ended it"


def test_another_judge_begins_anew(tmp_path, tiny_folder):
    train(tiny_folder, tmp_path / "run", judge=enough, stop_at=24)
    train(tiny_folder, tmp_path / "run", judge=shorter, allow_change=True, stop_at=32)
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["callbacks"]["own meter"]["responses"] == [24, 32]


def test_the_best_policy_of_a_branch_that_was_left_is_not_taken(tmp_path, tiny_folder):
    """The checkpoint of the best is of responses that the run, resumed from before them, has no measurement of."""
    train(tiny_folder, tmp_path / "run", judge=shorter, stop_at=16)
    best = tmp_path / "run" / "checkpoints" / "best"
    tensors, about = load_checkpoint(best)
    save_checkpoint(best.parent, "best", tensors, {**about, "responses": 999})
    run = train(tiny_folder, tmp_path / "run", judge=shorter)
    kept = (run.path / "best_policy").exists()
    assert kept == (run.results.get("best_policy") is not None)
    assert not kept or load_checkpoint(best)[1]["responses"] == run.results["judge_best_responses"]


@pytest.mark.parametrize("mode", ["lora", "top_layers"])
def test_the_best_policy_is_saved_in_every_way_of_sharing_weights(tmp_path, tiny_folder, mode):
    sharing = {"mode": mode, "top_layers": 1, "lora_rank": 2}
    run = train(tiny_folder, tmp_path / "run", judge=shorter, sharing=sharing, responses=96)
    assert (run.path / "best_policy").exists() == (run.results["judge_best_responses"] != 96)
    names = ["adapter_model.safetensors" if mode == "lora" else "model.safetensors"]
    if run.results["judge_best_responses"] != 96:
        assert not equal(*(load_file(run.path / part / names[0]) for part in ("best_policy", "policy")))


def test_a_function_judges_a_finished_run_too(tmp_path, tiny_folder):
    """Given, and by default the one that watched the run where a module holds it."""

    def twice(prompts, responses):
        return [1.0 - 0.2 * len(r) for r in responses]

    run = train(tiny_folder, tmp_path / "run", judge=tiny.few_letters)
    given, watched = (language.compare(run.path, judge, count=5) for judge in (twice, None))
    assert given["judge_before"] == pytest.approx(1 + 2 * watched["judge_before"])
    assert set(given) == set(watched)
