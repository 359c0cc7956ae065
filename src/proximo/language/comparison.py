"""A finished PPO run against the model it started from, on prompts it never saw, by a judge it never saw."""

import json
import os
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proximo.core.divergences import kl_k1, kl_k3
from proximo.errors import UserError, require_whole
from proximo.language.compute.threads import using_threads
from proximo.language.data.dataset import load_prompts
from proximo.language.data.prompts import Prompt
from proximo.language.given.files import as_rows
from proximo.language.given.rewards import Function, Own, named
from proximo.language.lineage import trained_anew
from proximo.language.meter.judge_term import load_judge
from proximo.language.models.decoder import Stack
from proximo.language.models.linear_head import linear_head
from proximo.language.models.loading import asking_device, load_causal_model, load_tokenizer
from proximo.language.ppo.policy import LanguagePolicy
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import make_rewards
from proximo.language.rewards.terms import FunctionReward, RewardTerm, combine, cut_prompts, function_from
from proximo.language.sampling.answers import Answers, answer
from proximo.language.sampling.sampler import SamplingParameters, stop_tokens
from proximo.language.sampling.texts import to_batch
from proximo.language.stages import JUDGE, is_function, without_label
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.doctor.record import EVALUATION
from proximo.runs.session.opening import read_results
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.folder import RunFolder

EXAMPLES = 5


@dataclass(frozen=True)
class BeforeAndAfter:
    """Two models' answers to the same prompts, drawn with the same random numbers."""

    config: PPOConfig
    prompts: list[Prompt]
    models: tuple[Any, Any]
    answers: tuple[Answers, Answers]
    notes: tuple[str, ...] = ()
    """What is to be known of the choice of the prompts, in sentences."""

    @property
    def device(self) -> torch.device:
        """Device of both models."""
        return asking_device(self.config.device)

    def rows(self, scores: Sequence[Tensor], count: int | None = None) -> list[dict[str, Any]]:
        """The first prompts, unselected: `prompt`, and `before`, `after`, `before_score`, `after_score`.

        Args:
            scores: of the answers before and after, `[n]` each.
            count: how many prompts; all if None.
        """
        rows: list[dict[str, Any]] = [{"prompt": prompt.text} for prompt in self.prompts[:count]]
        for side, answers, given in zip(("before", "after"), self.answers, scores, strict=True):
            for i, row in enumerate(rows):
                row[side], row[f"{side}_score"] = answers.texts.responses[i], float(given[i])
        return rows


def ppo_folder(run: Path) -> tuple[Path, PPOConfig]:
    """The folder of a finished PPO stage and its settings.

    Args:
        run: folder of all stages, or that of the PPO stage.

    Raises:
        UserError: there is no finished PPO run.
    """
    folder = run / "ppo" if (run / "ppo" / "config.toml").exists() else run
    if not folder.is_dir():
        raise UserError(f"there is no folder {run}: check the path, which counts from the folder you are in")
    if not (folder / "policy").is_dir():
        raise UserError(f"{run} holds no finished PPO run (no policy folder in {folder}): run `proximo rlhf ppo` first")
    config = from_mapping(PPOConfig, read_toml(folder / "config.toml"), where=str(folder / "config.toml"))
    return folder, _where_it_is(config, folder)


def _where_it_is(config: PPOConfig, folder: Path) -> PPOConfig:
    """The settings of a run that was moved or copied: what stood beside its PPO folder is looked for beside it now."""
    old, new = Path(config.run).parent, folder.resolve().parent

    def found(name: str) -> str:
        path = Path(name)
        if not path.is_relative_to(old):
            return name
        moved = new / path.relative_to(old)
        return str(moved) if moved.exists() else name

    places = ("policy", "prompts", "held_out", "judge", "modules")
    names: dict[str, Any] = {name: found(getattr(config, name)) for name in places}

    def moved(reward: str) -> str:
        place, label = without_label(reward)
        return found(place) + (f"@{label}" if label else "")

    return replace(config, rewards={moved(name): weight for name, weight in config.rewards.items()}, **names)


def before_and_after(run: Path, prompts: Any = (), count: int = 5, seed: int = 1) -> BeforeAndAfter:
    """Both models' answers.

    Args:
        run: see `ppo_folder`.
        prompts: what to answer, as `load_prompts` takes it; the run's held-out prompts if empty, or else its own.
        count: how many prompts.
        seed: of the sampling.

    Raises:
        UserError: there is no finished PPO run, its starting model is another by now, or there is no prompt.
    """
    require_whole("count", count, 1)
    folder, config = ppo_folder(run)
    anew = trained_anew(RunFolder(folder), config)
    if "policy" in anew:
        raise UserError(
            f"{folder} was made from another {config.policy} than there is now, which was retrained, so there is no "
            "before to compare with: run `proximo rlhf ppo` again with --fresh (fresh=True)"
        )
    tokenizer = load_tokenizer(config.policy, trust_remote_code=config.trust_remote_code, day=config.date)
    loaded = load_prompts(prompts or config.held_out or config.prompts, tokenizer, config.prompt_limit)
    rows, notes = loaded.items[:count], [loaded.message] if loaded.message else []
    notes += [f"{name} was trained anew since: it is not the reward of this run" for name in anew.values()]
    if not prompts and not config.held_out:
        notes.append(f"the run names no held-out prompts: these are of {config.prompts}, which it was trained on")
    if not rows:
        raise UserError("there is no prompt to answer: check the prompts file and the count")
    settings: dict[str, Any] = {
        "device": asking_device(config.device),
        "trust_remote_code": config.trust_remote_code,
    }
    before = load_causal_model(config.policy, **settings)
    # An adapter names the base's place in training, which may have been elsewhere.
    after = load_causal_model(str(folder / "policy"), adapters_base=config.policy, **settings)
    stop = stop_tokens(before, tokenizer, rows)
    parameters = SamplingParameters(config.response_limit, stop, config.temperature)
    answers = [answer(model, tokenizer, rows, parameters, seed=seed) for model in (before, after)]
    return BeforeAndAfter(config, rows, (before, after), (answers[0], answers[1]), tuple(notes))


def compare(
    run: str | PathLike[str],
    judge: str | PathLike[str] | Function | None = None,
    *,
    prompts: Any = (),
    rewards: Any = None,
    count: int = 256,
    seed: int = 7,
) -> dict[str, Any]:
    """What PPO did, in the judge's standard deviations: the same prompts answered before and after, and judged.

    Args:
        run: folder of the PPO run, or that of all stages.
        judge: folder of a judge (`train_judge`, `proximo rlhf judge`), a function `f(prompts, responses)` or
            `module:function`; if None the one beside or in the run's folder, or else the one that watched the run.
        prompts: a file, a list of dictionaries, texts or chat messages, or a `datasets.Dataset`; the run's held-out
            prompts if empty, or else its own.
        rewards: functions that the run was given and that no module holds, as they were given to `train`.
        count: how many prompts, at least 2.
        seed: of the sampling, the same for both models.

    Returns:
        `rise_sd` with its standard error `rise_se`: mean rise of the judge's score over its standard deviation before;
        `better_share` of prompts; `kl`, `kl_k3`, `kl_se` of after from before, nats per response; `judge_*` and
        `reward_*` means and the statistics of `Answers`, each `_before` and `_after`; `notes`, sentences on the choice
        of the prompts; `examples`. All but these are written to the run's folder, where `diagnose` reads them.

    Raises:
        UserError: run or judge are not there, or there are too few prompts.
    """
    require_whole("count", count, 2, "a spread is measured over the prompts")
    run = Path(run)
    ppo, config = ppo_folder(run)
    none = prompts is None or (isinstance(prompts, Sized) and len(prompts) == 0)
    given = not none and not isinstance(prompts, str | PathLike)
    asked = as_rows(prompts, "prompts", ("prompt",)) if given else prompts
    own = {} if rewards is None else named(rewards)[1]
    with using_threads(config.threads):
        seen = _compare(run, judge, asked, own, count, seed)
    numbers = {name: x for name, x in seen.items() if name != "examples"}
    write_atomically(ppo / EVALUATION, json.dumps(numbers, indent=1).encode())
    return seen


def _compare(run: Path, given: Any, prompts: Any, own: Own, count: int, seed: int) -> dict[str, Any]:
    ppo, config = ppo_folder(run)
    device = asking_device(config.device)
    terms = make_rewards(config, device, own)  # first: one that is not found is said before anything is answered
    judge, folder = _judge(run, config, given, device)
    seen = before_and_after(run, prompts, count, seed)
    if len(seen.prompts) < 2:
        raise UserError("one prompt has no spread to measure a rise on: give a file with more prompts")
    judged = [judge(a.texts) for a in seen.answers]
    rewards = [combine(terms, a.texts, config.combine)[0] for a in seen.answers]
    gain, spread = judged[1] - judged[0], float(judged[0].std())
    if not spread > 0:
        raise UserError(
            f"the judge gives all {len(judged[0])} answers before training one score, so there is no scale for a "
            "rise: give more prompts, or another judge"
        )
    sides = dict(zip(("before", "after"), zip(seen.answers, judged, rewards, strict=True), strict=True))
    return {
        "prompts": len(seen.prompts),
        "rise_sd": float(gain.mean()) / spread,
        "rise_se": float(gain.std()) / len(gain) ** 0.5 / spread,
        "better_share": float((gain > 0).float().mean()),
        **divergence(
            seen.models[1], seen.models[0], seen.prompts, seen.answers[1], temperature=seen.config.temperature
        ),
        **{f"judge_{side}": float(j.mean()) for side, (_, j, _) in sides.items()},
        **{f"reward_{side}": float(r.mean()) for side, (_, _, r) in sides.items()},
        **{f"{name}_{side}": x for side, (a, _, _) in sides.items() for name, x in a.statistics.items()},
        "notes": [*seen.notes, *cut_prompts(terms), *cut_stages(ppo, folder)],
        "examples": seen.rows(judged, EXAMPLES),
    }


def cut_stages(ppo: Path, judge: Path) -> list[str]:
    """A sentence for each stage of a run that the clock ended before its steps were done.

    Args:
        ppo: folder of the PPO stage, beside which the others may be.
        judge: folder of the judge.
    """
    notes = []
    for stage in dict.fromkeys((ppo.parent / "sft", ppo.parent / "reward", judge, ppo)):
        cut = (read_results(stage / "results.json") or {}).get("cut_by_clock")
        if cut:
            notes.append(f"{stage.name}: {cut}")
    return notes


def _judge(run: Path, config: PPOConfig, given: Any, device: torch.device) -> tuple[RewardTerm, Path]:
    """The judge that is asked, and its folder; the run's if it has none."""
    if callable(given):
        return FunctionReward(given, name="judge"), run
    name = os.fspath(given) if given else ""
    if not name and is_function(config.judge):
        name = config.judge
    if is_function(name):
        return FunctionReward(function_from(name, config.modules), name="judge"), run
    folder = Path(name) if name else _judge_beside(run)
    return load_judge(folder, device), folder


def _judge_beside(run: Path) -> Path:
    for folder in (run / "judge", run.parent / "judge"):
        if (folder / JUDGE).exists():
            return folder
    raise UserError(f"{run} has no judge: run `proximo rlhf judge`, or give the folder of one as `judge`")


def divergence(
    policy: Any, reference: Any, prompts: Sequence[Prompt], answers: Answers, *, temperature: float = 1.0
) -> dict[str, float]:
    """KL(policy, reference) on the policy's own responses: k1 and k3, nats per response, and k1's standard error.

    `temperature` is that of the sampling.
    """
    batch = to_batch(prompts, answers.samples)
    log_probs = []
    for model in (policy, reference):
        linear_head(model)  # or the log-probs would be those of another model
        roles = _Scoring(model)
        log_probs.append(LanguagePolicy(roles, temperature=temperature).scored(batch)[0])  # type: ignore[arg-type]
    real = batch.weight > 0
    each = torch.where(real, kl_k1(log_probs[0], log_probs[1]), 0.0).sum(1)
    k3 = torch.where(real, kl_k3(log_probs[0], log_probs[1]), 0.0).sum(1)
    return {"kl": float(each.mean()), "kl_k3": float(k3.mean()), "kl_se": float(each.std()) / len(each) ** 0.5}


class _Scoring:
    """What `LanguagePolicy` asks of roles, for one model that is only read."""

    def __init__(self, model: Any) -> None:
        self.policy, self.head = Stack([model.get_decoder()]), model.get_output_embeddings()
        self.value_head = torch.nn.Linear(self.head.weight.shape[1], 1, device=self.head.weight.device)

    def as_policy(self, function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)

    def value_states(self, hidden: Tensor, tokens: Tensor, states: Tensor | None) -> Tensor:
        return hidden
