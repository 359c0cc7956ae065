"""A run is what its settings and its code say: edited code is another run, whatever the names are."""

import functools
import importlib
import json
import sys

import gymnasium
import pytest
import warm

import proximo
from proximo.control.environments import code_of
from proximo.errors import UserError
from proximo.runs.storage.code_identity import code_digest

TOY = """
import gymnasium, numpy as np
REWARD = {reward}
class Toy(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(2, np.float32), {{}}
    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), REWARD, self.t == 8, False, {{}}
def make():  {comment}
    return Toy()
"""
SMALL = {
    "steps": 128,
    "environments": 2,
    "rollout_length": 32,
    "episodes": 1,
    "episode_limit": 50,
    "backend": "gymnasium",
}
SMALL |= {"update": {"epochs": 1, "minibatch_size": 32}, "progress": "quiet"}


def cell(code, **names):
    """What a notebook's cell defines: its functions have no file."""
    space = {"__name__": "__main__", **names}
    exec(compile(code, "<cell>", "exec"), space)
    return space


def digest_of(code, name="f", **names):
    return code_digest(cell(code, **names)[name])


def test_code_that_does_the_same_is_the_same():
    assert digest_of("f = lambda x: x + 1") == digest_of("\n\nf = lambda x: (x +\n 1)  # a word\n")
    assert digest_of("def f(x):\n    return g(x)\ndef g(x):\n    return x") != ""


@pytest.mark.parametrize(
    "code",
    [
        "f = lambda x: x + 1",
        "def f(x=1): return x",
        # What it calls, and what that calls.
        "def h(): return 1\ndef g(): return h()\ndef f(): return g()",
        "def f():\n    def g(): return 1\n    return g",
        # What it closes over, reads, and is a part of.
        "def o(k):\n    return lambda: k\nf = o(1)",
        "K = {'size': 1}\ndef f(): return K",
        "class A:\n    def s(self): return 1\nclass B(A): pass\ndef f(): return B()",
        "class A:\n    gain = 1\nf = A",
        "class A:\n    @property\n    def s(self): return 1\nf = A",
        "from functools import partial\ndef g(k): return k\nf = partial(g, 1)",
        "class A:\n    def make(self): return 1\nf = A().make",
        "class A:\n    def __init__(self, k): self.k = k\n    def make(self): return self.k\nf = A(1).make",
        "class A:\n    def __init__(self, k): self.k = k\n    def __call__(self): return self.k\nf = A(1)",
        "K = [1, 3]\ndef f(): return K",
        "K = {1, 3}\ndef f(): return K",
        "import numpy as np\nK = np.array([1.0, 3.0])\ndef f(): return K",
        "import torch\nK = torch.tensor([1.0, 3.0])\ndef f(): return K",
        "from types import SimpleNamespace\nK = SimpleNamespace(size=1)\ndef f(): return K",
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    size: int\nK = C(1)\ndef f(): return K",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass C:\n    size: int\n"
        "K = C(1)\ndef f(): return K",
        "class C:\n    __slots__ = ('size',)\n    def __init__(self): self.size = 1\nK = C()\ndef f(): return K",
        "import functools\nclass D:\n    def __init__(self, f, k): functools.update_wrapper(self, f); self.k = k\n"
        "    def __call__(self): return self.k\ndef g(): return 0\nf = D(g, 1)",
        "def f(): return f.gain\nf.gain = 1",
        # Values of libraries that show nothing of themselves.
        "from fractions import Fraction\nK = Fraction(1, 3)\ndef f(): return K",
        "from datetime import timedelta\nK = timedelta(seconds=1)\ndef f(): return K",
        "from pathlib import Path\nK = Path('1.txt')\ndef f(): return K",
        "from collections import deque\nK = deque([1, 3])\ndef f(): return K",
        "K = range(1, 9)\ndef f(): return K",
        "import numpy as np\nK = np.full(1_000_001, 1.0)\ndef f(): return K",
        "import pandas\nK = pandas.DataFrame({'a': [1, 3]})\ndef f(): return K",
    ],
)
def test_code_that_does_another_thing_is_another(code):
    assert digest_of(code) == digest_of(code)
    assert digest_of(code) != digest_of(code.replace("1", "2"))


def test_another_function_that_is_called_is_another():
    assert digest_of("f = lambda x: abs(x)") != digest_of("f = lambda x: len(x)")


@pytest.mark.parametrize(
    "change",
    [
        "GAIN = 100.0",
        "class E:\n    def step(self): return 7",
        "def step(self): return 7\nE.step = step",
        "E.size = 7",
        "make.size = 7",
        "K = {'size': 7}",
    ],
)
def test_what_is_given_anew_under_an_old_name_is_another_though_the_function_was_kept(change):
    """Cells of a notebook: the maker stays, and what it reads is defined again."""
    space = cell(
        "GAIN, K = 1.0, {'size': 1}\nclass E:\n    size = 1\n    def step(self): return GAIN\n"
        "def make():\n    return E(), K, make.size\nmake.size = 1"
    )
    before = code_digest(space["make"])
    assert code_digest(space["make"]) == before
    exec(change, space)
    assert code_digest(space["make"]) != before


def test_what_a_registry_holds_under_a_name_in_the_code_counts(here):
    make, digests = cell("import gymnasium\nf = lambda: gymnasium.make('Noted-v0')")["f"], []
    for gain in (1.0, 2.0):
        gymnasium.register("Noted-v0", entry_point="noted_env:make", kwargs={"gain": gain})
        digests.append((code_digest(make), code_digest(code_of("Noted-v0"))))
        del gymnasium.registry["Noted-v0"]
    assert all(a and a != b for a, b in zip(*digests, strict=True))
    gymnasium.register("Noted-v0", entry_point="noted_env:make")
    plain = code_digest(make)
    (here / "noted_env.py").write_text("def make(): return 1\n")
    importlib.invalidate_caches()
    assert code_digest(make) != plain, "its entry point's module is the user's own"
    del gymnasium.registry["Noted-v0"]


def test_a_module_that_a_scripts_function_imports_counts(here):
    make, digests = cell("def f():\n    from inner_env import E\n    return E()")["f"], []
    for gain in (1.0, 2.0):
        (here / "inner_env.py").write_text(f"class E: gain = {gain}\n")
        importlib.invalidate_caches()
        digests.append(code_digest(make))
    assert digests[0] != digests[1]


def test_a_module_edited_while_the_process_runs_is_refused_until_it_is_loaded_again(here):
    """Else the old code would be trained, under the name of the new."""
    file = here / "edited_env.py"
    file.write_text(TOY.format(reward=1.0, comment=""))
    first = proximo.train("edited_env:make", **SMALL)
    file.write_text(TOY.format(reward=1.0, comment="# a word"))
    assert proximo.train("edited_env:make", **SMALL).finished_before
    file.write_text(TOY.format(reward=50.0, comment=""))
    with pytest.raises(UserError, match=r"module edited_env was edited, .* restart Python, or `importlib.reload"):
        proximo.train("edited_env:make", **SMALL)
    importlib.reload(sys.modules["edited_env"])
    second = proximo.train("edited_env:make", **SMALL)
    assert second.path != first.path
    assert second.results["final_deterministic"] == 50 * first.results["final_deterministic"]


def test_a_setting_of_a_module_that_was_changed_from_outside_counts(here):
    (here / "set_env.py").write_text("import time\nGAIN = 1\nBEGUN = time.time()\ndef make(): return GAIN, BEGUN\n")
    own = importlib.import_module("set_env")
    before = code_digest(own.make)
    own.BEGUN = 0.0
    assert code_digest(own.make) == before, "what a module computes is this process's state"
    own.GAIN = 100
    assert code_digest(own.make) != before


def test_objects_that_all_know_each_other_end_and_are_told_apart():
    code = (
        "class N: pass\nALL = [N() for _ in range(60)]\n"
        "for i, n in enumerate(ALL):\n    n.others, n.size = list(ALL), i + 1\n"
        "def f(): return ALL[0]"
    )
    assert digest_of(code) == digest_of(code)
    assert digest_of(code) != digest_of(code.replace("i + 1", "i + 2"))


def test_classes_and_functions_that_use_each_other_end_and_are_told_apart():
    names = [f"f{i}" for i in range(30)]
    calls = ", ".join(f"{name}()" for name in names)
    code = "\n".join(f"def {name}(): return {calls}, {i}" for i, name in enumerate(names)) + "\nf = f0"
    assert digest_of(code) == digest_of(code)
    assert digest_of(code) != digest_of(code.replace(", 29", ", 30"))


def test_long_chains_of_objects_end_and_odd_ones_fail_nothing():
    assert digest_of(
        "class N: pass\nK = None\nfor _ in range(5000):\n    n = N(); n.next = K; K = n\ndef f(): return K"
    )
    assert digest_of("class O:\n    def __getattr__(self, name): raise KeyError(name)\nK = O()\ndef f(): return K")


def test_what_is_gathered_while_a_program_runs_is_no_code():
    seen = []

    def f(x):
        seen.append(x)

    before = code_digest(f)
    f(1)
    assert code_digest(f) == before
    space = cell("N, CACHE = 0, {}\ndef f():\n    global N\n    N += 1\n    CACHE[N] = f")
    before = code_digest(space["f"])
    space["f"]()
    assert code_digest(space["f"]) == before


def test_an_object_that_holds_itself_ends():
    assert digest_of("K = {}\nK['me'] = K\nL = [K]\nL.append(L)\ndef f(): return K, L")


def test_modules_that_are_imported_later_count_too(here):
    """Within a function, and as the entry point of a registered task."""
    package = here / "late_pkg"
    (package / "envs").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import gymnasium\ngymnasium.register('Late-v0', entry_point='late_pkg.envs.grid:Toy')\n"
    )
    (package / "envs" / "__init__.py").write_text("")
    (here / "late_maker.py").write_text("def make():\n    from late_helper import Toy\n    return Toy()\n")
    digests = []
    for reward in (1.0, 5.0):
        for file in (package / "envs" / "grid.py", here / "late_helper.py"):
            file.write_text(TOY.format(reward=reward, comment=""))
        for name in [name for name in sys.modules if name.startswith("late_")]:
            del sys.modules[name]  # as in a process of its own
        digests.append([code_digest(code_of(name)) for name in ("late_pkg:Late-v0", "late_maker:make")])
    del gymnasium.registry["Late-v0"]
    assert all(a and a != b for a, b in zip(*digests, strict=True))
    assert "late_helper" not in sys.modules, "to look at a module is not to run it"


def test_libraries_have_no_code_of_the_users():
    assert code_digest(gymnasium.make) == code_digest(len) == code_digest("gymnasium:make") == ""
    assert code_digest(functools.partial(gymnasium.make, "CartPole-v1")) == ""
    assert code_digest("CartPole-v1") == ""


def test_functions_that_call_each_other_end():
    assert digest_of("def f(n): return g(n)\ndef g(n): return f(n)")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_another_function_of_the_same_name_is_trained_anew_and_its_own_is_found_again(here):
    """A lambda, and a cell that was edited and run again."""
    made = {reward: cell(TOY.format(reward=reward, comment=""))["make"] for reward in (1.0, 5.0)}
    first = proximo.train(made[1.0], **SMALL)
    second = proximo.train(made[5.0], **SMALL)
    assert (first.results["final_deterministic"], second.results["final_deterministic"]) == (8.0, 40.0)
    assert second.path.name == f"{first.path.name}-2"
    assert not second.finished_before
    for run, reward in ((first, 1.0), (second, 5.0)):
        again = proximo.train(cell(TOY.format(reward=reward, comment="# run again"))["make"], **SMALL)
        assert (again.path, again.finished_before) == (run.path, True)
    third = proximo.train(lambda: made[1.0](), **SMALL)
    fourth = proximo.train(lambda: made[5.0](), **SMALL)
    assert third.results["final_deterministic"] == 8.0
    assert fourth.results["final_deterministic"] == 40.0


def test_a_half_done_run_does_not_go_on_with_other_code_unasked(here):
    made = {reward: cell(TOY.format(reward=reward, comment=""))["make"] for reward in (1.0, 5.0)}
    proximo.train(made[1.0], stop_at=64, **SMALL)
    with pytest.raises(
        UserError, match="a run of another __main__:make: its code, or what it holds, was changed since; resume"
    ):
        proximo.train(made[5.0], **SMALL)
    run = proximo.train(made[5.0], allow_change=True, **SMALL)
    assert "the code of __main__:make was changed" in (run.path / "config.toml").read_text()
    assert proximo.train(made[5.0], **SMALL).finished_before
    assert proximo.train(made[5.0], fresh=True, **SMALL).path == run.path


def command(here, *more):
    options = [
        "--steps",
        "128",
        "--environments",
        "2",
        "--rollout-length",
        "32",
        "--episodes",
        "1",
        "--quiet",
        "--json",
    ]
    options += ["--update.epochs", "1", "--update.minibatch-size", "32", "--run", "r", *more]
    command = [sys.executable, "-m", "proximo.cli.main", "train", "my_env:make", *options]
    return warm.run(command, cwd=here, capture_output=True, text=True, check=False)


def test_an_edited_module_is_told_on_the_command_line(here):
    file = here / "my_env.py"
    (here / "my_rewards.py").write_text("REWARD = 1.0\n")
    code = TOY.replace("REWARD = {reward}", "from my_rewards import REWARD")
    file.write_text(code.format(comment=""))
    assert json.loads(command(here).stdout)["final_deterministic"] == 8.0
    (here / "my_rewards.py").write_text("REWARD = 5.00\n")  # of another size: Python takes one second for one edit
    refused = command(here)
    assert refused.returncode == 2
    assert refused.stderr == (
        "proximo: r holds a finished run of another my_env:make: its code, or what it holds, was changed since, so its "
        "results are not those of this one; start over with --fresh (fresh=True), or choose another folder with --run "
        "(run=...)\n"
    )
    assert json.loads(command(here, "--fresh", "--yes").stdout)["final_deterministic"] == 40.0


def test_an_environment_of_ones_own_registry_and_a_made_one_have_code_too(here):
    (here / "own_toy.py").write_text(TOY.format(reward=1.0, comment=""))
    own = importlib.import_module("own_toy")
    gymnasium.register("OwnToy-v0", entry_point=own.make)
    try:
        first = proximo.train("OwnToy-v0", **SMALL)
        (here / "own_toy.py").write_text(TOY.format(reward=50.0, comment=""))
        own = importlib.reload(own)
        gymnasium.register("OwnToy-v0", entry_point=own.make)
        assert proximo.train("OwnToy-v0", **SMALL).path.name == f"{first.path.name}-2"
    finally:
        del gymnasium.registry["OwnToy-v0"]
    alone = {**SMALL, "environments": 1, "rollout_length": 64}
    short, long = (gymnasium.make("CartPole-v1", max_episode_steps=n) for n in (5, 6))
    assert proximo.train(short, **alone).path != proximo.train(long, **alone).path
    one = proximo.train(cell(TOY.format(reward=1.0, comment=""))["Toy"](), **alone)
    other = proximo.train(cell(TOY.format(reward=5.0, comment=""))["Toy"](), **alone)
    assert (one.results["final_deterministic"], other.results["final_deterministic"]) == (8.0, 40.0)
