"""The command line: what a user gets wrong is one sentence and leaves nothing behind; what is stopped goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proximo import cli
from proximo.control.configuration import TrainConfig
from proximo.control.presets import configure, presets
from proximo.runs.metrics import read_metrics

HERE = str(Path(__file__).parent)
SMALL = ["--steps", "256", "--environments", "4", "--rollout-length", "16", "--episodes", "2", "--network.hidden", "8"]
SMALL += ["--update.minibatch-size", "32", "--update.epochs", "1"]


@pytest.fixture
def prompt(tmp_path, monkeypatch, capfd):
    """Calls the command in an empty folder; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)

    def call(*arguments):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as error:  # the parser's own
            code = error.code
        return code, *capfd.readouterr()

    return call


def refused(answer, *words):
    code, out, err = answer
    assert code == 2
    assert out == ""
    assert err.startswith("proximo: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1, "one sentence"
    for word in words:
        assert word in err, err


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
        (["train", "CartPole-v1", "--cuda-graph", "True"], ["cuda_graph", "GPU", "set cuda_graph to false"]),
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
            ["EnvPool has no environment 'control_tasks:breaks':"],
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


def test_an_environment_that_returns_nan_is_named_with_its_step(prompt):
    answer = prompt("train", "control_tasks:breaks", "--quiet", "--run", "r", *SMALL, "--options", "at", "37")
    refused(answer, "control_tasks:breaks", "nan", "step 37", "[1]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "CartPole-v1", "--quiet", "--run", str(folder), *SMALL]) == 0
    return folder


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
        assert json.loads(out)


def test_an_evaluation_repeats_the_results_of_the_run(prompt, run):
    results = json.loads((run / "results.json").read_text())
    code, out, _ = prompt("evaluate", run, "--episodes", "2", "--json")
    assert code == 0
    told = json.loads(out)
    for name in ("final_deterministic", "final_sampled", "best_checkpoint", "steps", "last_100_training_return"):
        assert told[name] == results[name], name
    code, out, _ = prompt("evaluate", run, "--episodes", "2", "--json", "--seed", "77")
    assert json.loads(out)["returns"] != told["returns"]


def test_a_folder_with_another_run_is_left_alone(prompt, run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    refused(prompt("train", "Acrobot-v1", "--run", run, *SMALL), "CartPole-v1", "Acrobot-v1", "another")
    refused(prompt("train", "CartPole-v1", "--run", run, *SMALL, "--seed", "9"), "seed", "0", "9")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_run_stops_where_it_is_told_and_goes_on(prompt, run):
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--stop-at", "1e2")
    told = json.loads(out)
    assert (code, told["stopped"]) == (0, "stop-at")
    assert 100 <= told["steps"] <= 128
    assert "stop" not in Path("r/config.toml").read_text()
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--stop-at=100")
    assert json.loads(out)["steps"] == told["steps"], "it has been there"
    refused(prompt("train", "CartPole-v1", "--run", "r", *SMALL, "--stop-at", "soon"), "--stop-at soon must be a whole")
    refused(prompt("train", "CartPole-v1", "--run", "r", *SMALL, "--stop-at"), "--stop-at has no value")
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL)
    assert code == 0
    mine, whole = json.loads(out), json.loads((run / "results.json").read_text())
    assert mine["final_deterministic"] == whole["final_deterministic"]


def test_starting_over_needs_a_yes(prompt, run, monkeypatch):
    import shutil

    shutil.copytree(run, "r")
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    asked = ["train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--seed", "5", "--fresh"]
    refused(prompt(*asked), "--fresh deletes the run in r", "add --yes")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "no")
    code, _, err = prompt(*asked)
    assert code == 2
    assert "r is left as it is" in err
    assert {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()} == before
    monkeypatch.setattr("builtins.input", lambda: "yes")
    code, _, _ = prompt(*asked)
    assert code == 0
    assert "seed = 5" in Path("r/config.toml").read_text()
    code, _, _ = prompt(*asked[:-3], "--fresh", "--yes")
    assert code == 0
    assert "seed = 0" in Path("r/config.toml").read_text()
    assert [p.name for p in Path().iterdir()] == ["r"]


def test_a_change_that_is_allowed_lengthens_a_finished_run(prompt, run):
    import shutil

    shutil.copytree(run, "r")
    longer = ["train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--steps", "384"]
    refused(prompt(*longer), "steps is 256 there and 384 here", "--allow-change")
    code, out, _ = prompt(*longer, "--allow-change")
    assert code == 0
    assert json.loads(out)["steps"] >= 384
    first = Path("r/config.toml").read_text().splitlines()[0]
    assert first.startswith("# changed at ")
    assert first.endswith(" steps: steps 256 -> 384")
    steps = [row["step"] for row in read_metrics(Path("r/metrics.jsonl"))]
    assert steps == sorted(set(steps))
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    refused(prompt(*longer, "--network.hidden", "9", "--allow-change"), "another policy")
    refused(prompt(*longer, "--environments", "2", "--allow-change"), "does not fit this run")
    after = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    assert {p: x for p, x in after.items() if p.name != "lock"} == {p: x for p, x in before.items() if p.name != "lock"}


def test_verify_resume_says_it_in_text_and_json(prompt, tmp_path):
    assert prompt("train", "CartPole-v1", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1")
    assert code == 0
    assert out.startswith("this run goes on exactly\n  stopped and gone on: equal to the last bit\n")
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1", "--json")
    assert code == 0
    assert json.loads(out)["exact"] is True
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    refused(prompt("verify-resume", "nowhere"), "nowhere holds no run")
    refused(prompt("verify-resume", "r", "--iterations", "0"), "--iterations 0 must be at least 1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("x = 1\n")
    refused(prompt("verify-resume", "other"), "no run of proximo train")


def test_a_run_that_does_not_go_on_exactly_is_told_by_the_exit_code(prompt):
    assert prompt("train", "control_tasks:moody", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1")
    assert code == 1
    assert out.startswith("this run does NOT go on exactly\n  stopped and gone on: NOT equal; iteration ")
    assert "because control_tasks:moody does not follow from its seed and actions" in out


def copied(run, to):
    import shutil

    shutil.copytree(run, to)
    return to / "checkpoints" / "final"


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("where", [0.2, 0.9])
def test_one_flipped_bit_is_noticed(prompt, run, file, where):
    checkpoint = copied(run, Path("copy").absolute())
    data = bytearray((checkpoint / file).read_bytes())
    data[int(len(data) * where)] ^= 1
    (checkpoint / file).write_bytes(data)
    refused(prompt("evaluate", "copy"), "copy/checkpoints/final")


def test_a_checkpoint_cut_short_is_noticed(prompt, run):
    checkpoint = copied(run, Path("copy").absolute())
    data = (checkpoint / "tensors.safetensors").read_bytes()
    (checkpoint / "tensors.safetensors").write_bytes(data[: len(data) // 2])
    refused(prompt("evaluate", "copy"), "copy/checkpoints/final")


def test_help_does_not_wait_for_torch():
    program = "import sys; from proximo.cli import main; code = main(['--help']); print(code, 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert told.stdout.endswith("0 False\n")
    assert "train" in told.stdout


def test_sigterm_saves_and_the_same_command_completes(tmp_path):
    # Far more steps than can be done before the signal, few enough to finish afterwards.
    command = [
        sys.executable,
        "-m",
        "proximo.cli",
        "train",
        "control_tasks:recall",
        "--run",
        "r",
        "--quiet",
        "--json",
        *SMALL,
    ]
    command += ["--steps", "6000"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM == 143
    stopped = json.loads(out)
    assert stopped["stopped"] == "SIGTERM"
    rows = read_metrics(metrics)
    assert stopped["steps"] == rows[-1]["step"] < 6000
    assert (tmp_path / "r" / "checkpoints" / f"step-{stopped['steps']:012d}").is_dir()
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    done = json.loads(again.stdout)
    assert done["stopped"] is None
    assert done["steps"] >= 6000
    steps = [row["step"] for row in read_metrics(metrics)]
    assert steps == sorted(set(steps)), "no step comes twice"
    assert steps[: len(rows)] == [row["step"] for row in rows]


def test_every_shipped_preset_makes_a_configuration_for_its_tasks():
    from proximo.control.environments import list_environments

    shipped = presets()
    assert {p.name for p in shipped} == {"tuned", "paper"}
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
            assert config.rollout_size % config.update.minibatch_size == 0


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
