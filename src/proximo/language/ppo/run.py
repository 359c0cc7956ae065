"""PPO from start to result: folder, resume, progress, signals, checkpoints, export."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from proximo.errors import UserError
from proximo.language.begun import settled
from proximo.language.compute.malloc import FreedMemory
from proximo.language.compute.threads import using_threads
from proximo.language.data.dataset import load_prompts
from proximo.language.lineage import check_made_from, note_made_from
from proximo.language.models.folders import check_savable, generates, save_folder
from proximo.language.models.loading import choose_device, load_causal_model, load_tokenizer
from proximo.language.ppo import preflight as flight
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import code_of_rewards, make_rewards, reward_start
from proximo.language.rewards.terms import RewardTerm
from proximo.language.roles.critic import save_critic
from proximo.language.stages import located, resolved
from proximo.runs.config.toml import read_toml
from proximo.runs.console.progress import HEALTH, Column, Mode, Progress
from proximo.runs.session.alone import alone
from proximo.runs.session.opening import Call, Opening, free_folder
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.session import Session, resume
from proximo.runs.session.signals import StopRequest
from proximo.runs.storage.files import append, parse_json, user_error, write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter
from proximo.runs.system import resident_memory

COLUMNS = (
    Column("score", "score", "score", ".3f"),
    Column("kl", "KL to reference", "KL", ".2f", " nats"),
    Column("kl_coefficient", "KL coefficient", "", ".4f"),
    Column("response_length", "response length", "length", ".1f"),
    Column("finished", "finished", "finished", ".0%"),
    Column("approx_kl", "KL of the update", "", ".4f"),
    Column("final_approx_kl", "KL after the last step", "", ".4f"),
    Column("clip_fraction", "clip fraction", "clip", ".2f"),
    Column("explained_variance", "explained variance", "EV", ".2f"),
    Column("entropy", "entropy", "", ".3f"),
    Column("distinct_2", "distinct-2", "distinct-2", ".2f"),
    Column("duplicates", "duplicates", "", ".1%"),
    Column("learning_rate", "learning rate", "", ".2e"),
    HEALTH,
)

CHAT = "chat messages"
"""In the `results.json` of a run, under `prompts`: what it was trained to answer."""


@dataclass(frozen=True)
class LanguageRun:
    """What a PPO run came to."""

    path: Path
    policy: Path
    """Folder that `transformers` (with adapters: `peft`) loads."""
    results: dict[str, Any]
    stopped: str | None = None
    """What ended it early, a signal's name or `stop-at`; the same command goes on."""


def run_ppo(
    config: PPOConfig,
    *,
    mode: Mode = "auto",
    rewards: Sequence[RewardTerm] | None = None,
    call: Call | None = None,
    preflight: Literal["stop", "warn", "off"] = "stop",
) -> LanguageRun:
    """Train as `config` says: start, or go on where the folder's last checkpoint is.

    Args:
        config: complete.
        mode: how progress is shown.
        rewards: terms made in Python; those of `config.rewards` if None.
        call: how this call begins and ends.
        preflight: what a failed check before a run's first step does: stop it, or no more than say so; off checks
            nothing.

    Raises:
        UserError: something the user can mend.
    """
    call = call or Call()
    folder, passed_over = RunFolder(config.run or f"runs/ppo-{Path(config.policy).name}-{config.seed}"), ""
    code = code_of_rewards(_with_modules(config, folder, call), rewards)
    if rewards is not None and not call.fresh:
        folder, passed_over = free_folder(folder, code)
    config = replace(located(_with_modules(config, folder, call)), run=str(folder.path))
    config, remark = settled(config, folder, call, choose_device(config.device))
    opening = Opening(folder, config, "policy", call, resolved=resolved)
    opening.check_code(code)
    check_made_from(opening)
    if finished := opening.results:
        return LanguageRun(folder.path, folder.path / "policy", finished)
    with alone(f"PPO in {folder.path}"), using_threads(config.threads):
        return _train(config, opening, rewards, mode, preflight, [passed_over, remark])


def _train(
    config: PPOConfig,
    opening: Opening,
    rewards: Sequence[RewardTerm] | None,
    mode: Mode,
    preflight: Literal["stop", "warn", "off"],
    messages: Sequence[str],
) -> LanguageRun:
    """The run of an opening that is not finished, up to its end or to what stops it."""
    folder, call = opening.folder, opening.call
    training, message = make_training(config, rewards)
    generates(training.roles.model, training.parameters.stop, config.temperature)
    check_savable(training.roles.model, training.tokenizer)
    warnings = [] if opening.resumed or preflight == "off" else _checked(training, stop=preflight == "stop")
    with ExitStack() as stack:
        stack.enter_context(opening.open())
        note_made_from(folder, config)
        metrics = stack.enter_context(MetricsWriter(folder.path))
        training.other_rows = call.allow_change
        if opening.resumed:
            resume(training, folder, metrics)
            _cut_texts(folder.path / "samples.jsonl", training.done)
        if opening.changes:
            training.ended = None  # with other settings it may go on
        title = f"PPO · {config.policy} · {config.sharing.mode} · seed {config.seed}"
        progress = stack.enter_context(
            Progress(
                title,
                config.responses,
                unit="responses",
                mode=mode,
                folder=folder.path,
                start=training.progress.responses,
                columns=COLUMNS,
            )
        )
        for text in filter(None, [*messages, message, *warnings]):
            progress.message(text)
        if changed := opening.settle(f"{training.done:,} responses"):
            progress.message(changed)
        with StopRequest() as stop:
            session = Session(training, folder, Recorder(metrics, progress), stop, call.stop_at)
            stopped = _iterate(training, session)
        if stopped:
            kept = "as it was at its last checkpoint, if there is one," if session.lost else "saved"
            progress.message(f"{stopped}: {kept} in {folder.path}; the same command goes on")
            return LanguageRun(folder.path, folder.path / "policy", {"responses": training.done}, stopped)
        if cut := _cut(training):
            progress.warning(f"WARNING: {cut}")
        results = _finish(training, folder)
    return LanguageRun(folder.path, folder.path / "policy", results)


def _with_modules(config: PPOConfig, folder: RunFolder, call: Call) -> PPOConfig:
    """The settings with the folder of modules that a run goes on with, wherever its command is given again."""
    if config.modules or call.fresh or not folder.exists:
        return config
    return replace(config, modules=str(read_toml(folder.config).get("modules", "")))


def _checked(training: PPOTraining, *, stop: bool) -> list[str]:
    """The preflight's sentences: one on all checks, one for each that did not pass.

    Raises:
        UserError: a check failed, and `stop`.
    """
    checks = flight.preflight(training)
    wrong = flight.failed(checks)
    if wrong and stop:
        told = "; ".join(f"{check.name}: {check.seen} ({check.remedy})" for check in wrong)
        raise UserError(f"preflight failed, nothing was written: {told}; go on all the same with --override-preflight")
    verdicts = [check.verdict for check in checks]
    summary = f"preflight: {verdicts.count('pass')} of {len(checks)} checks passed"
    return [summary, *(f"{c.verdict} {c.name}: {c.seen}; {c.remedy}" for c in checks if c.verdict in ("warn", "fail"))]


def make_training(config: PPOConfig, rewards: Sequence[RewardTerm] | None = None) -> tuple[PPOTraining, str]:
    """Models, reward terms and prompts as `config` names them, and a sentence about what was left out.

    Raises:
        UserError: something can not be read or does not fit.
    """
    if not config.policy:
        raise UserError("PPO needs a model: give --policy FOLDER, or make RUN/sft first (proximo rlhf sft)")
    if not config.prompts:
        raise UserError("PPO needs prompts: give --prompts FILE")
    trust = config.trust_remote_code
    tokenizer = load_tokenizer(config.policy, trust_remote_code=trust, day=config.date)
    prompts = load_prompts(config.prompts, tokenizer, config.prompt_limit)
    model = load_causal_model(config.policy, device=choose_device(config.device), trust_remote_code=trust)
    terms = list(rewards) if rewards is not None else make_rewards(config)
    decoder, head = reward_start(config, tokenizer, terms)
    training = PPOTraining(config, model, tokenizer, prompts.items, terms, reward_decoder=decoder, reward_head=head)
    return training, prompts.message or f"{len(prompts.items):,} prompts"


def _iterate(training: PPOTraining, session: Session) -> str | None:
    """Iterate to the end; what asked to stop before, or None."""
    freed = FreedMemory()
    while training.ended is None:
        before = training.done
        if session.stopped or (values := session.iterate()) is None:
            session.save()
            return session.stopped
        freed.tidy()
        values["memory_mb"] = resident_memory()
        session.recorder.iteration(training.done, values)
        _keep_texts(training, session.folder, training.done)
        training.ended = _ending(training, values["kl"], session.recorder.metrics.seconds)
        if session.due(before) or training.ended is not None:
            session.save()
    return None


def _ending(training: PPOTraining, kl: float | None, seconds: float) -> str | None:
    """Why the training ends here; None if it does not."""
    config = training.config
    if config.kl.budget is not None and kl is not None and kl > config.kl.budget:
        return f"KL of {kl:.1f} nats per response is over the budget of {config.kl.budget}"
    if training.done >= config.responses:
        return "all responses done"
    if config.minutes is not None and seconds > config.minutes * 60:
        return _time_is_over(config.minutes)
    return None


def _time_is_over(minutes: float) -> str:
    return f"{minutes:g} minutes are over"


def _cut(training: PPOTraining) -> str:
    """What the time limit took away from a run that has ended, in a sentence; "" if it took nothing."""
    config = training.config
    if config.minutes is None or training.ended != _time_is_over(config.minutes):
        return ""
    return (
        f"the clock cut this stage: {config.minutes:g} minutes were over after {training.done:,} of "
        f"{config.responses:,} responses; raise minutes to train it to its end"
    )


def _finish(training: PPOTraining, folder: RunFolder) -> dict[str, Any]:
    save_folder(folder.path / "policy", training.roles, training.tokenizer)
    done = training.progress
    results: dict[str, Any] = {"responses": done.responses, "iterations": done.iterations, "ended": training.ended}
    if cut := _cut(training):
        results["cut_by_clock"] = cut
    chat = all(isinstance(prompt.source, list) for prompt in training.prompts.prompts)
    results["prompts"] = CHAT if chat else "text"
    if not save_critic(folder.path / "critic", training.roles, training.tokenizer):
        results["critic"] = f"not saved: transformers has no token classifier for {type(training.roles.model).__name__}"
    write_atomically(folder.path / "results.json", json.dumps(results, indent=1).encode())
    return results


def _keep_texts(training: PPOTraining, folder: RunFolder, done: int) -> None:
    file = folder.path / "samples.jsonl"
    lines = "".join(
        json.dumps({"responses": done, **row}, ensure_ascii=False) + "\n"
        for row in training.texts(training.config.samples)
    )
    try:
        with open(file, "ab") as out:
            append(out.fileno(), lines.encode())
    except OSError as error:
        raise user_error(error, file) from error


def _cut_texts(file: Path, done: int) -> None:
    """Leave out what was sampled after the checkpoint that the run goes on from."""
    if file.exists():
        lines = file.read_bytes().splitlines(keepends=True)
        write_atomically(file, b"".join(line for line in lines if _is_of(line, done)))


def _is_of(line: bytes, done: int) -> bool:
    try:
        return line.endswith(b"\n") and bool(parse_json(line)["responses"] <= done)
    except (ValueError, TypeError, KeyError):  # torn by a kill
        return False
