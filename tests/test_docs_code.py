"""Every block of Python in README.md and docs/ compiles, and what it takes from Proximo is there. All of ours run:
here, or where their page is tested (`test_examples`, `test_migration_docs`, `language/docs`, `compat`,
`test_distillation`).
"""

import ast
import inspect
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from types import SimpleNamespace

import pytest
from pages import DOCS, blocks

import proximo
from proximo import algorithms, language
from proximo.control.config import TrainConfig
from proximo.control.trainer import Trainer
from proximo.language.config import RewardConfig, SFTConfig
from proximo.language.ppo_config import PPOConfig

PAGES = ("../README.md", *sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")))
BLOCKS = [(page, i, text) for page in PAGES for i, text in enumerate(blocks(page, "python"))]
SETTINGS = {
    proximo.train: TrainConfig,
    proximo.Trainer: TrainConfig,
    proximo.train_seeds: TrainConfig,
    proximo.distill: TrainConfig,
    language.train: PPOConfig,
    language.Trainer: PPOConfig,
    language.train_sft: SFTConfig,
    language.train_reward: RewardConfig,
    language.train_judge: RewardConfig,
}
"""What takes settings as further keywords, and whose they are."""


class Reader(ast.NodeVisitor):
    """Collects what a block says of Proximo that is not so."""

    def __init__(self, tree):
        self.known = {"proximo": proximo}
        self.wrong = []
        self.own = {x.target.id for x in ast.walk(tree) if isinstance(x, ast.AnnAssign) and hasattr(x.target, "id")}
        self.visit(tree)

    def visit_ImportFrom(self, node):
        if (node.module or "").partition(".")[0] == "proximo":
            module = import_module(node.module)
            for alias in node.names:
                found = getattr(module, alias.name, None)
                self.known[alias.asname or alias.name] = found
                if found is None:
                    self.wrong.append(f"{node.module} has no {alias.name}")

    def visit_Attribute(self, node):
        self.resolve(node)

    def visit_Call(self, node):
        found = self.resolve(node.func)
        if callable(found):
            self.check(found, node)
        for child in [*node.args, *(keyword.value for keyword in node.keywords)]:
            self.visit(child)
        if found is None:
            self.generic_visit(node.func)

    def resolve(self, node):
        """The object of Proximo's that `a.b.c` is; None for anything else."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if not isinstance(node, ast.Attribute) or (of := self.resolve(node.value)) is None:
            return None
        if not hasattr(of, node.attr):
            self.wrong.append(f"{ast.unparse(node)} is not there")
            return None
        return getattr(of, node.attr)

    def check(self, function, call):
        parameters = inspect.signature(function).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        config = SETTINGS.get(function)
        positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        several = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
        if len(call.args) > len(positional) and not several:
            self.wrong.append(f"{ast.unparse(call.func)} takes {len(positional)} arguments without a name")
        for keyword in call.keywords:
            if keyword.arg in parameters or keyword.arg is None:
                pass
            elif not free or (config is not None and keyword.arg not in {x.name for x in fields(config)}):
                self.wrong.append(f"{ast.unparse(call.func)} takes no {keyword.arg}")
                continue
            if config is not None and isinstance(keyword.value, ast.Dict):
                self.check_table(getattr(config(), str(keyword.arg), None), keyword)

    def check_table(self, default, keyword):
        if not is_dataclass(default):
            return
        names = {x.name for x in fields(default)} | self.own
        if keyword.arg == "update":
            classes = [getattr(algorithms, name) for name in algorithms.__all__]
            names |= {"algorithm", *(x.name for cls in classes if hasattr(cls, "lacks") for x in fields(cls))}
        for key in keyword.value.keys:
            if isinstance(key, ast.Constant) and key.value not in names:
                self.wrong.append(f"{keyword.arg} has no {key.value}")


@pytest.mark.parametrize(
    ("page", "i", "text"), BLOCKS, ids=[f"{page.removeprefix('../')}-{i}" for page, i, _ in BLOCKS]
)
def test_a_block_compiles_and_what_it_names_is_there(page, i, text):
    assert not Reader(ast.parse(text)).wrong


@pytest.mark.parametrize(
    "text",
    [
        "proximo.trian('CartPole-v1')",
        "proximo.train('CartPole-v1', stepz=1)",
        "proximo.train('CartPole-v1', update={'clipp': 0.1})",
        "for row in proximo.Trainer('CartPole-v1', normalizers={'reward': 'scale'}): pass",
        "print(proximo.load('runs/x', polcy='best'))",
        "from proximo import nothing",
        "from proximo.schedules import Cosin",
        "from proximo import language\nlanguage.train('m', prompts=[], kl={'target_kl': 1.0})",
        "from proximo.schedules import Cosine\nproximo.train('x', learning_rate=Cosine(1, 0, 0, 0))",
    ],
)
def test_what_is_not_there_is_seen(text):
    assert len(Reader(ast.parse(text)).wrong) == 1


def test_there_are_blocks_and_none_hides_behind_another_word():
    assert len(BLOCKS) >= 50
    for page in PAGES:
        text = (DOCS / page).read_text("utf-8")
        assert "```py\n" not in text
        assert "```python3\n" not in text


def test_the_first_blocks_run(tmp_path, monkeypatch):
    """Of README, first robot, environments, rlhf, and the first two of building on Proximo, in short trainings."""
    begin = Trainer.__init__

    def begin_reduced(self, *given, **settings):
        assert settings["steps"] >= 100_000, "the page trains in earnest, the test does not"
        begin(self, *given, **settings | {"steps": 1, "episodes": 1, "episode_limit": 50, "progress": "quiet"})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "__init__", begin_reduced)
    playground = SimpleNamespace(registry=SimpleNamespace(load=str))
    monkeypatch.setitem(sys.modules, "mujoco_playground", playground)  # no test needs JAX
    space = {"proximo": proximo}
    for text in [*blocks("../README.md", "python"), *blocks("building-on-proximo.md", "python")[:2]]:
        exec(compile(text, "docs", "exec"), space)
    assert space["action"] in (0, 1)
    assert all(row["mine"] == 1.0 for row in proximo.metrics("runs/callbacks"))
    proximo.train("CartPole-v1", steps=100_000, run="runs/cartpole")
    for page, name, given, told in (
        ("environments.md", "make", (), "Go1JoystickFlatTerrain"),
        ("rlhf.md", "brevity", (["why?"] * 2, ["it is so", ""]), [-3 / 50, 0.0]),
    ):
        (text,) = blocks(page, "python")
        exec(compile(text, page, "exec"), space)
        assert space[name](*given) == told
    (text,) = blocks("first-robot.md", "python")
    exec(compile(text, "first-robot.md", "exec"), space := {})
    assert space["action"] in (0, 1)
