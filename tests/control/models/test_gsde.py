"""State-dependent exploration (Raffin et al. 2021): noise that is a function of the state and stays for some steps."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import running
from gymnasium import spaces

from proximo.control.config import NetworkSettings
from proximo.control.models.noise import Noise
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.batch import Batch

MANY = 40_000


def policy_of(space, **network):
    torch.manual_seed(1)
    observations = ObservationSpec.of(spaces.Box(-1, 1, (3,), np.float32))
    policy = ControlPolicy(observations, ActionSpec.of(space), NetworkSettings(hidden=(8,), noise="gsde", **network))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return policy


@pytest.fixture(scope="module")
def box():
    return policy_of(spaces.Box(-2, 2, (2,), np.float32))


def test_actions_of_many_noises_have_the_mean_and_deviation_that_log_probs_are_of(box):
    seen = {"vector": torch.tensor([[0.3, -1.0, 2.0]]).expand(MANY, 3)}
    generator = torch.Generator().manual_seed(0)
    drawn = box.act(seen, generator=generator, noise=box.draw_noise(MANY, generator))
    told = box.step_distribution({"vector": seen["vector"][:1]})
    off = (drawn.action - told.mean) / told.log_std.exp()
    assert (off.mean(0).abs() < 4 / MANY**0.5).all()
    assert ((off.square().mean(0) - 1).abs() < 4 * (2 / MANY) ** 0.5).all()
    assert abs(float((off[:, 0] * off[:, 1]).mean())) < 4 / MANY**0.5
    torch.testing.assert_close(drawn.log_prob, told.log_prob(drawn.action), rtol=1e-4, atol=1e-4)
    assert float(told.log_std.std()) > 0, "each action has its own"


def test_under_one_noise_the_same_state_is_answered_the_same_and_others_smoothly(box):
    generator = torch.Generator().manual_seed(0)
    noise = box.draw_noise(1, generator)
    line = torch.linspace(0, 1, 50).unsqueeze(1) * torch.ones(3)

    def moved(seen, noise):
        inputs = {"vector": seen}
        return (box.act(inputs, generator=generator, noise=noise).action - box.step_distribution(inputs).mean).detach()

    there = [moved(x.unsqueeze(0), noise) for x in line]
    assert torch.equal(there[7], moved(line[7:8], noise))
    steps = torch.cat(there).diff(dim=0).abs().max()
    other = moved(line[7:8], box.draw_noise(1, generator))
    assert steps < 0.2 * (there[7] - other).abs().max()


def test_a_hybrid_action_keeps_its_choices():
    policy = policy_of(spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32))))
    generator = torch.Generator().manual_seed(0)
    seen = {"vector": torch.randn(500, 3)}
    action = policy.act(seen, generator=generator, noise=policy.draw_noise(500, generator)).action
    assert set(action[:, 0].tolist()) == {0.0, 1.0, 2.0}
    assert action[:, 1:].std(0).min() > 0.05


def test_the_log_stds_learn_from_the_log_prob_and_the_hidden_layer_only_through_the_mean(box):
    batch = Batch({"vector": torch.randn(30, 3)}, torch.randn(30, 2), *[torch.zeros(30)] * 4, torch.ones(30))
    box.zero_grad()
    distribution = box.look(batch.inputs)[0]
    distribution.log_std.sum().backward()
    assert box.log_std.grad.abs().min() > 0
    assert all(p.grad is None or not p.grad.any() for p in box.network.parameters())
    box.zero_grad()


@pytest.mark.parametrize("width", [4, 512])
def test_deviations_start_about_where_they_are_told_to_however_wide_the_layer_is(width):
    noise = Noise(NetworkSettings(noise="gsde", log_std=(-1.0, 0.5)), 2)
    hidden = torch.randn(20_000 // width, width, generator=torch.Generator().manual_seed(0))
    std = noise.log_std_of_state(hidden, noise.numbers(width)).exp().square().mean(0).sqrt()
    assert std.tolist() == pytest.approx(np.exp([-1.0, 0.5]), rel=0.05)
    silent = noise.log_std_of_state(torch.zeros(1, width), noise.numbers(width))
    assert torch.isfinite(silent).all()


@pytest.mark.parametrize(("every", "changes"), [(0, [8]), (3, [3, 6, 8, 11, 14])])
def test_the_noise_is_drawn_anew_after_its_steps_and_with_each_rollout(every, changes):
    # Every episode of this probe is one step from the same state, so one noise is one action.
    network = {"noise": "gsde", "noise_every": every}
    options = {"number": 4, "actions": "box"}
    with running(control_tasks.probe, options=options, network=network, length=8, count=2) as training:
        actions = torch.cat([training.collector.collect().action.clone() for _ in range(2)])
    jumps = (actions.diff(dim=0).abs() > 1e-6).all(1).squeeze(-1)
    assert [t + 1 for t in range(15) if jumps[t]] == changes
    assert not torch.equal(actions[0, 0], actions[0, 1]), "each environment has its own"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"noise": "gsde", "custom": "own_modules:Ours"}, "reads our last hidden layer"),
        ({"noise": "log", "noise_every": 4}, "is of noise = gsde"),
        ({"noise": "gsde", "actions": "beta"}, "is of Gaussian actions"),
    ],
)
def test_what_it_can_not_go_with_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        NetworkSettings(**settings)
