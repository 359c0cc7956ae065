"""PPO on language models on several ranks, for tests/scale."""

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import torch
from language_runs import PROMPTS, letters
from tiny import llama, per_word, prompts, tokenizer

from proximo.algorithms import GRPO, PPO, RLOO
from proximo.errors import UserError
from proximo.language.ppo.trainer import Trainer
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, PPOConfig, SharingSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.language.sampling.engine import InPlace
from proximo.scale.meeting import current_mesh
from proximo.scale.mesh import ALONE


@dataclass(frozen=True)
class Exploding(PPO):
    """A loss that is no number on rank 1."""

    def loss(self, seen, batch, progress, policy):
        loss, told = super().loss(seen, batch, progress, policy)
        return (loss * float("nan") if current_mesh().rank == 1 else loss), told


_WHOLE = {"minibatch_size": None, "epochs": 2}
WORDS = [prompt.text for prompt in prompts(*PROMPTS)]
CASES = {
    "ppo": (PPO, {"update": PPO(**_WHOLE)}),
    "ppo in parts": (PPO, {"update": PPO(**_WHOLE), "token_budget": 12}),
    "computed together": (PPO, {"update": PPO(**_WHOLE), "token_budget": 40}),
    "grpo": (GRPO, {"update": GRPO(**_WHOLE, group=2)}),
    "grpo by the batch": (GRPO, {"update": GRPO(**_WHOLE, group=2, scale="batch", length="limit")}),
    "rloo": (RLOO, {"update": RLOO(**_WHOLE, group=2)}),
}


def ending_soon(model):
    """The model with four tokens that end a response, so that lengths differ."""
    model.generation_config.eos_token_id = [0, 1, 2, 3]
    return model


def seldom(prompts, responses, **_):
    """Applies to the longest prompt's responses alone: of uneven shares one rank has none."""
    return [0.1 * len(r) if len(p) == max(map(len, WORDS)) else None for p, r in zip(prompts, responses, strict=True)]


class Cuts:
    """A reward model that reads only the end of some prompts."""

    name, weight = "cuts", 0.0

    def __init__(self):
        self.model = SimpleNamespace(std=2.0, mean=1.0, cut_share=0.0)

    def __call__(self, texts):
        self.model.cut_share = sum(len(p) == max(map(len, WORDS)) for p in texts.prompts) / len(texts.prompts)
        return torch.tensor([0.01 * len(r) for r in texts.responses])


def made(mesh, case, sampler=None, **changes):
    settings = {
        "batch": 8,
        "responses": 80,
        "response_limit": 24,
        "learning_rate": 1e-2,
        "adam_epsilon": 1.0,  # steps in proportion to the gradient: Adam's first ones are its sign, rounding and all
        "kl": KLSettings(coefficient=0.1, target=0.5, horizon=50),
        "sharing": SharingSettings(mode="full"),
        **CASES[case][1],
        **changes,
    }
    asked, terms = prompts(*PROMPTS), [FunctionReward(letters), FunctionReward(seldom, weight=0.0), Cuts()]
    return PPOTraining(
        PPOConfig(**settings), ending_soon(llama()), tokenizer(), asked, terms, sampler=sampler, mesh=mesh
    )


def of_rows(samples, rows):
    """Some responses, cut to the longest of them: ranks have widths of their own."""
    longest, changed = int(samples.lengths[rows].max()), {}
    for field in fields(samples):
        x = getattr(samples, field.name)[rows]
        changed[field.name] = x[:, :longest] if isinstance(x, torch.Tensor) and x.dim() > 1 else x
    return replace(samples, **changed)


def updates(mesh, shares):
    """Weights and metrics after an iteration on the same responses: of one process, and of all ranks, for each case."""
    return [{case: _one_update(mesh, case, rows[mesh.rank]) for case in CASES} for rows in shares]


def _one_update(mesh, case, share):
    alone = made(ALONE, case)
    before, metrics = alone.optimizer.flat.tolist(), [plain(alone.iterate())]
    drawn = alone.last.samples
    together = made(mesh, case, sampler=InPlace(lambda *_, **__: of_rows(drawn, share)))
    passes = compute_together(mesh, together) if case == "computed together" else []
    mesh.share = lambda count: slice(share.start // group(case), share.stop // group(case))
    try:
        metrics.append(plain(together.iterate()))
    finally:
        del mesh.share
    return {
        "metrics": metrics,
        "before": before,
        "weights": [training.optimizer.flat.tolist() for training in (alone, together)],
        "kl": (alone.kl.coefficient, together.kl.coefficient),
        "width": int(together.last.samples.tokens.shape[1]),
        "passes": len(passes),
        "real passes": sum(rows > 0 for rows in passes),
    }


def compute_together(mesh, training):
    """Have every layer wait for the other ranks, forwards and backwards, as layers do that lie on all of them.

    Returns:
        How many responses had a part in each pass, once there have been some.
    """
    passes, evaluate = [], training.policy.evaluate

    def counted(batch):
        passes.append(int((batch.weight > 0).any(1).sum()))
        return evaluate(batch)

    training.policy.evaluate = counted
    training.policy.ranks = mesh
    for layer in training.roles.policy.parts[0].layers:
        layer.register_forward_hook(lambda *_: mesh.barrier())
        layer.register_full_backward_hook(lambda *_: mesh.barrier())
    return passes


def group(case):
    return CASES[case][1]["update"].responses_per_prompt


def plain(row):
    return {
        k: v for k, v in row.items() if not k.startswith(("seconds", "memory", "time", "tokens_per_second", "padded"))
    }


def runs(mesh, home):
    """A whole run, one stopped on rank 1 and resumed, and half of one."""
    trainer = make_trainer(home, "whole")
    told = {"rows": [plain(row) for row in trainer], "weights": trainer._training.optimizer.flat.tolist()}
    told["drawn"] = trainer._training.last.samples.tokens.tolist()
    told["results"] = {k: v for k, v in trainer.run.results.items() if k != "seconds"}
    trainer = make_trainer(home, "stopped")
    for row in trainer:
        if mesh.rank == 1 and row["step"] >= 16:
            trainer.stop()
    told["stopped"] = (trainer.run.stopped, trainer.step)
    trainer.to_the_end()
    told["resumed"] = trainer._training.optimizer.flat.tolist()
    trainer = make_trainer(home, "half", stop_at=16)
    trainer.to_the_end()
    try:
        make_trainer(home, "no number", algorithm=Exploding).to_the_end()
    except UserError as error:
        told["no number"] = str(error)
    try:
        make_trainer(home, "refused", batch=2, responses=8, update={"minibatch_size": 1}).to_the_end()
    except UserError as error:
        told["refused"] = str(error)
    try:
        make_trainer(home, "settings", seed=7 + mesh.rank).to_the_end()
    except UserError as error:
        told["settings"] = str(error)
    return told


def make_trainer(home, name, **changes):
    settings = {
        "batch": 8,
        "responses": 32,
        "response_limit": 6,
        "learning_rate": 1e-2,
        "update": {"epochs": 2, "minibatch_size": 4, "target_kl": 0.5},
        "kl": {"coefficient": 0.1, "target": 0.5, "horizon": 50},
        "preflight": "off",
        **changes,
    }
    return Trainer(
        str(home / "model"),
        prompts=[{"prompt": " ".join(f"w{i}" for i in row if i)} for row in PROMPTS],
        rewards=per_word,
        run=str(home / name),
        progress="quiet",
        **settings,
    )


def goes_on(mesh, home, name):
    """Train on where another number of ranks has stopped."""
    trainer = make_trainer(home, name)
    rows = [plain(row) for row in trainer]
    return {"steps": [row["step"] for row in rows], "weights": trainer._training.optimizer.flat.tolist()}
