"""Which layers are whose, for gradients that are clipped apart."""

import control_tasks
import pytest
from control_runs import running

from proximo.errors import UserError


@pytest.mark.parametrize("network", [{}, {"shared": True}, {"memory": "gru"}], ids=["apart", "shared", "memory"])
def test_each_parameter_is_of_one_role_and_the_critics_do_not_move_the_actions(network):
    with running(control_tasks.probe, options={"number": 1, "actions": "box"}, network=network) as training:
        policy = training.policy
        roles = policy.parameters_by_role()
        assert sorted(map(id, [*roles["actor"], *roles["critic"]])) == sorted(map(id, policy.parameters()))
        inputs = dict(training.collector.inputs)
        memory = policy.initial_memory(8)
        outputs, _, _ = policy.network.step(policy._normalized(inputs), memory)
        outputs.sum().backward()
        moved = {id(p) for p in policy.parameters() if p.grad is not None and bool(p.grad.any())}
        assert not moved & {id(p) for p in roles["critic"]}
        assert {id(policy.network.value_head.bias)} <= {id(p) for p in roles["critic"]}


def test_a_run_clips_them_apart_by_hand_and_by_autograd():
    rows = []
    for closed_form in True, False:
        update = {"max_grad_norm": None, "max_actor_grad_norm": 1e-3, "max_critic_grad_norm": 0.1, "adaptive_kl": 0.01}
        task = {"options": {"number": 5, "actions": "box"}, "closed_form": closed_form}
        with running(control_tasks.probe, update=update, **task) as training:
            rows.append([training.iterate() for _ in range(3)])
    for name in ("actor_grad_norm", "critic_grad_norm", "grad_norm", "learning_rate"):
        by_hand, by_autograd = ([row[name] for row in each] for each in rows)
        assert by_hand == pytest.approx(by_autograd, rel=1e-3)
    assert rows[0][-1]["grad_clip_fraction"] > 0.5


def test_a_network_of_ones_own_is_refused_before_anything_is_trained():
    network = {"custom": "own_modules:Ours"}
    with (
        pytest.raises(UserError, match="does not say which layers are the critic's"),
        running(control_tasks.probe, network=network, update={"max_critic_grad_norm": 1.0}),
    ):
        pass
