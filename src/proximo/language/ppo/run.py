"""PPO from start to result."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from proximo.core.settings import UpdateSettings
from proximo.language.ppo.loading import make_training
from proximo.language.ppo.result import LanguageRun
from proximo.language.ppo.trainer import Preflight, Trainer
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import RewardTerm
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call

__all__ = ["make_training", "run_ppo", "train"]


def train(
    model: Any,
    *,
    prompts: Any,
    rewards: Any,
    algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
    tokenizer: Any = None,
    run: str | PathLike[str] | None = None,
    preset: str | Path = "",
    callbacks: Sequence[Given] = (),
    progress: Mode = "auto",
    preflight: Preflight = "stop",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> LanguageRun:
    """Train a language model with PPO, held near its start by a price on the KL.

    Args:
        model: folder, hub name, `builtin:smollm2`, or a causal model of `transformers`; such an object is copied to a
            folder beside the run's and stays as it is.
        prompts: rows with a `prompt`, whose other fields reach reward functions: a file, a list of dictionaries, texts
            or chat messages, a `datasets.Dataset` or a `DataFrame`. Rows are kept in a file beside the run's folder.
        rewards: functions `f(prompts, responses, **columns)` that give one number per response (None where they do not
            apply), folders of reward models, `module:function`; one, a list, or a dictionary with their weights.
        algorithm: one of `proximo.algorithms` by its name ("ppo", "ppo-penalty", "rloo", "grpo"), or a class of yours
            derived from `proximo.algorithms.PPO`, with the preset's settings and those in `update`; or an instance with
            its own. PPO if None.
        tokenizer: of a model that is given as an object; a folder has its own.
        run: folder of the run; None takes `runs/ppo-MODEL-SEED`.
        preset: name or path of a TOML file whose table `[ppo]` gives the other settings.
        callbacks: called while the run trains: functions of trainer and metrics, or instances of `proximo.Callback`.
        progress: live, plain, quiet, or auto.
        preflight: what a failed check before the first step does: stop, warn; or off, which checks nothing.
        stop_at: end early, with a checkpoint, once this many responses are sampled.
        fresh: delete the run that is in the folder and start over.
        allow_change: resume with settings, prompts or code of rewards that differ from the folder's.
        settings: fields of `proximo.language.ppo_config.PPOConfig` (`responses=8192`, `kl={"coefficient": 0.1}`);
            `held_out` and `held_out_pairs` take rows too.

    Returns:
        The run: its folder and its results. `policy` in the folder is what `transformers` loads. A KL is in nats per
        response.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    return Trainer(
        model,
        prompts=prompts,
        rewards=rewards,
        algorithm=algorithm,
        tokenizer=tokenizer,
        run=run,
        preset=preset,
        callbacks=callbacks,
        progress=progress,
        preflight=preflight,
        stop_at=stop_at,
        fresh=fresh,
        allow_change=allow_change,
        **settings,
    ).to_the_end()


def run_ppo(
    config: PPOConfig,
    *,
    mode: Mode = "auto",
    rewards: Sequence[RewardTerm] | None = None,
    call: Call | None = None,
    preflight: Preflight = "stop",
    callbacks: Sequence[Given] = (),
) -> LanguageRun:
    """Train as `config` says: start, or go on where the folder's last checkpoint is.

    Args:
        config: complete.
        mode: how progress is shown.
        rewards: terms made in Python; those of `config.rewards` if None.
        call: how this call begins and ends.
        preflight: what a failed check before a run's first step does: stop it, or no more than say so; off checks
            nothing.
        callbacks: called while the run trains.

    Raises:
        UserError: something the user can mend.
    """
    return Trainer.of(config, mode, rewards, call, preflight, callbacks).to_the_end()
