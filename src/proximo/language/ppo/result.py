"""What a PPO run came to: why it ends, and what it then leaves."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proximo.language.meter.meter import Meter
from proximo.language.models.folders import save_folder
from proximo.language.ppo.training import PPOTraining
from proximo.language.roles.critic import save_critic
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.folder import RunFolder

CHAT = "chat messages"
"""In the `results.json` of a run, under `prompts`: what it was trained to answer."""


@dataclass(frozen=True)
class LanguageRun:
    """What a PPO run came to."""

    path: Path
    """The folder of the run."""
    results: dict[str, Any]
    """`responses`, `iterations`, why it `ended`... What was measured on the way is in `proximo.metrics(run.path)`."""
    stopped: str | None = None
    """What ended it early, a signal's name, `stop-at` or `trainer.stop()`; the same call resumes."""
    finished_before: bool = False
    """Whether an earlier call finished it, and this one has only read what it came to."""

    @property
    def folder(self) -> Path:
        """`path`."""
        return self.path

    @property
    def policy(self) -> Path:
        """Folder that `transformers` (with adapters: `peft`) loads, once the run has ended."""
        return self.path / "policy"

    def __hash__(self) -> int:
        """As its folder."""
        return hash(self.path)

    def __fspath__(self) -> str:
        """Its folder, wherever a run is asked for."""
        return str(self.path)


FRUITLESS = 8
"""Iterations without any difference of rewards within a group, or without any reward, from the first on, that end a
run."""


def ending(training: PPOTraining, kl: float | None, seconds: float) -> str | None:
    """Why the training ends here; None if it does not."""
    config = training.config
    if config.kl.budget is not None and kl is not None and kl > config.kl.budget:
        return f"KL of {kl:.1f} nats per response is over the budget of {config.kl.budget}"
    iterations, group = training.progress.iterations, training.algorithm.responses_per_prompt
    if group > 1 and iterations >= FRUITLESS and not training.progress.told_apart:
        return (
            f"nothing to learn from: in {iterations} iterations all {group} responses to each prompt got one reward; "
            "give prompts that are solved now and then, a reward with degrees, or a larger update.group"
        )
    over = training.done >= config.responses
    if iterations == training.progress.unjudged and (over or iterations >= FRUITLESS):
        names = " and ".join(term.name for term in training.rewards)
        return (
            f"nothing to learn from: {names} gave None for each of {training.done:,} responses, which says that it "
            "does not apply; return a number for those that it does"
        )
    if over:
        return "all responses done"
    if config.minutes is not None and seconds > config.minutes * 60:
        return _time_is_over(config.minutes)
    return None


def _time_is_over(minutes: float) -> str:
    return f"{minutes:g} minutes are over"


def cut_by_clock(training: PPOTraining) -> str:
    """What the time limit took away from a run that has ended, in a sentence; "" if it took nothing."""
    config = training.config
    if config.minutes is None or training.ended != _time_is_over(config.minutes):
        return ""
    return (
        f"the clock cut this stage: {config.minutes:g} minutes were over after {training.done:,} of "
        f"{config.responses:,} responses; raise minutes to train it to its end"
    )


def finish(training: PPOTraining, folder: RunFolder, meter: Meter | None = None) -> dict[str, Any]:
    """Save policy and critic of a training that has ended, and write its results.

    Where a judge was asked, the policy that it liked best is `best_policy`, if that is not the last one; a run that was
    to stop at the peak and has passed it leaves it as `policy`.
    """
    folder.go_back()
    shutil.rmtree(folder.path / "best_policy", ignore_errors=True)  # of an earlier end of this run
    at_peak = training.config.stop_at_peak and meter is not None and meter.passed
    if meter is not None and meter.responses[-1] != training.done:
        meter.look()  # the run ended between two looks
        folder.go_back()
    better = meter if meter is not None and not meter.last_is_best else None
    lost = better is not None and at_peak and not better.take_best()
    save_folder(folder.path / "policy", training.roles, training.tokenizer)
    done = training.progress
    results: dict[str, Any] = {"responses": done.responses, "iterations": done.iterations, "ended": training.ended}
    if cut := cut_by_clock(training):
        results["cut_by_clock"] = cut
    chat = all(isinstance(prompt.source, list) for prompt in training.prompts.prompts)
    results["prompts"] = CHAT if chat else "text"
    if training.algorithm.critic and not save_critic(folder.path / "critic", training.roles, training.tokenizer):
        results["critic"] = f"not saved: transformers has no token classifier for {type(training.roles.model).__name__}"
    if meter is not None:
        results |= meter.results()
    if lost:
        results["best_policy"] = "lost: its checkpoint is of another measurement, so policy is the last one"
    if better is not None and not at_peak:
        last = {name: x.clone() for name, x in training.roles.trained_state().items()}
        if better.take_best():
            save_folder(folder.path / "best_policy", training.roles, training.tokenizer)
            results["best_policy"] = "best_policy"
        training.roles.load_trained(last)
    write_atomically(folder.path / "results.json", json.dumps(results, indent=1).encode())
    return results
