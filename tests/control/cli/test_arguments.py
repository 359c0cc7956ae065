"""The command line: what a user gets wrong is one sentence and leaves nothing behind."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from command_lines import SMALL, refused

import proximo
from proximo.cli.language import _STAGES
from proximo.cli.main import VERBS
from proximo.control.config import TrainConfig
from proximo.control.presets import configure, presets
from proximo.control.trainer import _configured
from proximo.runs.config.toml import read_toml
from proximo.runs.storage.metrics import read_metrics


def nothing_left():
    return not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "CartPole-v7"], ["CartPole-v7", "CartPole-v1"]),
        (["train", "Cartpol-v1"], ["CartPole-v1"]),
        (["train", "no_such_module:make"], ["no_such_module"]),
        (["train", "control_tasks:prob"], ["prob", "did you mean", "probe"]),
        (["train"], ["which environment"]),
        (["train", ""], ["which environment"]),
        (["train", " "], ["which environment"]),
        (["train", "CartPole-v1", "--environment", "Pendulum-v1"], ["here it is the name behind `proximo train`"]),
        (["train", "CartPole-v1", "--environment=Pendulum-v1"], ["here it is the name behind `proximo train`"]),
        (["train", "CartPole-v1", "--steps", "-1"], ["proximo: steps = -1 must be at least 1; `proximo train"]),
        (["train", "CartPole-v1", "--preset", "tunde"], ["tunde", "tuned"]),
        (["train", "CartPole-v1", "--preset", "absent.toml"], ["absent.toml"]),
        (["train", "CartPole-v1", "--run", "r", *SMALL, "--update.minibatch-size", "65"], ["65", "64"]),
        (
            ["train", "CartPole-v1", "--run", "r", *SMALL, "--update.minibatch-size", "30"],
            ["30", "does not divide", "64"],
        ),
        (
            ["train", "CartPole-v1", "--run", "r", *SMALL, "--network.memory", "gru", "--update.minibatch-size", "8"],
            ["multiple", "rollout_length = 16"],
        ),
        (
            ["train", "control_tasks:breaks", "--run", "r", *SMALL, "--backend", "envpool"],
            ["control_tasks:breaks is not a task of EnvPool: choose backend"],
        ),
        (["trian", "CartPole-v1"], ["trian", "train"]),
        (["evaluate", "nowhere"], ["nowhere", "no run"]),
        (["environments", "zzzz"], ["zzzz"]),
    ],
    ids=lambda x: " ".join(x)[:60] if isinstance(x, list) else None,
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(prompt, arguments, words):
    refused(prompt(*arguments), *words)
    assert nothing_left()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[update]\nclipp = 0.1\n", ["clipp", "did you mean", "update.clip", "mine.toml"]),
        ("learningrate = 0.1\n", ["learningrate", "learning_rate", "mine.toml"]),
        ("gamma = 'high'\n", ["gamma", "high", "mine.toml"]),
        ("gamma = 1.5\n", ["gamma", "1.5", "mine.toml"]),
        ("environment = 'Pendulum-v1'\n", ["mine.toml is for Pendulum-v1, not for CartPole-v1"]),
        ("gamma = \n", ["mine.toml"]),
    ],
)
def test_a_mistake_in_a_preset_names_the_file_and_the_key(prompt, toml, words):
    Path("mine.toml").write_text(toml)
    refused(prompt("train", "CartPole-v1", "--preset", "mine.toml"), *words)
    assert [p.name for p in Path().iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    "arguments", [["--steps", "0"], ["--stepps", "5"], ["--steps", "many"], ["--gamma", "2"], ["--update.epochs", "0"]]
)
def test_an_option_that_can_not_be_is_refused(prompt, arguments):
    code, _, err = prompt("train", "CartPole-v1", "--run", "r", *arguments)
    assert code == 2
    assert "Traceback" not in err
    assert arguments[0].strip("-").split(".")[-1] in err
    assert nothing_left()


def test_options_add_to_those_of_the_preset_or_override_them(prompt):
    preset = configure("Pong-v5", "tuned")[0].options
    assert preset == {"episodic_life": True, "reward_clip": True}
    asked = ["--options", "frame_skip", "2", "--options.max-episode-steps=30", "--options", "reward_clip", "false"]
    code, _, err = prompt("train", "Pong-v5", "--run", "r", "--quiet", *SMALL, "--stop-at", "1", *asked)
    assert code == 0, err
    wanted = preset | {"frame_skip": 2, "max_episode_steps": 30, "reward_clip": False}
    assert read_toml(Path("r/config.toml"))["options"] == wanted
    small = {"environments": 4, "rollout_length": 16, "update": {"minibatch_size": 32}}
    mine = proximo.train(
        "Pong-v5", run="s", progress="quiet", stop_at=1, options={"frame_skip": 2, "reward_clip": False}, **small
    )
    assert mine.config.options == preset | {"frame_skip": 2, "reward_clip": False}
    refused(prompt("train", "Pong-v5", "--run", "t", "--options", "frame_skip"), "--options frame_skip has no value")
    refused(prompt("train", "Pong-v5", "--run", "t", "--options", "--steps", "9"), "--options names nothing")
    refused(prompt("train", "Pong-v5", "--run", "t", "--options.frame-skip"), "--options frame-skip has no value")
    assert not Path("t").exists()


@pytest.mark.parametrize(
    ("word", "value"), [("true", True), ("True", True), ("FALSE", False), ("yes", None), ("1", None)]
)
def test_a_truth_is_written_as_in_a_file_or_as_in_python(prompt, word, value):
    answer = prompt(
        "train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, "--normalizers.observations", word, "--stop-at", "64"
    )
    if value is None:
        refused(answer, f"{word} is one word too many")
    else:
        assert answer[0] == 0
        assert read_toml(Path("r/config.toml"))["normalizers"]["observations"] is value


@pytest.mark.parametrize(("normalised", "steps"), [("false", 1024), ("true", 2048)])
def test_many_more_steps_than_were_asked_for_are_told_before_they_are_taken(prompt, normalised, steps):
    asked = [
        "--backend",
        "gymnasium",
        "--environments",
        "4",
        "--rollout-length",
        "256",
        "--steps",
        "500",
        "--episodes",
        "1",
    ]
    asked += ["--update.minibatch-size", "256", "--update.epochs", "1", "--normalizers.observations", normalised]
    code, out, err = prompt("train", "CartPole-v1", "--run", "r", "--quiet", *asked)
    assert code == 0
    assert err.startswith(f"proximo: about {steps:,} steps will be taken instead of 500, since an iteration has 1,024")
    assert f"CartPole-v1, {steps:,} steps" in out
    code, _, err = prompt(
        "train", "CartPole-v1", "--run", "s", "--quiet", *asked, "--steps", str(steps), "--stop-at", "1"
    )
    assert (code, err) == (0, "")


@pytest.mark.parametrize("digits", ["99999999999999999999", "-1", "-99999999999999999999", "1_000", "1e3"])
def test_a_seed_keeps_every_digit(prompt, digits):
    assert prompt("train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, "--seed", digits, "--stop-at", "64")[0] == 0
    assert read_toml(Path("r/config.toml"))["seed"] == int(float(digits) if "e" in digits else digits)


def test_the_doctor_takes_a_seed_of_any_size(prompt):
    assert prompt("doctor", "CartPole-v1", "--seed", "-99999999999999999999")[0] in (0, 1)


@pytest.mark.parametrize("none", ["none", "None"])
def test_what_is_not_set_is_written_as_in_a_file_or_as_in_python(prompt, none):
    given = ["--update.clip", none, "--update.max-grad-norm", none]
    assert prompt("train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, *given, "--stop-at", "64")[0] == 0
    settings = read_toml(Path("r/config.toml"))["update"]
    assert (settings["clip"], settings["max_grad_norm"]) == ("none", "none")
    refused(prompt("train", "CartPole-v1", "--run", "s", "--update.clip", "non"), "clip = 'non' is neither")


def test_steps_far_too_large_are_told_in_one_sentence_alone(prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = prompt("train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, "--learning-rate", "1e30")
    refused(answer, "not-finite")


def test_what_says_the_same_twice_is_refused_and_what_can_do_nothing_is_told(prompt):
    twice = ["train", "CartPole-v1", "--run", "r", *SMALL, "--minibatches=2", "--update.minibatch_size", "32"]
    refused(prompt(*twice), "--minibatches", "--update.minibatch-size", "give one of them")
    assert nothing_left()
    idle = ["--network.noise", "gsde", "--network.log-std", "-1", "--stop-at", "64"]
    code, _, said = prompt("train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, *idle)
    assert code == 0
    assert "network.noise and network.log_std can do nothing in CartPole-v1, whose actions are choices" in said


def test_an_environment_that_returns_nan_is_named_with_its_step(prompt):
    answer = prompt("train", "control_tasks:breaks", "--quiet", "--run", "r", *SMALL, "--options", "at", "37")
    refused(answer, "control_tasks:breaks", "nan", "step 37", "[1]")


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_an_environment_that_fails_in_the_first_rollout_leaves_nothing(prompt, backend):
    asked = ["train", "control_tasks:breaks", "--quiet", *SMALL, "--backend", backend, "--run"]
    refused(prompt(*asked, "new/r", "--options", "at", "7"), "nan", "step 7")
    assert nothing_left()
    Path("mine").mkdir()
    refused(prompt(*asked, "mine", "--options", "at", "7"), "nan", "step 7")
    assert not list(Path("mine").iterdir())
    refused(prompt(*asked, "mine", "--seed", "4", "--options", "at", "20"), "nan", "step 20")
    assert [p.name for p in Path("mine/checkpoints").iterdir()] == ["step-000000000064"], "what can go on is kept"


def test_ctrl_c_before_there_is_a_run_speaks_of_no_checkpoint(prompt, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("proximo.control.presets.configure", interrupted)
    assert prompt("train", "CartPole-v1") == (130, "", "proximo: interrupted\n")


def test_json_is_one_object_on_stdout(prompt, run):
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "mine", *SMALL)
    assert code == 0
    told = json.loads(out)
    assert out.count("\n") == 1
    assert told["run"] == "mine"
    assert told["stopped"] is None
    assert told["steps"] >= 256
    code, out, _ = prompt("evaluate", run, "--episodes", "3", "--json")
    assert code == 0
    assert len(json.loads(out)["returns"]["final_deterministic"]) == 3
    for verb in ("environments", "presets"):
        code, out, _ = prompt(verb, "CartPole-v1", "--json")
        assert code == 0
        assert list(told := json.loads(out)) == [verb]
        assert told[verb]


def test_an_evaluation_with_the_runs_seed_repeats_its_results(prompt, run):
    results = json.loads((run / "results.json").read_text())
    seed = read_toml(run / "config.toml")["seed"]
    code, out, _ = prompt("evaluate", run, "--episodes", "2", "--json", "--seed", str(seed))
    assert code == 0
    told = json.loads(out)
    for name in ("final_deterministic", "final_sampled", "best_checkpoint", "steps", "last_100_training_return"):
        assert told[name] == results[name], name
    code, out, _ = prompt("evaluate", run, "--episodes", "2", "--json", "--seed", "77")
    assert json.loads(out)["returns"] != told["returns"]


def test_help_does_not_wait_for_torch():
    program = (
        "import sys; from proximo.cli.main import main; code = main(['--help']); print(code, 'torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert told.stdout.endswith("0 False\n")
    for name, (_, summary) in VERBS.items():
        assert f"\n  {name:<15}{summary}\n" in told.stdout
    listed = told.stdout.partition(": sft|")[2].splitlines()[0].rstrip(".").split("|")
    assert {"sft", *listed} == set(_STAGES)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("train", "rlhf")])
def test_a_verbs_own_help_opens_with_its_summary(prompt, verb):
    code, out, _ = prompt(verb, "--help")
    assert code == 0
    assert VERBS[verb][1] in " ".join(out.split())


def test_the_help_of_train_opens_with_the_options_that_people_use(prompt):
    for asked in (["train", "--help"], ["train", "Pong-v5", "--help"]):
        code, out, _ = prompt(*asked)
        assert code == 0
        shown = re.findall(r"^[│ ] (--[\w.-]+)", out, re.MULTILINE)
        first = "preset steps seed run environments rollout-length learning-rate gamma lam device"
        assert shown[:10] == [f"--{name}" for name in first.split()]
        assert "--environment" not in shown
        assert len(shown) == len(set(shown)) > 50
        for flag in ("--fresh", "--yes", "--allow-change", "--quiet", "--json"):
            assert re.search(rf"^[│ ] {flag} ", out, re.MULTILINE), "a flag has no value"
        assert "--network.shared, --network.no-shared" in out
        assert "true|false" not in out.lower()
    assert "STR" not in prompt("doctor")[2]


def test_every_shipped_preset_makes_a_configuration_for_its_tasks():
    from proximo.control.environments import list_environments

    shipped = presets()
    assert {p.name for p in shipped} == {"tuned", "paper", "robot", "games", "ppo-penalty", "trpo", "a2c", "reinforce"}
    names = [name for name, _ in list_environments()]
    for preset in shipped:
        assert preset.source.strip(), f"{preset.file} [{preset.name}] does not say where its numbers come from"
        assert preset.apply(TrainConfig()) != TrainConfig()
        matching = [name for name in names if preset.matches(name)]
        for name in matching[:50]:
            config, chosen = configure(name, preset.name)
            assert config.environment == name
            assert config.preset == preset.name
            assert chosen.source
            assert config.rollout_size % (config.update.minibatch_size or 1) == 0


@pytest.mark.parametrize("size", [{}, {"environments": 100}, {"environments": 4096}, {"rollout_length": 50}])
def test_the_robots_preset_cuts_a_rollout_of_any_size_into_four(size):
    config, _ = configure("Ant-v5", "robot", size)
    assert {"environments": config.environments, "rollout_length": config.rollout_length} == {
        "environments": 128,
        "rollout_length": 24,
        **size,
    }
    assert config.rollout_size == 4 * config.update.minibatch_size


def test_the_robots_preset_keeps_its_rollout_for_copies_that_are_made_already():
    made = gymnasium.make_vec("Pendulum-v1", 6, vectorization_mode="sync")
    config = _configured(made, "robot", {"steps": 100})
    assert (config.environments, config.rollout_length, config.update.minibatch_size) == (6, 24, 36)
    made.close()


def test_a_task_without_a_preset_of_its_own_is_told_so(prompt):
    code, out, _ = prompt("presets", "nonsense")
    assert code == 0
    assert out.startswith("no preset is for 'nonsense' alone; tuned gives every environment")
    assert "no preset" not in prompt("presets", "CartPole-v1")[1]
    assert "no preset" not in prompt("presets")[1]
    assert list(json.loads(prompt("presets", "nonsense", "--json")[1])) == ["presets"]


def test_presets_are_found_by_a_part_of_a_name_and_shown_in_short(prompt):
    for part in ("cheetah", "HALFCHEETAH", "mujoco"):
        code, out, _ = prompt("presets", part)
        assert code == 0
        assert "HalfCheetah-v? Hopper-v? Walker2d-v? and 8 more" in out
        assert "general" not in out
    assert {p["family"] for p in json.loads(prompt("presets", "cheetah", "--json")[1])["presets"]} == {"mujoco"}
    assert "alone (did you mean HalfCheetah?); tuned gives" in prompt("presets", "halfchetah")[1]
    assert max(map(len, prompt("presets")[1].splitlines())) < 400
    assert len(json.loads(prompt("presets", "--json")[1])["presets"]) == len(presets())


def test_the_most_special_preset_wins_and_what_it_leaves_out_stays():
    family, _ = configure("CartPole-v1", "tuned")
    task, chosen = configure("Acrobot-v1", "tuned")
    general, _ = configure("FrozenLake-v1", "tuned")
    assert chosen.environments != ("*",)
    assert len({repr(config.update) for config in (family, task, general)}) == 3


def test_a_run_shorter_than_its_first_rollout_still_learns_from_one(prompt):
    # With a normaliser on, the first rollout only shows what the numbers look like; it counts as steps.
    asked = [*SMALL, "--steps", "10", "--normalizers.observations", "True"]
    code, out, _ = prompt("train", "CartPole-v1", "--run", "r", "--quiet", "--json", *asked)
    assert code == 0
    assert json.loads(out)["steps"] >= 10
    rows = read_metrics(Path("r/metrics.jsonl"))
    assert len(rows) == 1
    assert rows[0]["gradient_steps"] == 2


def test_a_symmetry_is_typed_as_it_is_written(prompt):
    mirror = ("--symmetry.observations", "vector", "-0 -1 -2 -3", "--symmetry.augmentation", "--quiet", "--run", "run")
    assert prompt("train", "CartPole-v1", *SMALL, *mirror, "--symmetry.actions", "1 0")[0] == 0
    settings = read_toml(Path("run/config.toml"))["symmetry"]
    assert (settings["observations"], settings["actions"]) == ({"vector": "-0 -1 -2 -3"}, "1 0")
    code, _, error = prompt("train", "CartPole-v1", *SMALL, *mirror[:4], "--run", "other", "--symmetry.actions", "0")
    assert code == 2
    assert "symmetry.actions has 1 entries for 2 numbers" in error
