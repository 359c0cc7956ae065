"""PPO and RLOO must find the distribution that mathematics knows: pi*(y) ~ pi_ref(y) exp(r(y) / beta)."""

import itertools

import pytest
import torch
from tiny import llama, prompts, tokenizer

from proximo.algorithms import PPO, RLOO
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, PPOConfig
from proximo.language.rewards.terms import FunctionReward

VOCABULARY, PROMPT, BETA = 6, [3, 2], 0.5


def responses(cap):
    """All responses: some words and EOS (0), or as many words as the cap allows."""
    words = range(1, VOCABULARY)
    ended = [(*w, 0) for n in range(cap) for w in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=cap))


def distribution(model, every):
    """pi(y) of every response, float64, by a full forward of each."""
    longest = max(map(len, every))
    tokens = torch.tensor([PROMPT + list(y) + [0] * (longest - len(y)) for y in every])
    with torch.no_grad():
        log_p = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)
    at = len(PROMPT) - 1
    return torch.stack([sum(log_p[i, at + t, token] for t, token in enumerate(y)) for i, y in enumerate(every)]).exp()


def reward_table(every, seed):
    """Rewards with no structure: nothing that a bug could find by chance."""
    values = torch.randn(len(every), generator=torch.Generator().manual_seed(seed)).tolist()
    return {" ".join(f"w{t}" for t in y if t): v for y, v in zip(every, values, strict=True)}


def objective(p, rewards, reference):
    """E[r] - beta KL(p, reference)."""
    return float((p * (rewards - BETA * (p.log() - reference.log()))).sum())


PPO_SETTINGS = PPO(epochs=4, minibatch_size=128, value_coefficient=0.5, max_grad_norm=1.0)
RLOO_SETTINGS = RLOO(epochs=2, minibatch_size=64, max_grad_norm=1.0, group=8)


@pytest.mark.parametrize(
    ("cap", "iterations", "seed"),
    [(2, 25, 0), *(pytest.param(3, 50, seed, marks=pytest.mark.slow) for seed in range(3))],
)
@pytest.mark.parametrize(
    ("algorithm", "rate"), [(PPO_SETTINGS, "5e-3 -> 0"), (RLOO_SETTINGS, "3e-3 -> 0")], ids=["PPO", "RLOO"]
)
def test_it_reaches_the_analytic_optimum(algorithm, rate, cap, iterations, seed):
    """Among the 31 responses of up to two words, or among the 156 of up to three."""
    every = responses(cap)
    model = llama(VOCABULARY, width=32, layers=1, seed=seed, spread=0.15)
    reference = distribution(model, every)
    assert abs(float(reference.sum()) - 1) < 1e-5, "the responses enumerated are all there are"
    # A finished and a cut response may read the same as text; the reward then sees one text, as do we.
    table = reward_table(every, seed)
    rewards = torch.tensor([table[" ".join(f"w{t}" for t in y if t)] for y in every], dtype=torch.float64)
    weighted = reference.log() + rewards / BETA
    optimum, best = weighted.softmax(0), BETA * float(weighted.logsumexp(0))

    def reward(prompts, responses):
        return [table[response] for response in responses]

    training = PPOTraining(
        PPOConfig(
            batch=256,
            responses=256 * iterations,
            response_limit=cap,
            learning_rate=rate,
            missing_eos_floor=None,
            score_clip=None,
            seed=seed,
            kl=KLSettings(coefficient=BETA),
            update=algorithm,
        ),
        model,
        tokenizer(VOCABULARY),
        prompts(PROMPT),
        [FunctionReward(reward)],
    )
    first = training.iterate()
    assert abs(first["kl"]) < 1e-5, "before the first update policy and reference are one, but for rounding"
    while training.progress.responses < training.config.responses:
        training.iterate()
    learnt = distribution(model, every)
    before, after = objective(reference, rewards, reference), objective(learnt, rewards, reference)
    gain = (after - before) / (best - before)
    distance = 0.5 * float((learnt - optimum).abs().sum())
    print(f"seed {seed}: gain {gain:.4f}, total variation {distance:.3f}")
    assert gain >= 0.95
    assert distance <= 0.12, "close to pi*, not merely of high reward"
