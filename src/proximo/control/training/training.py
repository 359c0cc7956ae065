"""One training run in memory: collect -> estimate advantages -> update -> move the statistics -> record."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.base import OnPolicyTraining
from proximo.algorithms.ppo import PPO, algorithm_of
from proximo.control import seeds
from proximo.control.closed_form.gradient import ClosedForm, supports
from proximo.control.config import TrainConfig
from proximo.control.environments.base import VectorEnvironment
from proximo.control.environments.wrappers.statistics import pooled, shared_out
from proximo.control.models.device import choose_device
from proximo.control.models.graphs import GraphedActor, graphs_of
from proximo.control.models.mirroring import mirroring_of
from proximo.control.models.normalizers import RewardScaler, far
from proximo.control.models.policy import MIRRORED
from proximo.control.models.rnd import Rnd, Shown
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.groups import Roles
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training import replay
from proximo.control.training.across import RULES, seen_by_all
from proximo.control.training.action_log import ActionLog
from proximo.control.training.critic_window import CriticWindow
from proximo.control.training.estimation import Estimator
from proximo.control.training.progress import FEWEST, BestPolicy, Progress, RecentEpisodes
from proximo.control.training.rollout import Actor, Collector, Rollout
from proximo.control.training.self_play import SelfPlay
from proximo.control.training.setup import fresh_policy, require_room, require_shares, smallest_share, update_settings
from proximo.control.training.tensor_rollout import TensorCollector, reads_tensors, stays_on_device
from proximo.control.training.vital_signs import (
    deviation,
    exact_kl,
    fingerprint,
    ratios,
    spread_out,
    still_deviations,
    vital_signs,
)
from proximo.control.training.warm_start import start_from
from proximo.core.batch import Batch
from proximo.core.schedules import Schedule
from proximo.core.settings import APART
from proximo.core.statistics import RunningMoments, scale_of_rewards
from proximo.core.updates.across import room
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateReport, UpdateTask, minibatches, objective_at
from proximo.errors import UserError
from proximo.runs.config.toml import to_toml
from proximo.runs.replay.ring import Ring
from proximo.runs.replay.undo import Undo
from proximo.runs.storage import random_state
from proximo.runs.storage.checkpoint import under
from proximo.scale.measured import merged
from proximo.scale.mesh import ALONE, Mesh

CUT, MOST = 0.1, 0.5
"""Shares of the steps whose episodes are cut at a checkpoint: from there on it is said, or not done."""
_MOST_RANKS = 2**16


class Training(OnPolicyTraining[Rollout]):
    """A policy, its environments and its optimiser.

    Args:
        config: what to do.
        environments: `config.environments` of them, or this rank's share.
        closed_form: whether the hand-derived gradient is used where it fits; False takes autograd everywhere.
        mesh: the ranks that train together, each in its share of the environments.
        threads: that large minibatches are shared by; which number changes no bit.

    Raises:
        UserError: spaces or settings that do not fit together.
    """

    def __init__(
        self,
        config: TrainConfig,
        environments: VectorEnvironment,
        *,
        closed_form: bool = True,
        mesh: Mesh = ALONE,
        threads: int = 1,
    ) -> None:
        super().__init__()
        self.config, self.environments, self.mesh = config, environments, mesh
        roles = self._make_policy()
        rate = Schedule.parse(config.learning_rate)
        # What the KL steers is multiplied: it begins without a warm-up, which is at 0.
        learning_rate = rate.at(0.0) if self.algorithm.adaptive_kl is None else rate.start
        self.optimizer = FlatAdam(
            self.policy.parameters_by_layer(), learning_rate, config.adam_epsilon, room=room(mesh)
        )
        self._derived = ClosedForm(self.policy, threads) if closed_form and supports(self.policy) else None
        self.closed_form = self._derived
        """In use as long as everything is what it was derived from."""
        others = bool(config.teacher) or environments.game is not None
        self.graphs = graphs_of(config, self.policy, self.algorithm, alone=mesh.alone, others=others)
        self._make_acting(roles)
        self.scaler = RewardScaler(environments.count, config.gamma, config.normalizers.clip)
        self.mirroring = mirroring_of(config, self.policy, self.algorithm)
        self.progress: Progress = Progress()
        self.log = ActionLog(self.self_play)
        self.before = Undo(self.optimizer, self._generators, self.numbers)
        # An update of several ranks can not be repeated by one.
        kept = config.replay_mb if mesh.alone else 0.0
        self.ring = Ring(self.before, self.optimizer, kept, self._described)
        self.recent = RecentEpisodes()
        self.critic = CriticWindow()
        self.best = BestPolicy()
        self.warm = ""
        """A sentence on what it starts from that is to be known."""
        self._learnt_at_restart = environments.statistics()
        """By the user's wrappers, before the environments last started anew; none in most runs."""

    def _make_policy(self) -> Roles:
        """Make the policy and the algorithm, for the spaces of the environments.

        Returns:
            What actor and critic see.
        """
        config, environments = self.config, self.environments
        kind, groups = config.network.actions, config.observations
        actions = ActionSpec.of(environments.action_space, kind == "squashed", kind == "beta")
        space = environments.observation_space
        observations = ObservationSpec.of(space, config.mask_key, actions.mask_size, actions.choices)
        others = groups.teacher, groups.rnd
        roles = Roles.of(observations, groups.actor, groups.critic, config.environment, *others)
        require_room(replace(config, environments=environments.count), roles, actions, self.mesh.local_size)
        self._beside = None if environments.tensors is None else environments.tensors.device
        fewest = smallest_share(environments.count, config.environments, self.mesh)
        self.device, self.why_device = choose_device(
            config.device, observations, config.network.hidden, self._beside, fewest
        )
        self.mesh.require_own(self.device)
        self.policy = fresh_policy(config, roles, actions).to(self.device)
        self.algorithm: PPO = algorithm_of(update_settings(config, recurrent=self.policy.memory_size > 0))
        if not self.mesh.alone:
            self._require_shares()
        if config.normalizers.rewards == "return":
            _ = self.policy.value_head  # refused before anything is trained
        if any(getattr(config.update, name) is not None for name in APART):
            self.policy.parameters_by_role()
        return roles

    def _make_acting(self, roles: Roles) -> None:
        """Make what draws, what steps the environments and what estimates advantages."""
        config, environments, mesh = self.config, self.environments, self.mesh
        noise, shuffle = seeds.derive(config.seed, seeds.NOISE, mesh.rank, 2)
        self.noise = torch.Generator(self.device).manual_seed(noise)
        self.shuffle = torch.Generator().manual_seed(shuffle)
        generators = {"noise": self.noise, "shuffle": self.shuffle}
        actor: Actor = self.closed_form or self.policy
        if not self.graphs.off:
            actor = GraphedActor(self.policy, self.graphs, self.noise)
        self.self_play = SelfPlay.of(config, environments, self.policy, lambda: self.collector.actor, mesh.rank)
        """Opponents in games; None in most runs."""
        self.rnd = Rnd.of(config, roles, environments.count, self.device, mesh.size)
        """A bonus for what is new; None in most runs."""
        own = {"opponents": self.self_play.noise} if self.self_play else {}
        self._generators = generators | own | ({"rnd": self.rnd.generator} if self.rnd else {})
        self.collector = self._collector(actor, roles)
        self.collector.finals_wanted = config.truncation == "exact"
        self.collector.ends_wanted, self.collector.beside = self.rnd is not None, roles.rnd
        if config.random_phase:
            environments.stagger(config.random_phase)
            self.collector.random_phase = config.random_phase
        how = config.gamma, config.lam, config.truncation
        self.estimator = Estimator(self.policy, actor, self.algorithm, *how, mesh)
        if config.truncation != "exact":
            environments.leave_out_finals()

    def _collector(self, actor: Actor, roles: Roles) -> Collector:
        """What steps the environments."""
        # By hand, in NumPy, is faster on the CPU; else what is on a device stays there.
        there = self.environments.tensors is not None and self._derived is None and stays_on_device(self.policy)
        there = there and (roles.rnd is None or reads_tensors(roles.rnd))
        collector = TensorCollector if there else Collector
        return collector(self.environments, self.policy, actor, self.config.rollout_length, self.noise)

    def _require_shares(self) -> None:
        """Refuse what several ranks can not share.

        Raises:
            UserError: it is said.
        """
        recurrent = self.policy.memory_size > 0
        count = minibatches(self.config.rollout_size, self.config.update.minibatch_size)
        require_shares(self.config, self.mesh.size, recurrent=recurrent, count=count)

    def start(self) -> None:
        """Start the environments, and give the normalisers something to go by."""
        if self.config.start_from:
            self.warm = self.mesh.of_the_first(self._take_over)  # who may be the only one that sees that folder
            taken = {**self.policy.state_dict(), **under("moments.", self.scaler.state_dict())}
            for x in taken.values():
                self.mesh.broadcast(x)
            if self.closed_form:
                self.closed_form.freeze()
        self._choose_path()
        # In all their digits, until it is known how far from 0 they lie.
        self.collector.see(bool(self.policy.normalizers))
        self.mesh.broadcast(self.optimizer.flat)  # another processor may have drawn other last bits
        if self.self_play:
            self.self_play.start()
        self.restart()
        if self.looks_first:
            # Before the first rollout that is learnt from, one that only shows what the numbers look like: without
            # it the first update would see raw observations and rewards, the second scaled ones.
            with self.mesh.together():
                rollout = self.collector.collect()
            self._count(rollout)
            self.collector.see(self._far(rollout))
            if self.mirroring:
                self.mirroring.follow(rollout.inputs, rollout.starts, rollout.last_starts)
                self.mirroring.settle()
            self._absorb(rollout, None)
            if self.rnd:
                self.rnd.see(_shown(rollout))
            self.log.record(rollout.taken, self.collector)

    def _take_over(self) -> str:
        config, how = self.config, {"scales": self.config.normalizers.rewards == "scale"}
        return start_from(self.policy, self.scaler, config.start_from, config.start_with, **how)

    def _far(self, rollout: Rollout) -> bool:
        """Whether observations lie so far from 0 that they are to be kept in float64."""
        for name in self.policy.normalizers:
            vector = rollout.inputs[name]
            moments = RunningMoments(tuple(vector.shape[-1:])).to(vector.device)
            moments.absorb(vector, torch.from_numpy(rollout.valid).to(vector.device), self.mesh)
            if far(moments):
                return True
        return False

    def restart(self) -> None:
        """Start every environment anew, with seeds that follow from the run's seed and the iteration."""
        if self._learnt_at_restart:
            self._learnt_at_restart = self.environments.statistics()
        with self.mesh.together():
            self.collector.restart(self._seeds(self.progress.iterations))
        self.scaler.restart()
        if self.mirroring:
            self.mirroring.restart(self.environments.count)
        self.log.restart(self.progress.iterations, self.collector)

    def _seeds(self, iteration: int) -> list[int]:
        """Of this rank's environments. Each environment has its own, whatever rank it is stepped by."""
        count = self.environments.count if self.mesh.alone else self.config.environments
        return seeds.derive(self.config.seed, seeds.TRAINING, iteration, count)[self.mesh.share(count)]

    def reset_point(self) -> tuple[str, bool] | None:
        """Start the environments anew at a checkpoint, so that whoever goes on from it has nothing to replay.

        Not where that would cut most of what was done since they last started, as long as it can be repeated instead:
        episodes in progress are in no return, and those that are cut are the long ones.

        Returns:
            What a person should know, that much was cut; and whether it was most of it.
        """
        unfinished = [e.length for e in self.collector.unfinished() if e.length]
        seen = torch.tensor([self.log.steps, len(unfinished), sum(unfinished)])
        since, count, steps = self.mesh.sum_across_ranks(seen).tolist()
        share = steps / max(1, since)
        if share > MOST and since + self.config.checkpoint_every <= self.config.restart_every:
            return None
        self.restart()
        self.progress.cut += count
        return None if share <= CUT else (self._cut(count, share), share > MOST)

    def _cut(self, count: int, share: float) -> str:
        longest = self.progress.longest
        known, size = "none has ended so far", "ten times what one takes (steps x environments)"
        if self.progress.episodes:
            size = f"{10 * longest * (self.environments.count if self.mesh.alone else self.config.environments):,}"
            known = f"the longest so far had {longest:,} steps"
        every = f"checkpoint_every = {self.config.checkpoint_every:,} and restart_every = {self.config.restart_every:,}"
        return (
            f"{count} episodes in progress, {share:.0%} of the steps since the environments started, were cut at a "
            f"checkpoint: long episodes are missing from the return; {known}: raise {every} to some {size}"
        )

    def bring_back(self) -> list[str]:
        """Put the environments where they were at the checkpoint that was loaded.

        Returns:
            What the policy sees differently, where an environment does not follow from its seed and actions: then they
            have all started anew, and it is another run from here.
        """
        if self.reshared:
            if self._learnt_at_restart:
                copies = len(next(iter(self.environments.statistics().values())))
                self.environments.take_statistics(shared_out(self.policy.wrappers, copies), fixed=False)
            self.restart()
            return []
        if self._learnt_at_restart:
            self.environments.take_statistics(self._learnt_at_restart, fixed=False)
        if self.self_play:
            self.self_play.again()
        with self.mesh.together():
            self.collector.restart(self._seeds(self.log.restarted_at))
            differing = self.log.bring_back(self.collector)
        if self.mesh.any(bool(differing)):
            differing = differing or ["what another rank sees"]
            self.restart()
            self.progress.exact_resume = False
        return differing

    def rewind(self) -> bool:
        """Go back to before the iteration in progress, in all but the environments: `bring_back` does these."""
        return self.before.undo()

    @property
    def share_done(self) -> float:
        """Share of the steps that are done."""
        return min(self.progress.steps / self.config.steps, 1.0)

    def learning_rate(self, progress: float) -> float | None:
        """By the schedule, unless the updates steer it by their KL."""
        return (
            None if self.algorithm.adaptive_kl is not None else Schedule.parse(self.config.learning_rate).at(progress)
        )

    def prepare(self) -> None:
        """Choose how to act, and note what must not move before the update is done."""
        self._choose_path()
        self.collector.seconds.update(environment=0.0, policy=0.0)
        self._statistics = fingerprint(self.policy, self.scaler)
        self._noise = self.policy.noise_numbers.detach().clone()

    def collect(self) -> Rollout:
        """Act in the environments."""
        rollout = self.collector.collect()
        self.seconds.update(self.collector.seconds)
        return rollout

    def estimate(self, rollout: Rollout) -> Batch:
        """Advantages and returns of rewards as they are learnt from."""
        if self.rnd:
            self.estimator.bonus = self.rnd.advantages(_shown(rollout))
        batch = self.estimator.batch(rollout, torch.from_numpy(self._rewards(rollout)))
        if self.mirroring is None:
            return batch
        self.mirroring.follow(
            rollout.inputs, rollout.starts, rollout.last_starts
        )  # while the policy is that which acted
        return self.mirroring.joined(batch, self.mirroring.memory)

    def learnt_from(self, rollout: Rollout, batch: Batch) -> dict[str, Tensor]:
        """See `control.training.replay`."""
        tensors = replay.to_tensors(self.policy, rollout, self.estimator.rewards, batch)
        return tensors if self.estimator.bonus is None else {**tensors, "bonus": self.estimator.bonus}

    def task(self, rollout: Rollout, batch: Batch, progress: float) -> UpdateTask:
        """The update of this iteration."""
        return UpdateTask(
            self.policy,
            batch,
            self.optimizer,
            progress=progress,
            generator=self.shuffle,
            split=lambda minibatch: minibatch.split(self.algorithm.micro_batches),
            closed_form=self.closed_form,
            graphs=self.graphs,
            reestimate=self.estimator.reestimate,
            numbers=self.numbers,
            ranks=self.mesh,
            samples=None if self.mesh.alone else self._samples,
            reward_scale=scale_of_rewards(self.estimator.rewards, torch.from_numpy(rollout.valid), self.mesh),
            **(self.mirroring.terms() if self.mirroring else {}),
        )

    @property
    def _samples(self) -> int:
        """Of all ranks' batches: steps, or whole sequences where the policy has a memory."""
        return self.config.environments if self.policy.memory_size else self.config.rollout_size

    def finish(self, rollout: Rollout, batch: Batch, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Move the statistics and count."""
        self._absorb(rollout, batch)
        if self.mirroring:
            self.mirroring.settle()
        before = self.progress.steps
        self._count(rollout)
        if self.self_play:
            self.self_play.grow(before, self.progress.steps)
        self.log.record(rollout.taken, self.collector)
        self._remember_best()
        told = {**self.recent.told(), **(self.rnd.learn() if self.rnd else {})}
        if not self.normalizes:
            return told
        return told | {"normalizers_still": int(torch.equal(self._statistics, fingerprint(self.policy, self.scaler)))}

    @property
    def done(self) -> int:
        """Environment steps so far."""
        return self.progress.steps

    @property
    def normalizes(self) -> bool:
        """Whether statistics of the policy or of rewards move."""
        return bool(self.policy.normalizers) or self.config.normalizers.rewards != "off"

    @property
    def looks_first(self) -> bool:
        """Whether any statistics move, so that a first rollout only shows what the numbers look like."""
        return self.normalizes or self.rnd is not None

    def _described(self) -> dict[str, Any]:
        """What is the same for all updates."""
        described = {"kind": self.config.kind, "config": to_toml(self.config), "policy": self.policy.describe()}
        return {**described, "closed_form": self.closed_form is not None, "beside": self._beside}

    def _choose_path(self) -> None:
        """The closed form only for what it was derived from: a policy or loss that was patched since takes autograd."""
        usable = self._derived if self._derived is not None and self._derived.holds else None
        if usable is self.closed_form:
            return
        self.closed_form = usable
        self.estimator.actor = actor = usable or self.policy
        self.collector.use(actor)
        if usable is not None:
            usable.freeze()

    def _rewards(self, rollout: Rollout) -> np.ndarray:
        return self.scaler.scaled(rollout.reward) if self.config.normalizers.rewards == "scale" else rollout.reward

    def _absorb(self, rollout: Rollout, batch: Batch | None) -> None:
        """Move the statistics, after the update that they must not disturb."""
        if self.config.normalizers.rewards == "return":
            # First, since returns are estimated with the observations normalised as they were in the rollout.
            batch = batch or self.estimator.batch(rollout, torch.from_numpy(rollout.reward))
            returns = self.policy.values.from_units(batch.returns)
            self.policy.values.absorb(returns, batch.weight, self.policy.value_head, self.mesh)
        weight = torch.from_numpy(rollout.valid).to(self.device)
        images = self.mirroring.seen(rollout.inputs) if self.mirroring else {}
        for name, normalizer in self.policy.normalizers.items():
            vector, counted = rollout.inputs[name], weight
            if name in images:  # of samples and images, so that what is normalised is symmetric where they are
                vector, counted = torch.cat([vector, images[name]]), torch.cat([weight, weight])
            # The first rollout is in float64 whether or not it needs to be.
            seen = vector if self.collector.exact else vector.to(torch.float32)
            normalizer.moments.absorb(seen, counted, self.mesh)
        if self.config.normalizers.rewards == "scale":
            self.scaler.absorb(rollout.reward, rollout.terminated | rollout.truncated, rollout.valid, self.mesh)
        if self.closed_form:
            self.closed_form.freeze()

    def _count(self, rollout: Rollout) -> None:
        steps, episodes = seen_by_all(rollout, self.mesh)
        self.progress.steps += steps
        self.progress.episodes += len(episodes)
        self.recent.add(episodes)

    def measure(self, rollout: Rollout, batch: Batch, report: UpdateReport) -> dict[str, Any]:
        """Metrics beside the update's own."""
        self._look_at_the_critic(rollout, batch)
        statistics = fingerprint(self.policy, self.scaler)
        moved, self._statistics = statistics - self._statistics, statistics
        part = spread_out(batch, self.algorithm.minibatch_size)
        with torch.no_grad():
            seen = self.policy.look(part.inputs)[0]
        values: dict[str, Any] = {
            **self.critic.measured(),
            "reset_rows": int((~rollout.valid).sum()),
            **vital_signs(self.policy, rollout, batch, self.config.truncation),
            **still_deviations(self.policy, self._noise),
            "normalizers_moved": float(moved.abs().max()),
            "exact_kl": exact_kl(self.policy, self.optimizer.flat, self.before.snapshot, part, seen),
            "ratio_histogram": ratios(part, seen, objective_at(self.algorithm, self.share_done).clip),
            **rollout.said,
        }
        if self.mirroring:
            values["equivariance_error"] = self.mirroring.error(part)
        if self.policy.actions.continuous:
            values["clipped_actions"] = rollout.clipped_fraction
            values["std"] = deviation(self.policy, seen)
        return merged(values, rollout.steps, self.mesh, RULES)

    def _look_at_the_critic(self, rollout: Rollout, batch: Batch) -> None:
        """In units of reward, since those of a critic that predicts normalised returns change."""
        longest = max([self.progress.longest, self.collector.longest_unfinished, *(e.length for e in rollout.episodes)])
        self.progress.longest = longest = int(self.mesh.gather(torch.tensor([longest])).max())
        values, returns = (self.policy.values.from_units(x).cpu() for x in (batch.value, batch.returns))
        rollouts = math.ceil(longest / self.config.rollout_length)
        self.critic.add(values, returns, batch.weight.cpu(), rollouts, self.mesh)

    def _remember_best(self) -> None:
        if self.config.evaluate_every is not None or self.self_play:
            return  # evaluations decide, or nothing does: against itself the mean is always about 0
        # In memory: writing at each improvement would cost more than the update. It goes to disk with each checkpoint.
        mean = self.recent.mean_return
        if mean is not None and len(self.recent.returns) >= FEWEST:
            self.consider(mean)

    def consider(self, mean_return: float) -> bool:
        """Remember the policy as it is if its return is the best so far; whether it is."""
        if better := mean_return > self.best.mean_return:
            self.note_wrappers()
            self.best.keep(self.policy, mean_return)
        return better

    def note_wrappers(self) -> None:
        """Note in the policy what the user's wrappers have learnt by now, all copies together."""
        # A signal to all processes of a job ends the environments' too: then what was noted last stays.
        if self._learnt_at_restart and (learnt := self.environments.statistics()):
            self.policy.wrappers = pooled(learnt)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs, as tensors and JSON."""
        self.note_wrappers()
        tensors, generators = random_state.capture(self._generators)
        tensors |= {f"policy/{name}": x for name, x in self.policy.state_dict().items()}
        tensors |= {f"optimizer/{name}": x for name, x in self.optimizer.state().items()}
        tensors |= {f"scaler/{name}": x for name, x in self.scaler.state_dict().items()}
        tensors |= {f"wrappers/policy/{name}": torch.from_numpy(x) for name, x in self.policy.wrappers.items()}
        tensors |= {f"environments/learnt/{name}": torch.from_numpy(x) for name, x in self._learnt_at_restart.items()}
        if self.mirroring and self.mirroring.memory is not None:
            tensors[f"environments/{MIRRORED}"] = self.mirroring.memory
        tensors |= self.self_play.state() if self.self_play else {}
        tensors |= self.rnd.state() if self.rnd else {}
        best, best_return = self.best.state()
        shown, environments = self.log.state()
        tensors |= best | {f"environments/{name}": x for name, x in shown.items()}
        state = {
            "policy": self.policy.describe(),
            "progress": vars(self.progress).copy(),
            "learning_rate": self.optimizer.learning_rate,
            "numbers": dict(self.numbers),
            **self.recent.state(),
            "best_return": best_return,
            "critic": self.critic.state(),
            "exact_observations": self.collector.exact,
            "environments": environments,
            "random": generators,
        }
        return tensors, state

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from `state`; the environments are to be brought back next.

        Raises:
            UserError: it belongs to another policy.
        """
        if not self.policy.matches(state["policy"]):
            raise UserError(
                f"the checkpoint is of another policy: the spaces of {self.config.environment} have changed since, "
                "or the order of observations.actor; put that back, or choose another folder with --run"
            )
        self.policy.load_state_dict(under("policy/", tensors))
        self.policy.project()
        self.policy.wrappers = {name: x.numpy() for name, x in under("wrappers/policy/", tensors).items()}
        self.best.load(tensors, state["best_return"])
        self._learnt_at_restart = {name: x.numpy() for name, x in under("environments/learnt/", tensors).items()}
        self.optimizer.load_state(under("optimizer/", tensors))
        self.optimizer.learning_rate = state["learning_rate"]
        self.numbers.update({name: float(x) for name, x in state["numbers"].items()})
        scaler = under("scaler/", tensors)
        if self.reshared:
            scaler["accumulated"] = torch.zeros_like(self.scaler.accumulated)
        self.scaler.load_state_dict(scaler)
        if self.self_play:
            self.self_play.load(tensors)
        if self.rnd:
            self.rnd.load(tensors)
        self.log.load(under("environments/", tensors), state["environments"])
        if self.mirroring and (memory := tensors.get(f"environments/{MIRRORED}")) is not None:
            self.mirroring.memory = memory.to(self.device)
        self.progress = Progress(**state["progress"])
        self.recent.load(state)
        self.critic.load(state["critic"])
        self.collector.see(state["exact_observations"])
        random_state.restore(tensors, state["random"], self._generators, reshared=self.reshared)
        if self.closed_form:
            self.closed_form.freeze()

    def own(self, name: str) -> bool:
        """Whether what `state` gives under that name is of one rank alone."""
        return super().own(name) or name.partition("/")[0] == "environments" or name == "scaler/accumulated"

    def reshare(self) -> None:
        """Go on with another number of ranks: each draws from here on what none has drawn, in environments anew."""
        self.progress.exact_resume = False
        index = _MOST_RANKS * (1 + self.progress.iterations) + self.mesh.rank
        drawn = seeds.derive(self.config.seed, seeds.NOISE, index, len(self._generators))
        for generator, seed in zip(self._generators.values(), drawn, strict=True):
            generator.manual_seed(seed)
        random_state.seed_streams(self.config.seed, self.mesh.rank, 1 + self.progress.iterations)


def _shown(rollout: Rollout) -> Shown:
    """What a bonus for what is new asks of a rollout."""
    ends = [(each.step, each.rows, each.inputs) for each in rollout.ends]
    seen, last = {**rollout.inputs, **rollout.beside}, {**rollout.last_inputs, **rollout.last_beside}
    return Shown(seen, last, rollout.valid, rollout.followed_by_start, ends)
