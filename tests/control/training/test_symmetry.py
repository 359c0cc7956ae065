"""A declared symmetry: learnt from as mirror images and as a price, in memory too, and measured."""

import control_tasks
import mirrored_tasks
import numpy as np
import pytest
import torch
from control_runs import configured, replayed, running, trained, weights
from mirrored_tasks import TABLES, TwoSided, long

import proximo
from proximo.control.config import SymmetrySettings
from proximo.control.verify import verify_control
from proximo.core.schedules import AdaptiveLearningRate
from proximo.errors import UserError

AUGMENTED = SymmetrySettings(**TABLES, augmentation=True)
PRICED = SymmetrySettings(**TABLES, mirror_loss=0.5)
BOTH = SymmetrySettings(**TABLES, augmentation=True, mirror_loss=0.5)
DECLARED = SymmetrySettings(**TABLES)
GRU = {"network": {"memory": "gru", "memory_size": 8, "hidden": ()}}
NORMALISED = {"normalizers": {"observations": True, "rewards": "scale"}}
WHOLE = {"minibatch_size": None, "epochs": 1, "normalize_advantages": "off"}
SIGNS = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float32)


def mirrored(x, dim=-1):
    """Of `[..., 3]` along one axis."""
    shape = [3 if i == dim % x.dim() else 1 for i in range(x.dim())]
    return x.index_select(dim, torch.tensor([0, 2, 1])) * SIGNS.reshape(shape)


def gradients(training):
    """By name, of a rollout that is taken now: as the update has it, and without what a symmetry adds."""
    training.prepare()
    rollout = training.collect()
    task = training.task(rollout, training.estimate(rollout), 0.0)
    algorithm, found = training.algorithm, []
    for each in (task, task.__class__(**{**vars(task), "image": None, "term": None})):
        training.optimizer.zero_grad()
        algorithm.gradient(each)(task.batch)
        found.append({name: p.grad.clone() for name, p in training.policy.named_parameters()})
    return found


@torch.no_grad()
def make_symmetric(policy):
    """A policy without hidden layers whose heads are symmetric; all of it, where it has no memory."""
    for name, p in policy.named_parameters():
        if name.startswith("network.actor_head") and p.shape[-1] == 3:
            p.normal_(generator=torch.Generator().manual_seed(1))
            p.copy_((p + (mirrored(mirrored(p, 0), 1) if p.dim() == 2 else mirrored(p))) / 2)


@pytest.mark.parametrize("closed_form", [True, False], ids=["by hand", "autograd"])
def test_from_a_symmetric_start_the_gradient_with_images_is_the_symmetrised_one(closed_form):
    # The mean action is W s + b. A mirror M acts on W as M W M, and where W is fixed by it so is what is learnt.
    settings = {"network": {"hidden": ()}, "update": WHOLE, "symmetry": AUGMENTED}
    with running(TwoSided, closed_form=closed_form, **settings) as training:
        assert (training.closed_form is not None) == closed_form
        make_symmetric(training.policy)
        found, plain = gradients(training)
    name = "network.actor_head"
    weight, bias = plain[f"{name}.weight"], plain[f"{name}.bias"]
    assert torch.allclose(found[f"{name}.weight"], (weight + mirrored(mirrored(weight, 0), 1)) / 2, atol=1e-6)
    assert torch.allclose(found[f"{name}.bias"], (bias + mirrored(bias)) / 2, atol=1e-6)
    assert (found[f"{name}.weight"] - weight).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [AUGMENTED, PRICED, BOTH], ids=["images", "price", "both"])
def test_what_a_symmetry_adds_is_the_same_beside_a_gradient_by_hand_as_by_autograd(settings):
    plan = {"update": WHOLE, "symmetry": settings, **NORMALISED}
    with running(TwoSided, closed_form=True, **plan) as by_hand, running(TwoSided, closed_form=False, **plan) as auto:
        assert by_hand.closed_form is not None
        assert auto.closed_form is None
        one, other = gradients(by_hand), gradients(auto)
        assert all(torch.allclose(one[0][name], x, atol=1e-6) for name, x in other[0].items())
        assert any(not torch.allclose(one[0][name], x, atol=1e-4) for name, x in one[1].items())


@pytest.mark.parametrize("closed_form", [True, False], ids=["by hand", "autograd"])
def test_the_adaptive_rate_reads_the_divergence_of_the_samples_alone(closed_form, monkeypatch):
    # The policy is far from symmetric, so what it would do in an image is far from what it would do in its sample.
    read, following = [], AdaptiveLearningRate.next
    with running(
        TwoSided,
        closed_form=closed_form,
        symmetry=AUGMENTED,
        update={"minibatch_size": None, "epochs": 4, "adaptive_kl": 0.01},
    ) as training:
        policy = training.policy
        with torch.no_grad():
            policy.network.actor_head.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))

        @torch.no_grad()
        def normal():
            seen = policy.step_distribution({"vector": rollout.inputs["vector"].reshape(-1, 3)})
            return torch.distributions.Normal(seen.mean.clone(), seen.log_std.exp().clone())

        def following_read(rule, rate, kl):
            read.append((kl, float(torch.distributions.kl_divergence(before, normal()).sum(-1).mean())))
            return following(rule, rate, kl)

        monkeypatch.setattr(AdaptiveLearningRate, "next", following_read)
        training.prepare()
        batch = training.estimate(rollout := training.collect())
        before = normal()
        training.algorithm.update(training.task(rollout, batch, 0.0))
    assert len(read) == 3
    for told, exact in read:
        assert told == pytest.approx(exact, rel=1e-3)
        assert exact > 1e-3


def test_the_penalty_that_is_recorded_is_of_the_samples_alone(tmp_path):
    call = {"environments": 8, "rollout_length": 16, "learning_rate": 0.01, "episodes": 1, "progress": "quiet"}
    update = {"minibatch_size": 32, "epochs": 4}
    symmetry = {**TABLES, "augmentation": True}
    run = proximo.train(TwoSided, "ppo-penalty", steps=384, run=tmp_path, symmetry=symmetry, update=update, **call)
    for row in proximo.metrics(run.path):
        assert row["kl_penalty"] == pytest.approx(row["kl_coefficient"] * row["approx_kl"], rel=1e-4)
        assert row["approx_kl"] > 1e-4


def test_the_mirror_loss_pulls_at_the_policy_as_its_definition_says():
    # Of W s + b: the mean over s of |W M s + b - M (W s + b)|^2, whose gradient autograd takes from W and b alone.
    settings = {"network": {"hidden": ()}, "update": WHOLE, "symmetry": PRICED}
    with running(TwoSided, **settings) as training:
        with torch.no_grad():
            training.policy.network.actor_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        rollout = training.collect()
        seen = rollout.inputs["vector"].reshape(-1, 3).clone()
        batch = training.estimate(rollout)
        found = {}
        for term in (True, False):
            training.optimizer.zero_grad()
            task = training.task(rollout, batch, 0.0)
            training.algorithm.gradient(task if term else task.__class__(**{**vars(task), "term": None}))(batch)
            found[term] = training.policy.network.actor_head.weight.grad.clone()
        head = training.policy.network.actor_head
        w, b = (x.detach().clone().requires_grad_() for x in (head.weight, head.bias))
        gap = mirrored(seen) @ w.T + b - mirrored(seen @ w.T + b)
        (0.5 * gap.square().sum(-1).mean()).backward()
    assert torch.allclose(found[True] - found[False], w.grad, atol=1e-6)
    assert w.grad.abs().max() > 1e-2


@torch.no_grad()
def make_odd(policy):
    """A GRU that gives -h for -x: gates that look at nothing, no bias in the candidate, and a head without one."""
    layer, size = policy.network.memory.layer, 8
    for kind in ("weight_ih_l0", "weight_hh_l0"):
        getattr(layer, kind)[: 2 * size] = 0.0
    policy.network.actor_head.weight.normal_(generator=torch.Generator().manual_seed(1))


ODD = {"observations": {"vector": "-0 -1 -2"}, "actions": "-0 -1 -2"}


def test_the_memory_of_the_image_is_that_of_a_mirrored_past():
    settings = {"symmetry": SymmetrySettings(**ODD), "length": 8, **GRU}
    with running(long, **settings) as training:
        make_odd(training.policy)
        training.restart()
        for _ in range(3):
            batch = training.estimate(rollout := training.collect())
            training.finish(rollout, batch, {})
            assert training.mirroring.error(batch) < 1e-6
        assert training.collector.memory.abs().max() > 0.1
        assert torch.allclose(training.mirroring.memory, -training.collector.memory, atol=1e-6)


def test_with_memory_too_the_gradient_is_the_symmetrised_one():
    # What is odd under (x, h) -> (-x, -h) cancels: weights of the gates, biases of candidate and head. The rest stays.
    update = {**WHOLE, "value_coefficient": 0.0}
    settings = {"symmetry": SymmetrySettings(**ODD, augmentation=True), "length": 8, **GRU}
    with running(long, update=update, **settings) as training:
        make_odd(training.policy)
        training.restart()
        training.finish(rollout := training.collect(), training.estimate(rollout), {})
        found, plain = gradients(training)
    layer, gates = "network.memory.layer.", slice(0, 16)
    for name, x in plain.items():
        if "value_head" in name:
            continue
        expected = x.clone()
        if name == "network.actor_head.bias":
            expected.zero_()
        elif name.startswith(f"{layer}weight"):
            expected[gates] = 0.0
        elif name.startswith(f"{layer}bias"):
            expected[16:] = 0.0
        assert torch.allclose(found[name], expected, atol=1e-6), name
    assert plain[f"{layer}weight_ih_l0"][gates].abs().max() > 1e-6


def test_only_samples_speak_of_the_ratio():
    with running(TwoSided, symmetry=AUGMENTED, closed_form=False) as training:
        with torch.no_grad():  # far from symmetric, so that the images' log-probs are others
            training.policy.network.actor_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        values = training.iterate()
    assert values["ratio_deviation"] < 1e-5
    assert values["equivariance_error"] > 0.1


def error(symmetry, seed):
    """Of a policy that has learnt a while, at states most of which lie right of 0."""
    plan = {"steps": 40 * 128, "learning_rate": "0.01 -> 0", "update": {"epochs": 4}}
    with running(TwoSided, seed=seed, symmetry=symmetry, **plan) as training:
        return [training.iterate()["equivariance_error"] for _ in range(40)][-1]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_policy_that_learns_from_images_is_far_more_symmetric(seed):
    # Left of 0 is seen in one step of twenty: a policy that learns from images knows it as well as right of 0.
    without = error(DECLARED, seed)
    assert error(AUGMENTED, seed) < 0.5 * without
    assert seed or error(PRICED, seed) < 0.5 * without


def test_what_is_normalised_is_symmetric_where_images_are_learnt_from():
    for symmetry in (AUGMENTED, DECLARED):
        training = trained(TwoSided, 3, symmetry=symmetry, **NORMALISED)
        mean, scale = training.policy.normalizer.moments.mean, training.policy.normalizer.moments.scale()
        symmetric = (
            abs(float(mean[0])) < 1e-6 and torch.allclose(mean[1], mean[2]) and torch.allclose(scale[1], scale[2])
        )
        assert symmetric == (symmetry is AUGMENTED)


def test_a_symmetry_that_is_only_declared_changes_nothing_but_what_is_measured():
    plain, declared = (trained(TwoSided, 3, **s, **NORMALISED) for s in ({}, {"symmetry": DECLARED}))
    assert torch.equal(weights(plain), weights(declared))


def test_a_function_says_the_same_as_tables():
    function = SymmetrySettings(function=f"{mirrored_tasks.__name__}:mirror", augmentation=True, mirror_loss=0.5)
    by_table, by_function = (trained(TwoSided, 3, symmetry=s, **NORMALISED) for s in (BOTH, function))
    assert torch.equal(weights(by_table), weights(by_function))


@pytest.mark.parametrize("memory", [{}, GRU], ids=["plain", "gru"])
def test_a_run_with_a_symmetry_resumes_exactly(memory):
    config = configured(count=2, environment="a test's", symmetry=BOTH, **NORMALISED, **memory)
    assert verify_control(config, 2, long).exact


@pytest.mark.parametrize("memory", [{}, GRU], ids=["plain", "gru"])
def test_an_update_with_images_is_repeated_to_the_last_bit(memory, tmp_path):
    with running(long, symmetry=BOTH, length=8, **NORMALISED, **memory) as training:
        for _ in range(2):
            training.iterate()
        training.ring.write(tmp_path)
    for found in replayed(tmp_path):
        assert found.exact, found.verdict


def test_a_critic_with_a_view_of_its_own_sees_the_mirror_image_too():
    tables = SymmetrySettings({"state": "-0", "privileged_state": "1 0"}, "-0", augmentation=True)
    views = {"actor": ("state",), "critic": ("privileged_state",)}
    with running(control_tasks.burdened, observations=views, symmetry=tables) as training:
        batch = training.estimate(training.collect())
        image = training.mirroring.image(batch)
        assert torch.equal(image.inputs["vector"], -batch.inputs["vector"])
        assert torch.equal(image.inputs["critic.vector"], batch.inputs["critic.vector"].flip(-1))
        assert torch.equal(image.action, -batch.action)
        assert np.isfinite(training.iterate()["equivariance_error"])


def test_choices_change_places_in_a_run(tmp_path):
    call = {"steps": 64, "environments": 2, "rollout_length": 16, "episodes": 1, "progress": "quiet"}
    cart = {"observations": {"vector": "-0 -1 -2 -3"}, "actions": "1 0", "augmentation": True}
    call |= {"backend": "gymnasium", "update": {"minibatch_size": 32}}
    run = proximo.train("CartPole-v1", symmetry=cart, run=tmp_path / "cart", **call)
    assert all(0 <= row["equivariance_error"] < 0.2 for row in proximo.metrics(run.path))


@pytest.mark.parametrize(
    ("symmetry", "why"),
    [
        ({**TABLES, "actions": ""}, "belong together"),
        ({**TABLES, "function": "a:b"}, "takes the place"),
        ({"augmentation": True}, "need symmetry.observations"),
        ({**TABLES, "mirror_loss": -1.0}, "at least 0"),
        ({**TABLES, "actions": "1 2 0"}, "symmetry.actions is no reflection: entry 0 is 1 and entry 1 is 2"),
        ({**TABLES, "observations": {"vector": "-0 2 -1"}}, "vector is no reflection: entry 1 is 2 and entry 2 is -1"),
        ({**TABLES, "observations": {"state": "same"}}, "names 'state', and there are vector"),
        ({"function": "mirrored_tasks:rotate"}, "is no reflection: entry 0 of vector"),
        ({"function": "mirrored_tasks:long"}, "failed"),
    ],
)
def test_a_symmetry_that_is_none_is_refused(symmetry, why, tmp_path):
    with pytest.raises(UserError, match=why):
        proximo.train(TwoSided, steps=64, progress="quiet", run=tmp_path / "run", symmetry=symmetry)
    assert not (tmp_path / "run").exists()


def test_an_algorithm_that_learns_from_no_images_says_so(tmp_path):
    with pytest.raises(UserError, match="TRPO learns from no mirror images"):
        proximo.train(
            TwoSided, "trpo", steps=64, progress="quiet", run=tmp_path, symmetry={**TABLES, "augmentation": True}
        )


@pytest.mark.parametrize("declared", [TABLES, {"function": mirrored_tasks.mirror}], ids=["tables", "function"])
def test_beta_actions_have_no_mirror_image_and_say_so(declared, tmp_path):
    call = {"steps": 64, "progress": "quiet", "run": tmp_path / "run", "network": {"actions": "beta"}}
    with pytest.raises(UserError, match=r"network\.actions = beta has two other numbers for each"):
        proximo.train(TwoSided, symmetry=declared, **call)
    assert not (tmp_path / "run").exists()


def test_parts_of_a_minibatch_add_up_to_the_same_gradient():
    found = []
    for parts in (1, 3):
        plan = {"update": {**WHOLE, "micro_batches": parts}, "symmetry": BOTH, "closed_form": False}
        with running(TwoSided, **plan) as training:
            found.append(gradients(training)[0])
    assert all(torch.allclose(found[0][name], x, atol=1e-6) for name, x in found[1].items())
