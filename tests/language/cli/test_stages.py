"""`proximo rlhf` from the command line: all stages on a tiny model, going on after a stop, and what errors say."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rlhf_commands import run
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from proximo.cli.language import _settings
from proximo.cli.language_asking import _print_answers
from proximo.language.ppo import run as train
from proximo.language.ppo import training as ppo
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.stages import configure, find_preset, presets
from proximo.runs.storage.metrics import read_metrics


def test_all_stages_leave_folders_that_transformers_loads(capsys, preset, files, tmp_path):
    folder = tmp_path / "run"
    code, out, err = run(capsys, "all", "--preset", preset, "--run", folder, "--quiet", "--json")
    assert code == 0, err
    stages = json.loads(out)["stages"]
    assert list(stages) == ["sft", "reward", "judge", "ppo"]
    assert stages["ppo"]["folder"] == str(folder / "ppo")
    assert stages["ppo"]["responses"] == 24
    for part in ("sft", "ppo/policy"):
        AutoModelForCausalLM.from_pretrained(folder / part)
    AutoModelForSequenceClassification.from_pretrained(folder / "reward")
    assert AutoModelForTokenClassification.from_pretrained(folder / "ppo" / "critic").num_labels == 1
    rows = read_metrics(folder / "ppo" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [8, 16, 24]
    promised = (
        "score reward/reward reward_raw/reward kl kl_k3 entropy ratio_deviation clip_fraction approx_kl "
        "explained_variance response_length finished duplicates distinct_1 distinct_2 score_length_correlation "
        "padded_share tokens_per_second seconds/sample seconds/reward seconds/score seconds/update"
    )
    assert set(promised.split()) <= set(rows[0])
    texts = [json.loads(line) for line in (folder / "ppo" / "samples.jsonl").read_text().splitlines()]
    assert {"prompt", "response", "score"} <= set(texts[0])
    code, out, _ = run(capsys, "chat", folder, "--count", "3", "--json")
    answers = json.loads(out)["answers"]
    assert code == 0
    assert len(answers) == 3
    assert {"prompt", "before", "after", "before_score", "after_score"} <= set(answers[0])
    held_out = [json.loads(line)["prompt"] for line in (files / "sft.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in answers] == held_out[:3]
    code, out, _ = run(capsys, "chat", folder, "--prompt", "w7", "--prompt", "w8 w9", "--json")
    assert [row["prompt"] for row in json.loads(out)["answers"]] == ["w7", "w8 w9"]
    code, out, err = run(capsys, "evaluate", folder, "--count", "20", "--json")
    assert code == 0, err
    seen = json.loads(out)
    assert seen["prompts"] == 20
    assert seen["kl"] > 0
    assert seen["examples"][0]["prompt"] == held_out[0]
    assert json.loads((folder / "ppo" / "evaluation.json").read_text())["rise_sd"] == seen["rise_sd"]  # for the doctor
    # The same model before and after: nothing rose, nothing diverged.
    shutil.rmtree(folder / "ppo" / "policy")
    shutil.copytree(folder / "sft", folder / "ppo" / "policy")
    code, out, err = run(capsys, "evaluate", folder, "--count", "20", "--json")
    same = json.loads(out)
    assert (same["rise_sd"], same["kl"], same["better_share"]) == (0.0, 0.0, 0.0)
    assert same["judge_before"] == seen["judge_before"]
    code, out, err = run(capsys, "evaluate", folder, "--count", "20")
    assert "+0.00 standard deviations" in out
    code, _, err = run(capsys, "chat", folder, "--count", "0")
    assert (code, "--count 0 must be positive" in err) == (2, True)
    (files / "one.jsonl").write_text('{"prompt": "w5"}\n')
    code, _, err = run(capsys, "evaluate", folder, "--prompts", files / "one.jsonl")
    assert (code, "one prompt has no spread" in err) == (2, True)
    code, _, err = run(capsys, "evaluate", folder, "--judge", folder)
    assert (code, "proximo_judge.json" in err) == (2, True)
    # The same command again does nothing anew.
    models = [folder / part / "model.safetensors" for part in ("sft", "reward", "ppo/policy")]
    before = [file.stat().st_mtime_ns for file in models]
    code, _, err = run(capsys, "all", "--preset", preset, "--run", folder, "--quiet", "--json")
    assert code == 0, err
    assert [file.stat().st_mtime_ns for file in models] == before
    code, _, err = run(capsys, "all", "--preset", preset, "--run", folder, "--batch", "3")
    assert (code, "no option --batch; `all` takes settings from the preset" in err) == (2, True)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(monkeypatch, capsys, preset, tiny_folder, tmp_path):
    """SIGTERM after the second iteration, then the same command: every weight is that of a run that went through."""
    config = configure("ppo", str(preset), "")
    policies = []
    for name, stops in (("through", False), ("stopped", True)):
        settings = {"policy": str(tiny_folder), "run": str(tmp_path / name)}
        own = replace(config, **settings, rewards={"rlhf_commands:count": 1.0})
        if stops:
            iterate = ppo.PPOTraining.iterate

            def stopping(self, iterate=iterate):
                values = iterate(self)
                if self.progress.iterations == 2:
                    import os
                    import signal

                    os.kill(os.getpid(), signal.SIGTERM)
                return values

            monkeypatch.setattr(ppo.PPOTraining, "iterate", stopping)
            assert train.run_ppo(own, mode="quiet").stopped == "SIGTERM"
            monkeypatch.setattr(ppo.PPOTraining, "iterate", iterate)
        done = train.run_ppo(own, mode="quiet")
        assert done.results["responses"] == 24
        policies.append(AutoModelForCausalLM.from_pretrained(done.policy).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(policies[0].values(), policies[1].values(), strict=True))


COUNT = "rlhf_commands:count"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "nothing scores the responses"),
        ({"rewards": "nowhere:f 1"}, "reward nowhere:f"),
        ({"rewards": "rlhf_commands:broken 1"}, "reward broken gave nan for response 0"),
        ({"rewards": "rlhf_commands:count 1", "top-k": "5"}, "top_k = 5, top_p = 1.0 must be 0 and 1"),
        ({"rewards": "rlhf_commands:count 1", "prompts": "none.jsonl"}, "none.jsonl"),
        ({"rewards": "rlhf_commands:count 1", "policy": "none"}, "none"),
        ({"rewards": "rlhf_commands:count 1", "bach": "5"}, "did you mean --batch"),
        (
            {"rewards": "rlhf_commands:count 1", "response-limit": "99"},
            "the model reads up to 64 tokens, but a prompt of 2 with a response of up to 99 has 101: lower",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_no_folder(capsys, preset, tiny_folder, tmp_path, changes, sentence):
    options = {"policy": str(tiny_folder)} | changes
    given = [part for name, value in options.items() for part in (f"--{name}", *value.split())]
    code, out, err = run(capsys, "ppo", "--preset", preset, "--run", tmp_path / "x", *given, "--quiet")
    lines = [line for line in err.splitlines() if not line.startswith("Loading")]
    assert (code, out) == (2, "")
    assert sentence in lines[-1]
    assert sum(line.startswith("proximo:") for line in lines) == 1
    if "broken" not in str(changes):
        assert not (tmp_path / "x").exists()


def test_a_reward_model_that_reads_less_than_the_policy_writes_is_refused_before_the_first_step(
    capsys, preset, tiny_folder, tiny_tokenizer, tmp_path
):
    short = tmp_path / "short"
    model = RewardModel.from_language_model(str(tiny_folder))
    model.model.config.max_position_embeddings = 16
    model.save(short)
    given = ["--preset", preset, "--run", tmp_path / "x", "--policy", tiny_folder, "--response-limit", "30", "--quiet"]
    code, _, err = run(capsys, "ppo", *given, "--rewards", short, "1.0")
    assert code == 2
    assert "reward short reads up to 16 tokens, but a prompt of 2 with a response of up to 31 has 33: lower" in err
    assert not (tmp_path / "x").exists()


def test_rows_beyond_the_models_context_are_left_out_and_said(capsys, tmp_path, make_tokenizer):
    """GPT-2 looks positions up in a table: one more would be an IndexError in the middle of an epoch."""
    folder = tmp_path / "gpt2"
    size = {"vocab_size": 64, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    rows = tmp_path / "rows.jsonl"
    long, fits = {"prompt": "w4 " * 20, "response": "w5"}, {"prompt": "w4", "response": "w5 " * 14}
    rows.write_text("".join(json.dumps(row) + "\n" for row in (fits, long)))
    given = ["--model", folder, "--data", rows, "--validation", rows, "--batch", "2", "--run"]
    code, out, err = run(capsys, "sft", *given, tmp_path / "x")
    assert code == 0, err
    said = " ".join((out + err).split())
    assert f"dropped 1 of 2 rows of {rows}: longer than the model's context of 16 tokens" in said
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "w4", "chosen": "w5 " * 20, "rejected": "w6"}) + "\n")
    code, _, err = run(capsys, "reward", "--model", folder, "--data", pairs, "--run", tmp_path / "y")
    assert code == 2
    assert "all 1 pairs of" in err
    assert "longer than the model's context of 16 tokens (the shortest has 22): shorten them, or take" in err


def test_samples_for_the_scale_of_scores_are_like_those_of_the_presets_ppo(tmp_path, preset, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "r" / "sft")
    for stage in ("reward", "judge"):
        config = configure(stage, str(preset), str(tmp_path / "r"))
        assert (config.policy, config.response_limit, config.temperature) == (str(tmp_path / "r" / "sft"), 4, 1.0)
    assert configure("reward", str(preset), "").standardise_on.endswith("/prompts.jsonl"), "PPO's, if none are named"
    assert configure("judge", str(preset), "").standardise_on.endswith("/sft.jsonl"), "the preset names some"
    assert configure("reward", "tldr-summarisation", "").temperature == 0.7


def test_rewards_that_are_named_are_the_rewards_whatever_the_run_holds(capsys, files, tiny_folder, tmp_path):
    """A run with its own reward model takes that, or what the command line or the preset names in its place."""
    for stage in ("sft", "reward"):
        shutil.copytree(tiny_folder, tmp_path / "r" / stage)
    given = ["--run", str(tmp_path / "r")]
    _, config, _ = _settings("ppo", list(given))
    assert config.policy == str(tmp_path / "r" / "sft")
    assert config.rewards == {str(tmp_path / "r" / "reward"): 1.0}
    _, config, _ = _settings("ppo", [*given, "--rewards", "my-folder", "2", "mymod:f", "-0.5", "--seed", "3"])
    assert (config.rewards, config.seed) == ({"my-folder": 2.0, "mymod:f": -0.5}, 3)
    own = tmp_path / "own.toml"
    own.write_text('[ppo]\npolicy = "mine"\n[ppo.rewards]\n"mymod:f" = 1.0\n')
    _, config, _ = _settings("ppo", [*given, "--preset", str(own)])
    assert (config.policy, config.rewards) == ("mine", {"mymod:f": 1.0})
    _, config, _ = _settings("ppo", [*given, "--preset", str(own), "--rewards", "other:g", "1", "--policy", "theirs"])
    assert (config.policy, config.rewards) == ("theirs", {"other:g": 1.0})
    for wrong, sentence in (
        (["m:f", "much"], "--rewards m:f much: its weight must be a finite number"),
        (["m:f", "inf"], "--rewards m:f inf: its weight must be a finite number"),
        (["m:f"], "--rewards m:f has no value"),
    ):
        code, _, err = run(capsys, "ppo", *given, "--rewards", *wrong)
        assert (code, sentence in err) == (2, True), err
    given = [*given, "--prompts", files / "prompts.jsonl", "--policy", tiny_folder, "--batch", "8", "--responses", "8"]
    given += ["--response-limit", "4", "--update.minibatch-size", "8", "--quiet", "--json"]
    code, _, err = run(capsys, "ppo", *given, "--rewards", "rlhf_commands:count", "1.0")
    assert code == 0, err
    assert "reward/count" in read_metrics(tmp_path / "r" / "ppo" / "metrics.jsonl")[0]


def test_a_failed_update_leaves_its_batch(monkeypatch, capsys, preset, tiny_folder, tmp_path):
    original = ppo.PPOTraining.estimate

    def infinite(self, rollout):
        batch = original(self, rollout)
        return batch.replace(advantages=batch.advantages / 0.0)

    monkeypatch.setattr(ppo.PPOTraining, "estimate", infinite)
    given = ["--policy", tiny_folder, "--rewards", "rlhf_commands:count", "1"]
    code, _, err = run(capsys, "ppo", "--preset", preset, "--run", tmp_path / "x", *given, "--quiet")
    assert code == 2
    assert "not-finite: advantages" in err
    assert f"proximo replay {tmp_path / 'x' / 'ppo'}" in err
    assert (tmp_path / "x" / "ppo" / "replay" / "last").is_dir()


def test_every_shipped_preset_configures_every_stage(capsys):
    names = {p.name for p in presets()}
    assert {"movie-sentiment", "tldr-summarisation", "chat-preferences"} <= names
    for name in names:
        assert find_preset(name).about
        for stage in ("sft", "reward", "ppo"):
            configure(stage, name, "")
    code, out, _ = run(capsys, "presets", "--json")
    rows = {row["preset"]: row for row in json.loads(out)["presets"]}
    listed = run(capsys, "presets")[1].splitlines()
    assert listed[0].split() == ["preset", "about", "source"]
    assert [line.split()[0] for line in listed[2:-1]] == list(rows)
    assert code == 0
    for name in ("tldr-summarisation", "chat-preferences"):
        assert "NOT RUN at full size" in rows[name]["about"]


def test_a_printed_preset_is_one_to_start_from(capsys, tmp_path, preset):
    """What `presets NAME` prints gives every stage the settings that the preset itself gives."""
    for name in ["movie-sentiment", "chat-preferences", str(preset)]:
        code, out, err = run(capsys, "presets", name)
        assert code == 0, err
        mine = tmp_path / "mine.toml"
        mine.write_text(out)
        for stage in find_preset(name).stages:
            given, printed = (configure(stage, source, "") for source in (name, str(mine)))
            assert printed == (replace(given, preset=str(mine)) if stage == "ppo" else given)
        code, out, _ = run(capsys, "presets", name, "--json")
        said = json.loads(out)
        assert (code, said["about"], said["stages"]) == (0, find_preset(name).about, find_preset(name).stages)
    code, _, err = run(capsys, "presets", "movie-sentimant")
    assert (code, "did you mean movie-sentiment" in err) == (2, True)
    code, _, err = run(capsys, "presets", "movie-sentiment", "my.toml")
    assert (code, "my.toml is one word too many" in err) == (2, True)


def test_all_looks_for_every_stages_files_before_the_first_begins(capsys, preset, files, tmp_path):
    preset.write_text(preset.read_text().replace(f'prompts = "{files}/prompts.jsonl"', 'prompts = "promptz.jsonl"'))
    code, _, err = run(capsys, "all", "--preset", preset, "--run", tmp_path / "r")
    assert (code, "[ppo]: prompts = promptz.jsonl is not there: paths count from" in err) == (2, True), err
    assert not (tmp_path / "r").exists()


def test_all_does_not_miss_the_data_of_a_stage_that_is_done(capsys, preset, files, tmp_path):
    for stage in ("sft", "reward"):
        assert run(capsys, stage, "--preset", preset, "--run", tmp_path / "r", "--quiet")[0] == 0
    (files / "sft.jsonl").rename(files / "kept.jsonl")
    preset.write_text(preset.read_text().replace("sft.jsonl", "kept.jsonl").replace("/kept", "/sft", 1))
    code, _, err = run(capsys, "all", "--preset", preset, "--run", tmp_path / "r", "--quiet")
    assert code == 0, err


def test_a_folder_that_is_not_there_is_said_to_be(capsys, tmp_path):
    for asked in ("chat", "evaluate"):
        code, _, err = run(capsys, asked, tmp_path / "none")
        assert (code, f"there is no folder {tmp_path / 'none'}" in err) == (2, True), err


def test_all_without_a_preset_names_one_that_is_shipped_and_the_way_to_an_own(capsys, tmp_path):
    for given in ([], ["--run", tmp_path], ["--preset", "movie-sentiment"]):
        code, _, err = run(capsys, "all", *given)
        assert code == 2
        for part in ("--run FOLDER", "movie-sentiment", "path of a TOML file of your own", "docs/rlhf.md"):
            assert part in err


@pytest.mark.parametrize("name", ["tldr-summarisation", "chat-preferences"])
def test_presets_for_a_gpu_run_on_a_tiny_stand_in(capsys, name, files, tiny_folder, tmp_path):
    """Every setting of theirs but sizes, paths and the model."""
    small = {"batch": "8", "data": files / "sft.jsonl", "validation": files / "sft.jsonl", "token-limit": "60"}
    stages = {
        "sft": small | {"model": tiny_folder},
        "reward": small
        | {
            "model": tmp_path / "r" / "sft",
            "data": files / "pairs.jsonl",
            "validation": files / "pairs.jsonl",
            "standardise-on": files / "sft.jsonl",
        },
        "ppo": {
            "batch": "8",
            "responses": "16",
            "prompts": files / "prompts.jsonl",
            "held-out-pairs": files / "pairs.jsonl",
            "response-limit": "6",
            "update.minibatch-size": "8",
            "checkpoint-every": "8",
        },
    }
    for stage, options in stages.items():
        given = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        # The stand-in's reward model has learnt nothing, which preflight may find out.
        given += ["--override-preflight"] if stage == "ppo" else []
        code, _, err = run(capsys, stage, "--preset", name, "--run", tmp_path / "r", *given, "--quiet")
        assert code == 0, f"{stage}: {err}"
    assert len(read_metrics(tmp_path / "r" / "ppo" / "metrics.jsonl")) == 2


def test_answers_take_three_lines_whatever_breaks_are_in_them(capsys):
    row = {"prompt": "<|user|>\nhello\n", "before": "a\nb", "after": "c", "before_score": -1.0, "after_score": 2.0}
    _print_answers([row, row])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["<|user|> hello", "  before  -1.00 a b", "  after   +2.00 c"] * 2


def test_a_run_on_chat_messages_is_asked_by_a_message(capsys, chat_tokenizer, ppo_config, tiny_folder, tmp_path):
    """A prompt of the command line goes through the template, as those that the model was trained on, gone or not."""
    chat_tokenizer.save_pretrained(tiny_folder)
    rows = tmp_path / "chat.jsonl"
    rows.write_text(json.dumps({"prompt": [{"role": "user", "content": "w4"}]}) + "\n")
    config = replace(ppo_config, prompts=str(rows), run=str(tmp_path / "r"), responses=8, rewards={COUNT: 1.0})
    train.run_ppo(config, mode="quiet")
    for _ in range(2):
        code, out, err = run(capsys, "chat", tmp_path / "r", "--prompt", "w9", "--json")
        assert code == 0, err
        assert [row["prompt"] for row in json.loads(out)["answers"]] == ["user w9 </s> assistant "]
        rows.unlink(missing_ok=True)


def test_chat_models_end_under_plain_transformers_where_they_were_taught_to(
    capsys, make_tokenizer, ppo_config, tiny_folder, tmp_path
):
    """The template's end of turn (w60) is not the tokenizer's EOS."""
    turns = "{% for m in messages %}{{ m.role }} {{ m.content }} w60 {% endfor %}"
    tokenizer = make_tokenizer(template=turns + "{% if add_generation_prompt %}assistant {% endif %}")
    tokenizer.add_special_tokens({"extra_special_tokens": ["w60"]})
    tokenizer.save_pretrained(tiny_folder)
    rows = tmp_path / "chat.jsonl"
    row = {"prompt": [{"role": "user", "content": "w4"}], "response": "w6 w7"}
    rows.write_text(8 * (json.dumps(row) + "\n"))
    settings = ["--epochs", "60", "--batch", "8", "--learning-rate", "1e-2", "--quiet"]
    code, _, err = run(capsys, "sft", "--model", tiny_folder, "--data", rows, "--run", tmp_path / "r", *settings)
    assert code == 0, err
    asked = tmp_path / "prompts.jsonl"
    asked.write_text(json.dumps({"prompt": row["prompt"]}) + "\n")
    policy, output = (str(tmp_path / "r" / stage) for stage in ("sft", "ppo"))
    config = replace(ppo_config, policy=policy, prompts=str(asked), run=output, responses=8, rewards={COUNT: 1.0})
    train.run_ppo(replace(config, learning_rate=0.0), mode="quiet", preflight="off")
    read = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    for folder in ("sft", "ppo/policy"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / folder)
        answer = model.generate(read, max_new_tokens=20, do_sample=False)[0, read.shape[1] :].tolist()
        assert answer == [6, 7, 60], folder


@pytest.mark.parametrize("stage", ["all", "sft", "ppo", "preflight"])
def test_stages_have_help_without_what_they_refuse(capsys, stage):
    with pytest.raises(SystemExit) as ending:
        run(capsys, stage, "--help")
    out = capsys.readouterr().out
    assert ending.value.code == 0
    shown = {"--preset STR", "--run STR", "--seed ", "--json "}
    call = {"--fresh ", "--yes ", "--allow-change", "--quiet "}
    shown |= {"all": call | {"--override-preflight"}, "preflight": set()}.get(stage, call | {"--stop-at"})
    for name in shown:
        assert name in out
    for name in call - shown | {"--output", "--no-json", "True|False", "true|false"}:
        assert name not in out
