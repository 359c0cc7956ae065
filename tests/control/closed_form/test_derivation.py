"""The closed form is taken for what it was derived from, and for nothing that only looks alike."""

import functools
import subprocess
import sys

import control_tasks
import pytest
import torch
from control_runs import running, trained, weights
from torch import nn
from torch.nn.utils import parametrize

from proximo.algorithms.ppo import PPO
from proximo.control.closed_form import derivation
from proximo.control.models import networks
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces import actions
from proximo.control.training.training import Training
from proximo.core import objectives
from proximo.core.distributions import Gaussian
from proximo.core.updates import update

TASK = {"options": {"number": 5, "actions": "box"}, "update": {"entropy_coefficient": 0.01}}
TASK |= {"normalizers": {"observations": True}}


class Half(nn.Module):
    """Half of what comes in: a parametrization."""

    def forward(self, x):
        return 0.5 * x


class Sigmoid(nn.Tanh):
    """A subclass that is another function."""

    def forward(self, x):
        return torch.sigmoid(x)


class Wide(Gaussian):
    """A subclass with an entropy of its own."""

    def entropy(self):
        return 3.0 * super().entropy()


def pulled(function):
    """A loss, or its first part, with a price for what it is first given."""

    def changed(first, *arguments, **named):
        found, price = function(first, *arguments, **named), 0.1 * first.square().mean()
        return (found[0] + price, *found[1:]) if isinstance(found, tuple) else found + price

    return changed


def with_norm(sizes, activation, orthogonal):
    return nn.Sequential(*mlp(sizes, activation, orthogonal), nn.LayerNorm(sizes[-1]))


mlp, evaluate, forward = networks.mlp, ControlPolicy.evaluate, nn.Linear.forward


def less_sure(self, batch):
    """Log-probs halved: `ControlPolicy.evaluate` of somebody else."""
    found = evaluate(self, batch)
    return type(found)(batch.log_prob + 0.5 * (found.log_prob - batch.log_prob), found.entropy, found.value)


product, autograd, made = nn.functional.linear, update.AutogradGradient.__call__, networks.ActorCritic.__init__


def bolder(self, minibatch):
    """The gradient of somebody else, who leaves the deviations as they are."""
    statistics = autograd(self, minibatch)
    self._policy.log_std.grad.zero_()
    return statistics


def with_more_entropy(self, seen, batch, progress, policy):
    """The loss of somebody else, who pays more for entropy."""
    loss, statistics = own_loss(self, seen, batch, progress, policy)
    return loss - 0.5 * batch.mean(seen.entropy), statistics


own_loss = PPO.loss


def with_one_layer_for_both(self, *arguments, **named):
    made(self, *arguments, **named)
    self.critic[0] = self.actor[0]


CODE = {
    "loss": lambda patch: patch.setattr(objectives, "ppo_loss", pulled(objectives.ppo_loss)),
    "PPO's loss": lambda patch: patch.setattr(PPO, "loss", with_more_entropy),
    "value loss": lambda patch: patch.setattr(objectives, "value_loss", pulled(objectives.value_loss)),
    "surrogate": lambda patch: patch.setattr(objectives, "clipped_surrogate", pulled(objectives.clipped_surrogate)),
    "mean": lambda patch: patch.setattr(objectives, "weighted_mean", pulled(objectives.weighted_mean)),
    "evaluate": lambda patch: patch.setattr(ControlPolicy, "evaluate", less_sure),
    "entropy": lambda patch: patch.setattr(Gaussian, "entropy", lambda self: 3.0 * self.log_std.sum(-1)),
    "distribution": lambda patch: patch.setattr(actions, "Gaussian", Wide),
    "product": lambda patch: patch.setattr(nn.functional, "linear", lambda x, w, b=None: 0.9 * product(x, w, b)),
    "gradient": lambda patch: patch.setattr(update.AutogradGradient, "__call__", bolder),
    "every layer": lambda patch: patch.setattr(nn.Linear, "forward", lambda self, x: 0.9 * forward(self, x)),
}
MADE = {
    "activation": lambda patch: patch.setitem(networks.ACTIVATIONS, "tanh", Sigmoid),
    "networks": lambda patch: patch.setattr(networks, "mlp", with_norm),
    "a layer for both": lambda patch: patch.setattr(networks.ActorCritic, "__init__", with_one_layer_for_both),
}
MODULES = {
    "forward hook": lambda policy: policy.network.actor[0].register_forward_hook(lambda m, x, y: 0.5 * y),
    "input hook": lambda policy: policy.network.critic.register_forward_pre_hook(lambda m, x: (0.5 * x[0],)),
    "gradient hook": lambda policy: policy.network.actor_head.weight.register_hook(lambda g: 0.1 * g),
    "own forward": lambda policy: setattr(policy.network.actor[1], "forward", torch.sigmoid),
    "own evaluate": lambda policy: setattr(policy, "evaluate", lambda batch: less_sure(policy, batch)),
    "parametrization": lambda policy: parametrize.register_parametrization(policy.network.actor[0], "weight", Half()),
    "frozen layer": lambda policy: policy.network.actor[0].requires_grad_(False),
    "another activation": lambda policy: policy.network.actor.__setitem__(1, nn.Sigmoid()),
    "a subclass": lambda policy: policy.network.actor.__setitem__(1, Sigmoid()),
}


def learnt(tamper=None, patch=None, **settings):
    """Weights after two updates, and whether the closed form was in use at the end."""
    with running(control_tasks.probe, **TASK, **settings) as training:
        if tamper is not None:
            tamper(training.policy)
        for _ in range(2):
            training.iterate()
        return weights(training), training.closed_form is not None


@pytest.mark.parametrize("what", [*CODE, *MADE])
def test_code_that_was_patched_is_the_code_that_is_used(what, monkeypatch):
    plain, by_hand = learnt()
    assert by_hand
    {**CODE, **MADE}[what](monkeypatch)
    ours, by_hand = learnt()
    assert not by_hand
    assert ours.shape != plain.shape or not torch.allclose(ours, plain, atol=1e-4), "the patch makes a difference"
    expected, _ = learnt(closed_form=False)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("what", MODULES)
def test_what_a_policys_modules_were_made_to_do_is_done(what):
    plain, _ = learnt()
    ours, by_hand = learnt(MODULES[what])
    assert not by_hand
    assert not torch.allclose(ours, plain, atol=1e-4)
    expected, _ = learnt(MODULES[what], closed_form=False)
    assert torch.equal(ours, expected)


def test_hooks_on_all_modules_are_called():
    for register in (
        nn.modules.module.register_module_full_backward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        called = []
        handle = register(lambda *_, called=called: called.append(1))
        try:
            _, by_hand = learnt()
        finally:
            handle.remove()
        assert called
        assert not by_hand


class Timid(ControlPolicy):
    """A subclass of the policy that learns with half of its log-probs."""

    evaluate = less_sure


def test_a_subclass_of_the_policy_is_itself(monkeypatch):
    monkeypatch.setattr("proximo.control.training.setup.ControlPolicy", Timid)
    ours, by_hand = learnt()
    assert not by_hand
    assert torch.equal(ours, learnt(closed_form=False)[0])


def test_a_patch_for_one_iteration_is_used_in_that_one_alone(monkeypatch):
    with running(control_tasks.probe, **TASK) as training:
        training.iterate()
        used = []
        with monkeypatch.context() as patch:
            loss = objectives.ppo_loss
            patch.setattr(objectives, "ppo_loss", lambda *a, **k: used.append(1) or loss(*a, **k))
            training.iterate()
            assert training.closed_form is None
        seen = len(used)
        assert seen > 0
        row = training.iterate()
        assert (len(used), training.closed_form is not None) == (seen, True)
        # What acts and what learns are one again: no log-probs are left of the iteration before.
        assert row["ratio_deviation"] < 1e-4


def test_what_nobody_touched_is_still_derived_by_hand():
    for options in ({"number": 5}, {"number": 5, "actions": "box"}, {"number": 5, "actions": "masked"}):
        for activation in ("tanh", "relu", "elu"):
            training: Training = trained(
                control_tasks.probe, 1, options=options, network={"activation": activation, "hidden": (8, 8)}
            )
            assert training.closed_form is not None


EARLY = """
import sys
import proximo
from proximo.core import objectives
assert "proximo.control.closed_form.derivation" not in sys.modules
calls, loss = [], objectives.ppo_loss
objectives.ppo_loss = lambda *arguments, **named: calls.append(1) or loss(*arguments, **named)
small = {"environments": 2, "rollout_length": 32, "steps": 128, "episodes": 1, "update": {"minibatch_size": 64}}
proximo.train("CartPole-v1", run=sys.argv[1], progress="quiet", **small)
print(len(calls) > 0)
"""


def test_what_was_patched_before_anything_was_trained_is_used_too(tmp_path):
    done = subprocess.run([sys.executable, "-c", EARLY, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.stdout.split()[-1:] == ["True"], done.stderr


@functools.wraps(Gaussian.entropy)
def entropy(self):
    return 2 * Gaussian.entropy(self)


@torch.no_grad()
def act(self, inputs, generator):
    return self.act(inputs, generator)


@pytest.mark.parametrize(
    ("name", "put"),
    [("entropy", entropy), ("act", act), ("bounds", property(lambda _: 1)), ("Gaussian", Wide), ("tanh", torch.relu)],
)
def test_what_stood_in_an_originals_place_from_the_first_is_no_original(name, put):
    assert not derivation._is_original(name, put)


def test_what_nobody_touched_is_original():
    assert all(derivation._is_original(name, found) for name, found in derivation._code())
