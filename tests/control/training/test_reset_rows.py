"""Rows that only report a reset change nothing, whatever they hold."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import configured
from gymnasium.vector import AutoresetMode
from updates import update

from proximo.control.closed_form.gradient import ClosedForm, supports
from proximo.control.environments import make_environments
from proximo.control.training.training import Training
from proximo.core.batch import Action, Batch
from proximo.core.settings import UpdateSettings
from proximo.core.updates.optimizer import FlatAdam

SAME, NEXT = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP
STEPS, EPISODES = 12, 3


class Fixed:
    """Acts as the observation says and not as a generator does, so that two runs see the same episodes."""

    def __init__(self, policy):
        self.policy = policy

    def act(self, inputs, memory=None, *, generator=None, noise=None):
        own = self.policy.act(inputs, memory)
        vector = inputs["vector"]
        if self.policy.actions.continuous:
            action = torch.stack([vector.sum(-1), vector[..., 0] - vector[..., 2]], -1)
        else:
            action = (vector.sum(-1) * 1000).floor().remainder(3).unsqueeze(-1)
        batch = {name: x.unsqueeze(1) if memory is not None else x for name, x in inputs.items()}
        if memory is not None:
            batch |= {"memory": memory, "starts": torch.zeros(len(memory), 1, dtype=torch.bool)}
        asked = Batch(batch, action.unsqueeze(1) if memory is not None else action, *[action] * 5)
        log_prob = self.policy.evaluate(asked).log_prob.detach().reshape(len(action))
        return Action(action, log_prob, own.value, own.memory)

    def value(self, inputs, memory=None):
        return self.policy.value(inputs, memory)


def collected(mode, *, discrete=True, memory="none", spoil=None, rewards="scale"):
    """A training, one rollout of it, and the batch; `spoil` is what the reset rows are filled with."""
    rows = STEPS if mode is SAME else STEPS + EPISODES
    config = configured(
        count=2,
        length=rows,
        network={"memory": memory, "memory_size": 8},
        normalizers={"observations": True, "rewards": rewards},
        gamma=0.9,
        seed=4,
    )
    source = lambda: control_tasks.scripted_vector(mode, discrete)  # noqa: E731
    environments = make_environments(source, 2)
    training = Training(config, environments)
    actor = Fixed(training.policy)
    training.collector.actor = training.estimator.actor = actor
    training.start()
    training.restart()
    rollout = training.collector.collect()
    environments.close()
    if spoil is not None:
        assert (~rollout.valid).sum() == 2 * EPISODES
        rollout.reward[~rollout.valid] = spoil
        rollout.log_prob[torch.from_numpy(~rollout.valid)] = spoil
    return training, rollout, training.estimator.batch(rollout, torch.from_numpy(training._rewards(rollout)))


def by_environment(batch, x, recurrent, rows):
    """The valid samples of each environment, in time."""
    x, weight = (t if recurrent else t.unflatten(0, (rows, 2)).transpose(0, 1) for t in (x, batch.weight))
    return [sequence[real > 0] for sequence, real in zip(x, weight, strict=True)]


CASES = [(True, "none"), (False, "none"), (True, "gru"), (False, "lstm")]


@pytest.mark.parametrize(("discrete", "memory"), CASES)
@pytest.mark.parametrize("rewards", ["scale", "return"])
@pytest.mark.parametrize("spoil", [None, 1e9, np.nan])
def test_the_same_episodes_give_the_same_advantages_with_and_without_reset_rows(discrete, memory, rewards, spoil):
    _, _, same = collected(SAME, discrete=discrete, memory=memory, rewards=rewards)
    _, _, following = collected(NEXT, discrete=discrete, memory=memory, rewards=rewards, spoil=spoil)
    assert float(same.weight.sum()) == float(following.weight.sum()) == 2 * STEPS
    for name in ("advantages", "returns", "log_prob", "value"):
        a = by_environment(same, getattr(same, name), memory != "none", STEPS)
        b = by_environment(following, getattr(following, name), memory != "none", STEPS + EPISODES)
        for left, right in zip(a, b, strict=True):
            assert left.shape == (STEPS,)
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def moved(training, batch, closed_form):
    """The parameters in float64 after one update whose only minibatch is the whole batch."""
    policy = training.policy.double()
    double = {name: x.double() if x.is_floating_point() else x for name, x in batch.inputs.items()}
    batch = Batch(
        double,
        *[getattr(batch, f).double() for f in ("action", "log_prob", "value", "advantages", "returns", "weight")],
    )
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.01)
    log_prob = policy.evaluate(batch).log_prob.detach()
    batch = batch.replace(log_prob=torch.where(batch.weight > 0, log_prob, batch.log_prob))
    settings = UpdateSettings(epochs=3, minibatch_size=len(batch), value_clip=0.2, entropy_coefficient=0.01)
    before = optimizer.flat.detach().clone()
    update(policy, batch, optimizer, settings, closed_form=ClosedForm(policy) if closed_form else None)
    assert (optimizer.flat - before).abs().max() > 0.01
    return optimizer.flat.detach()


@pytest.mark.parametrize(
    ("discrete", "memory", "closed_form"), [*((*case, False) for case in CASES), *((*case, True) for case in CASES[:2])]
)
@pytest.mark.parametrize("spoil", [None, 1e9, np.nan])
def test_the_same_episodes_give_the_same_weights_with_and_without_reset_rows(discrete, memory, spoil, closed_form):
    one, rollout, same = collected(SAME, discrete=discrete, memory=memory)
    two, _, following = collected(NEXT, discrete=discrete, memory=memory, spoil=spoil)
    assert rollout.finals, "some episodes are truncated"
    assert not closed_form or supports(one.policy)
    # Advantages agree to float32; what the update makes of them is compared in float64.
    for name in ("advantages", "returns", "value"):
        there = by_environment(same, getattr(same, name), memory != "none", STEPS)
        x = getattr(following, name).clone()
        here = x if memory != "none" else x.unflatten(0, (STEPS + EPISODES, 2)).transpose(0, 1)
        weight = following.weight if memory != "none" else following.weight.unflatten(0, (-1, 2)).transpose(0, 1)
        for row in range(2):
            here[row][weight[row] > 0] = there[row]
        x = here if memory != "none" else here.transpose(0, 1).flatten(0, 1)
        following = following.replace(**{name: x})
    torch.testing.assert_close(moved(one, same, closed_form), moved(two, following, closed_form), rtol=0, atol=1e-9)


@pytest.mark.parametrize("spoil", [None, 1e9, np.nan])
def test_the_statistics_do_not_see_reset_rows(spoil):
    found = []
    for mode in (SAME, NEXT):
        training, rollout, batch = collected(mode, spoil=spoil if mode is NEXT else None)
        training.scaler.restart()
        training._absorb(rollout, batch)
        training.policy.values.absorb(batch.returns, batch.weight, training.policy.network.value_head)
        moments = training.policy.normalizer.moments, training.scaler.moments, training.policy.values.moments
        found.append(torch.cat([m.variance.reshape(-1) for m in moments] + [m.mean.reshape(-1) for m in moments]))
        assert training.policy.values.moments.count == 2 * STEPS
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_reset_rows_are_not_counted_as_steps():
    training, rollout, _ = collected(NEXT)
    assert rollout.steps == 2 * STEPS
    assert len(rollout.episodes) == 2 * EPISODES
    assert sorted(episode.length for episode in rollout.episodes) == [3, 3, 4, 4, 5, 5]
    assert training.progress.steps == 2 * STEPS  # of the rollout that started the normalisers
