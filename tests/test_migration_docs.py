"""docs/migrating-from-sb3.md and -cleanrl.md: every block of ours runs, and each default that they give is the one."""

import dataclasses
import importlib.util
import re
import sys
from types import ModuleType

import pytest
from pages import DOCS, blocks

import proximo
from proximo.control.presets import configure
from proximo.control.trainer import Trainer

PAGES = ("migrating-from-sb3.md", "migrating-from-cleanrl.md")
OURS = "# Proximo\n"
BLOCKS = [(page, i, text) for page in PAGES for i, text in enumerate(blocks(page, "python")) if text.startswith(OURS)]


def reduced(settings, config):
    """The same training of an iteration or two of four short minibatches, with short evaluations."""
    images = isinstance(network := settings.get("network"), dict) and "pixels" in network
    length = 8 if images else 32
    settings |= {"steps": 1, "episodes": 1, "episode_limit": 20 if images else 50, "progress": "quiet"}
    if "evaluate_every" in settings:
        settings |= {"evaluate_every": 500, "steps": 1500}
    update = {**settings.get("update", {}), "minibatch_size": config.environments * length // 4}
    return settings | {"rollout_length": length, "update": update}


@pytest.fixture
def configs(monkeypatch):
    """Of all trainings, as they are written, before they are reduced."""
    written, begin = [], Trainer.__init__

    def begin_reduced(self, *given, **settings):
        begin(self, *given, **settings)
        written.append(self.config)
        begin(self, *given, **reduced(settings, self.config))

    monkeypatch.setattr(Trainer, "__init__", begin_reduced)
    return written


@pytest.fixture
def tracked(monkeypatch):
    """What a stand-in for wandb was told."""
    told, module = [], ModuleType("wandb")
    module.init = lambda **given: None
    module.log = lambda numbers, step: told.append((step, numbers))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


@pytest.fixture
def run_block(tmp_path, monkeypatch):
    """Runs a block as a file of its own, in an empty folder, and gives what it defined."""
    monkeypatch.chdir(tmp_path)

    def run(text):
        name = f"block_{abs(hash(text))}"
        (tmp_path / f"{name}.py").write_text(text.replace('"__main__"', f'"{name}"'), "utf-8")
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # classes are found again by their module's name
        spec.loader.exec_module(module)
        return vars(module)

    return run


@pytest.mark.parametrize(("page", "i", "text"), BLOCKS, ids=[f"{page[15:-3]}-{i}" for page, i, _ in BLOCKS])
def test_every_block_of_ours_trains(page, i, text, configs, tracked, run_block):
    space = run_block(text)
    (config,) = configs
    assert config.steps >= 100_000, "the page trains in earnest, the test does not"
    rows = proximo.metrics(config.run)
    assert rows[-1]["step"] > 0
    if "action" in space:
        assert space["action"] is not None
    if "track" in space:
        assert [step for step, _ in tracked] == [row["step"] for row in rows]
        assert "mine" in tracked[0][1]
    if "spread" in space:
        assert rows[-1]["spread"] == rows[-1]["episode_length_std"]
        assert any("evaluation_return" in row for row in rows)
    if "GentlePPO" in space:
        assert config.update.gentle == 0.02
        assert all(row["effort"] >= 0 for row in rows)


def test_each_task_is_shown_on_both_sides():
    for page, theirs in zip(PAGES, ("# Stable-Baselines3\n", "# CleanRL: "), strict=True):
        marks = [text.startswith(OURS) for text in blocks(page, "python")]
        assert all(text.startswith((OURS, theirs)) for text in blocks(page, "python"))
        if theirs.startswith("# Stable"):
            assert marks == [False, True] * (len(marks) // 2)


def default(config, name):
    for part in name.split("."):
        assert part in {field.name for field in dataclasses.fields(config)}, f"there is no setting {name}"
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("page", PAGES)
def test_every_default_of_ours_is_the_one_that_the_page_gives(page):
    known_by_no_preset, _ = configure("Unknown-v0", "tuned")
    cells = [line.split(" | ")[1] for line in (DOCS / page).read_text("utf-8").splitlines() if line.startswith("| ")]
    written = r'`([a-z_.]+)` \((None|False|True|"[^"]+"|[0-9][0-9.e, -]*)\)'
    given = [pair for cell in cells for pair in re.findall(written, cell) if pair[0] != "progress"]
    assert len(given) >= 15
    for name, text in given:
        value = default(known_by_no_preset, name)
        assert text.strip('"') == str(value).strip("()") or float(text) == value, f"{name} is {value}, not {text}"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_that_the_page_names_exists(page):
    known_by_no_preset, _ = configure("Unknown-v0", "tuned")
    names = set(re.findall(r"`((?:update|network|normalizers)\.[a-z_]+)", (DOCS / page).read_text("utf-8")))
    assert len(names) >= 10
    for name in names:
        default(known_by_no_preset, name)


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_pages_lead_somewhere(page):
    for file, anchor in re.findall(r"\]\(([a-z0-9-]*(?:\.md)?)(?:#([^)]+))?\)", (DOCS / page).read_text("utf-8")):
        headings = re.findall(r"^#+ (.*)$", (DOCS / (file or page)).read_text("utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, (file, anchor)
