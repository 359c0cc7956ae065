"""Rollouts that stay on the device of their environments: one synchronisation for T steps of N environments."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from proximo.control.environments.backends.tensors import ALONE
from proximo.control.environments.base import Step, TensorSource, TensorStep
from proximo.control.environments.episodes import Episode
from proximo.control.environments.problems import failure
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.groups import CRITIC, RND
from proximo.control.spaces.numbers import LARGEST_FLOAT32, is_wide
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training.rollout import Collector, FinalObservation, Rollout
from proximo.errors import FOREIGN, UserError

_OBSERVED = ("inputs.", "beside.")


def stays_on_device(policy: ControlPolicy) -> bool:
    """Whether a policy reads and commands environments of tensors as they are: vectors, and one Box without bounds, or
    from -1 to 1.
    """
    specs = [policy.observations, *([policy.critic_observations] if policy.critic_observations else [])]
    plain = all(map(reads_tensors, specs))
    actions = policy.actions
    box = len(actions.parts) == 1 and actions.parts[0].kind == "box" and not actions.squashed
    return plain and box and (_is_unit(policy) or _is_free(policy)) and policy.frame_stack == 1


def reads_tensors(spec: ObservationSpec) -> bool:
    """Whether observations of tensors can be read where they are: vectors alone, each a group."""
    return all(part.kind == "vector" and len(part.path) <= 1 and not part.frame for part in spec.parts)


def _is_free(policy: ControlPolicy) -> bool:
    return all(np.isinf(bound).all() for bound in policy.actions.parts[0].bounds)


def _is_unit(policy: ControlPolicy) -> bool:
    part = policy.actions.parts[0]
    return part.unit and not part.open_low and not part.whole


def _fine(seen: Tensor) -> Tensor:
    """Where observations are numbers that a policy can read, as `fits_float32`."""
    return torch.isfinite(seen) if seen.dtype != torch.float64 else seen.abs() <= LARGEST_FLOAT32


class TensorCollector(Collector):
    """A collector whose steps never leave the device: what the host has to know is read once, after the last step."""

    def __post_init__(self) -> None:
        """See `Collector`."""
        super().__post_init__()
        self._logs: dict[str, list[Tensor]] = {}
        self._bounded, self._clipped_share = _is_unit(self.policy), 0.0

    def _clipped(self, action: Tensor, valid: np.ndarray) -> float:
        return self._clipped_share

    def collect(self) -> Rollout:
        """See `Collector.collect`.

        Raises:
            UserError: a number is not finite, or cut episodes' last states are hidden and asked for; with its place.
        """
        source = self.environments.tensors
        assert source is not None
        before = None if self._memory is None else self._memory.clone()
        first, start = self._starts, time.perf_counter()
        steps = [self._step(t, source) for t in range(self.length)]
        told = self._read([step for step, _, _ in steps])
        self.seconds["environment"] += time.perf_counter() - start
        reached = [(seen, memory) for _, seen, memory in steps]
        finals = self._finals(told, reached)
        self._ends = self._reached(told, reached) if self.ends_wanted else []
        for name in ("terminated", "truncated", "reward"):
            self._arrays[name][:] = told[name]
        self._arrays["valid"][:] = True
        over = told["terminated"] | told["truncated"]
        self._arrays["starts"][:] = np.concatenate([first[None], over[:-1]])
        self._starts = over[-1]
        return self._rollout(before, finals, self._episodes(told))

    def _step(self, t: int, source: TensorSource) -> tuple[TensorStep, dict[str, Tensor] | None, Tensor | None]:
        """One step; what is kept of its buffers is copied."""
        action = self._act(t)
        for name, x in self._inputs.items():
            self._keep(f"inputs.{name}", t, x)
        for name, x in self._seen_beside.items():
            self._keep(f"beside.{name}", t, x)
        for name in ("action", "log_prob", "value", "output"):
            if (told := getattr(action, name)) is not None:
                self._keep(name, t, told)
        command = action.action.clamp(-1.0, 1.0) if self._bounded else action.action
        try:
            step = source.step_tensors(command)
        except UserError:
            raise
        except FOREIGN as error:
            raise failure(self.environments.name, f"at step {t} of a rollout", error) from error
        for name, x in step.said.items():
            if isinstance(x, Tensor):
                self._logs.setdefault(name, []).append(x.detach().double().nanmean().to(self.device))
            else:
                self._said.add(t, {name: x})
        self._inputs, self._seen_beside = self._read_groups(step.groups), self._read_beside(step.groups)
        # Copies; to where the policy is, which may be asked to be elsewhere than the environments.
        reward, over, cut = (x.to(self.device, copy=True) for x in (step.reward, step.over, step.cut))
        memory = action.memory
        self._memory = None if memory is None else torch.where(over.unsqueeze(1), 0.0, memory)
        reached = None if step.finals is None else self._read_groups(step.finals) | self._read_beside(step.finals)
        return TensorStep({}, None, reward, over, cut, {}), reached, memory

    def _keep(self, name: str, t: int, x: Tensor) -> None:
        if name not in self._tensors:
            self._tensors[name] = torch.empty((self.length, *x.shape), dtype=x.dtype, device=x.device)
        self._tensors[name][t] = x

    def _read_groups(self, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `ControlPolicy.encode`; always a copy."""
        policy = self.policy
        inputs = {"vector": self._vector(policy.observations, groups)}
        if policy.critic_observations is not None:
            inputs[f"{CRITIC}vector"] = self._vector(policy.critic_observations, groups)
        return inputs

    def _read_beside(self, groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {} if self.beside is None else {f"{RND}vector": self._vector(self.beside, groups)}

    def _vector(self, spec: ObservationSpec, groups: Mapping[str, Tensor]) -> Tensor:
        parts = (groups[str(part.path[0]) if part.path else ALONE].flatten(1) for part in spec.parts)
        return torch.cat([x.to(self.device, self._number_type(x)) for x in parts], 1)  # copies, if it is one part too

    def _number_type(self, x: Tensor) -> torch.dtype:
        """As `ObservationSpec.encode` has it."""
        return torch.float64 if self.exact and is_wide(x.dtype, torch.float32) else torch.float32

    def _read(self, steps: list[TensorStep]) -> dict[str, np.ndarray]:
        """Rewards and ends `[T, N]` on the host, and whether all numbers are finite: the only synchronisation."""
        rewards, over, cut = (
            torch.stack([getattr(step, name) for step in steps]) for name in ("reward", "over", "cut")
        )
        seen = [*self._inputs.values(), *self._seen_beside.values()]
        seen += [x for name, x in self._tensors.items() if name.startswith(_OBSERVED)]
        fine = torch.stack([torch.isfinite(rewards).all(), *(_fine(x).all() for x in seen)]).all()
        logs, self._logs = self._logs, {}
        means = [torch.stack(values).nanmean() for values in logs.values()]
        beyond = self._tensors["action"].abs() > 1.0 if self._bounded else rewards.new_zeros(1)
        told = (rewards, over, cut, fine, beyond.double().mean(), *means)
        flat = torch.cat([x.double().flatten() for x in told]).cpu().numpy()
        size = 3 * len(steps) * self.shape[1]
        table = flat[:size].reshape(3, *self.shape)
        if not flat[size]:
            self._refuse(table[0])
        self._clipped_share = float(flat[size + 1])
        self._said.add(0, dict(zip(logs, flat[size + 2 :].tolist(), strict=True)))
        cuts = table[2] > 0
        return {"reward": table[0], "truncated": cuts, "terminated": (table[1] > 0) & ~cuts}

    def _refuse(self, rewards: np.ndarray) -> None:
        """Name the first number that is not finite, now that it is known that there is one."""
        found = [("reward", int(t), int(n)) for t, n in np.argwhere(~np.isfinite(rewards))[:1]]
        for name, x in self._tensors.items():
            if name.startswith(_OBSERVED):
                bad = (~_fine(x).flatten(2).all(2)).nonzero()[:1].tolist()
                found += [(f"observation ({name.partition('.')[2]})", t, n) for t, n in bad]
        what, step, row = min(found, key=lambda each: each[1]) if found else ("last observation", self.length, 0)
        raise UserError(
            f"{self.environments.name}: {what} of environment {row} is not finite at step {step} of a rollout: mend "
            "the environment, or end its episode before it diverges"
        )

    def _finals(
        self, told: Mapping[str, np.ndarray], reached: list[tuple[dict[str, Tensor] | None, Tensor | None]]
    ) -> list[FinalObservation]:
        """The states that cut episodes reached."""
        finals = []
        for t in np.flatnonzero(told["truncated"].any(1)):
            seen, memory = reached[t]
            if seen is None:
                if self.finals_wanted:
                    assert self.environments.tensors is not None
                    raise self.environments.tensors.hidden_end
                continue
            rows = np.flatnonzero(told["truncated"][t])
            index = torch.from_numpy(rows).to(self.device)
            inputs = {name: x[index] for name, x in seen.items() if not name.startswith(RND)}
            finals.append(FinalObservation(int(t), rows, inputs, None if memory is None else memory[index]))
        return finals

    def _reached(
        self, told: Mapping[str, np.ndarray], reached: list[tuple[dict[str, Tensor] | None, Tensor | None]]
    ) -> list[FinalObservation]:
        """The states in which episodes ended, where they are shown; some may be what made them end: a NaN."""
        over, ends = told["terminated"] | told["truncated"], []
        for t in np.flatnonzero(over.any(1)):
            if (seen := reached[t][0]) is not None:
                rows = np.flatnonzero(over[t])
                index = torch.from_numpy(rows).to(self.device)
                ends.append(FinalObservation(int(t), rows, {name: x[index] for name, x in seen.items()}, None))
        return ends

    def _episodes(self, told: Mapping[str, np.ndarray]) -> list[Episode]:
        """Those that ended, counted as steps of NumPy are."""
        ended: list[Episode] = []
        every = np.ones(self.shape[1], bool)
        for reward, over, cut in zip(told["reward"], told["terminated"], told["truncated"], strict=True):
            ends = over | cut
            self.last_step = Step({}, {}, reward, over, cut, every, ends, reward, reward, ends, None)
            ended += self._counter.update(self.last_step)
        return ended
