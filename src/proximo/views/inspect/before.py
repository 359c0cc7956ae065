"""The policy before a control run's latest one, which ratios are told from."""

from pathlib import Path
from typing import Any

import torch

from proximo.control.config import TrainConfig
from proximo.control.loading import LoadedPolicy, policy_from
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.replay import make_learner
from proximo.errors import MALFORMED, UserError
from proximo.runs.replay.entry import read
from proximo.runs.storage.checkpoint import load_checkpoint, step_of

_ADVICE = "train with checkpoint_every below the steps of the run, or with a larger replay_mb"


def policy_before(folder: Path, shown: ControlPolicy, state: dict[str, Any]) -> tuple[LoadedPolicy | None, str]:
    """The policy of the numbered checkpoint before, else that before the last update where the run keeps it.

    Args:
        folder: of the run.
        shown: the latest policy.
        state: of its checkpoint.

    Returns:
        With a sentence that says which one it is, or why there is none and what to do.
    """
    now, why = int(state.get("progress", {}).get("steps", 0)), ""
    numbered = [(n, path) for path in (folder / "checkpoints").iterdir() if (n := step_of(path.name)) is not None]
    for step, path in sorted((item for item in numbered if item[0] < now), reverse=True):
        try:
            return LoadedPolicy(policy_from(*load_checkpoint(path))), f"ratio: to the policy at step {step:,}"
        except (UserError, *MALFORMED) as error:
            why = why or f" that can be read ({error})"
    try:
        if (found := _before_its_update(folder, shown)) is not None:
            return found
    except (UserError, *MALFORMED):  # none is kept, or by another version
        pass
    return None, (
        f"the ratio is left out: no numbered checkpoint lies before the latest policy{why}, and the update that led to "
        f"it is not kept; {_ADVICE}"
    )


def _before_its_update(folder: Path, shown: ControlPolicy) -> tuple[LoadedPolicy, str] | None:
    """The policy that the kept update began with which ended in this one; None if none did."""
    kept, weights = read(folder / "replay"), dict(shown.named_parameters())
    config = kept.config(TrainConfig)
    for entry in reversed(kept.entries):
        if entry.after is None:
            continue
        learner = make_learner(kept.run, entry, config, config)
        places = learner.named_slices()
        if all(torch.equal(entry.after[place], weights[name].detach().flatten()) for name, place in places):
            said = f"ratio: to the policy before its last update (iteration {entry.iteration}, kept for proximo replay)"
            policy = learner.module
            assert isinstance(policy, ControlPolicy)
            return LoadedPolicy(policy.to("cpu")), said
    return None
