"""Train a policy, from start to result."""

from collections.abc import Mapping, Sequence
from typing import Any

from proximo.control.config import NetworkSettings, TrainConfig
from proximo.control.environments import Source
from proximo.control.own_parts import Maker
from proximo.control.result import Run
from proximo.control.trainer import Trainer
from proximo.core.settings import UpdateSettings
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call


def train(
    environment: Source,
    algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
    *,
    preset: str = "",
    network: Maker | NetworkSettings | Mapping[str, Any] | None = None,
    encoders: Mapping[str, Maker] | None = None,
    callbacks: Sequence[Given] = (),
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> Run:
    """Train a policy.

    Args:
        environment: a task of EnvPool or Gymnasium, `module:function`, a callable that makes an environment, or an
            environment, which is trained in alone (a rollout is then as much longer) and left open.
        algorithm: one of `proximo.algorithms` by its name ("ppo", "ppo-penalty", "a2c", "reinforce", "trpo"), or a
            class of yours derived from `proximo.algorithms.PPO`, with the preset's settings and those in `update`; or
            an instance with its own. PPO if None.
        preset: tuned, paper, the name of an algorithm, or the path of a TOML file; if "", the algorithm's own, and
            tuned where it has none.
        network: a class or function that makes a network of your own, called as `Net(observations, outputs)`, or a
            `functools.partial` of it with arguments by name; a mapping has settings of ours.
        encoders: by key of a Dict observation, a class or function that makes an encoder, called with the shape of the
            key; it turns `[B, *shape]` into features `[B, F]`.
        callbacks: called while the run trains: functions of trainer and metrics, or instances of `proximo.Callback`.
        progress: live, plain, quiet, or auto.
        stop_at: end early, with a checkpoint, once this many environment steps are done.
        fresh: delete the run that is in the folder and start over.
        allow_change: resume with settings that differ from the folder's.
        settings: fields of `TrainConfig` (`steps=100_000`, `seed=0`, `run="runs/mine"`, `update={"clip": 0.1}`);
            `options` adds to or overrides those of the preset.

    Returns:
        The run: its folder and its results.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    return Trainer(
        environment,
        algorithm,
        preset=preset,
        network=network,
        encoders=encoders,
        callbacks=callbacks,
        progress=progress,
        stop_at=stop_at,
        fresh=fresh,
        allow_change=allow_change,
        **settings,
    ).to_the_end()


def run_training(
    config: TrainConfig,
    source: Source | None = None,
    mode: Mode = "auto",
    call: Call | None = None,
    callbacks: Sequence[Given] = (),
) -> Run:
    """Train as `config` says: start, or resume from the folder's last checkpoint.

    Args:
        config: complete.
        source: the environment's maker where `config.environment` is only its name.
        mode: how progress is shown.
        call: how this call begins and ends.
        callbacks: called while the run trains.

    Raises:
        UserError: something the user can mend.
    """
    return Trainer.of(config, source, mode, call, callbacks).to_the_end()
