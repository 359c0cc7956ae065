"""`proximo record`: an episode of a run's policies as a video."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import VectorEnvironment
from proximo.control.loading import LoadedPolicy, load_policy
from proximo.errors import UserError, nearest, require_whole
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.storage.folder import find_run
from proximo.views.record.drawing import frames
from proximo.views.record.episode import Filmed, drawing_environments, film
from proximo.views.record.files import KINDS, check_packages, write

POLICIES = ("best", "latest")
_CHECKPOINTS = {"best": "best", "latest": "final"}


def record(
    run: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    *,
    policies: Sequence[str] = POLICIES,
    seed: int | None = None,
    limit: int = 1000,
    width: int = 320,
) -> Path:
    """Film one episode of each policy, on the same seed, side by side, with reward and value below.

    Actions are the most probable ones. MuJoCo draws by EGL where there is no screen.

    Args:
        run: folder of a control run, finished or not.
        out: a file that ends in `.mp4` or `.gif`; None makes `RUN/videos/SEED.mp4`.
        policies: `best`, `latest`, or both.
        seed: of the episode; None takes one that follows from the run's and that training never saw.
        limit: steps after which an episode is cut.
        width: of each picture, in pixels.

    Returns:
        The video's file.

    Raises:
        UserError: there is no such run or checkpoint, its environment draws nothing, or a package is missing.
    """
    folder = Path(run)
    _check(policies, seed, limit, width)
    config = config_of(folder)
    chosen = seeds.derive(config.seed, seeds.FRESH, 0, 1)[0] if seed is None else seed
    file = Path(out) if out is not None else folder / "videos" / f"{chosen}.mp4"
    if file.suffix not in KINDS:
        raise UserError(f"{file} is no name of a video: let it end in {' or '.join(KINDS)}")
    check_packages(file.suffix)
    loaded = [(name, load_policy(folder, _CHECKPOINTS[name])) for name in policies]
    environments = drawing_environments(config, width)
    try:
        episodes = [
            filmed(environments, LoadedPolicy(policy), name, config, chosen, limit, width) for name, policy in loaded
        ]
        rate = environments.frame_rate
    finally:
        environments.close()
    write(frames(episodes), file, rate)
    return file


def filmed(
    environments: VectorEnvironment,
    policy: LoadedPolicy,
    name: str,
    config: TrainConfig,
    seed: int,
    limit: int,
    width: int,
    **more: Any,
) -> Filmed:
    """One episode of a policy, see `film`.

    Raises:
        UserError: the environment takes other actions than the policy was made for, or nothing is drawn.
    """
    made = policy.policy.actions.of_other(environments.action_space)
    # EnvPool's spaces are of other types than Gymnasium's; the policy itself looks at each observation's shape.
    both = (policy.policy.actions, made)
    kinds = [[(part.path, part.kind, part.shape) for part in actions.parts] for actions in both]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"{environments.name} takes {environments.action_space} when it is made to be drawn, which this policy was "
            "not made for"
        )
    return film(environments, policy, name, seed=seed, limit=limit, width=width, critic=config.update.critic, **more)


def config_of(folder: Path) -> TrainConfig:
    """The settings of a control run.

    Raises:
        UserError: it is none.
    """
    file = find_run(folder) / "config.toml"
    read = read_toml(file)
    if read.get("kind") != "control":
        raise UserError(f"{folder} is no control run: only environments are filmed")
    return from_mapping(TrainConfig, read, where=str(file))


def _check(policies: Sequence[str], seed: int | None, limit: int, width: int) -> None:
    if not policies:
        raise UserError(f"which policy? {' or '.join(POLICIES)}, or both")
    for name in policies:
        if name not in POLICIES:
            raise UserError(
                f"there is no policy {name!r}: did you mean {nearest(name, POLICIES) or ', '.join(POLICIES)}?"
            )
    if seed is not None:
        require_whole("seed", seed, 0)
    if limit < 1:
        raise UserError(f"limit = {limit} steps must be at least 1")
    if not 64 <= width <= 1920:
        raise UserError(f"width = {width} pixels must be between 64 and 1920")
