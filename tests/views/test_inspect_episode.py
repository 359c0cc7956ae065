"""`proximo inspect` on a control run: an episode step by step, under a film strip."""

import json
import shutil

import gymnasium
import numpy as np
import pytest
import torch

import proximo
from proximo.cli import main as cli
from proximo.cli import views
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import step_name, step_of
from proximo.views.inspect import episode
from proximo.views.inspect.steps import steps_of

SMALL = {"environments": 4, "rollout_length": 16, "update": {"minibatch_size": 32, "epochs": 2}, "episodes": 2}


def trained(folder, environment="CartPole-v1", **changes):
    settings = {"steps": 512, "seed": 3, "progress": "quiet", "checkpoint_every": 128, "backend": "gymnasium"}
    proximo.train(environment, run=folder, **(settings | SMALL | changes))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "pole")


@pytest.fixture(scope="module")
def found(run):
    return proximo.inspect_run(run, seed=5)


def test_three_steps_by_hand():
    """γ = λ = 1/2. δ: 1 + 1/2 - 1/2, 2 + 2/2 - 1, 3 - 2; A = δ + A' / 4; G = r + G' / 2."""
    seen = steps_of([1, 2, 3], [0.5, 1, 2], [False, False, True], {}, 0.5, 0.5)
    assert seen.delta.tolist() == [1, 2, 1]
    assert seen.advantage.tolist() == [1.5625, 2.25, 1]
    assert seen.returned.tolist() == [2.75, 3.5, 3]
    assert seen.worst == 1
    cut = steps_of([1, 2, 3], [0.5, 1, 2], [False, False, False], {2: 4.0}, 0.5, 0.5)
    assert cut.delta.tolist() == [1, 2, 3]
    assert cut.returned.tolist() == [3.25, 4.5, 5]
    life = steps_of([1, 2, 3], [0.5, 1, 2], [False, True, True], {}, 0.5, 0.5)  # a life was lost in the middle
    assert life.delta.tolist() == [1, 1, 1]
    assert life.returned.tolist() == [2, 2, 3]


def test_an_episode_is_the_environments_own_and_ends_as_it_does(run, found):
    policy, env = proximo.load(run), gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=5)
    values, over = [], False
    while not over:
        values.append(float(policy.value(observation)))
        observation, _, terminated, truncated, _ = env.step(policy.act(observation))
        over = terminated or truncated
    assert terminated
    assert found.steps.value == pytest.approx(values)
    assert (found.steps.reward == 1).all()
    gamma = 0.99 if "gamma = 0.99" in (run / "config.toml").read_text() else 0.98
    assert f"gamma = {gamma}" in (run / "config.toml").read_text()
    assert found.steps.returned == pytest.approx([(1 - gamma**n) / (1 - gamma) for n in range(len(values), 0, -1)])
    assert found.ended == "terminated"
    assert found.total == len(values)


def test_a_film_that_is_cut_goes_on_with_the_critics_estimate(run, found, tmp_path):
    short = proximo.inspect_run(run, seed=5, limit=4, out=tmp_path / "short.html")
    assert short.ended == ""
    step, after = short.steps, found.steps.value[4]
    delta = step.reward[3] + (step.returned[3] - step.reward[3]) - step.value[3]
    assert step.delta[3] == pytest.approx(delta)
    gamma = (step.returned[3] - 1) / after
    assert 0.9 < gamma < 1
    assert step.returned[0] == pytest.approx(sum(gamma**k for k in range(4)) + gamma**4 * after)


def test_the_ratio_is_1_between_equal_checkpoints_and_the_softmaxes_between_others(run, found, tmp_path):
    copy = tmp_path / "same"
    shutil.copytree(run, copy)
    checkpoints = copy / "checkpoints"
    for path in list(checkpoints.iterdir()):
        if step_of(path.name) is not None:
            shutil.rmtree(path)
    shutil.copytree(checkpoints / "final", checkpoints / "step-000000000001")
    assert set(proximo.inspect_run(copy, seed=5).ratio) == {1.0}
    before = max(
        path.name
        for path in (run / "checkpoints").iterdir()
        if step_of(path.name) is not None and step_of(path.name) < 512
    )
    env, policies = gymnasium.make("CartPole-v1"), [proximo.load(run), proximo.load(run, before)]
    observation, _ = env.reset(seed=5)
    expected = []
    for _ in found.ratio:
        seen = {"vector": torch.tensor(observation)[None]}
        with torch.no_grad():
            chances = [x.policy.network.step(x.policy._normalized(seen), None)[0].softmax(-1)[0] for x in policies]
        action = int(chances[0].argmax())
        expected.append(float(chances[0][action] / chances[1][action]))
        observation = env.step(action)[0]
    assert found.ratio == pytest.approx(expected, rel=1e-4)
    assert max(abs(x - 1) for x in expected) > 1e-3


def test_without_a_numbered_checkpoint_the_ratio_is_to_the_policy_before_the_kept_update(tmp_path):
    """One iteration between two checkpoints: the policy before the last update is that of the first of them."""
    short = trained(tmp_path / "short", steps=192, checkpoint_every=64, normalizers={"observations": True})
    names = sorted(path.name for path in (short / "checkpoints").iterdir() if step_of(path.name) is not None)
    assert [step_of(name) for name in names] == [128, 192], "two are kept"
    numbered = proximo.inspect_run(short, seed=5)
    assert numbered.notes[0] == "ratio: to the policy at step 128"
    for name in names:
        shutil.rmtree(short / "checkpoints" / name)
    kept = proximo.inspect_run(short, seed=5)
    assert kept.notes[0].startswith("ratio: to the policy before its last update (iteration 1, ")
    assert kept.ratio == pytest.approx(numbered.ratio, rel=1e-5)
    assert max(abs(x - 1) for x in kept.ratio) > 1e-3
    shutil.rmtree(short / "replay")
    assert "the ratio is left out: no numbered checkpoint lies" in proximo.inspect_run(short, seed=5).notes[0]


def test_a_checkpoint_that_a_running_training_deletes_meanwhile_is_no_end(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "going")
    checkpoints = copy / "checkpoints"
    shutil.rmtree(checkpoints / "final")
    newest = max(path for path in checkpoints.iterdir() if step_of(path.name) is not None)
    load, asked = episode.load_checkpoint, []

    def deleted(path):
        if not asked:
            newest.rename(checkpoints / step_name(step_of(newest.name) + 64))
        asked.append(path.name)
        return load(path)

    monkeypatch.setattr(episode, "load_checkpoint", deleted)
    assert proximo.inspect_run(copy, seed=5, limit=3).steps.reward.tolist() == [1, 1, 1]
    assert [proximo.inspect_run(copy, seed=5, limit=n).steps.count for n in (1, 2)] == ["1 step", "2 steps"]
    assert asked[0] != asked[1]


def test_the_page_has_a_film_strip_and_marks_where_the_critic_was_most_wrong(run, found, page):
    assert found.file == run / "inspect" / "5.html"
    assert found.file.stat().st_size < 6_000_000
    page.open(f"file://{found.file}")
    page.wait("document.documentElement.dataset.drawn")
    plot = "document.querySelector('.js-plotly-plot')"
    page.wait("[...document.images].every(x => x.naturalWidth > 0)")
    pictures = page.run("[...document.images].map(x => [x.naturalWidth, x.alt])")
    shown = [int(alt.removeprefix("step ")) for width, alt in pictures if width == 200]
    assert len(shown) == 12
    assert shown == sorted(shown)
    assert (shown[0], shown[-1]) == (0, len(found.steps.reward) - 1)
    names = page.run(f"[...new Set({plot}.data.map(x => x.name))]")
    assert len(names) == 7  # reward, value, return, δ, advantage, ratio, and the mark
    marks = page.run(f"{plot}.data.filter(x => x.name === 'critic most wrong').map(x => x.x[0])")
    assert marks == [found.steps.worst] * 6
    page.size(400, 800)
    page.wait("document.documentElement.scrollWidth <= 400")  # it follows the window
    page.size(1280, 900)
    assert page.errors == []
    assert page.requests == [f"file://{found.file}"]


def test_what_draws_nothing_is_shown_without_a_film_strip(tmp_path, monkeypatch, capsys, page):
    (tmp_path / "dim.py").write_text("import gymnasium\ndef make():\n    return gymnasium.make('CartPole-v1')\n")
    monkeypatch.chdir(tmp_path)
    trained("dim", "dim:make", steps=64, checkpoint_every=64, keep=1, normalizers={"rewards": "scale"}, replay_mb=0)
    assert cli.main(["inspect", "dim", "--seed", "5", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert "the film strip is left out: dim:make draws nothing" in shown["notes"][0]
    assert "the ratio is left out: no numbered checkpoint" in shown["notes"][1]
    assert shown["steps"]["ratio"] is None
    scale = float(shown["notes"][2].split("divided by ")[1].split(" ")[0])
    assert np.array(shown["steps"]["reward"]) == pytest.approx(1 / scale, rel=1e-3)
    assert scale != 1
    page.open(f"file://{tmp_path / shown['page']}")
    page.wait("document.documentElement.dataset.drawn")
    assert page.run("document.images.length") == 0
    assert page.errors == []


QUITS = """
import gymnasium
class Quits(gymnasium.Wrapper):
    def render(self):
        raise SystemExit(2)
def make(render_mode=None):
    return Quits(gymnasium.make("CartPole-v1", render_mode=render_mode))
"""


def test_code_that_ends_the_program_ends_it_with_a_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "quits.py").write_text(QUITS)
    monkeypatch.chdir(tmp_path)
    trained("quits", "quits:make", steps=64)
    assert cli.main(["inspect", "quits", "--limit", "3"]) == 0, "a film strip is no reason to end"
    assert "the film strip is left out: quits:make" in capsys.readouterr().out
    for told, words in ((SystemExit(2), "has ended the program (SystemExit: 2)"), (UserError(), "nothing said why")):

        def verb(arguments, told=told):
            raise told

        monkeypatch.setitem(views.VERBS, "inspect", verb)
        assert cli.main(["inspect", "quits"]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"iteration": 1}, "iteration = 1 says nothing here: a control run"),
        ({"worst": 2}, "worst = 2 says nothing here"),
        ({"policy": "newest"}, "no policy 'newest'"),
        ({"limit": 0}, "limit = 0"),
        ({"seed": -5}, "seed = -5"),
        ({"out": "."}, r"\. is a folder: give --out the name of a file, as \d+\.html"),
    ],
)
def test_what_can_not_be_is_refused(run, asked, words):
    with pytest.raises(UserError, match=words):
        proximo.inspect_run(run, **asked)
