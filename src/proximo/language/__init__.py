"""Language models: train them from Python as on the command line.

`train` is PPO (`Trainer` in a loop of your own); `train_sft`, `train_reward` and `train_judge` are the stages before
it; `compare` asks a judge what PPO did.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proximo.language.comparison import compare
    from proximo.language.compute.malloc import keep_freed_memory
    from proximo.language.ppo.result import LanguageRun
    from proximo.language.ppo.run import train
    from proximo.language.ppo.trainer import Trainer
    from proximo.language.supervised.run import StageRun, train_judge, train_reward, train_sft

__all__ = [
    "LanguageRun",
    "StageRun",
    "Trainer",
    "compare",
    "keep_freed_memory",
    "train",
    "train_judge",
    "train_reward",
    "train_sft",
]

_WHERE = {
    "train": "proximo.language.ppo.run",
    "Trainer": "proximo.language.ppo.trainer",
    "LanguageRun": "proximo.language.ppo.result",
    "train_sft": "proximo.language.supervised.run",
    "train_reward": "proximo.language.supervised.run",
    "train_judge": "proximo.language.supervised.run",
    "StageRun": "proximo.language.supervised.run",
    "compare": "proximo.language.comparison",
    "keep_freed_memory": "proximo.language.compute.malloc",
}


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import: keep `proximo --help` fast.
    if name not in _WHERE:
        raise AttributeError(f"module 'proximo.language' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
