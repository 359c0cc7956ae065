"""Running statistics against direct computations, and that nothing of them is lost."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import encoded, running
from gymnasium import spaces

import proximo
from proximo.control.config import NetworkSettings
from proximo.control.loading import LoadedPolicy
from proximo.control.models.normalizers import ObservationNormalizer, RewardScaler, ValueNormalizer
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return():
    rng = np.random.default_rng(0)
    steps, count, gamma = 40, 3, 0.9
    rewards = rng.normal(2.0, 3.0, (steps, count))
    done = rng.random((steps, count)) < 0.2
    valid = np.ones((steps, count), bool)
    valid[1:] = ~done[:-1]  # a row after each end only reports the reset
    done &= valid
    sums = []
    for row in range(count):
        total = 0.0
        for t in range(steps):
            if valid[t, row]:
                total = gamma * total + rewards[t, row]
                sums.append(total)
            if done[t, row]:
                total = 0.0
    whole, parts = (RewardScaler(count, gamma, 10.0) for _ in range(2))
    whole.absorb(rewards, done, valid)
    for part in (slice(0, 7), slice(7, 8), slice(8, None)):
        parts.absorb(rewards[part], done[part], valid[part])
    deviation = np.std(sums)
    for scaler in (whole, parts):
        assert scaler.scaled(rewards) == pytest.approx((rewards / deviation).clip(-10, 10), rel=1e-6)
    assert whole.scaled(np.array([1e9, -1e9])).tolist() == [10.0, -10.0]
    assert RewardScaler(count, gamma, 10.0).scaled(rewards) == pytest.approx(rewards.clip(-10, 10), rel=1e-6)
    parts.restart()
    parts.absorb(np.full((1, count), 5.0), np.zeros((1, count), bool), np.ones((1, count), bool))
    assert parts.accumulated.tolist() == [5.0] * count


def test_observations_are_whitened_and_clipped():
    normalizer = ObservationNormalizer(2, 3.0)
    x = torch.randn(1000, 2, dtype=torch.float64) * torch.tensor([5.0, 0.1]) + torch.tensor([-3.0, 7.0])
    assert torch.equal(normalizer(torch.tensor([[0.5, -0.5]])), torch.tensor([[0.5, -0.5]]))
    normalizer.moments.absorb(x)
    whitened = ((x - x.mean(0)) / x.std(0, correction=0)).clamp(-3, 3)
    torch.testing.assert_close(normalizer(x), whitened, rtol=1e-5, atol=1e-5)
    assert normalizer(torch.tensor([[1e9, -1e9]])).tolist() == [[3.0, -3.0]]


def test_a_critic_in_other_units_predicts_what_it_predicted():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 1).double()
    units, features = ValueNormalizer(), torch.randn(50, 4, dtype=torch.float64)
    predicted = units.from_units(head(features)).detach()
    for shift in (100.0, -3.0, 1e4):
        returns = torch.randn(200, dtype=torch.float64) * abs(shift) + shift
        weight = (torch.rand(200) < 0.7).double()
        units.absorb(returns, weight, head)
        torch.testing.assert_close(units.from_units(head(features)).detach(), predicted, rtol=1e-9, atol=1e-9)
    # ... and its units are those in which the returns it has seen have mean 0 and deviation 1.
    units = ValueNormalizer()
    units.absorb(returns, torch.ones(200), head)
    assert units.to_units(returns).mean().item() == pytest.approx(0.0, abs=1e-9)
    assert units.to_units(returns).std(correction=0).item() == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(units.from_units(units.to_units(returns)), returns)
    assert torch.equal(ValueNormalizer().to_units(returns), returns)


def test_values_stay_where_they_were_when_the_statistics_move_in_training():
    with running(control_tasks.steady_vector, normalizers={"rewards": "return"}, gamma=0.9) as training:
        inputs = {"vector": torch.linspace(-1, 1, 9).unsqueeze(1)}
        policy = training.policy
        absorb = training._absorb
        seen = []

        def watched(rollout, batch):
            before = policy.values.from_units(policy.value(inputs))
            absorb(rollout, batch)
            seen.append((before, policy.values.from_units(policy.value(inputs)), float(policy.values.moments.mean)))

        training._absorb = watched
        for _ in range(3):
            training.iterate()
    assert len({mean for _, _, mean in seen}) == 3
    for before, after, _ in seen:
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)


def test_the_statistics_of_a_rollout_are_those_of_its_observations():
    with running("CartPole-v1", backend="envpool", normalizers={"observations": True}) as training:
        rows = []
        rollouts = [training.collector.collect]

        def collect():
            rollout = rollouts[0]()
            rows.append(rollout.inputs["vector"].clone()[torch.from_numpy(rollout.valid)])
            return rollout

        training.collector.collect = collect
        moments = training.policy.normalizer.moments
        moments.count.zero_(), moments.mean.zero_(), moments.squares.zero_()
        training.closed_form.freeze()
        for _ in range(3):
            training.iterate()
    x = torch.cat(rows).double()
    assert moments.count == len(x) < 3 * training.config.rollout_size
    torch.testing.assert_close(moments.mean, x.mean(0))
    torch.testing.assert_close(moments.variance, x.var(0, correction=0))


@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_a_loaded_policy_acts_as_the_one_that_was_trained(tmp_path, memory):
    run = proximo.train(
        "Pendulum-v1",
        run=str(tmp_path / "run"),
        progress="quiet",
        steps=512,
        environments=4,
        rollout_length=32,
        episodes=1,
        update={"epochs": 2, "minibatch_size": 64, "recompute_advantages": False},
        network={"hidden": [16], "memory": memory, "memory_size": 8},
        normalizers={"observations": True, "rewards": "return"},
    )
    loaded = proximo.load(run.path)
    policy = loaded.policy
    assert policy.normalizer.moments.count > 0
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * 3
    expected = policy.act(encoded(policy, observations), policy.initial_memory(5), deterministic=True)
    action = loaded.act(observations)
    assert np.array_equal(action, policy.actions.to_environment(expected.action.numpy()))
    assert action.shape == (5, 1)
    assert spaces.Box(-2, 2, (1,), np.float32).contains(action[0])
    # The normaliser has a part in it.
    moments = {k: x.clone() for k, x in policy.normalizer.state_dict().items()}
    policy.normalizer.moments.absorb(100.0 + torch.randn(10_000, 3))
    loaded.reset()
    assert not np.array_equal(loaded.act(observations), action)
    policy.normalizer.load_state_dict(moments)
    # One observation is a batch of one, without the axis.
    loaded.reset()
    single = loaded.act(observations[0])
    assert single.shape == (1,)
    loaded.reset()
    assert np.allclose(single, action[0], atol=1e-6)
    repeated = [loaded.act(observations[0]) for _ in range(2)]
    if memory == "none":
        assert np.array_equal(*repeated)
    else:
        assert not np.array_equal(*repeated), "a memory moves"
        loaded.reset()
        assert np.array_equal(loaded.act(observations[0]), repeated[0])
    assert loaded.value(observations).shape == (5,)
    for wrong in (observations[:, :2], observations[None, None], np.float32(1.0)):
        with pytest.raises(UserError, match=r"\(3,\)"):
            loaded.act(wrong)


def test_a_loaded_policy_samples_from_its_own_seed():
    observations = ObservationSpec.of(spaces.Box(-1, 1, (2,), np.float32))
    policy = ControlPolicy(observations, ActionSpec.of(spaces.Discrete(5)), NetworkSettings(hidden=(4,)))
    loaded = LoadedPolicy(policy)
    x = np.zeros((20, 2), np.float32)
    draws = []
    for seed in (1, 1, 2):
        loaded.seed(seed)
        draws.append(loaded.act(x, deterministic=False).tolist())
    assert draws[0] == draws[1] != draws[2]
    assert len(set(loaded.act(x).tolist())) == 1
