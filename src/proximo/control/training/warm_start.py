"""A run that starts from what another one has learnt."""

from pathlib import Path

import torch
from torch import Tensor

from proximo.control.loading import policy_from, read_checkpoint
from proximo.control.models.normalizers import RewardScaler
from proximo.control.models.policy import ControlPolicy
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import under

_CRITIC = ("network.critic", "network.value_head", "network.sees", "values.")
_NORMALIZERS = ("normalizer.", "critic_normalizer.")


@torch.no_grad()
def start_from(
    policy: ControlPolicy, scaler: RewardScaler, run: str, parts: tuple[str, ...], *, scales: bool = False
) -> str:
    """Put what another run has learnt into a policy that nothing was learnt by.

    Args:
        policy: of the new run, changed in place.
        scaler: its rewards' scale, which is taken with the critic, whose units it makes.
        run: folder of the other run, or of one of its checkpoints.
        parts: `policy`, `critic` (with the statistics of returns) and `normalizers` (those of observations).
        scales: whether rewards are scaled in the new run.

    Returns:
        A sentence where the critic predicts in other units than it will learn in; "" elsewhere.

    Raises:
        UserError: there is no such run, or its policy does not fit.
    """
    path = Path(run)
    folder, name = (path.parent.parent, path.name) if path.parent.name == "checkpoints" else (path, "final")
    try:
        tensors, state, prefix = read_checkpoint(folder, name)
        theirs = policy_from(tensors, state, prefix)
    except UserError as error:  # of a run that is verified or repeated, this may be long ago
        raise UserError(f"start_from = {run}: {error}") from error
    _require_fit(policy, theirs, run, parts)
    learnt, own = theirs.state_dict(), policy.state_dict()
    for key, x in own.items():
        if _part(key) not in parts:
            continue
        if key not in learnt or learnt[key].shape != x.shape:
            there = tuple(learnt[key].shape) if key in learnt else "nothing"
            raise UserError(
                f"start_from = {run}: {key} is {tuple(x.shape)} here and {there} there: give the same network "
                "settings, or leave that part out of start_with"
            )
        x.copy_(learnt[key])
    for key, x in own.items():  # what is one tensor here and two there has been overwritten
        if _part(key) in parts and not torch.equal(x, learnt[key].to(x)):
            raise UserError(
                f"start_from = {run}: actor and critic share their layers here (network.shared), and have layers of "
                "their own there: set network.shared = false, or leave critic out of start_with"
            )
    if "critic" not in parts:
        return ""
    theirs_scale = under("scaler/", tensors)
    _take_scale(scaler, theirs_scale)
    if scales == bool(theirs_scale["moments.count"] > 0):
        return ""
    here, there = ("scale", "another") if scales else ("not scale", "scale")
    return (
        f"the critic of {run} predicts in other units than it learns in now: normalizers.rewards is {there} there and "
        f"{here} here; set the same, or leave critic out of start_with"
    )


def _part(key: str) -> str:
    """To which of the parts an entry of a policy's state belongs."""
    return "critic" if key.startswith(_CRITIC) else "normalizers" if key.startswith(_NORMALIZERS) else "policy"


def _take_scale(scaler: RewardScaler, learnt: dict[str, Tensor]) -> None:
    own = scaler.state_dict()
    for key, x in learnt.items():
        if key.startswith("moments."):
            own[key].copy_(x)


def _require_fit(policy: ControlPolicy, theirs: ControlPolicy, run: str, parts: tuple[str, ...]) -> None:
    """See that what is taken means the same here.

    Raises:
        UserError: it does not.
    """
    pairs = {"observations": (policy.observations, theirs.observations), "actions": (policy.actions, theirs.actions)}
    if "critic" in parts:
        pairs["critic's observations"] = (policy.critic_observations, theirs.critic_observations)
    for what, (here, there) in pairs.items():
        if here != there:
            raise UserError(
                f"start_from = {run}: its {what} are {there}, and here they are {here}: a policy starts on tasks "
                "of the same spaces only, with the same network.actions"
            )
    own, other = policy.settings.activation, theirs.settings.activation
    if own != other and not policy.settings.custom:
        raise UserError(
            f"start_from = {run}: its network.activation is {other}, and here it is {own}, by which the same weights "
            f"are another policy: set {other} here"
        )
    if (policy.normalizer is None) != (theirs.normalizer is None):
        setting = str(theirs.normalizer is not None).lower()
        raise UserError(f"start_from = {run}: it has normalizers.observations = {setting}: set the same here")
    if policy.settings.custom and not {"policy", "critic"} <= {*parts}:
        raise UserError(f"start_with = {list(parts)}: an own network is taken whole, so give policy and critic both")
