"""PPO on language models whose weights are spread over the ranks, for tests/scale."""

import os
import signal

import torch
from language_ranks import ending_soon, make_trainer, of_rows, plain
from language_runs import PROMPTS, letters
from tiny import llama, prompts, tokenizer
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from proximo.algorithms import GRPO, PPO
from proximo.errors import UserError
from proximo.language.ppo import loading
from proximo.language.ppo.preflight import memory, preflight
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, PPOConfig, ScaleSettings, SharingSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.language.sampling.engine import InPlace
from proximo.scale.mesh import ALONE

_WHOLE = {"minibatch_size": None, "epochs": 3}
CASES = {
    "shared critic": {"update": PPO(**_WHOLE, max_grad_norm=0.5)},
    "in parts": {"update": PPO(**_WHOLE), "token_budget": 40},
    "separate critic": {"update": PPO(**_WHOLE), "sharing": SharingSettings(critic="separate"), "token_budget": 40},
    "tied, put away": {"update": PPO(**_WHOLE, entropy_coefficient=0.01), "scale": ScaleSettings("full", offload=True)},
    "no critic": {"update": GRPO(**_WHOLE, group=2), "token_budget": 40},
}


def made(mesh, case, sampler=None):
    settings = {
        "batch": 8,
        "responses": 80,
        "response_limit": 24,
        "learning_rate": 1e-2,
        "adam_epsilon": 1.0,  # steps in proportion to the gradient: Adam's first ones are its sign, rounding and all
        "kl": KLSettings(coefficient=0.1, target=0.5, horizon=50),
        "scale": ScaleSettings("full"),
        **CASES[case],
    }
    model = ending_soon(llama())
    if case.startswith("tied"):
        model.lm_head.weight = model.model.embed_tokens.weight
    asked, terms = prompts(*PROMPTS), [FunctionReward(letters)]
    return PPOTraining(PPOConfig(**settings), model, tokenizer(), asked, terms, sampler=sampler, mesh=mesh)


def whole(training):
    """All that is trained, on every rank."""
    parts = [p.detach() for p in training.roles.trainable()]
    return torch.cat([(p.full_tensor() if isinstance(p, DTensor) else p).reshape(-1) for p in parts]).tolist()


def everything(mesh, home, shares):
    """What needs two ranks, in one pair of processes."""
    told = {"updates": updates(mesh, shares), "runs": runs(mesh, home), "one": goes_on(mesh, home, "one")}
    told |= {"fails": one_fails(mesh), "flown": flown(mesh), "refused": refused(mesh, home)}
    return {**told, "unread": unread(mesh, home)}


def flown(mesh):
    """The preflight's verdicts in one process and of spread weights, its count of bytes, and whether weights moved."""
    told = {}
    for name, ranks in (("alone", ALONE), ("together", mesh)):
        training = made(ranks, "separate critic")
        before = whole(training)
        told[name] = [(check.name, check.verdict) for check in preflight(training) if "memory" not in check.name]
        told[f"{name} bytes"] = memory.predicted(training)
        told[f"{name} moved"] = whole(training) != before
    return told


def refused(mesh, home):
    """What is said where the memory of rank 1 does not suffice."""
    there = memory._there
    if mesh.rank == 1:
        memory._there = lambda *_: 1000.0
    try:
        make(home, "refused", preflight="stop").to_the_end()
    except UserError as error:
        return str(error)
    finally:
        memory._there = there


def unread(mesh, home):
    """What is said where rank 1 can not read the prompts; and weights where only rank 0 can read the model in parts."""
    read, apart, told = loading.load_prompts, loading.unloaded_causal_model, []

    def lost(*_):
        raise UserError("the prompts are on another disk")

    try:
        if mesh.rank == 1:
            loading.load_prompts = lost
        make(home, "unread").to_the_end()
    except UserError as error:
        told.append(str(error))
    finally:
        loading.load_prompts = read
    try:
        if mesh.rank == 1:
            loading.unloaded_causal_model = lambda *_, **__: None
        trainer = make(home, "whole on one", stop_at=8)
        trainer.to_the_end()
        told.append(whole(trainer._training))
    finally:
        loading.unloaded_causal_model = apart
    return told


def one_fails(mesh):
    """What is said where a reward breaks on rank 1; the weights before, after it was undone, and an iteration on."""
    training = made(mesh, "in parts")
    before, rewards = whole(training), training.rewards

    def breaks(prompts, responses, **_):
        if mesh.rank == 1:
            raise KeyError("the reward broke")
        return letters(prompts, responses)

    training.rewards = [FunctionReward(breaks)]
    try:
        training.iterate()
    except UserError as error:
        said = str(error)
    training.rewind()
    undone, training.rewards = whole(training), rewards
    training.iterate()
    return {"said": said, "before": before, "undone": undone, "after": whole(training)}


def out_of_memory_before(mesh, home, where):
    """The same while the weights are shared out, or are flown with before the first iteration."""
    from proximo.language.ppo.preflight import flight
    from proximo.language.roles import spread

    def breaks(*_, **__):
        raise torch.OutOfMemoryError("no memory is left")

    if mesh.rank == 1:
        setattr(*{"sharing out": (spread, "shard"), "flying": (flight, "to_batch")}[where], breaks)
    try:
        make(home, where, preflight="warn").to_the_end()
    except UserError as error:
        return str(error), error.exit_code


def out_of_memory(mesh, where):
    """What is said, and the exit code, where rank 1 runs out of memory while both score, gather weights or learn."""
    training = made(mesh, "in parts")

    def breaks(*_):
        raise torch.OutOfMemoryError("no memory is left")

    if mesh.rank == 1 and where == "scoring":
        training.policy.reference_log_probs = breaks
    elif mesh.rank == 1 and where == "gathering":
        FSDPModule.unshard = breaks
    elif mesh.rank == 1:
        training.roles.value_head.register_full_backward_hook(breaks)
    try:
        training.iterate()
    except UserError as error:
        return str(error), error.exit_code


def updates(mesh, shares):
    """Weights and metrics after an iteration on the same responses: of one process, and spread over all ranks."""
    return {case: _one_update(mesh, case, shares[case][mesh.rank]) for case in CASES}


def _one_update(mesh, case, share):
    alone = made(ALONE, case)
    assert not alone.spread
    before, metrics = whole(alone), [plain(alone.iterate())]
    drawn = alone.last.samples
    together = made(mesh, case, sampler=InPlace(lambda *_, **__: of_rows(drawn, share)))
    assert together.spread
    size = CASES[case]["update"].responses_per_prompt
    mesh.share = lambda count: slice(share.start // size, share.stop // size)
    try:
        metrics.append(plain(together.iterate()))
    finally:
        del mesh.share
    after, held = whole(together), together.optimizer.flat.numel()
    together.rewind()
    together.sampler = InPlace()
    together.sample([[3], [5, 2, 9]][: 1 + mesh.rank])  # unlike numbers of passes
    return {
        "metrics": metrics,
        "before": before,
        "weights": [whole(alone), after],
        "held": held,
        "undone": whole(together),
        "given up": all(isinstance(p, DTensor) for p in together.roles.parameters()),
    }


def make(home, name, **changes):
    """A trainer of spread weights in a folder."""
    settings = {
        "scale": {"shard": "full"},
        "sharing": {"critic": "separate"},
        "token_budget": 40,
        "checkpoint_every": 8,
        "adam_epsilon": 1e-3,  # or rounding is as large a step as any
        **changes,
    }
    return make_trainer(home, name, **settings)


def named(training):
    """Weights and moments by name, on every rank."""
    found = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in training.parts().items()}
    return {name: x.tolist() for name, x in found.items()}


def runs(mesh, home):
    """A whole run, the same with all weights on each rank, and one stopped on rank 1 and resumed."""
    told, load = {"loaded": []}, loading.load_causal_model
    loading.load_causal_model = lambda *given, **more: told["loaded"].append(name) or load(*given, **more)
    for name, shard in (("whole", "full"), ("plain", "none")):
        trainer = make(home, name, scale={"shard": shard})
        rows = [plain(row) for row in trainer]
        told[name] = {"rows": rows, "weights": whole(trainer._training)}
        told[name]["results"] = {k: v for k, v in trainer.run.results.items() if k != "seconds"}
        if shard == "full":
            told["named"] = named(trainer._training)
    trainer = make(home, "stopped")
    for row in trainer:
        if mesh.rank == 1 and row["step"] >= 16:
            trainer.stop()
    told["at the stop"] = named(trainer._training)
    trainer = make(home, "stopped")
    trainer.to_the_end()
    told["resumed"] = whole(trainer._training)
    told["half"] = half(mesh, home, "half")
    try:
        trainer.policy.respond("w3")
    except UserError as error:
        told["asked"] = str(error)
    loading.load_causal_model = load
    return told


def half(mesh, home, name):
    """Train half of the steps; what is trained then."""
    trainer = make(home, name, stop_at=16)
    trainer.to_the_end()
    return named(trainer._training)


def goes_on(mesh, home, name):
    """Load what another number of ranks has left, and train on: what was loaded, and the steps."""
    trainer = make(home, name)
    rows = iter(trainer)
    seen = []
    load = PPOTraining.remember

    def remember(training):
        if not seen:
            seen.append(named(training))
        load(training)

    PPOTraining.remember = remember
    try:
        steps = [row["step"] for row in rows]
    finally:
        PPOTraining.remember = load
    return {"loaded": seen[0], "steps": steps, "named": named(trainer._training)}


def killed_while_saving(mesh, home, name):
    """Rank 1 is killed once it has written its part of the second checkpoint; what rank 0 says."""
    from proximo.scale import parts

    written = []

    class Killing(parts.HuggingFaceStorageWriter):
        def write_data(self, plan, planner):
            done = super().write_data(plan, planner)
            written.append(self.path)
            if mesh.rank == 1 and len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

    parts.HuggingFaceStorageWriter = Killing
    try:
        make(home, name).to_the_end()
    except UserError as error:
        return str(error)
