"""PPO from start to result."""

from collections.abc import Sequence

from proximo.language.ppo.loading import make_training
from proximo.language.ppo.result import LanguageRun
from proximo.language.ppo.trainer import Preflight, Trainer
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import make_rewards
from proximo.language.rewards.terms import RewardTerm
from proximo.runs.console.progress import Mode
from proximo.runs.session.opening import Call

__all__ = ["LanguageRun", "make_rewards", "make_training", "run_ppo"]


def run_ppo(
    config: PPOConfig,
    *,
    mode: Mode = "auto",
    rewards: Sequence[RewardTerm] | None = None,
    call: Call | None = None,
    preflight: Preflight = "stop",
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
    return Trainer(config, mode=mode, rewards=rewards, call=call, preflight=preflight).to_the_end()
