"""docs/migrating-from-trl.md: every setting, default, metric and snippet that it gives is one that exists."""

import dataclasses
import re
import shlex
from types import SimpleNamespace

import pytest
import tiny
from pages import DOCS, blocks

from proximo import language
from proximo.cli.language import _settings
from proximo.language.ppo import run
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import FunctionReward

PAGE = "migrating-from-trl.md"
NOTHING = "–"


def right_column(title):
    """The second cell of each row of the table below a heading."""
    section = (DOCS / PAGE).read_text("utf-8").partition(f"## {title}")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [row[1].rstrip("| ") for row in rows]


def default(name):
    """The default of a setting by its dotted name."""
    value = PPOConfig()
    for part in name.split("."):
        assert part in {field.name for field in dataclasses.fields(value)}, f"there is no setting {name}"
        value = getattr(value, part)
    return value


def written(text):
    """A default as the page writes it: `0.2`, `−1.0`, `1024 responses`, `"1e-5 -> 0"`, `off`."""
    if text == "off":
        return None
    if text.startswith('"'):
        return text.strip('"')
    return float(text.split()[0].replace("−", "-"))


@pytest.mark.parametrize("title", ["PPOConfig, every field of its own", "What PPOConfig inherits", "PPOTrainer's arg"])
def test_every_setting_exists_with_the_default_that_the_page_gives(title):
    cells = [cell for cell in right_column(title) if cell != NOTHING]
    assert len(cells) >= 5
    for cell in cells:
        for name, given in re.findall(r"`([a-z_.]+)(?: = [^`]*)?`(?: \(([^)]+)\))?", cell):
            value = default(name)
            assert not given or value == written(given), f"{name} is {value}, not {given}"


def test_every_setting_of_a_table_that_a_page_names_exists():
    for page, least in ((PAGE, 12), ("rlhf.md", 6)):
        names = set(re.findall(r"`-*((?:kl|sharing|update)\.[a-z_-]+)", (DOCS / page).read_text("utf-8")))
        assert len(names) >= least, names
        for name in names:
            default(name.replace("-", "_"))


def test_every_metric_exists(ppo_config):
    training, _ = run.make_training(ppo_config, [FunctionReward(tiny.per_word, name="NAME")])
    known = set(training.iterate()) | {"step"}  # the writer's
    cells = right_column("Metrics")
    assert len(cells) >= 8
    named = {name for cell in cells for code in re.findall(r"`([^`]+)`", cell) for name in re.findall(r"[\w/]+", code)}
    assert len(named) > 12
    assert named <= known, named - known


def test_every_command_is_taken():
    first, last = (block for block in blocks(PAGE) if "--learning-rate" in block)
    _, config, _ = _settings("ppo", shlex.split(first.replace("\\\n", " "))[3:])
    assert (config.policy, config.rewards, config.batch) == ("models/sft", {"models/reward": 1.0}, 64)
    _, config, _ = _settings("ppo", shlex.split(last.replace("\\\n", " ")))
    # TRL's defaults, from its own table on the page.
    assert (config.learning_rate, config.temperature, config.response_limit) == ("3e-6 -> 0", 0.7, 53)
    assert (config.update.value_clip, config.missing_eos_floor, config.update.target_kl) == (0.2, None, None)


def test_every_snippet_of_python_runs_up_to_the_training(monkeypatch):
    begun = []

    def train(model, **given):
        begun.append(language.Trainer(model, **given))
        return SimpleNamespace(policy="runs/x/policy")

    monkeypatch.setattr(run, "train", train)
    for snippet in blocks(PAGE, "python"):
        space = {"__name__": "__main__"}
        exec(compile(snippet, PAGE, "exec"), space)
        if "brief" in space:
            assert space["brief"](["a"], ["b c"], column=[1]) == [-2 / 50]
    first, second = (trainer.config for trainer in begun)
    assert first.rewards == {"models/reward": 1.0, "__main__:brief": 0.2}
    assert (first.policy, first.responses, first.kl.coefficient) == ("models/sft", 8192, 0.05)
    assert (second.rewards, second.sharing.mode) == ({"models/reward": 1.0}, "lora")
