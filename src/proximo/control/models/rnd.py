"""Random network distillation: a bonus for what has been seen seldom, beside the rewards of the task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from proximo.control import seeds
from proximo.control.config import RndSettings, TrainConfig
from proximo.control.models.networks import linear, mlp
from proximo.control.models.normalizers import ObservationNormalizer, RewardScaler
from proximo.control.spaces.groups import CRITIC, RND, Roles, matching
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.advantages import gae
from proximo.core.updates.optimizer import FlatAdam
from proximo.errors import UserError

_CLIP = 5.0
_WIDTH = 128


@dataclass(frozen=True)
class Shown:
    """What a rollout has shown."""

    inputs: Mapping[str, Tensor]
    """Each `[T, N, ...]`."""
    last: Mapping[str, Tensor]
    """What follows its last step, each `[N, ...]`."""
    valid: np.ndarray
    """`[T, N]`; False where a row only reports a reset."""
    fresh: np.ndarray | None = None
    """`[T, N]`; True where what is observed next is the first of an episode. None: nowhere."""
    ends: Sequence[tuple[int, np.ndarray, Mapping[str, Tensor]]] = ()
    """Step, rows `[M]` and inputs `[M, ...]` of the states that episodes ended in, as far as they are known."""


class Rnd(nn.Module):
    """What is seen often is predicted well: the error of a predictor of a fixed random network is the bonus.

    As in Burda et al. 2018 (arXiv:1810.12894): observations are normalised and clipped to ±5, and the bonus is divided
    by the running deviation of its discounted sum (section 2.4), which goes on over the ends of episodes and has a
    critic and a discount of its own (2.3). That critic has layers of its own here, so that the policy's loss is what it
    is without a bonus. Everything stands still until `learn`.

    Args:
        settings: of the bonus.
        columns: `input name, columns` of what it sees.
        count: environments.
        lam: λ of the bonus's advantages.
        epochs: passes over each rollout.
        minibatches: of each pass.
        seed: of its weights and draws.
        device: where it lives.
    """

    def __init__(
        self,
        settings: RndSettings,
        columns: Mapping[str, Tensor],
        count: int,
        lam: float,
        epochs: int,
        minibatches: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.settings, self._columns, self._lam = settings, columns, lam
        self._epochs, self._minibatches = epochs, minibatches
        size = sum(len(x) for x in columns.values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.target = _network(size, 1, settings.features).requires_grad_(False)
            # Deeper than what it learns, as there.
            self.predictor = _network(size, 2, settings.features)
            self.critic = _network(size, 2, 1)
        self.normalizer = ObservationNormalizer(size, _CLIP)
        self.scaler = RewardScaler(count, settings.gamma, math.inf)
        self.to(device)
        self.scaler.to("cpu")
        trained = [*self.predictor.parameters(), *self.critic.parameters()]
        self.optimizer = FlatAdam(trained, settings.learning_rate, 1e-5)
        self.generator = torch.Generator().manual_seed(seed)
        self._seen: Tensor | None = None

    @classmethod
    def of(cls, config: TrainConfig, roles: Roles, count: int, device: torch.device, ranks: int = 1) -> Rnd | None:
        """What the settings ask for; None where they ask for none.

        Args:
            config: of the run.
            roles: what is seen.
            count: environments.
            device: of the policy.
            ranks: that train together.

        Raises:
            UserError: it is to see an image, or what is not there; or it is asked of a student, or of several ranks.
        """
        if not config.rnd.weight:
            if config.observations.rnd:
                raise UserError("observations.rnd says what rnd sees, and rnd.weight is 0: set it, to 0.5 for a start")
            return None
        if config.teacher:
            raise UserError("rnd.weight is of who explores, and a student learns from its teacher: leave it out")
        if ranks > 1:
            raise UserError(f"rnd.weight is not offered on {ranks} ranks, each of which would learn what is new alone")
        size = config.update.minibatch_size or config.rollout_size
        seed = seeds.derive(config.seed, seeds.RND, 0, 1)[0]
        times = config.update.epochs, max(1, config.rollout_size // size)
        return cls(config.rnd, _columns(config, roles), count, config.lam, *times, seed, device)

    @torch.no_grad()
    def advantages(self, shown: Shown) -> Tensor:
        """Of the bonus, `[T, N]`, times its weight, in deviations of its return.

        A step that ends an episode is paid for the state that it reached, and not for the one that the next episode
        starts from. Where that is not known the step is left out: its bonus is what the critic expects.
        """
        self._look(shown)
        assert self._seen is not None
        bonus = torch.from_numpy(self.scaler.scaled(self._errors)).to(self._seen)
        self._bonus = float(bonus.sum() / max(1, self._counted.sum()))
        values = self.critic(self._seen).squeeze(-1)
        left_out = torch.from_numpy(shown.valid & ~self._counted).to(bonus.device)
        bonus = torch.where(left_out, values[:-1] - self.settings.gamma * values[1:], bonus)
        never = torch.zeros_like(bonus, dtype=torch.bool)
        how = {"gamma": self.settings.gamma, "lam": self._lam}
        advantages, self._returns = gae(bonus, values[:-1], values[1:], never, never, **how)
        return self.settings.weight * advantages

    def _look(self, shown: Shown) -> None:
        """Note what was seen, normalised, and how badly what each step led to is predicted."""
        valid = self._valid = shown.valid
        self._raw = torch.cat([self._of(shown.inputs), self._of(shown.last).unsqueeze(0)])
        self._seen = self.normalizer(self._raw).to(torch.float32)
        self._reached, self._counted = self._seen[1:], valid if shown.fresh is None else valid & ~shown.fresh
        if shown.ends:
            self._reached = self._reached.clone()
        for step, rows, reached in shown.ends:
            raw = self._of(reached)
            known = torch.isfinite(raw).all(-1).cpu().numpy()  # a terminal state may be what went wrong
            where = torch.from_numpy(rows[known]).to(raw.device)
            self._reached[step, where] = self.normalizer(raw[torch.from_numpy(known).to(raw.device)]).to(torch.float32)
            self._counted[step, rows[known]] = valid[step, rows[known]]
        errors = (self.predictor(self._reached) - self.target(self._reached)).square().mean(-1)
        self._errors = errors.double().cpu().numpy() * self._counted

    def _of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What it sees of encoded observations, `[..., D]`."""
        return torch.cat([inputs[name][..., places] for name, places in self._columns.items()], -1)

    @torch.no_grad()
    def see(self, shown: Shown) -> None:
        """Take in what the numbers look like, and learn nothing."""
        raw = self._of(shown.inputs)
        self.normalizer.moments.absorb(raw, torch.from_numpy(shown.valid).to(raw.device))
        self._look(shown)
        self.scaler.absorb(self._errors, np.zeros_like(shown.valid), self._counted)

    def learn(self) -> dict[str, float]:
        """Learn from the rollout that `advantages` was asked about last, and then move the statistics.

        Returns:
            Metrics by name.
        """
        assert self._seen is not None
        reached, before = self._reached.flatten(0, 1), self._seen[:-1].flatten(0, 1)
        returns, valid = self._returns.flatten(), torch.from_numpy(self._counted.reshape(-1)).to(self._returns)
        sums = torch.zeros(3)
        for _ in range(self._epochs):
            order = torch.randperm(len(reached), generator=self.generator)
            for part in order.to(reached.device).tensor_split(self._minibatches):
                taught = torch.rand(len(part), generator=self.generator) < self.settings.share
                sums += self._step(reached[part], before[part], returns[part], valid[part], taught.to(valid))
        with torch.no_grad():
            self.normalizer.moments.absorb(self._raw[:-1], torch.from_numpy(self._valid).to(self._raw.device))
            self.scaler.absorb(self._errors, np.zeros_like(self._valid), self._counted)
        self._seen = None
        error, miss, norm = (sums / (self._epochs * self._minibatches)).tolist()
        return {"rnd_bonus": self._bonus, "rnd_error": error, "rnd_value_loss": miss, "rnd_grad_norm": norm}

    def _step(self, reached: Tensor, before: Tensor, returns: Tensor, valid: Tensor, taught: Tensor) -> Tensor:
        """One step of Adam; the predictor's error, the critic's, and the norm of the gradient."""
        self.optimizer.zero_grad()
        weight = valid * taught
        errors = (self.predictor(reached) - self.target(reached)).square().mean(-1)
        error = (errors * weight).sum() / weight.sum().clamp_min(1)
        misses = (self.critic(before).squeeze(-1) - returns).square() * valid
        miss = 0.5 * misses.sum() / valid.sum().clamp_min(1)
        (error + miss).backward()
        norm = self.optimizer.step()
        return torch.stack([error.detach(), miss.detach(), norm]).cpu()

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; the generator is the training's."""
        optimizer = {f"optimizer/{name}": x for name, x in self.optimizer.state().items()}
        return {f"rnd/{name}": x for name, x in {**self.state_dict(), **optimizer}.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        own = {name.removeprefix("rnd/"): x for name, x in tensors.items() if name.startswith("rnd/")}
        moments = {n.removeprefix("optimizer/"): own.pop(n) for n in [*own] if n.startswith("optimizer/")}
        self.load_state_dict(own)
        self.optimizer.load_state(moments)


def _network(size: int, depth: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*mlp((size, *[_WIDTH] * depth), "relu", True), linear(_WIDTH, outputs, 1.0))


def _columns(config: TrainConfig, roles: Roles) -> dict[str, Tensor]:
    """Places in the vectors of actor and critic, and in its own, by input, of the parts that it sees.

    Raises:
        UserError: one is an image, or not there; or there is no vector.
    """
    wanted, found, images = config.observations.rnd, dict[str, Tensor](), list[str]()
    specs = {"vector": roles.actor} | ({f"{CRITIC}vector": roles.critic} if roles.critic else {})
    specs |= {f"{RND}vector": roles.rnd} if roles.rnd else {}
    named = set[str]()
    if wanted:
        every = [part.key for spec in specs.values() for part in spec.parts if part.kind != "mask"]
        named = {x for name in wanted for x in matching(name, every, config.environment, "observations.rnd")}
    for name, spec in specs.items():
        parts = [p for p in spec.parts if p.kind != "mask" and (p.key in named if wanted else name == "vector")]
        images += [p.key or "the observation" for p in parts if p.kind == "pixels"]
        if places := _places(spec, {p.key for p in parts if p.kind != "pixels"}):
            found[name] = torch.tensor(places)
        named -= {p.key for p in parts}  # once, where both see it
    if images or not found:
        what = f"{', '.join(images)} is an image" if images else f"{config.environment} shows none"
        raise UserError(f"rnd reads vectors, and {what}: name the parts that it sees with observations.rnd")
    return found


def _places(spec: ObservationSpec, keys: set[str]) -> list[int]:
    """Columns of a spec's vector that are of these parts."""
    places, start = list[int](), 0
    for part in spec.parts:
        if part.kind not in ("pixels", "mask"):
            places += range(start, start + part.size) if part.key in keys else ()
            start += part.size
    return places
