"""Loss and gradient of GRPO and RLOO beside those of TRL's trainers, on one fixed batch.

    pip install --no-deps trl==1.16.0
    python benchmarks/against_trl.py

TRL's own `_compute_loss` is called on a tiny random GPT-2 in float64, with responses of many lengths, log-probs of an
older policy (ratios between 0.5 and 2, so that many are clipped) and those of a reference. The same numbers go through
`proximo.algorithms`. Printed are both losses, and the largest difference of a gradient, relative to the largest one.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers" / "language"))

from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from words import word_tokenizer

from proximo.algorithms import GRPO, RLOO
from proximo.core.batch import Batch, Evaluation
from proximo.core.updates.update import UpdateTask
from proximo.language.ppo.rollout import estimate, token_rewards, with_reference

GROUP, PROMPTS, LIMIT, BETA, VOCABULARY = 4, 3, 12, 0.07, 64
CASES = {
    "grpo": (GRPO(group=GROUP), "grpo", {}),
    "grpo, KL in the loss": (GRPO(group=GROUP), "grpo", {"beta": BETA}),
    "grpo, the paper's KL": (
        GRPO(group=GROUP, unbiased_kl=False),
        "grpo",
        {"beta": BETA, "use_bias_correction_kl": False},
    ),
    "grpo, scaled by the batch": (GRPO(group=GROUP, scale="batch"), "grpo", {"scale_rewards": "batch"}),
    "dr_grpo": (GRPO(group=GROUP, scale="off", length="limit"), "dr_grpo", {"scale_rewards": "none", "beta": BETA}),
    "bnpo (DAPO's mean over tokens)": (GRPO(group=GROUP, length="token"), "bnpo", {}),
    "bnpo, clip-higher": (GRPO(group=GROUP, length="token", clip_high=0.28), "bnpo", {"epsilon_high": 0.28}),
    "rloo": (RLOO(group=GROUP), "rloo", {"beta": BETA}),
    "rloo, clip-higher": (RLOO(group=GROUP, clip_high=0.28), "rloo", {"epsilon_high": 0.28, "beta": BETA}),
}


def sampled() -> dict[str, torch.Tensor]:
    """Prompts of one length, responses of several, right-padded; scores."""
    draw = torch.Generator().manual_seed(0)
    count = GROUP * PROMPTS
    prompts = torch.randint(4, VOCABULARY, (PROMPTS, 5), generator=draw).repeat_interleave(GROUP, 0)
    lengths = torch.randint(1, LIMIT + 1, (count,), generator=draw)
    responses = torch.randint(4, VOCABULARY, (count, LIMIT), generator=draw)
    mask = (torch.arange(LIMIT) < lengths.unsqueeze(1)).double()
    noise = [0.25 * torch.randn(count, LIMIT, generator=draw, dtype=torch.float64) for _ in range(2)]
    return {
        "prompts": prompts,
        "responses": responses,
        "mask": mask,
        "scores": torch.randn(count, generator=draw, dtype=torch.float64),
        "older": noise[0],
        "reference": noise[1],
    }


def log_probs(model: Any, tokens: torch.Tensor, responses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of the responses' tokens under the model as it is, 0 on padding."""
    logits = model(input_ids=tokens).logits[:, -1 - responses.shape[1] : -1].log_softmax(-1)
    return logits.gather(-1, responses.unsqueeze(-1)).squeeze(-1) * mask


class Plain:
    """The model as a policy, in its own type throughout: the policy of a run computes log-probs in float32."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-probs of the batch's tokens."""
        log_prob = log_probs(self.model, batch.inputs["tokens"], batch.action, (batch.weight > 0).double())
        return Evaluation(log_prob, torch.zeros_like(log_prob), None)


def ours(model: Any, algorithm: Any, given: dict[str, torch.Tensor], old: Any, ref: Any, beta: float) -> float:
    """Loss of the whole batch, its gradient in the parameters."""
    lengths = given["mask"].sum(1).long()
    tokens = torch.cat([given["prompts"], given["responses"]], 1)
    zeros = torch.zeros_like(given["mask"])
    inputs = {"tokens": tokens, "prompt_lengths": torch.full((len(tokens),), given["prompts"].shape[1])}
    batch = Batch(inputs, given["responses"], old, zeros, zeros, zeros, given["mask"])
    reference = ref if beta else None
    price = 0.0 if algorithm.kl_in_the_loss else beta
    rewards = token_rewards(given["scores"], old, reference, lengths, price)
    batch = estimate(batch, rewards, algorithm, 1.0, 1.0, given["scores"], LIMIT)
    batch = with_reference(batch, algorithm, reference, beta)
    batch = batch.map(lambda x: x.double() if x.is_floating_point() else x)  # beta is a float32
    policy = Plain(model)
    losses: list[float] = []

    class Watched(type(algorithm)):  # type: ignore[misc]
        def loss(self, seen: Any, part: Batch, progress: float, policy: Any) -> Any:
            loss, told = super().loss(seen, part, progress, policy)
            losses.append(float(loss.detach()))
            return loss, told

    watched = Watched(**{k: v for k, v in vars(algorithm).items() if k not in algorithm.lacks})
    watched.gradient(UpdateTask(policy, batch, None))(batch)  # type: ignore[arg-type]
    return sum(losses)


def theirs(model: Any, plain: Any, kind: str, options: Any, given: Any, old: Any, ref: Any) -> float:
    """The same by TRL: advantages by its formulas, and its `_compute_loss`; the gradient is that of `plain`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    shared = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": True,
        "report_to": [],
        "per_device_train_batch_size": GROUP * PROMPTS,
        "num_generations": GROUP,
        "max_completion_length": LIMIT,
        "beta": 0.0,
        "bf16": False,
        "disable_dropout": True,
    }
    rows = Dataset.from_list([{"prompt": "w4"}] * 8)
    grouped = given["scores"].view(-1, GROUP)
    beta = options.get("beta", 0.0)
    if kind == "rloo":
        config = RLOOConfig(**{**shared, **options})
        kls = ((old - ref) * given["mask"]).sum(1)
        rewards = (given["scores"] - beta * kls).view(-1, GROUP)
        advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (GROUP - 1)).flatten()
        trainer = RLOOTrainer(
            model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=rows,
            processing_class=word_tokenizer(),
        )
    else:
        config = GRPOConfig(loss_type=kind, **{**shared, **options})
        deviations = {"batch": given["scores"].std(), "group": grouped.std(1, keepdim=True), "none": None}
        scale = deviations[options.get("scale_rewards", "group")]
        centred = grouped - grouped.mean(1, keepdim=True)
        advantages = (centred if scale is None else centred / (scale + 1e-4)).flatten()
        trainer = GRPOTrainer(
            model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=rows,
            processing_class=word_tokenizer(),
        )
    trainer.current_gradient_accumulation_steps = 1
    # Its head rounds log-probs to float32; these are the same ones in float64.
    tokens = torch.cat([given["prompts"], given["responses"]], 1)
    seen = log_probs(plain, tokens, given["responses"], given["mask"])
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (seen, torch.zeros_like(seen), None)
    inputs = {
        "prompt_ids": given["prompts"],
        "prompt_mask": torch.ones_like(given["prompts"]),
        "completion_ids": given["responses"],
        "completion_mask": given["mask"].long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "old_logps": (old * given["mask"]).sum(1),
        "ref_per_token_logps": ref,
        "num_items_in_batch": given["mask"].sum(),
    }
    trainer.model.train()
    loss = trainer._compute_loss(plain, inputs)
    loss.backward()
    return float(loss.detach())


def main() -> int:
    """Print a row for each case; 1 if one differs by more than 1e-6."""
    torch.set_num_threads(1)
    given, worst, folder = sampled(), 0.0, tempfile.mkdtemp()
    torch.manual_seed(1)
    # Of GPT-2, since the norms of a Llama round to float32 whatever its type.
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape, **off)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    for name, (algorithm, kind, options) in CASES.items():
        models = [AutoModelForCausalLM.from_pretrained(folder).double() for _ in range(3)]
        tokens = torch.cat([given["prompts"], given["responses"]], 1)
        with torch.no_grad():
            now = log_probs(models[0], tokens, given["responses"], given["mask"])
        old, ref = ((now + given[which]) * given["mask"] for which in ("older", "reference"))
        losses = [
            ours(models[0], algorithm, given, old, ref, options.get("beta", 0.0)),
            theirs(models[2], models[1], kind, options, given, old, ref),
        ]
        one, other = (
            torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in model.parameters()])
            for model in models[:2]
        )
        off = float((one - other).abs().max() / other.abs().max())
        worst = max(worst, off, abs(losses[0] - losses[1]))
        print(f"{name:32} loss {losses[0]:+.8f} and {losses[1]:+.8f}, gradients differ by {off:.1e}", flush=True)
    print("all within 1e-6" if worst <= 1e-6 else f"differ by {worst:.1e}")
    return int(worst > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
