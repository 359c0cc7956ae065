"""The peak that the over-optimisation meter finds beside the exact one, where all responses can be listed.

    python benchmarks/meter_truth.py --seeds 10 --out meter_truth.jsonl

Each seed is another model, taste and reward (`proximo.lab.language.words`). PPO with a price of 0.02 is trained
until the judge's exact mean is back where it began, or for 300 iterations. After each iteration the judge's mean and
√KL are measured on 64 answers drawn anew, as the meter does, and computed exactly from all responses. The exact peak
is the iteration with the highest exact mean. The same curve through the first 40 % of the iterations foretells it. Rows
are kept, and a seed that is there is not measured again.
"""

import argparse
import json
from pathlib import Path

import torch

from proximo.algorithms import PPO
from proximo.core.divergences import kl_k1, steadied
from proximo.lab.language.words import LONGEST, PROMPT, Words
from proximo.language.data.prompts import Prompt
from proximo.language.meter.curve import fit
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, PPOConfig
from proximo.language.rewards.terms import FunctionReward
from proximo.language.sampling.texts import to_batch, to_texts

BATCH, PROMPTS = 128, 64
EARLY = 0.4
"""Share of a run's iterations from which its peak is foretold too."""


def measure(seed: int, iterations: int, rate: float) -> dict:
    """One seed: exact and measured peaks."""
    made = Words(seed)
    model = made.model()
    prompt = Prompt(made.tokenizer(PROMPT)["input_ids"], PROMPT, {})
    config = PPOConfig(
        batch=BATCH,
        responses=BATCH * iterations,
        response_limit=LONGEST,
        learning_rate=rate,
        missing_eos_floor=None,
        score_clip=None,
        seed=seed,
        kl=KLSettings(coefficient=0.02),
        update=PPO(epochs=2, minibatch_size=BATCH // 2, value_coefficient=0.5, max_grad_norm=1.0),
    )
    training = PPOTraining(config, model, made.tokenizer, [prompt], [FunctionReward(made.scorer(made.reward))])
    judge = FunctionReward(made.scorer(made.judge))
    exact, scores, divergences = [], [], []
    for i in range(iterations + 1):
        exact.append(made.known(model))
        samples = training.sample([prompt.tokens] * PROMPTS, torch.Generator().manual_seed(seed * 1_000_003 + i))
        batch = to_batch([prompt] * PROMPTS, samples)
        k1 = torch.where(batch.weight > 0, kl_k1(batch.log_prob, training.policy.reference_log_probs(batch)), 0.0)
        divergences.append(steadied(k1.sum(1), torch.expm1(-k1).sum(1)))
        scores.append(judge(to_texts([prompt] * PROMPTS, samples, made.tokenizer)))
        if i == iterations or (i > 20 and exact[-1][1] < exact[0][1]):
            break
        training.iterate()
    found = fit(torch.stack(scores), torch.stack(divergences))
    first = round(EARLY * len(scores))
    early = fit(torch.stack(scores[:first]), torch.stack(divergences[:first]))
    assert found is not None
    best = max(range(len(exact)), key=lambda j: exact[j][1])
    return {
        "seed": seed,
        "exact": exact[best][0],
        "iteration": best,
        "judge": [exact[0][1], exact[best][1], exact[-1][1]],
        "end": exact[-1][0],
        "meter": found.peak,
        "interval": [found.low, found.high],
        "error": found.peak / exact[best][0] - 1,
        "foretold": early.peak if early is not None else None,
        "lost": _lost(exact, found.peak),
    }


def _lost(exact: list[tuple[float, float]], way: float) -> float:
    """Share of the exact rise that a run which stops at this √KL would miss."""
    last = next((i for i, (d, _) in enumerate(exact) if d >= way), len(exact) - 1)
    best = max(judged for _, judged in exact)
    return (best - exact[last][1]) / (best - exact[0][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1.5e-5)
    parser.add_argument("--out", type=Path, default=Path("meter_truth.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    for seed in range(asked.seeds):
        if seed not in {row["seed"] for row in rows}:
            rows.append(measure(seed, asked.iterations, asked.rate))
            with asked.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
        row = next(row for row in rows if row["seed"] == seed)
        low, high = row["interval"]
        said = f"exact {row['exact']:.2f}, meter {row['meter']:.2f} ({low:.2f} to {high:.2f}), {row['error']:+.0%}"
        judged = " -> ".join(f"{x:.2f}" for x in row["judge"])
        print(f"seed {seed}: {said}, misses {row['lost']:.0%} of the rise; judge {judged}", flush=True)
    near = sum(abs(row["error"]) <= 0.1 for row in rows)
    print(f"{near} of {len(rows)} within 10 %")
    told = sum(abs((row["foretold"] or 0.0) / row["exact"] - 1) <= 0.2 for row in rows)
    print(f"{told} of {len(rows)} foretold within 20 % from the first {EARLY:.0%} of their iterations")
    print(f"{sum(row['lost'] <= 0.1 for row in rows)} of {len(rows)} miss a tenth of the judge's rise at most")


if __name__ == "__main__":
    main()
