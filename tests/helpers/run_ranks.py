"""Whole trainings on several ranks, for tests/scale."""

import os
import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import gymnasium
import torch

import proximo
from proximo.algorithms import PPO
from proximo.control.evaluation.selection import Selection
from proximo.control.trainer import Trainer
from proximo.control.training.training import Training
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.scale import mesh as scale
from proximo.scale.meeting import current_mesh

PLAN = {
    "progress": "quiet",
    "backend": "gymnasium",
    "environments": 5,
    "rollout_length": 32,
    "steps": 160 * 6,
    "checkpoint_every": 160 * 2,
    "restart_every": 10**6,
    "episodes": 2,
    "episode_limit": 50,
    "seed": 7,
    "update": {"epochs": 2, "minibatch_size": 40, "target_kl": 0.02},
    "network": {"hidden": [16]},
    "normalizers": {"observations": True, "rewards": "scale"},
}
KINDS = {
    "closed form": PLAN,
    "recurrent": {
        **PLAN,
        "environments": 8,
        "steps": 256 * 3,
        "network": {"memory": "gru", "memory_size": 4},
        "update": {"epochs": 2, "minibatch_size": 64},
    },
    "returns": {
        **PLAN,
        "steps": 160 * 3,
        "normalizers": {"rewards": "return"},
        "update": {"minibatch_size": 40, "adaptive_kl": 0.01},
    },
}
LONG = {
    "environments": 4,
    "rollout_length": 64,
    "steps": 256 * 24,
    "checkpoint_every": 256 * 4,
    "episodes": 1,
    "episode_limit": 50,
    "update": {"epochs": 4, "minibatch_size": 32},
}
LONG_OPTIONS = [
    *("--environments", "4", "--rollout-length", "64", "--steps", "6144", "--checkpoint-every", "1024"),
    *("--episodes", "1", "--episode-limit", "50", "--update.epochs", "4", "--update.minibatch-size", "32"),
]
"""The same on the command line."""


class Terms(gymnasium.Wrapper):
    """CartPole, a part of whose reward is the number of the rank; rank 1 has one more."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action):
        *answer, info = self.env.step(action)
        rank = current_mesh().rank
        return (*answer, info | {"reward_rank": float(rank)} | ({"reward_own": 3.0} if rank else {}))


TASKS = {"returns": "run_ranks:Terms"}


class Tells(gymnasium.Wrapper):
    """CartPole, which makes the folder that TELLS names once it is stepped."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action):
        with suppress(FileExistsError):
            os.mkdir(os.environ["TELLS"])
        return self.env.step(action)


class Breaks(gymnasium.Wrapper):
    """CartPole, which breaks on rank 1 after some steps."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps > 40 and current_mesh().rank == 1:
            raise RuntimeError("the simulator broke")
        return self.env.step(action)


@dataclass(frozen=True)
class Poisoned(PPO):
    """Advantages that are no numbers on rank 1."""

    def estimate(self, rollout):
        advantages, returns = super().estimate(rollout)
        return (advantages * float("nan") if current_mesh().rank == 1 else advantages), returns


@dataclass(frozen=True)
class Exploding(PPO):
    """A loss that is no number on rank 1."""

    def loss(self, seen, batch, progress, policy):
        loss, told = super().loss(seen, batch, progress, policy)
        return (loss * float("nan") if current_mesh().rank == 1 else loss), told


@dataclass(frozen=True)
class Failing(PPO):
    """A loss that fails on rank 1, once a third of the run is done."""

    def loss(self, seen, batch, progress, policy):
        if progress > 0.3 and current_mesh().rank == 1:
            raise KeyError("no such part")
        return super().loss(seen, batch, progress, policy)


ESTIMATED = []
"""Lengths of the rollouts that `Misjudging` has seen."""


@dataclass(frozen=True)
class Misjudging(PPO):
    """An estimate that fails on rank 1, in the second iteration."""

    def estimate(self, rollout):
        ESTIMATED.append(len(rollout.rewards))
        if current_mesh().rank == 1 and len(ESTIMATED) > 1:
            raise KeyError("no such part")
        return super().estimate(rollout)


class Learns(gymnasium.wrappers.NormalizeObservation):
    """CartPole that normalises its observations by itself."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))


@dataclass(frozen=True)
class Refusing(PPO):
    """Advantages that rank 1 alone can not compute, where the others go on to a sum."""

    def estimate(self, rollout):
        if current_mesh().rank == 1:
            raise UserError("the table of rank 1 is not there")
        return super().estimate(rollout)


def plain(rows):
    """Metrics that do not tell the time."""
    return [{k: v for k, v in row.items() if not k.startswith(("seconds", "memory", "time"))} for row in rows]


def weights(trainer):
    return trainer._training.optimizer.flat.tolist()


def runs(mesh, home):
    """A run of each kind, and the longest once more with a stop on rank 1 in its middle; all as this rank saw it."""
    told = {}
    for kind, plan in KINDS.items():
        trainer = Trainer(TASKS.get(kind, "CartPole-v1"), run=str(home / kind), **plan)
        rows, first = [], None
        for row in trainer:
            rows.append(row)
            first = first or (
                trainer._training.collector._tensors["action"].flatten().tolist(),
                trainer._training.noise.initial_seed(),
            )
        told[kind] = {"rows": plain(rows), "weights": weights(trainer), "first": first, "results": trainer.run.results}
    trainer = Trainer("CartPole-v1", run=str(home / "stopped"), **PLAN)
    for row in trainer:
        if mesh.rank == 1 and row["step"] >= 160 * 4:
            trainer.stop()
    told["stopped"] = (trainer.run.stopped, trainer.step)
    trainer.to_the_end()
    told["resumed"] = {"weights": weights(trainer), "results": trainer.run.results}
    return told


def troubles(mesh, home):
    """What each rank is told of what goes wrong on rank 1, and how a callback of rank 0 ends all."""
    told = {}
    for name, task, own in (
        ("raises", "run_ranks:Breaks", None),
        ("advantages", "CartPole-v1", Poisoned),
        ("gradient", "CartPole-v1", Exploding),
        ("loss", "CartPole-v1", Failing),
    ):
        try:
            proximo.train(task, own, run=str(home / name), **PLAN)
        except UserError as error:
            told[name] = str(error)
    calls = []

    def enough(trainer, metrics):
        calls.append(mesh.rank)
        metrics["mine"] = 3.0
        return trainer.step < 160 * 3

    trainer = Trainer("CartPole-v1", run=str(home / "ended"), callbacks=[enough], **PLAN)
    told["mine"] = [row["mine"] for row in trainer]
    told["ended"] = (trainer.step, trainer.run.results["ended_by"], calls)
    for name, change in (
        ("refused", {**PLAN, "environments": 1}),
        ("settings", {**PLAN, "seed": 7 + mesh.rank}),
        ("within", {**PLAN, "callbacks": [lambda trainer, _: proximo.train("CartPole-v1", run=str(home / "other"))]}),
        ("at the end", {**PLAN, "callbacks": [TrainsAtTheEnd(home / "other")]}),
    ):
        try:
            proximo.train("CartPole-v1", run=str(home / name), **change)
        except UserError as error:
            told[name] = str(error)
    try:
        proximo.train("CartPole-v1", Misjudging, run=str(home / "estimate"), **PLAN)
    except (KeyError, scale.LostRankError) as error:  # nothing can be done together any more
        told["estimate"] = str(error)
        if mesh.rank == 1:
            mesh._neighbours.close()  # as at the end of the process
    return told


class TrainsAtTheEnd(proximo.Callback):
    """Trains once more when a run has ended."""

    def __init__(self, folder):
        self.folder = folder

    def finish(self, trainer, results):
        proximo.train("CartPole-v1", run=str(self.folder))


def loops(mesh, home):
    """What each rank hears where rank 1 leaves its loop over a trainer: by an error, by `break`; and all ranks."""
    told, leavers = {"neighbours": mesh._neighbours is not None}, {"raised": {1}, "left": {1}, "all left": {0, 1}}
    for name, ranks in leavers.items():
        trainer = Trainer("CartPole-v1", run=str(home / name), **PLAN)
        try:
            for row in trainer:
                if row["step"] > 2 * 160 and mesh.rank in ranks:
                    if name == "raised":
                        raise ValueError("mine")
                    break
        except (UserError, ValueError) as error:
            told[name] = str(error)
        told[f"{name} at"] = row["step"]
        if name == "all left":
            told["goes on at"] = next(row["step"] for row in trainer)
    return told


def fails_alone(mesh, home):
    """A rank that fails where the others compute together, and does not come any more."""

    def measure(self, *given, measured=Training.measure):
        if mesh.rank == 1 and self.progress.iterations == 2:
            raise UserError("no room on rank 1")
        return measured(self, *given)

    Training.measure = measure
    try:
        proximo.train("CartPole-v1", run=str(home / "alone"), **PLAN)
    except UserError as error:
        return str(error)


def asked_while_evaluated(mesh, home):
    """A run with evaluations, and the same with a SIGTERM to one rank while rank 0 evaluates; as this rank saw them."""
    numbers, look, told = mesh.gather(torch.tensor([os.getpid()]))[:, 0].tolist(), Selection._mean, {}
    plan = {**PLAN, "steps": 160 * 4, "evaluate_every": 160 * 2}

    def ended(name):
        trainer = Trainer("CartPole-v1", run=str(home / name), **plan)
        run = trainer.to_the_end()
        results = {name: x for name, x in run.results.items() if "second" not in name}
        return {"at": (run.stopped, trainer.step), "weights": weights(trainer), "results": results}

    told["never"] = ended("never asked")
    for victim in range(mesh.size):

        def asks(selection, training, victim=victim):
            os.kill(numbers[victim], signal.SIGTERM)
            return look(selection, training)

        Selection._mean = asks
        try:
            told[victim] = [ended(f"asked {victim}")]
        finally:
            Selection._mean = look
        told[victim].append(ended(f"asked {victim}"))
    return told


class Looks(proximo.Callback):
    """Notes under which name rank 1 awaits what rank 0 does alone, once it does; and what `trainer.save` says there."""

    def __init__(self, mesh):
        self.mesh, self.names, self.said = mesh, [], []

    def start(self, trainer):
        self.look(trainer)

    def iteration(self, trainer, metrics):
        self.look(trainer)

    def checkpoint(self, trainer, path):
        self.look(trainer)

    def look(self, trainer):
        self.names.append(f"proximo/{self.mesh._answers}")
        self.mesh._store.wait([f"rank 1 awaits {self.names[-1]}"], timedelta(seconds=30))
        try:
            trainer.save()
        except UserError as error:
            self.said.append(str(error))


def waits_for_callbacks(mesh, folder):
    """Names under which rank 1 has awaited callbacks, what they were told, and a row as each rank sees it."""
    awaited, looks = scale.Mesh._awaited, Looks(mesh)

    def noted(self, key):
        self._store.set(f"rank 1 awaits {key}", "")
        return awaited(self, key)

    scale.Mesh._awaited = noted
    try:
        rows = list(Trainer("CartPole-v1", run=str(folder), callbacks=[looks], **{**PLAN, "steps": 160 * 2}))
    finally:
        scale.Mesh._awaited = awaited
    return looks.names, looks.said, rows


def starts_from(mesh, home):
    """A run that starts from another one, whose folder only rank 0 sees: what this rank then has, and the other had."""
    earlier = Trainer("CartPole-v1", run=str(home / "earlier"), stop_at=160 * 3, **PLAN)
    earlier.to_the_end()
    elsewhere = home / str(mesh.rank)
    elsewhere.mkdir()
    os.chdir(home if mesh.first else elsewhere)
    still = {**PLAN, "learning_rate": 1e-12, "steps": 160}
    later = Trainer("CartPole-v1", run=str(home / "later"), start_from="earlier", **still)
    later.to_the_end()
    counts = [float(each._training.policy.normalizer.moments.count) for each in (earlier, later)]
    return {"weights": [weights(earlier), weights(later)], "counts": counts}


def goes_on(mesh, folder):
    """Train on in a folder where another number of ranks has stopped; what this rank saw."""
    trainer = Trainer("CartPole-v1", run=str(folder), **PLAN)
    rows = plain(list(trainer))
    seeds = trainer._training.noise.initial_seed()
    return {"rows": rows, "weights": weights(trainer), "seed": seeds, "exact": trainer.run.results["exact_resume"]}


def half(mesh, folder):
    """Train half of the steps."""
    torch.set_num_threads(1)
    return proximo.train("CartPole-v1", run=str(folder), stop_at=160 * 3, **PLAN).stopped


def learns(mesh, folder, steps):
    """Train in environments that learn, up to so many steps; how many observations those of rank 0 have seen."""
    plan = {**PLAN, "environments": 4, "rollout_length": 32, "steps": 10**6, "checkpoint_every": 10**6}
    plan |= {"normalizers": {"rewards": "scale"}, "update": {"minibatch_size": 128}}
    proximo.train("run_ranks:Learns", run=str(folder), stop_at=steps, **plan)
    tensors, _ = load_checkpoint(latest_checkpoint(folder / "checkpoints"))
    return float(next(x for name, x in tensors.items() if re.fullmatch(r"wrappers/policy/.*\.count", name)))


def whole(mesh, folder, task, plan):
    """A run from its beginning to its end."""
    proximo.train(task, run=str(folder), progress="quiet", **plan)
