"""rsl_rl's runner with Proximo inside: the same environment and dict of settings, and its checkpoints' policies."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proximo.control.config import NetworkSettings, ObservationSettings
from proximo.control.environments.backends.rsl_rl import RslRlEnvironments
from proximo.control.environments.visible_leaves import ObservationKeys
from proximo.control.loading import LoadedPolicy, load
from proximo.control.models.normalizers import ObservationNormalizer
from proximo.control.models.policy import ControlPolicy
from proximo.control.own_parts import with_groups
from proximo.control.run import train
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.groups import Roles
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import FOREIGN, UserError, nearest
from proximo.runs.storage.folder import RunFolder

_STD_EPS = 1e-2
"""rsl_rl's normaliser divides by the deviation plus this (rsl_rl/modules/normalization.py)."""
_VARIANCE_EPS = 1e-8
"""Ours by the root of the variance plus this."""
_RUNNER = {"num_steps_per_env", "algorithm", "obs_groups", "actor", "critic", "policy", "seed", "max_iterations"}
_SILENT = {
    *(
        "class_name",
        "runner_class_name",
        "experiment_name",
        "run_name",
        "logger",
        "save_interval",
        "resume",
        "load_run",
    ),
    *("load_checkpoint", "device", "wandb_project", "wandb_tags", "neptune_project", "check_for_nan", "multi_gpu"),
    *("clip_actions", "upload_model", "torch_compile_mode", "empirical_normalization"),
}
"""Keys that say nothing about what is learnt, or that Proximo does by itself."""
_ALGORITHM = {
    "num_learning_epochs": "epochs",
    "clip_param": "clip",
    "entropy_coef": "entropy_coefficient",
}
_ELSEWHERE = {"num_mini_batches", "gamma", "lam", "learning_rate", "value_loss_coef", "use_clipped_value_loss"}
_ELSEWHERE |= {"max_grad_norm", "schedule", "desired_kl", "normalize_advantage_per_mini_batch", "class_name"}
_OFF = {"rnd_cfg", "symmetry_cfg", "use_mixed_precision", "share_cnn_encoders"}
"""Parts of rsl_rl that are not here: accepted while they are off."""
_MODEL = {"class_name", "hidden_dims", "activation", "obs_normalization", "distribution_cfg"}
_NO_MODEL = {"cnn_cfg", "rnn_type"}
"""Of mjlab's configuration, where they are None for an MLP."""
_MODEL |= {*_NO_MODEL, "rnn_hidden_dim", "rnn_num_layers"}
_NOISE = {"class_name", "init_std", "std_type"}


def settings_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `proximo.train` that mean what a runner's dict means (rsl_rl 5: `actor`, `critic`, `algorithm`).

    Raises:
        UserError: keys that are not known, by name; or something that is not built here.
    """
    _known(cfg, _RUNNER | _SILENT, "the runner's cfg")
    if "policy" in cfg:
        raise UserError("cfg has `policy`, as rsl_rl had before its version 5: give `actor` and `critic` instead")
    algorithm, actor, critic = (dict(cfg.get(name) or {}) for name in ("algorithm", "actor", "critic"))
    _known(algorithm, {*_ALGORITHM, *_ELSEWHERE, *_OFF, "optimizer"}, "cfg['algorithm']")
    for name in _OFF | {"optimizer"}:
        if algorithm.get(name) not in (None, False, *(("adam",) if name == "optimizer" else ())):
            raise UserError(f"cfg['algorithm'][{name!r}] = {algorithm[name]} is not built here: leave it out")
    adaptive, clip = algorithm.get("schedule", "adaptive") == "adaptive", algorithm.get("clip_param", 0.2)
    update: dict[str, Any] = {"epochs": 5, "clip": 0.2, "entropy_coefficient": 0.01}
    update |= {ours: algorithm[name] for name, ours in _ALGORITHM.items() if name in algorithm}
    # Their value loss is the squared error, ours half of it.
    update |= {
        "value_coefficient": 2.0 * algorithm.get("value_loss_coef", 1.0),
        "value_clip": clip if algorithm.get("use_clipped_value_loss", True) else None,
        "adaptive_kl": algorithm.get("desired_kl", 0.01) if adaptive else None,
        "max_grad_norm": None,
        "max_actor_grad_norm": algorithm.get("max_grad_norm", 1.0),
        "max_critic_grad_norm": algorithm.get("max_grad_norm", 1.0),
        "normalize_advantages": "minibatch" if algorithm.get("normalize_advantage_per_mini_batch") else "batch",
    }
    settings = {
        "rollout_length": cfg.get("num_steps_per_env", 24),
        "minibatches": algorithm.get("num_mini_batches", 4),
        "gamma": algorithm.get("gamma", 0.99),
        "lam": algorithm.get("lam", 0.95),
        "learning_rate": algorithm.get("learning_rate", 1e-3),
        "update": update,
        "network": _network(actor, critic),
        "normalizers": {"observations": bool(actor.get("obs_normalization")), "rewards": "off"},
        "truncation": "previous",
        "seed": cfg.get("seed") or 0,
    }
    return with_groups({**settings, "obs_groups": cfg["obs_groups"]}) if cfg.get("obs_groups") else settings


def _network(actor: Mapping[str, Any], critic: Mapping[str, Any]) -> dict[str, Any]:
    for name, model in (("actor", actor), ("critic", critic)):
        _known(model, _MODEL, f"cfg[{name!r}]")
        if not str(model.get("class_name", "MLPModel")).endswith("MLPModel"):
            raise UserError(f"cfg[{name!r}] is a {model['class_name']}, and only MLPModel is built here")
        for key in _NO_MODEL:
            if model.get(key) is not None:
                raise UserError(f"cfg[{name!r}][{key!r}] = {model[key]} is not built here: leave it out")
    noise = dict(actor.get("distribution_cfg") or {})
    _known(noise, _NOISE, "cfg['actor']['distribution_cfg']")
    if not str(noise.get("class_name", "GaussianDistribution")).endswith(":GaussianDistribution") and (
        noise.get("class_name", "GaussianDistribution") != "GaussianDistribution"
    ):
        raise UserError(f"the distribution {noise['class_name']} is not built here: choose GaussianDistribution")
    for name, default in (("hidden_dims", (256, 256, 256)), ("activation", "elu"), ("obs_normalization", False)):
        pair = [tuple(x) if isinstance(x := model.get(name, default), list) else x for model in (actor, critic)]
        if pair[0] != pair[1]:
            raise UserError(f"{name} is {pair[0]} of the actor and {pair[1]} of the critic: here both have the same")
    return {
        "hidden": list(actor.get("hidden_dims", (256, 256, 256))),
        "activation": actor.get("activation", "elu"),
        "orthogonal": False,
        "log_std": math.log(noise.get("init_std", 1.0)),
        "noise": noise.get("std_type", "scalar"),
    }


def _known(given: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(given.keys() - known):
        likely = nearest(unknown[0], known)
        raise UserError(
            f"{where} has keys that are not known here: {', '.join(unknown)}"
            f"{f' (did you mean {likely}?)' if likely else ''}: leave them out"
        )


class OnPolicyRunner:
    """`rsl_rl.runners.OnPolicyRunner`, trained by Proximo: its `run` is a folder of ours, and learning goes on in it.

    Episodes that are cut are worth what rsl_rl takes them to be (`truncation = previous`, see docs/truncation.md).

    Args:
        env: a `VecEnv`.
        train_cfg: the runner's dict.
        log_dir: folder of the run; where others have put files into it (mjlab's and Isaac Lab's `params`), the run is
            in `proximo` below it. A temporary one if None.
        device: where the networks are.

    Raises:
        UserError: settings that are not known.
    """

    def __init__(self, env: Any, train_cfg: Mapping[str, Any], log_dir: str | None = None, device: str = "cpu") -> None:
        self.env, self.cfg, self.device = env, dict(train_cfg), device
        self.settings = settings_of(train_cfg)
        self.log_dir = Path(log_dir or tempfile.mkdtemp(prefix="proximo-rsl-rl-"))
        self.current_learning_iteration = 0

    @cached_property
    def run(self) -> Path:
        """Folder of the run. Known once it is asked for: Isaac Lab's script writes into `log_dir` before it learns."""
        return _own_folder(self.log_dir)

    def learn(self, num_learning_iterations: int, init_at_random_ep_len: bool = False) -> None:
        """Train for some iterations more; the policy is in the run's last checkpoint afterwards. Of a new runner those
        that `log_dir` holds already are among them, so that a script that was stopped goes on to its end.
        """
        size = int(self.env.num_envs) * self.settings["rollout_length"]
        first = 1 if self.settings["normalizers"]["observations"] else 0  # it only shows what numbers look like
        self.current_learning_iteration += num_learning_iterations
        phase = int(torch.as_tensor(self.env.max_episode_length).max()) if init_at_random_ep_len else 0
        train(
            self.env,
            run=str(self.run),
            steps=10**12,
            stop_at=(self.current_learning_iteration + first) * size,
            environments=int(self.env.num_envs),
            device="cuda" if str(self.device).startswith("cuda") else "cpu",
            random_phase=phase,
            allow_change=True,
            **self.settings,
        )

    def add_git_repo_to_log(self, repo_file_path: str) -> None:
        """Does nothing: a run of ours notes the code that made it by itself."""

    def load(self, path: str, *_: Any, **__: Any) -> None:
        """Is refused: learning goes on by itself in a `log_dir` that holds a run of ours.

        Raises:
            UserError: it is said how to go on.
        """
        raise UserError(
            f"{path}: a runner of Proximo's goes on by itself where log_dir holds its run; give that folder as log_dir "
            "and set resume = False. The policy of rsl_rl's model_*.pt is read by proximo.compat.rsl_rl.load_checkpoint"
        )

    def get_inference_policy(self, device: str | None = None) -> Callable[[Any], Tensor]:
        """A function of observations (a TensorDict, a dict, or a tensor of the only group) that gives actions."""
        policy, goal = load(self.run), device or self.device

        def act(seen: Any) -> Tensor:
            groups = {key: seen[key] for key in seen.keys()} if hasattr(seen, "keys") else {"policy": seen}  # noqa: SIM118
            return torch.from_numpy(policy.act(groups)).to(goal)

        return act


def _own_folder(log_dir: Path) -> Path:
    """Where the run is, or will be."""
    taken = log_dir.is_dir() and any(log_dir.iterdir()) and not RunFolder(log_dir).exists
    return log_dir / "proximo" if taken else log_dir


def load_checkpoint(path: str | Path, env: Any, train_cfg: Mapping[str, Any]) -> LoadedPolicy:
    """The policy of rsl_rl's `model_*.pt` (version 5), which then acts as ours do.

    Args:
        path: the file; it is read with `weights_only=True`, so that it can run no code.
        env: the `VecEnv` that it was trained in, for its groups.
        train_cfg: the runner's dict.

    Raises:
        UserError: it is no such file, or does not fit.
    """
    settings = settings_of(train_cfg)
    network = settings["network"] | {"hidden": tuple(settings["network"]["hidden"])}
    groups = ObservationSettings(**settings.get("observations", {"actor": ("policy",)}))
    batch = RslRlEnvironments(env, "env", ObservationKeys((*groups.actor, *groups.critic)))
    roles = Roles.of(ObservationSpec.of(batch.observation_space), groups.actor, groups.critic, "env")
    wanted = settings["normalizers"]["observations"]
    policy = ControlPolicy(
        roles.actor,
        ActionSpec.of(batch.action_space),
        NetworkSettings(**network, log_std_range=(-20.0, 10.0)),
        normalize_observations=wanted,
        clip=math.inf,
        critic_observations=roles.critic,
    )
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        _take(policy, saved["actor_state_dict"], "actor", "actor_head", policy.normalizer)
        critics = policy.normalizer if roles.critic is None else policy.critic_normalizer
        _take(policy, saved["critic_state_dict"], "critic", "value_head", critics)
        noise = saved["actor_state_dict"]
        log_std = noise.get("distribution.log_std_param")
        std = noise.get("distribution.std_param") if log_std is None else log_std.exp()
        with torch.no_grad():
            policy.noise_numbers.copy_(std if policy.noise.kind == "scalar" else std.log())
    except FOREIGN as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        raise UserError(f"{path} is no checkpoint of rsl_rl 5 with these settings ({reason}): check both") from error
    return LoadedPolicy(policy)


@torch.no_grad()
def _take(
    policy: ControlPolicy, saved: Mapping[str, Tensor], role: str, head: str, normalizer: ObservationNormalizer | None
) -> None:
    """Put the weights of one of rsl_rl's models into one of our networks."""
    layers = sorted({int(key.split(".")[1]) for key in saved if key.startswith("mlp.")})
    weights = policy.network.state_dict()
    for layer in layers:
        name = f"{role}.{layer}" if layer != layers[-1] else head
        for kind in ("weight", "bias"):
            weights[f"{name}.{kind}"].copy_(saved[f"mlp.{layer}.{kind}"])
    if normalizer is not None:
        scale = saved["obs_normalizer._std"][0].double() + _STD_EPS
        moments, count = normalizer.moments, saved["obs_normalizer.count"].double().clamp_min(2)
        moments.count.copy_(count)
        moments.mean.copy_(saved["obs_normalizer._mean"][0].double())
        moments.squares.copy_((scale.square() - _VARIANCE_EPS) * count)
