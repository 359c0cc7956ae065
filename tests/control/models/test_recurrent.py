"""A recurrent policy over whole sequences is the policy stepped, and an episode knows nothing of the one before."""

import control_tasks
import pytest
import torch
from control_runs import running
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.control.models.recurrent import Memory

KINDS = pytest.mark.parametrize("kind", ["gru", "lstm"])


def memory_of(kind, seed=0):
    torch.manual_seed(seed)
    memory = Memory(kind, 3, 4).double()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return memory


def stepped(memory, features, state, starts):
    outputs = []
    for t in range(features.shape[1]):
        state = torch.where(starts[:, t, None], 0.0, state)
        output, state = memory.step(features[:, t], state)
        outputs.append(output)
    return torch.stack(outputs, 1)


@KINDS
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_whole_sequences_are_single_steps(kind, data):
    rows, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 7))
    flags = data.draw(st.lists(st.booleans(), min_size=rows * length, max_size=rows * length))
    starts = torch.tensor(flags).reshape(rows, length)
    memory = memory_of(kind)
    features = torch.randn(rows, length, 3, dtype=torch.float64)
    state = torch.randn(rows, memory.state_size, dtype=torch.float64)
    whole = memory(features, state, starts)
    single = stepped(memory, features, state, starts)
    torch.testing.assert_close(whole, single, rtol=1e-12, atol=1e-12)
    # ... and so are the gradients.
    weight = torch.randn_like(whole)
    gradients = [torch.autograd.grad((x * weight).sum(), list(memory.parameters())) for x in (whole, single)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@KINDS
def test_nothing_passes_over_the_start_of_an_episode(kind):
    memory = memory_of(kind)
    features = torch.randn(2, 6, 3, dtype=torch.float64)
    state = torch.randn(2, memory.state_size, dtype=torch.float64)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[0, 3] = starts[1, 0] = True
    before = memory(features, state, starts)
    changed = features.clone()
    changed[0, :3] += 5.0
    after = memory(changed, state + 1.0, starts)
    assert torch.equal(before[0, 3:], after[0, 3:])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0, :3], after[0, :3])
    # Without the start, the past is felt.
    assert not torch.allclose(memory(features, state, ~starts & starts), memory(changed, state, ~starts & starts))


@KINDS
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_values_of_a_rollout_are_those_of_each_episode_from_its_first_step(kind, mode):
    """Every episode is run again from an empty memory, the state at its time limit included."""
    network = {"memory": kind, "memory_size": 8}
    options = {"mode": mode}
    with running(control_tasks.scripted_vector, count=2, length=14, network=network, options=options) as training:
        training.iterate()
        training.restart()
        rollout = training.collector.collect()
        policy = training.policy
        followed = {}
        training.estimator.batch(rollout, torch.from_numpy(rollout.reward))
        for final in rollout.finals:
            values = training.policy.value(final.inputs, final.memory)
            followed |= {
                (final.step, int(row)): (final.inputs["vector"][i], values[i]) for i, row in enumerate(final.rows)
            }
        checked = 0
        for row in range(2):
            memory = policy.initial_memory(1)
            for t in range(14):
                if rollout.starts[t, row]:
                    memory = policy.initial_memory(1)
                action = policy.act({"vector": rollout.inputs["vector"][t, row : row + 1]}, memory)
                memory = action.memory
                torch.testing.assert_close(action.value[0], rollout.value[t, row], rtol=1e-5, atol=1e-6)
                if (t, row) in followed:
                    observation, value = followed[t, row]
                    again = policy.value({"vector": observation[None]}, memory)
                    torch.testing.assert_close(again[0], value, rtol=1e-5, atol=1e-6)
                    fresh = policy.value({"vector": observation[None]}, policy.initial_memory(1))
                    assert not torch.allclose(fresh, again, atol=1e-4), "the memory matters here"
                    checked += 1
    assert checked == (2 if mode is AutoresetMode.SAME_STEP else 0)
    assert rollout.starts.sum() > 2
