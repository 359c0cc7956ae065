"""A control run's episode, step by step, under a film strip."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.loading import LoadedPolicy, policy_from
from proximo.control.models.normalizers import RewardScaler
from proximo.errors import MALFORMED, UserError, require_whole
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.storage.files import make_parents, require_no_folder, write_atomically
from proximo.views.inspect.before import policy_before
from proximo.views.inspect.episode_page import html
from proximo.views.inspect.steps import Steps, steps_of
from proximo.views.record.episode import Filmed, drawing_environments
from proximo.views.record.record import config_of, filmed

WIDTH = 200
"""Of a picture, in pixels."""
LIMIT = 1000
FURTHEST = 80.0
"""Of a log ratio: what lies beyond is drawn here."""


@dataclass(frozen=True)
class EpisodeInspection:
    """One episode, and the page about it."""

    file: Path
    seed: int
    ended: str
    """`terminated`, `truncated`, or "" where it was cut at the limit."""
    total: float
    """Its return, of the environment's rewards as they are given."""
    steps: Steps
    ratio: tuple[float, ...] | None
    """π_latest(a|s) / π_before(a|s) of each action taken; None where there is no policy before."""
    notes: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        columns = {name: column.tolist() for name, column in vars(self.steps).items()}
        columns |= {"ratio": None if self.ratio is None else list(self.ratio)}
        about = {"page": str(self.file), "seed": self.seed, "ended": self.ended, "return": self.total}
        return about | {"critic_most_wrong_at": self.steps.worst, "steps": columns, "notes": list(self.notes)}

    def print(self) -> None:
        """Where the page is, and what it says first."""
        worst = self.steps.worst
        print(f"the episode is in {self.file}: open it in a browser")
        print(
            f"{self.steps.count}, return {self.total:,.4g}; the critic was most wrong at step {worst}: it "
            f"said {self.steps.value[worst]:.4g} and {self.steps.returned[worst]:.4g} followed"
        )
        for note in self.notes:
            print(note)


@dataclass
class _Ratios:
    """Log ratio of the most probable action under two policies, step by step."""

    now: LoadedPolicy
    before: LoadedPolicy
    logs: list[float] = field(default_factory=list)

    def __call__(self, observation: Any, mask: Any) -> None:
        ours, theirs = (x.distribution(observation, mask=mask) for x in (self.now, self.before))
        action = ours.mode()
        self.logs.append(float((ours.log_prob(action) - theirs.log_prob(action))[0]))
        self.before.act(observation, mask=mask)  # moves its memory and its frames


def inspect_episode(folder: Path, policy: str, seed: int | None, limit: int, out: Path | None) -> EpisodeInspection:
    """See `proximo.inspect_run`.

    Raises:
        UserError: the policy has no critic, or can not act here.
    """
    if policy not in ("latest", "best"):
        raise UserError(f"there is no policy {policy!r}: choose latest or best")
    if seed is not None:
        require_whole("seed", seed, 0)
    if limit < 1:
        raise UserError(f"limit = {limit} steps must be at least 1")
    config = config_of(folder)
    if not config.update.critic:
        raise UserError(f"{folder} was trained by {type(config.update).__name__}, which learns no values to look at")
    path, tensors, state = _loaded(folder, policy)
    shown = LoadedPolicy(policy_from(tensors, state, "best" if policy == "best" and path.name != "best" else "policy"))
    before, why = None, "the ratio is left out: it is of the latest policy to the one before it"
    if policy == "latest":
        before, why = policy_before(folder, shown.policy, state)
    watch = None if before is None else _Ratios(shown, before)
    chosen = seeds.derive(config.seed, seeds.FRESH, 0, 1)[0] if seed is None else seed
    file = out if out is not None else folder / "inspect" / f"{chosen}.html"
    require_no_folder(file, f"{chosen}.html")
    episode, undrawn = _filmed(config, shown, policy, chosen, limit, watch)
    rewards, scaled = _learnt(config, folder, episode.learnt)
    steps = steps_of(rewards, episode.values, episode.terminated, episode.cut, config.gamma, config.lam)
    ratio = None if watch is None else tuple(np.exp(np.clip(watch.logs, -FURTHEST, FURTHEST)).tolist())
    notes = tuple(filter(None, [undrawn, why, scaled]))
    found = EpisodeInspection(file, chosen, episode.ended, sum(episode.rewards), steps, ratio, notes)
    about = f"{policy} policy, seed {chosen}, most probable actions"
    make_parents(file)
    write_atomically(
        file, html(found, f"{folder.resolve().name}: one episode", about, episode.pictures).encode("utf-8")
    )
    return found


def _checkpoint(folder: Path, policy: str) -> Path:
    """Of the policy that is shown.

    Raises:
        UserError: there is none yet.
    """
    named = folder / "checkpoints" / ("best" if policy == "best" else "final")
    path = named if named.exists() else latest_checkpoint(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder} has no checkpoint yet: train for longer, or wait for the first one")
    return path


def _loaded(folder: Path, policy: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Of the policy that is shown: its checkpoint, with tensors and state.

    A run that goes on deletes its oldest checkpoints: one that is gone was not the latest, so there is another.

    Raises:
        UserError: there is none yet, or it is damaged.
    """
    while True:
        path = _checkpoint(folder, policy)
        try:
            return path, *load_checkpoint(path)
        except UserError:
            if path.exists():
                raise


def _filmed(
    config: TrainConfig, policy: LoadedPolicy, title: str, seed: int, limit: int, watch: _Ratios | None
) -> tuple[Filmed, str]:
    """The episode, with pictures if the environment draws any; else why there are none."""
    try:
        environments = drawing_environments(config, WIDTH)
        try:
            return filmed(environments, policy, title, config, seed, limit, WIDTH, watch=watch), ""
        finally:
            environments.close()
    except (UserError, ImportError) as error:
        why = f"the film strip is left out: {error}"
    if watch is not None:
        watch.logs.clear()
        watch.before.reset()
    keys: dict[str, Any] = {"mask_key": config.mask_key, "observation_keys": config.visible}
    keys |= {"action_repeat": config.action_repeat, "action_delay": config.action_delay}
    environments = make_environments(config.environment, 1, backend="gymnasium", options=config.options, **keys)
    try:
        return filmed(environments, policy, title, config, seed, limit, WIDTH, draw=False, watch=watch), why
    finally:
        environments.close()


def _learnt(config: TrainConfig, folder: Path, rewards: Sequence[float]) -> tuple[list[float], str]:
    """Rewards in the critic's units: scaled as they are after the last update, if the run scales them."""
    if config.normalizers.rewards != "scale":
        return list(rewards), ""
    _, tensors, _ = _loaded(folder, "latest")
    scaler = RewardScaler(config.environments, config.gamma, config.normalizers.clip)
    own = {name.removeprefix("scaler/"): x for name, x in tensors.items() if name.startswith("scaler/")}
    try:
        scaler.load_state_dict(own)
    except MALFORMED as error:
        raise UserError(
            f"{folder} keeps no scale of its rewards ({error}): resume it with the settings it had"
        ) from error
    note = f"rewards are divided by {float(scaler.moments.scale()):.4g} and cut to ±{config.normalizers.clip:g}"
    return scaler.scaled(np.array(rewards)).tolist(), f"{note}, as in training (normalizers.rewards = scale)"
