"""Who types the names of another library is told ours; numbers and names are read as people write them."""

import json
from dataclasses import fields

import pytest

from proximo.cli.call import TrainOptions
from proximo.cli.forms import Layout, changes, form, options_of, table
from proximo.cli.main import main
from proximo.cli.options import parse, spelled
from proximo.control.config import TrainConfig
from proximo.errors import UserError
from proximo.foreign_options import CONTROL, LANGUAGE, answered
from proximo.language.stages import CONFIGS

HIDDEN = Layout(hidden=("environment",))


def read(words):
    """The training settings that these words give."""
    base = TrainConfig()
    return changes(parse(form(base, HIDDEN), words, "train"), base)


OURS = {"train": (CONTROL, TrainConfig)} | {
    f"rlhf {n}": (t, CONFIGS.get(n, CONFIGS["ppo"])) for n, t in LANGUAGE.items()
}


@pytest.mark.parametrize("verb", OURS)
def test_every_answer_names_an_option_that_exists_and_no_option_of_ours_is_answered(verb):
    table, cls = OURS[verb]
    of_the_call = {field.name.replace("_", "-") for field in fields(TrainOptions)}
    names = {*dict(options_of(form(cls(), HIDDEN))), "options", "preset", "rewards", "algorithm", "run", *of_the_call}
    for theirs, ours in table.items():
        if ours.startswith("--"):
            assert ours.split()[0].rstrip(",").removeprefix("--") in names, (theirs, ours)
        assert not answered([f"--{name}" for name in names], {theirs: ours}, names)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--n-envs 4", "there is no option --n-envs: here it is --environments"),
        ("--num_envs=4", "there is no option --num_envs: here it is --environments"),
        ("--total-timesteps 1000", "here it is --steps"),
        ("--n-steps 128", "here it is --rollout-length"),
        ("--ent-coef 0.01", "here it is --update.entropy-coefficient"),
        ("--gae-lambda 0.9", "here it is --lam"),
        ("--clip-range 0.1", "here it is --update.clip"),
        ("--vf-coef 1", "here it is --update.value-coefficient"),
        ("--n-epochs 4", "here it is --update.epochs"),
        ("--batch-size 64", "here it is --update.minibatch-size"),
        ("--policy-kwargs {}", "here it is --network.hidden 64 64"),
        ("--env-kwargs size 5", "here it is --options KEY VALUE"),
        ("--lerning-rate 1", "did you mean --learning-rate"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(capsys, typed, said):
    assert main(["train", "CartPole-v1", "--quiet", *typed.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "typed", "said"),
    [
        ("ppo", "--kl-coef 0.1", "here it is --kl.coefficient"),
        ("ppo", "--total_episodes 100", "here it is --responses"),
        ("ppo", "--num-ppo-epochs 2", "here it is --update.epochs"),
        ("ppo", "--response-length 20", "here it is --response-limit"),
        ("ppo", "--batch-size 20", "here it is --batch (responses of an iteration)"),
        ("sft", "--num-train-epochs 2", "here it is --epochs"),
        ("reward", "--max-length 20", "here it is --token-limit"),
        ("ppo", "--reward-weights 1 2", "here it is --rewards NAME WEIGHT"),
        ("ppo", "--num-sample-generations 4", "here it is --samples"),
        ("ppo", "--loss-type grpo", "here it is --algorithm"),
        ("ppo", "--eval-strategy steps", "here it is --judge-every"),
    ],
)
def test_names_of_trl_are_answered_with_ours(capsys, tmp_path, stage, typed, said):
    assert main(["rlhf", stage, "--run", str(tmp_path), *typed.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["256 128", "256,128", "[256,128]", "(256, 128)", "[256, 128,]"])
def test_a_list_of_numbers_is_read_however_it_is_written(typed):
    words = typed.split() if typed == "256 128" else [typed]
    found = read(["--network.hidden", *words, "--network.activation", "ReLU"])["network"]
    assert found.hidden == (256, 128)
    assert found.activation == "relu"
    if typed != "256 128":
        found = read([f"--network.hidden={typed}", "--network.activation=ReLU"])["network"]
        assert (found.hidden, found.activation) == ((256, 128), "relu")


def test_what_is_no_list_of_numbers_stays_as_it_is():
    words = ["--run", "2024,5", "1,2", "--learning-rate", "3e-4 -> 0", "--network.log-std-range", "-1e-3,2.5"]
    assert spelled(words, form(TrainConfig(), HIDDEN)) == [*words[:-1], "-1e-3", "2.5"]


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("--normalizers.observations", True),
        ("--normalizers.observations true", True),
        ("--normalizers.observations=True", True),
        ("--normalizers.no-observations", False),
        ("--normalizers.observations FALSE", False),
    ],
)
def test_a_flag_is_given_alone_or_with_a_truth(typed, value):
    assert read(typed.split())["normalizers"].observations is value


@pytest.mark.parametrize(
    "typed",
    [
        "--options size 5 name x",
        "--options size=5 name=x",
        "--options size=5 name x",
        "--options size 5 --options name x",
        "--options.size 5 --options.name=x",
    ],
)
def test_options_are_keys_with_values_in_every_form(typed):
    found = read([*typed.split(), "--steps", "5"])
    assert found["options"] == {"size": 5, "name": "x"}
    assert found["steps"] == 5
    assert read(["--options", "low", "-1.5", "on", "True", "at", "5,5"])["options"] == {
        "low": -1.5,
        "on": True,
        "at": "5,5",
    }
    assert table("--rewards", [["runs/lr=3e-4/reward", "1.0"]]) == {"runs/lr=3e-4/reward": 1.0}
    with pytest.raises(UserError, match="--options size has no value"):
        table("--options", [["size"]])


def test_a_list_reaches_the_run(capsys, tmp_path):
    sizes = ["--steps", "64", "--environments", "2", "--rollout-length", "32", "--episodes", "1"]
    sizes += ["--update.minibatch-size", "32", "--run", str(tmp_path / "r"), "--quiet", "--json"]
    assert main(["train", "CartPole-v1", *sizes, "--network.hidden", "[8,8]"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] >= 64
    assert "hidden = [8, 8]" in (tmp_path / "r" / "config.toml").read_text()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("train --env CartPole-v1", "there is no option --env: here it is the name behind `proximo train`; as in"),
        ("train --n-envs 4 CartPole-v1", "there is no option --n-envs: here it is --environments; as in"),
        ("train --init-noise-std 1 CartPole-v1", "here it is --network.log-std (the logarithm)"),
        ("train CartPole-v1 --init-noise-std 1", "here it is --network.log-std (the logarithm)"),
        ("evaluate runs/x --n-eval-episodes 5", "there is no option --n-eval-episodes: here it is --episodes"),
        ("doctor runs/x --n-envs 5", "there is no option --n-envs: it is what the run was trained with"),
        ("rlhf chat runs/x --max-new-tokens 5", "--max-new-tokens: answers are as long as in training"),
        ("rlhf sft --packing True", "there is no option --packing: rows are sorted by length"),
        ("rlhf sft --lora_r 8", "there is no option --lora_r: fine-tuning trains whole layers"),
        ("rlhf ppo --use-vllm True", "there is no option --use-vllm: the model samples for itself"),
        ("rlhf ppo --epsilon-high 0.28", "--epsilon-high: with --algorithm grpo it is --update.clip-high"),
        ("rlhf ppo --scale-rewards none", "--scale-rewards: with --algorithm grpo it is --update.scale"),
        ("rlhf ppo --ref-model x", "there is no option --ref-model: the reference is --policy as it is when"),
        ("rlhf ppo --optim adamw_torch", "there is no option --optim: the optimiser is Adam"),
        ("rlhf reward --load-in-4bit True", "there is no option --load-in-4bit: weights are not quantised"),
        ("rlhf sft --assistant-only-loss True", "--assistant-only-loss: the response alone is learnt"),
        ("rlhf sft --dataset-text-field text", "--dataset-text-field: a row is a prompt and what answers it"),
        ("rlhf ppo --num_generations 8", "there is no option --num_generations: PPO samples one response"),
    ],
)
def test_names_are_answered_wherever_they_stand_and_by_every_verb(capsys, typed, sentence):
    assert main(typed.split()) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n_envs = 4", "unknown key 'n_envs' in preset {}: here it is environments"),
        (
            "[update]\nent_coef = 0.1",
            "unknown key 'update.ent_coef' in preset {}: here it is update.entropy_coefficient",
        ),
        ("net_arch = [64]", "here it is network.hidden (as an option: --network.hidden 64 64)"),
        ("verbose = 1", "here it is quiet"),
        ("torch_deterministic = true", "the same seed gives the same run"),
        ("lerning_rate = 1", "did you mean 'learning_rate'?"),
    ],
)
def test_keys_of_other_libraries_in_a_file_are_answered_with_ours(tmp_path, capsys, text, said):
    (file := tmp_path / "mine.toml").write_text(text)
    assert main(["train", "CartPole-v1", "--preset", str(file), "--run", str(tmp_path / "run")]) == 2
    assert said.format(file) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_same_of_a_stage_of_language(tmp_path, capsys):
    (file := tmp_path / "mine.toml").write_text("[ppo]\nkl_coef = 0.1")
    assert main(["rlhf", "ppo", "--preset", str(file), "--run", str(tmp_path / "run")]) == 2
    assert "unknown key 'kl_coef'" in (said := capsys.readouterr().err)
    assert "here it is kl.coefficient" in said
