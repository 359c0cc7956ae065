"""RLOO and GRPO in runs of a language model: groups, resume, replay, and an end where there is nothing to learn."""

import pytest
import tiny
import torch
from language_runs import training

import proximo
from proximo import language
from proximo.algorithms import GRPO, RLOO
from proximo.cli.main import main
from proximo.errors import UserError
from proximo.language.ppo_config import SharingSettings
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint

PROMPTS = [{"prompt": f"w{i} w{i + 1}"} for i in range(4, 9)]
SMALL = {"responses": 40, "batch": 8, "response_limit": 4, "learning_rate": 1e-2, "checkpoint_every": 16, "threads": 1}
SMALL |= {"kl": {"coefficient": 0.1}, "progress": "quiet", "preflight": "off"}
UPDATE = {"epochs": 2, "minibatch_size": 4, "group": 4}


def train(model, folder, rewards=tiny.per_word, **settings):
    return language.train(model, prompts=PROMPTS, rewards=rewards, run=folder, **{**SMALL, **settings})


def rows(run):
    clock = ("time", "seconds", "tokens_per_second", "memory")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in proximo.metrics(run)]


@pytest.mark.parametrize("name", ["rloo", "grpo", "ppo-penalty"])
def test_it_resumes_and_replays_bit_for_bit(name, tmp_path, tiny_folder):
    update = {key: x for key, x in UPDATE.items() if key != "group" or name != "ppo-penalty"}
    whole = train(tiny_folder, tmp_path / "whole", algorithm=name, update=update)
    assert train(tiny_folder, tmp_path / "half", algorithm=name, update=update, stop_at=20).stopped
    half = train(tiny_folder, tmp_path / "half", algorithm=name, update=update)
    assert rows(whole) == rows(half)
    (a, _), (b, _) = (load_checkpoint(latest_checkpoint(run.path / "checkpoints")) for run in (whole, half))
    assert all(torch.equal(a[key], b[key]) for key in a if key.startswith(("trained/", "optimizer/")))
    assert proximo.replay(whole).exact
    assert proximo.diagnose(whole) is not None
    if name != "ppo-penalty":
        row = rows(whole)[-1]
        assert row["explained_variance"] is None
        changed = proximo.replay(whole, change="clip=0.01")
        assert changed.exact


@pytest.mark.parametrize("algorithm", [RLOO, GRPO])
@pytest.mark.parametrize("mode", ["full", "lora", "top_layers"])
def test_responses_to_one_prompt_lie_side_by_side_in_every_way_of_sharing(algorithm, mode):
    sharing = SharingSettings(mode=mode, top_layers=1, lora_rank=4)
    trained = training(sharing, update=algorithm(epochs=1, minibatch_size=8, group=4))
    rollout = trained.collect()
    asked = [rollout.batch.inputs["tokens"][i, : rollout.batch.inputs["prompt_lengths"][i]].tolist() for i in range(8)]
    assert asked[0] == asked[1] == asked[2] == asked[3] != asked[4]
    batch = trained.estimate(rollout)
    advantages = batch.advantages[:, 0].view(2, 4)
    torch.testing.assert_close(advantages.sum(1), torch.zeros(2), atol=1e-4, rtol=0)
    row = trained.iterate()
    assert row["explained_variance"] is None
    assert 0 <= row["equal_groups"] <= 1
    assert row["approx_kl"] >= 0


def flat(prompts, responses, **_):
    return [1.0 for _ in responses]


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_a_run_without_any_difference_of_rewards_ends_with_that_sentence(name, tmp_path, tiny_folder):
    settings = {"responses": 8 * 20, "algorithm": name, "update": UPDATE, "kl": {"coefficient": 0.0}}
    run = train(tiny_folder, tmp_path / "r", flat, missing_eos_floor=None, **settings)
    assert (
        "nothing to learn from: in 8 iterations all 4 responses to each prompt got one reward" in run.results["ended"]
    )
    assert [row["equal_groups"] for row in rows(run)] == [1.0] * 8


@pytest.mark.parametrize(("iterations", "ended"), [(2, 2), (20, 8)])
def test_a_run_whose_reward_applies_to_nothing_ends_with_that_sentence(iterations, ended, tmp_path, tiny_folder):
    def never(prompts, responses):
        return [None] * len(responses)

    update = {"epochs": 1, "minibatch_size": 8}
    run = train(tiny_folder, tmp_path / "r", never, responses=8 * iterations, algorithm="ppo", update=update)
    said = f"nothing to learn from: never gave None for each of {8 * ended} responses"
    assert run.results["ended"].startswith(said)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"algorithm": "rloo", "update": {**UPDATE, "group": 3}}, "batch = 8 must be a multiple of update.group = 3"),
        ({"algorithm": "trpo"}, "TRPO is not for this kind of run"),
        ({"algorithm": "grpo", "sharing": {"critic": "separate"}}, "GRPO learns no values"),
        ({"algorithm": "grpo", "update": {"value_coefficient": 0.5}}, "GRPO has no value_coefficient"),
        ({"algorithm": "rloo", "lam": 0.9}, "lam = 0.9 has no say in RLOO: a response is rewarded as a whole"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(settings, words, tmp_path, tiny_folder):
    with pytest.raises(UserError, match=words):
        train(tiny_folder, tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_the_command_line_takes_it_by_its_name(tmp_path, tiny_folder, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "{row["prompt"]}"}}\n' for row in PROMPTS))
    command = ["rlhf", "ppo", "--policy", str(tiny_folder), "--prompts", "prompts.jsonl"]
    command += ["--rewards", "tiny:per_word", "1"]
    command += ["--run", "r", "--responses", "16", "--batch", "8", "--response-limit", "4", "--quiet", "--threads", "1"]
    command += ["--algorithm", "grpo", "--update.group", "4", "--update.minibatch-size", "8", "--override-preflight"]
    assert main(command) == 0
    capsys.readouterr()
    assert 'algorithm = "grpo"' in (tmp_path / "r" / "ppo" / "config.toml").read_text()
    assert main([*command[:-1], "--update.value-clip", "0.2"]) == 2
    assert "GRPO has no value_clip: it learns no values" in capsys.readouterr().err
