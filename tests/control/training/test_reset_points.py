"""Checkpoints and episodes: what is cut is said, and nothing is cut that could be repeated instead."""

import json

import control_tasks
import pytest

import proximo

STEPS = 100  # of an episode
PLAN = {
    "progress": "quiet",
    "environments": 2,
    "rollout_length": 16,
    "options": {"limit": STEPS},
    "episodes": 1,
    "episode_limit": 50,
    "update": {"epochs": 1, "minibatch_size": 16},
    "network": {"hidden": [4]},
}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(folder, steps, **settings):
    run = proximo.train(control_tasks.steady, run=folder, steps=steps, **{**PLAN, **settings})
    return run.results, rows(folder)[-1]


@pytest.mark.parametrize("every", [160, 320, 10_000])
def test_episodes_that_are_longer_than_from_checkpoint_to_checkpoint_still_end(every, tmp_path):
    """Nothing is cut that is most of what there is: of four episodes in each of two environments half end at least."""
    results, last = train(tmp_path / "run", 800, checkpoint_every=every)
    assert 4 <= last["episodes"] <= 8
    assert last["episode_length"] == STEPS
    assert results["last_100_training_return"] == STEPS


def test_returns_are_those_of_all_episodes_and_not_of_the_short_ones(tmp_path):
    """Episodes of 3, 5 and 4 steps in turn; cut at each checkpoint of 32 steps, 16 in each environment."""
    plan = {name: value for name, value in PLAN.items() if name != "options"}
    run = proximo.train(control_tasks.scripted_vector, run=tmp_path / "run", steps=800, checkpoint_every=96, **plan)
    assert rows(run.path)[-1]["episode_length"] == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize(
    ("limit", "environments", "said"),
    [
        (
            100,
            2,
            "the longest so far had 100 steps: raise checkpoint_every = 192 and restart_every = 400 to some 2,000",
        ),
        (10_000, 2, "none has ended so far: raise checkpoint_every = 192 and restart_every = 400 to some ten times"),
        (5, 2, None),  # of 400 steps a few are lost
    ],
)
def test_too_much_that_is_cut_is_said_once(limit, environments, said, tmp_path, capsys):
    settings = {"checkpoint_every": 192, "restart_every": 400, "options": {"limit": limit}, "progress": "plain"}
    _, last = train(tmp_path / "run", 800, **settings, environments=environments)
    shown = capsys.readouterr().err
    assert shown.count("long episodes are missing from the return") == (said is not None)
    if said is not None:
        assert said in shown
        assert last["episodes_cut"] > 0


@pytest.mark.parametrize("stop", [160, 544])
def test_a_run_that_goes_on_between_restarts_is_the_run_that_never_stopped(stop, tmp_path):
    settings = {"checkpoint_every": 128, "restart_every": 400}
    through = train(tmp_path / "through", 800, **settings)[1]
    proximo.train(control_tasks.steady, run=tmp_path / "parts", steps=800, stop_at=stop, **{**PLAN, **settings})
    parts = train(tmp_path / "parts", 800, **settings)[1]
    timed = [name for name in through if name.startswith("seconds") or name in ("memory_mb", "time", "elapsed")]
    for row in (through, parts):
        for name in timed:
            row.pop(name, None)
    assert through == parts
    assert through["episodes_cut"] > 0


def test_the_setting_is_refused_by_name():
    with pytest.raises(proximo.UserError, match="restart_every = 0"):
        proximo.train(control_tasks.steady, steps=10, restart_every=0)
