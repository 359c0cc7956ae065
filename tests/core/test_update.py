import copy
import math

import pytest
import torch
from batches import joined
from torch import nn
from updates import ppo_gradient, update

from proximo.algorithms.ppo import algorithm_of
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Gaussian
from proximo.core.invariants import InvariantError
from proximo.core.settings import UpdateSettings
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask, minibatches, objective_at

F64 = torch.float64
NAMES = ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "ratio_deviation")


class SmallPolicy(nn.Module):
    """Three choices and a value from an observation of four numbers; log-probs and entropy are torch's own."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(4, 8, dtype=F64)
        self.actor = nn.Linear(8, 3, dtype=F64)
        self.critic = nn.Linear(8, 1, dtype=F64)

    def evaluate(self, batch):
        x = torch.tanh(self.trunk(batch.inputs["observation"]))
        choice = torch.distributions.Categorical(logits=self.actor(x))
        return Evaluation(choice.log_prob(batch.action), choice.entropy(), self.critic(x)[..., 0])


def rollout(policy, *shape, seed=0):
    """A batch that this policy could have taken."""
    g = torch.Generator().manual_seed(seed)
    inputs = {"observation": torch.randn(*shape, 4, generator=g, dtype=F64)}
    zeros = torch.zeros(*shape, dtype=F64)
    action = torch.randint(3, shape, generator=g)
    batch = Batch(inputs, action, zeros, zeros, zeros, zeros, zeros + 1)
    with torch.no_grad():
        evaluation = policy.evaluate(batch)
    advantages = torch.randn(*shape, generator=g, dtype=F64)
    return batch.replace(
        log_prob=evaluation.log_prob,
        value=evaluation.value,
        advantages=advantages,
        returns=evaluation.value + advantages,
    )


def run(settings, batch=None, seed=0, learning_rate=1e-2, **options):
    """Flat parameters, report and optimizer after one update of a fresh policy."""
    policy = SmallPolicy()
    optimizer = FlatAdam(policy.parameters(), learning_rate)
    batch = rollout(policy, 32) if batch is None else batch
    generator = torch.Generator().manual_seed(seed)
    report = update(policy, batch, optimizer, settings, generator=generator, **options)
    return optimizer.flat.detach().clone(), report, optimizer


class Spy:
    """A gradient that notes what it is shown, then does what it is told (nothing, by default)."""

    def __init__(self, inner=None, approx_kl=()):
        self.seen, self.inner, self.approx_kl = [], inner, list(approx_kl)

    def __call__(self, minibatch):
        self.seen.append(minibatch)
        zero = torch.zeros((), dtype=F64)
        statistics = self.inner(minibatch) if self.inner else dict.fromkeys(NAMES, zero)
        if self.approx_kl:
            statistics = {**statistics, "approx_kl": torch.tensor(self.approx_kl.pop(0))}
        return statistics


def one_step(**changes):
    """One epoch over one minibatch of 32, as it is."""
    plain = {"epochs": 1, "minibatch_size": 32, "normalize_advantages": "off", "max_grad_norm": None}
    return UpdateSettings(**{**plain, **changes})


# What it computes


@pytest.mark.parametrize(
    ("value_coefficient", "entropy_coefficient"),
    [(0.0, 0.0), (0.5, 0.0), (0.7, 0.03)],
    ids=["vanilla", "critic", "A2C"],
)
def test_one_epoch_one_minibatch_no_clip_is_vanilla_policy_gradient_and_a2c(value_coefficient, entropy_coefficient):
    policy = SmallPolicy()
    batch = rollout(policy, 32)
    observation = batch.inputs["observation"]
    x = torch.tanh(observation @ policy.trunk.weight.T + policy.trunk.bias)
    log_probs = torch.log_softmax(x @ policy.actor.weight.T + policy.actor.bias, -1)
    value = (x @ policy.critic.weight.T + policy.critic.bias)[:, 0]
    log_prob = log_probs[torch.arange(32), batch.action]
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    loss = (
        -(log_prob * batch.advantages).mean()
        + value_coefficient * 0.5 * ((value - batch.returns) ** 2).mean()
        - entropy_coefficient * entropy.mean()
    )
    expected = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    parameters = [p.detach().clone().requires_grad_() for p in policy.parameters()]
    for parameter, gradient in zip(parameters, expected, strict=True):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    torch.optim.Adam(parameters, lr=1e-2, eps=1e-5).step()

    coefficients = {"value_coefficient": value_coefficient, "entropy_coefficient": entropy_coefficient}
    flat, report, optimizer = run(one_step(clip=None, **coefficients), batch)
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    torch.testing.assert_close(optimizer.gradient, gradient, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(flat, torch.cat([p.detach().flatten() for p in parameters]), rtol=1e-11, atol=1e-13)
    assert report.steps == 1
    assert report.values["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)
    assert report.values["entropy"] == pytest.approx(entropy.mean().item(), rel=1e-6)


def test_three_epochs_are_three_steps_of_torchs_adam_on_the_importance_weighted_objective():
    module = SmallPolicy()
    batch = rollout(module, 32)
    adam = torch.optim.Adam(module.parameters(), lr=1e-2, eps=1e-5)
    for _ in range(3):
        adam.zero_grad()
        evaluation = module.evaluate(batch)
        gain = (torch.exp(evaluation.log_prob - batch.log_prob) * batch.advantages).mean()
        (0.5 * torch.nn.functional.mse_loss(evaluation.value, batch.returns) / 2 - gain).backward()
        assert nn.utils.clip_grad_norm_(module.parameters(), 0.05) > 0.05
        adam.step()
    flat, report, _ = run(one_step(epochs=3, clip=None, max_grad_norm=0.05), batch)
    expected = torch.cat([p.detach().flatten() for p in module.parameters()])
    torch.testing.assert_close(flat, expected, rtol=1e-11, atol=1e-12)
    assert report.values["grad_clip_fraction"] == 1.0


def test_the_first_step_is_the_same_with_and_without_a_clip():
    plain, clipped = run(one_step(clip=None))[0], run(one_step(clip=0.2))[0]
    torch.testing.assert_close(plain, clipped, rtol=1e-12, atol=1e-14)


def test_good_choices_become_likelier():
    policy = SmallPolicy()
    batch = rollout(policy, 32)
    batch = batch.replace(advantages=torch.where(batch.action == 1, 1.0, -1.0).to(F64))
    optimizer = FlatAdam(policy.parameters(), 1e-2)
    update(policy, batch, optimizer, UpdateSettings(epochs=5, minibatch_size=8))
    moved = policy.evaluate(batch).log_prob - batch.log_prob
    assert moved[batch.action == 1].mean() > 0.05
    assert moved[batch.action != 1].mean() < -0.01


@pytest.mark.parametrize("normalize", ["batch", "minibatch", "off"])
@pytest.mark.parametrize("parts", [2, 3, 8, 16])
def test_micro_batches_change_nothing(parts, normalize):
    policy = SmallPolicy()
    batch = rollout(policy, 32)
    batch = batch.replace(weight=torch.rand(32, generator=torch.Generator().manual_seed(3), dtype=F64))
    batch.weight[::5] = 0
    options = {
        "epochs": 3,
        "minibatch_size": 16,
        "entropy_coefficient": 0.01,
        "value_clip": 0.2,
        "normalize_advantages": normalize,
    }
    whole, report, _ = run(UpdateSettings(**options), batch)
    split, split_report, _ = run(UpdateSettings(**options, micro_batches=parts), batch)
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-12)
    assert split_report.values == pytest.approx(report.values, rel=1e-5, abs=1e-6)


def test_statistics_of_the_parts_are_those_of_the_minibatch():
    batch = rollout(SmallPolicy(seed=1), 32)  # another policy's, so that every statistic is some way from zero
    policy = SmallPolicy()
    whole = ppo_gradient(policy)(batch)
    parts = ppo_gradient(policy, split=lambda batch: batch.split(5))(batch)
    assert whole["ratio_deviation"] > 0.1
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-14)


def test_sequences_are_samples_laid_out_differently():
    policy = SmallPolicy()
    sequences = rollout(policy, 8, 4)
    steps = Batch(
        {k: x.flatten(0, 1) for k, x in sequences.inputs.items()},
        *[
            getattr(sequences, f).flatten(0, 1)
            for f in ("action", "log_prob", "value", "advantages", "returns", "weight")
        ],
    )
    by_sequence, _, _ = run(UpdateSettings(epochs=3, minibatch_size=8), sequences)
    by_step, _, _ = run(UpdateSettings(epochs=3, minibatch_size=32), steps)
    torch.testing.assert_close(by_sequence, by_step, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", ["batch", "minibatch", "off"])
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30, -1e4])
def test_rows_of_weight_zero_change_nothing(garbage, normalize):
    policy = SmallPolicy()
    real, dirt = rollout(policy, 24), rollout(policy, 8, seed=1)
    fill = torch.full((8,), garbage, dtype=F64)
    dirt = dirt.replace(log_prob=fill, value=fill, advantages=fill, returns=fill, weight=torch.zeros(8, dtype=F64))
    options = {"epochs": 4, "entropy_coefficient": 0.01, "value_clip": 0.2, "normalize_advantages": normalize}
    clean, report, _ = run(UpdateSettings(**options, minibatch_size=24), real)
    padded, padded_report, _ = run(UpdateSettings(**options, minibatch_size=32), joined([real, dirt]))
    torch.testing.assert_close(padded, clean, rtol=1e-12, atol=1e-12)
    assert padded_report.values == pytest.approx(report.values, rel=1e-5, abs=1e-6)


def test_a_supplied_gradient_takes_the_place_of_autograd():
    policy = SmallPolicy()
    flat, _, _ = run(UpdateSettings(epochs=2, minibatch_size=8))
    spied = SmallPolicy()
    optimizer = FlatAdam(spied.parameters(), 1e-2)
    settings = UpdateSettings(epochs=2, minibatch_size=8)
    spy = Spy(ppo_gradient(spied, settings))
    generator = torch.Generator().manual_seed(0)
    update(None, rollout(policy, 32), optimizer, settings, generator=generator, gradient=spy)
    assert len(spy.seen) == 8
    assert torch.equal(optimizer.flat, flat)


# How it goes through the batch


def test_every_sample_is_visited_once_per_epoch():
    batch = rollout(SmallPolicy(), 30)
    batch = Batch(
        {"index": torch.arange(30)}, *[x for name, x in batch.named_tensors() if not name.startswith("inputs.")]
    )
    spy = Spy()
    _, report, _ = run(UpdateSettings(epochs=4, minibatch_size=6), batch, gradient=spy)
    visits = [m.inputs["index"].tolist() for m in spy.seen]
    assert report.steps == len(visits) == 20
    assert {len(v) for v in visits} == {6}
    epochs = [[index for minibatch in visits[i : i + 5] for index in minibatch] for i in range(0, 20, 5)]
    assert all(sorted(e) == list(range(30)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4  # a new order each time
    # A sample stays in one piece: all its tensors travel together.
    for minibatch in spy.seen:
        assert torch.equal(minibatch.log_prob, batch.log_prob[minibatch.inputs["index"]])
        assert torch.equal(minibatch.returns, batch.returns[minibatch.inputs["index"]])


def test_the_same_seed_gives_the_same_parameters_and_another_does_not():
    settings = UpdateSettings(epochs=3, minibatch_size=8)
    first, second, third = (run(settings, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("samples", "size", "words"),
    [(30, 8, "does not divide the 30 samples.*6 would fit"), (30, 64, "larger than the 30 samples.*30 would fit")],
)
def test_a_minibatch_that_does_not_fit_is_refused_with_one_that_would(samples, size, words):
    with pytest.raises(ValueError, match=words):
        minibatches(samples, size)
    with pytest.raises(ValueError, match=words):
        run(UpdateSettings(minibatch_size=size), rollout(SmallPolicy(), samples))
    minibatches(samples, 6)


# Advantages


def shown_advantages(normalize, weight=None):
    batch = rollout(SmallPolicy(), 32)
    batch = batch.replace(advantages=5 + 3 * batch.advantages, weight=batch.weight if weight is None else weight)
    spy = Spy()
    run(UpdateSettings(epochs=1, minibatch_size=8, normalize_advantages=normalize), batch, gradient=spy)
    return batch, spy.seen


def test_advantages_normalized_over_the_batch():
    batch, seen = shown_advantages("batch")
    together = torch.cat([m.advantages for m in seen])
    assert together.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert together.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)
    assert all(abs(m.advantages.mean().item()) > 1e-3 for m in seen)
    assert batch.advantages.mean() > 3  # the caller's batch stays as it was


def test_advantages_normalized_over_each_minibatch():
    _, seen = shown_advantages("minibatch")
    for minibatch in seen:
        assert minibatch.advantages.mean().item() == pytest.approx(0.0, abs=1e-12)
        assert minibatch.advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_advantages_as_they_are():
    batch, seen = shown_advantages("off")
    together = torch.cat([m.advantages for m in seen])
    assert torch.equal(together.sort().values, batch.advantages.sort().values)


def test_normalizing_leaves_out_samples_of_weight_zero():
    weight = (torch.arange(32) % 4 > 0).to(F64)
    _, seen = shown_advantages("batch", weight)
    real = torch.cat([m.advantages[m.weight > 0] for m in seen])
    assert len(real) == 24
    assert real.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert real.std(correction=0).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("normalize", ["off", "batch"])
def test_recomputing_asks_before_each_epoch_after_the_first(normalize):
    spy, given = Spy(), []

    def reestimate(batch):
        given.append(batch)
        return batch.replace(advantages=batch.advantages + 100.0, returns=batch.returns + 1.0)

    batch = rollout(SmallPolicy(), 32)
    options = {"epochs": 4, "minibatch_size": 16, "normalize_advantages": normalize}
    run(UpdateSettings(**options, recompute_advantages=True), batch, gradient=spy, reestimate=reestimate)
    assert len(given) == 3
    for epoch in range(4):
        shown = [
            torch.cat([getattr(m, f) for m in spy.seen[2 * epoch : 2 * epoch + 2]]) for f in ("returns", "advantages")
        ]
        assert shown[0].mean().item() == pytest.approx(batch.returns.mean().item() + epoch)
        expected = batch.advantages.mean().item() + 100 * epoch if normalize == "off" else 0.0
        assert shown[1].mean().item() == pytest.approx(expected, abs=1e-10)
    # What it is given is never the normalized batch.
    assert torch.equal(given[0].advantages, batch.advantages)

    given.clear()
    run(UpdateSettings(**options), batch, gradient=spy, reestimate=reestimate)
    assert given == []


# KL


def test_target_kl_stops_before_the_step():
    policy = SmallPolicy()
    optimizer = FlatAdam(policy.parameters(), 0.05)
    before = []
    inner = ppo_gradient(policy)

    def gradient(minibatch):
        before.append(optimizer.flat.detach().clone())
        kls.append(inner(minibatch))
        return kls[-1]

    kls = []
    report = update(
        policy,
        rollout(policy, 32),
        optimizer,
        UpdateSettings(epochs=50, minibatch_size=16, target_kl=0.02),
        generator=torch.Generator().manual_seed(0),
        gradient=gradient,
    )
    kl = [s["approx_kl"].item() for s in kls]
    assert report.stopped_by_kl
    assert 1 < report.steps == len(before) - 1 < 99
    assert torch.equal(optimizer.flat, before[-1])  # the offending minibatch moved nothing
    assert not torch.equal(before[-1], before[-2])
    assert kl[-1] > 0.02 >= max(kl[:-1])
    assert report.values["approx_kl"] == pytest.approx(sum(kl[:-1]) / report.steps, rel=1e-4)
    assert report.values["last_approx_kl"] == report.values["stopping_kl"] == report.final_kl == kl[-1]


def k3_of_the_whole_batch(policy, batch):
    """Mean of r - 1 - log r over the samples, by the definition (Schulman 2020)."""
    with torch.no_grad():
        log_ratio = policy.evaluate(batch).log_prob - batch.log_prob
    return float(((log_ratio.exp() - 1 - log_ratio) * batch.weight).sum() / batch.weight.sum())


@pytest.mark.parametrize("target_kl", [None, 1e6])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_divergence_after_the_last_step_is_known(micro_batches, target_kl):
    policy = SmallPolicy()
    batch = rollout(policy, 32)
    batch = batch.replace(weight=torch.arange(32, dtype=F64) % 3)
    settings = UpdateSettings(epochs=1, minibatch_size=32, micro_batches=micro_batches, target_kl=target_kl)
    report = update(policy, batch, FlatAdam(policy.parameters(), 0.3), settings)
    assert report.values["approx_kl"] == report.values["last_approx_kl"] < 1e-12
    assert "stopping_kl" not in report.values
    assert report.final_kl == pytest.approx(k3_of_the_whole_batch(policy, batch), rel=1e-9)
    assert report.final_kl > 0.01


def test_a_gradient_that_can_not_measure_is_not_asked():
    assert run(UpdateSettings(epochs=1, minibatch_size=8), gradient=Spy())[1].final_kl is None


def test_a_target_that_is_not_reached_stops_nothing():
    free, report, _ = run(UpdateSettings(epochs=3, minibatch_size=8))
    bound, bound_report, _ = run(UpdateSettings(epochs=3, minibatch_size=8, target_kl=1e6))
    assert torch.equal(free, bound)
    assert report == bound_report
    assert not report.stopped_by_kl
    assert report.steps == 12


def test_a_target_below_rounding_does_not_stop_before_the_first_step():
    _, report, _ = run(UpdateSettings(epochs=1, minibatch_size=8, target_kl=1e-30), gradient=Spy(approx_kl=[1e-20] * 4))
    assert report.stopped_by_kl
    assert report.steps == 1


@pytest.mark.parametrize(("kl", "factor"), [(1.0, 1 / 1.5), (1e-4, 1.5), (0.01, 1.0)])
def test_the_adaptive_rate_moves_against_the_divergence_from_the_second_minibatch_on(kl, factor):
    settings = UpdateSettings(epochs=1, minibatch_size=8, adaptive_kl=0.01)
    _, _, optimizer = run(settings, gradient=Spy(approx_kl=[kl] * 4), learning_rate=1e-3)
    assert optimizer.learning_rate == pytest.approx(1e-3 * factor**3)
    _, _, fixed = run(UpdateSettings(epochs=1, minibatch_size=8), gradient=Spy(approx_kl=[kl] * 4), learning_rate=1e-3)
    assert fixed.learning_rate == 1e-3


@pytest.mark.parametrize(("learning_rate", "factor"), [(1.0, 1 / 1.5), (1e-7, 1.5)])
def test_the_adaptive_rate_of_updates_of_one_step_reads_what_that_step_did(learning_rate, factor):
    _, report, optimizer = run(one_step(adaptive_kl=0.01), learning_rate=learning_rate)
    assert report.steps == 1
    assert optimizer.learning_rate == pytest.approx(learning_rate * factor)


@pytest.mark.parametrize("configured", [1e-6, 1e-2])
@pytest.mark.parametrize(("kl", "end"), [(9.0, 1 / 100), (0.0, 10.0)])
def test_the_adaptive_rate_ends_at_its_bounds_around_the_configured_one(configured, kl, end):
    settings = UpdateSettings(epochs=10, minibatch_size=8, adaptive_kl=0.01)
    _, _, optimizer = run(settings, gradient=Spy(approx_kl=[kl] * 40), learning_rate=configured)
    assert optimizer.learning_rate == pytest.approx(configured * end)


def test_the_adaptive_rate_changes_the_step_whose_divergence_it_read():
    # A constant gradient of 1: the first step of Adam is lr / (1 + eps), and so is every further one.
    policy = SmallPolicy()
    optimizer = FlatAdam(policy.parameters(), 1e-3, epsilon=1e-12)
    start, places = optimizer.flat.detach().clone(), []
    spy = Spy(approx_kl=[9.0, 9.0])

    def gradient(minibatch):
        places.append(optimizer.flat.detach().clone())
        optimizer.gradient.fill_(1.0)
        return spy(minibatch)

    settings = UpdateSettings(epochs=1, minibatch_size=16, adaptive_kl=0.01, max_grad_norm=None)
    update(policy, rollout(policy, 32), optimizer, settings, gradient=gradient)
    torch.testing.assert_close(start - places[1], torch.full_like(start, 1e-3), rtol=1e-6, atol=0)
    torch.testing.assert_close(places[1] - optimizer.flat, torch.full_like(start, 1e-3 / 1.5), rtol=1e-6, atol=0)


class Precise(SmallPolicy):
    """Gaussian actions from the same features, and a distribution that can be asked for its KL."""

    def evaluate(self, batch):
        x = torch.tanh(self.trunk(batch.inputs["observation"]))
        ours = Gaussian(self.actor(x), torch.zeros(3, dtype=F64))
        return Evaluation(ours.log_prob(batch.action), ours.entropy(), self.critic(x)[..., 0], ours)


def precise_batch(policy, samples):
    batch = rollout(SmallPolicy(), samples)
    with torch.no_grad():
        action = policy.evaluate(batch.replace(action=torch.zeros(samples, 3, dtype=F64))).distribution.sample(
            torch.Generator().manual_seed(3)
        )
        seen = policy.evaluate(batch := batch.replace(action=action))
    return batch.replace(log_prob=seen.log_prob, value=seen.value)


@pytest.mark.parametrize("seed", range(4))
def test_the_adaptive_rate_reads_the_exact_divergence_of_the_minibatch(seed):
    # After a first step the second minibatch is looked at: its exact KL is computed here by torch, sample by sample.
    policy = Precise()
    optimizer = FlatAdam(policy.parameters(), 0.03)
    start, batch, seen = optimizer.flat.detach().clone(), precise_batch(policy, 32), []

    def watch(gradient):
        def watched(minibatch):
            now = optimizer.flat.detach().clone()
            with torch.no_grad():
                after = policy.evaluate(minibatch).distribution.mean
                optimizer.flat.copy_(start)
                before = policy.evaluate(minibatch).distribution.mean
                optimizer.flat.copy_(now)
            normals = [torch.distributions.Normal(mean, 1.0) for mean in (before, after)]
            exact = float(torch.distributions.kl_divergence(*normals).sum(-1).mean())
            seen.append((exact, gradient(minibatch)))
            return seen[-1][1]

        return watched

    def rate(target):
        seen.clear()
        optimizer.flat.copy_(start)
        optimizer.load_state({})
        optimizer.learning_rate = 0.03
        settings = UpdateSettings(epochs=1, minibatch_size=16, adaptive_kl=target)
        task = UpdateTask(policy, batch, optimizer, generator=torch.Generator().manual_seed(seed), watch=watch)
        report = algorithm_of(settings).update(task)
        assert not any("exact" in name for name in report.values)
        return optimizer.learning_rate

    rate(1.0)
    exact, told = seen[1]
    assert float(told["exact_step_kl"]) == pytest.approx(exact, rel=1e-9)
    estimate = float(told["approx_kl"])
    assert abs(exact - estimate) > 0.01 * exact, "the two say different things"
    between = 0.5 * (exact + estimate)
    assert rate(between / 2) == pytest.approx(0.03 / 1.5 if exact > estimate else 0.03)


class Parts(Precise):
    """It says which layer is the critic's alone."""

    def parameters_by_role(self):
        return {"actor": [*self.trunk.parameters(), *self.actor.parameters()], "critic": [*self.critic.parameters()]}


@pytest.mark.parametrize(("actor", "critic"), [(1e-3, None), (None, 1e-3), (1e-3, 1e-4)])
def test_actor_and_critic_are_clipped_apart_each_by_its_own_norm(actor, critic):
    def gradients(**limits):
        policy = Parts()
        optimizer = FlatAdam(policy.parameters(), 1e-3)
        settings = UpdateSettings(epochs=1, minibatch_size=None, max_grad_norm=None, **limits)
        report = update(policy, precise_batch(policy, 32), optimizer, settings)
        roles = policy.parameters_by_role().values()
        return [torch.cat([p.grad.reshape(-1) for p in role]) for role in roles], report.values

    whole, plain = gradients()
    found, told = gradients(max_actor_grad_norm=actor, max_critic_grad_norm=critic)
    for before, after, limit, role in zip(whole, found, (actor, critic), ("actor", "critic"), strict=True):
        if limit is None:
            torch.testing.assert_close(after, before)
            assert f"{role}_grad_norm" not in told
        else:
            torch.testing.assert_close(after, before * (limit / before.norm()), rtol=1e-2, atol=0)
            assert told[f"{role}_grad_norm"] == pytest.approx(float(before.norm()), rel=1e-5)
    assert told["grad_norm"] == pytest.approx(plain["grad_norm"])
    assert (plain["grad_clip_fraction"], told["grad_clip_fraction"]) == (0.0, 1.0)


def test_a_policy_that_does_not_say_whose_its_layers_are_can_not_be_clipped_apart():
    with pytest.raises(ValueError, match="max_critic_grad_norm needs a policy that says"):
        run(UpdateSettings(minibatch_size=8, max_critic_grad_norm=1.0))


# Guards


def test_a_policy_that_is_not_the_one_that_acted_is_noticed():
    policy = SmallPolicy()
    batch = rollout(SmallPolicy(seed=1), 32)
    optimizer = FlatAdam(policy.parameters(), 1e-2)
    before = optimizer.flat.detach().clone()
    with pytest.raises(InvariantError, match="ratio-not-one"):
        update(policy, batch, optimizer, one_step())
    assert torch.equal(optimizer.flat, before)


def test_one_stale_log_prob_is_noticed_unless_it_does_not_count():
    batch = rollout(SmallPolicy(), 32)
    log_prob = batch.log_prob.clone()
    log_prob[7] += 1e-6
    for parts in (1, 4):
        with pytest.raises(InvariantError, match="ratio-not-one"):
            run(one_step(micro_batches=parts), batch.replace(log_prob=log_prob))
    weight = batch.weight.clone()
    weight[7] = 0
    run(one_step(), batch.replace(log_prob=log_prob, weight=weight))


@pytest.mark.parametrize("name", ["advantages", "returns", "log_prob", "value"])
def test_a_number_that_is_not_finite_is_named(name):
    batch = rollout(SmallPolicy(), 32)
    x = getattr(batch, name).clone()
    x[5] = math.nan
    with pytest.raises(InvariantError, match=rf"{name} of sample \[5\]"):
        run(one_step(), batch.replace(**{name: x}))


def test_a_gradient_that_is_not_finite_is_noticed_with_its_minibatch():
    policy = SmallPolicy()
    optimizer = FlatAdam(policy.parameters(), 1e-2)
    spy = Spy()

    def gradient(minibatch):
        if len(spy.seen) == 2:
            optimizer.gradient.fill_(math.nan)
        return spy(minibatch)

    settings = UpdateSettings(epochs=1, minibatch_size=8)
    with pytest.raises(InvariantError, match="minibatch 2 of this update"):
        update(policy, rollout(policy, 32), optimizer, settings, gradient=gradient)


# Schedules and the report


def test_schedules_are_read_at_the_runs_progress():
    settings = UpdateSettings(clip="0.2 -> 0.1", entropy_coefficient="0.01 -> 0", value_clip=0.3, dual_clip=3.0)
    quarter = objective_at(settings, 0.25)
    assert quarter.clip == pytest.approx(0.175)
    assert quarter.entropy_coefficient == pytest.approx(0.0075)
    assert (quarter.value_coefficient, quarter.value_clip, quarter.dual_clip) == (0.5, 0.3, 3.0)
    assert objective_at(settings, 1.0).entropy_coefficient == 0.0
    assert objective_at(UpdateSettings(clip=None), 0.5).clip is None


def test_the_update_passes_its_progress_on():
    settings = UpdateSettings(epochs=3, minibatch_size=8, clip="0.2 -> 0.1", entropy_coefficient="1 -> 0")
    halfway = UpdateSettings(epochs=3, minibatch_size=8, clip=0.15, entropy_coefficient=0.5)
    torch.testing.assert_close(run(settings, progress=0.5)[0], run(halfway)[0], rtol=1e-12, atol=1e-13)
    assert not torch.equal(run(settings, progress=0.0)[0], run(halfway)[0])


def test_the_report_is_the_mean_over_minibatches():
    policy = SmallPolicy()
    optimizer = FlatAdam(policy.parameters(), 1e-2)
    norms = [0.3, 0.9, 0.6, 0.8]
    rows = [[1.0, 2.0, 3.0, 0.1, 0.0, 1e-13], [3.0, 2.0, 1.0, 0.2, 0.5, 0.4], [5.0, 2.0, 2.0, 0.3, 0.5, 0.6]]
    rows.append([7.0, 2.0, 2.0, 0.6, 1.0, 0.8])
    calls = iter(zip(rows, norms, strict=True))

    def gradient(minibatch):
        row, norm = next(calls)
        optimizer.gradient[0] = norm
        return dict(zip(NAMES, torch.tensor(row, dtype=F64), strict=True))

    settings = UpdateSettings(epochs=1, minibatch_size=8, max_grad_norm=0.5)
    values = update(policy, rollout(policy, 32), optimizer, settings, gradient=gradient).values
    assert values == pytest.approx(
        {
            "policy_loss": 4.0,
            "value_loss": 2.0,
            "entropy": 2.0,
            "approx_kl": 0.3,
            "clip_fraction": 0.5,
            "ratio_deviation": 1e-13,  # the first minibatch's
            "grad_norm": 0.65,
            "grad_clip_fraction": 0.75,  # all but 0.3 were above 0.5
            "last_approx_kl": 0.6,
        },
        rel=1e-6,
    )


def test_the_caller_keeps_its_batch():
    batch = rollout(SmallPolicy(), 32)
    kept = copy.deepcopy(batch)
    run(UpdateSettings(epochs=2, minibatch_size=8, normalize_advantages="minibatch"), batch)
    for name in ("action", "log_prob", "value", "advantages", "returns", "weight"):
        assert torch.equal(getattr(batch, name), getattr(kept, name))


class Outliers:
    """A policy whose log-probs are off where it is told, whatever its parameters are."""

    def __init__(self, off):
        self.off, self.parameter = off, torch.nn.Parameter(torch.zeros((), dtype=F64))

    def evaluate(self, batch):
        log_prob = batch.log_prob + self.off[batch.inputs["row"]] + self.parameter
        return Evaluation(log_prob, torch.zeros_like(log_prob), None)


@pytest.mark.parametrize("parts", [1, 10])
@pytest.mark.parametrize(("count", "stops"), [(0, False), (10, False), (11, True)])
def test_a_few_tokens_that_are_far_off_are_no_other_policy(count, stops, parts):
    """1,000 samples, of which `count` are off by a nat: 1 % are let through, wherever they lie."""
    off = torch.zeros(1000, dtype=F64)
    off[:count] = 1.0
    tensors = torch.zeros(5, 1000, dtype=F64)
    batch = Batch({"row": torch.arange(1000)}, torch.zeros(1000), *tensors[:4], weight=tensors[4] + 1)
    policy = Outliers(off)
    options = {"split": lambda batch: batch.split(parts), "quantile": 0.99, "tolerance": 1e-2}
    settings = one_step(minibatch_size=1000)
    optimizer = FlatAdam([policy.parameter], 1e-3)
    if stops:
        with pytest.raises(InvariantError, match=r"ratio-not-one.* off by 1\.72"):
            update(policy, batch, optimizer, settings, **options)
        return
    assert update(policy, batch, optimizer, settings, **options).values["ratio_deviation"] == 0


@pytest.mark.parametrize(("normalize", "size", "samples"), [("minibatch", 1, 8), ("batch", 1, 1), ("minibatch", 4, 8)])
def test_a_sample_that_is_alone_keeps_its_advantage(normalize, size, samples):
    """Less its own mean it would be 0: the vanilla step on it is that of an update without normalisation."""
    batch = rollout(SmallPolicy(), samples)
    if size > 1:  # alone among rows that count nothing
        batch = batch.replace(weight=(torch.arange(samples) % 5 == 0).to(F64))
    spies = {how: Spy() for how in (normalize, "off")}
    for how, spy in spies.items():
        settings = UpdateSettings(epochs=1, minibatch_size=size, normalize_advantages=how)
        run(settings, batch, seed=3, gradient=spy)
    counted = 0
    for ours, plain in zip(*(spy.seen for spy in spies.values()), strict=True):
        real = plain.weight > 0
        if real.sum() == 1:
            counted += 1
            assert torch.equal(ours.advantages[real], plain.advantages[real])
            assert ours.advantages[real].abs().min() > 0
    assert counted > 0


@pytest.mark.parametrize("normalize", ["minibatch", "batch", "off"])
def test_a_bandit_is_learnt_one_sample_at_a_time(normalize):
    """Action 1 pays 1, the others -1: each sample's policy-gradient step raises what action 1 is chosen with."""
    policy = SmallPolicy()
    states = rollout(policy, 200, seed=99)
    right = states.replace(action=torch.ones_like(states.action))
    with torch.no_grad():
        before = policy.evaluate(right).log_prob.exp().mean()
    optimizer = FlatAdam(policy.parameters(), 3e-3)
    samples = 1 if normalize == "batch" else 4
    for seed in range(200 // samples):
        batch = rollout(policy, samples, seed=seed)
        batch = batch.replace(advantages=torch.where(batch.action == 1, 1.0, -1.0).to(F64))
        update(policy, batch, optimizer, UpdateSettings(epochs=1, minibatch_size=1, normalize_advantages=normalize))
    with torch.no_grad():
        assert policy.evaluate(right).log_prob.exp().mean() > before + 0.2


@pytest.mark.parametrize("normalize", ["batch", "minibatch"])
@pytest.mark.parametrize(("size", "expected"), [(1.0, 1.0), (0.2, 1.0), (0.01, 0.1), (1e-6, 1e-5)])
def test_what_is_far_below_the_rewards_scale_is_not_made_a_signal(normalize, size, expected):
    """Advantages of that deviation, of rewards of scale 1: below a tenth they keep their size, ten times enlarged."""
    batch = rollout(SmallPolicy(), 32)
    batch = batch.replace(advantages=size * (batch.advantages - batch.advantages.mean()) / batch.advantages.std())
    spy = Spy()
    settings = UpdateSettings(epochs=1, minibatch_size=32, normalize_advantages=normalize)
    run(settings, batch, gradient=spy, reward_scale=1.0)
    assert spy.seen[0].advantages.std().item() == pytest.approx(expected, rel=0.05)
    assert spy.seen[0].advantages.mean().item() == pytest.approx(0.0, abs=1e-9)


def test_a_signal_is_scaled_as_ever():
    settings = UpdateSettings(epochs=2, minibatch_size=8, normalize_advantages="minibatch")
    assert torch.equal(run(settings)[0], run(settings, reward_scale=3.0)[0])
