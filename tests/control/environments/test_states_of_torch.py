"""What an environment, or a script, does to torch's state for itself changes no training."""

import gymnasium
import pytest
import torch

import proximo

SMALL = {"environments": 2, "rollout_length": 32, "steps": 192, "episodes": 1, "seed": 3, "progress": "quiet"}
SMALL |= {"update": {"minibatch_size": 64}}


class Setting(gymnasium.Wrapper):
    """CartPole; `SETS` says what it does to torch when it is made, and when it is stepped."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        SETS.get("made", bool)()

    def step(self, action):
        SETS.get("stepped", bool)()
        return self.env.step(action)


SETS = {}


def no_gradients():
    torch.set_grad_enabled(False)


def wide():
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("activation", ["tanh", "silu"])  # by hand, and by autograd
@pytest.mark.parametrize("sets", [{"made": no_gradients}, {"stepped": no_gradients}, {"made": wide}])
def test_what_an_environment_sets_changes_nothing(tmp_path, monkeypatch, sets, activation):
    run = proximo.train(f"{__name__}:Setting", run=tmp_path / "plain", network={"activation": activation}, **SMALL)
    monkeypatch.setitem(globals(), "SETS", sets)
    try:
        other = proximo.train(f"{__name__}:Setting", run=tmp_path / "x", network={"activation": activation}, **SMALL)
    finally:
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
    same(run, other)


@pytest.mark.parametrize("activation", ["tanh", "silu"])
def test_a_training_within_inference_mode_is_one(tmp_path, activation):
    run = proximo.train("CartPole-v1", run=tmp_path / "plain", network={"activation": activation}, **SMALL)
    with torch.inference_mode():
        other = proximo.train("CartPole-v1", run=tmp_path / "x", network={"activation": activation}, **SMALL)
    same(run, other)


def same(run, other):
    names = ("return", "policy_loss", "value_loss", "entropy")
    one, two = ([{n: row.get(n) for n in names} for row in proximo.metrics(each.path)] for each in (run, other))
    assert one == two
