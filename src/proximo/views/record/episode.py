"""One episode, filmed."""

import inspect
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any

import numpy as np

from proximo.control.config import TrainConfig
from proximo.control.environments import VectorEnvironment, make_environments
from proximo.control.loading import LoadedPolicy
from proximo.errors import FOREIGN, UserError
from proximo.runs.plugins import find_own

NO_SCREEN = (
    "no picture can be drawn here: on a machine without a screen MuJoCo needs MUJOCO_GL=egl (a GPU's driver, or Mesa's "
    "libegl1) or MUJOCO_GL=osmesa (libosmesa6)"
)


@dataclass
class Filmed:
    """An episode: pictures before each step and after the last, and what each step gave."""

    title: str
    pictures: list[bytes] = field(default_factory=list)
    """JPEG: a thousand pictures of a robot are half a gigabyte otherwise."""
    rewards: list[float] = field(default_factory=list)
    """Of the environment as it was given."""
    values: list[float] = field(default_factory=list)
    """The critic's estimate before each step; empty for a policy without a critic."""
    ended: str = ""
    """`terminated`, `truncated`, or "" where it was cut here."""
    learnt: list[float] = field(default_factory=list)
    """The reward of each step that a training learns from, before it is scaled."""
    terminated: list[bool] = field(default_factory=list)
    """Nothing follows the step: its next state is worth 0. A lost life may do so within an episode."""
    cut: dict[int, float] = field(default_factory=dict)
    """The critic's estimate of the state after a step that something else cut: a time limit, or the end of the film."""


def drawing_environments(config: TrainConfig, width: int) -> VectorEnvironment:
    """One copy of a run's environment that draws.

    Args:
        config: of the run.
        width: of the pictures that are asked for, in pixels; MuJoCo draws no larger ones, which takes time without a
            GPU.

    Raises:
        UserError: it can not be made, or draws nothing.
    """
    prefer_egl()
    options = dict(config.options)
    if _takes_render_mode(config.environment):
        options["render_mode"] = "rgb_array"
    if _is_mujoco(config.environment):
        if "camera_id" not in options:
            options.setdefault("camera_name", "track")  # the default one stays where it is, and robots run out of sight
        if not options.keys() & {"width", "height"}:
            options |= {"width": width, "height": width}
    try:
        return make_environments(
            config.environment,
            1,
            backend="gymnasium",
            options=options,
            mask_key=config.mask_key,
            observation_keys=config.visible,
            action_repeat=config.action_repeat,
            action_delay=config.action_delay,
        )
    except Exception as error:  # without the library of MUJOCO_GL `import mujoco` itself fails, also as a UserError
        if not _of_opengl(error):
            raise
        said = str(error).partition("\n")[0]  # of a UserError, without the report of where it came from
        raise UserError(f"{config.environment}: {NO_SCREEN}; it said: {type(error).__name__}: {said}") from error


def prefer_egl() -> None:
    """Have MuJoCo and pygame draw without a screen where there is none; MuJoCo looks once, when it is imported."""
    if sys.platform != "linux" or os.environ.get("DISPLAY"):
        return
    if "mujoco" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", "egl")
    if not os.environ.get("WAYLAND_DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's looks for a screen else, and says that it has none


def _of_opengl(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, speaks of the library that would draw, or comes from within it."""
    while error is not None:
        if re.search(r"opengl|libegl|osmesa|mujoco_gl|eglquerystring|\begl\b", str(error), re.IGNORECASE):
            return True
        modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
        if any(module.partition(".")[0] == "OpenGL" for module in modules):  # without libosmesa it says nothing of it
            return True
        error = error.__cause__ or error.__context__
    return False


def _of_a_screen(error: BaseException) -> bool:
    """Whether an error comes from what draws: OpenGL, MuJoCo or pygame, and not from a person's own code."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__))
    return _of_opengl(error) or any(re.match(r"(glfw|mujoco|pygame|gymnasium\.envs)\b", module) for module in modules)


def _takes_render_mode(environment: str) -> bool:
    """A registered task does; a function of one's own may, and else chooses its mode itself."""
    import gymnasium

    if ":" not in environment or environment in gymnasium.registry:
        return True
    function = find_own(environment, "environment", registry=gymnasium.registry, with_traceback=True)
    if function is None:
        return True
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _is_mujoco(environment: str) -> bool:
    """Whether it is one of Gymnasium's own MuJoCo tasks, whose models have a camera that goes along."""
    import gymnasium

    spec = gymnasium.registry.get(environment)
    return spec is not None and str(spec.entry_point).startswith("gymnasium.envs.mujoco.")


def film(
    environments: VectorEnvironment,
    policy: LoadedPolicy,
    title: str,
    *,
    seed: int,
    limit: int,
    width: int,
    critic: bool,
    draw: bool = True,
    watch: Callable[[Any, Any], None] | None = None,
) -> Filmed:
    """Run one episode and keep its pictures.

    Args:
        environments: one copy, that draws.
        policy: takes the most probable action.
        title: written above the pictures.
        seed: of the episode.
        limit: steps after which it is cut.
        width: of the pictures, in pixels.
        critic: whether the policy has learnt values.
        draw: whether pictures are kept.
        watch: shown each observation and mask before the policy acts on it.

    Raises:
        UserError: nothing is drawn, and `draw`.
    """
    filmed = Filmed(title)
    policy.reset()
    if policy.policy.wrappers:
        environments.take_statistics(policy.policy.wrappers, fixed=True)
    observation, mask = environments.reset([seed])
    for t in range(limit):
        if draw:
            filmed.pictures.append(picture(environments, width))
        if watch is not None:
            watch(observation, mask)
        if critic:
            filmed.values.append(float(policy.value(observation)[0]))
        step = environments.step(policy.act(observation, mask=mask))
        observation, mask = step.observation, step.mask
        filmed.rewards.append(float(step.raw_reward[0]))
        filmed.learnt.append(float(step.reward[0]))
        filmed.terminated.append(bool(step.terminated[0] or not step.valid[0]))
        if critic and not filmed.terminated[-1] and (step.truncated[0] or t == limit - 1):
            filmed.cut[t] = float(policy.value(step.final_observation)[0])
        if step.episode_over[0]:
            filmed.ended = "terminated" if step.terminated[0] else "truncated"
            break
        if step.started[0]:  # a life was lost; the game goes on
            policy.reset()
    return filmed


def picture(environments: VectorEnvironment, width: int) -> bytes:
    """What the environment draws, at this width, as JPEG.

    Raises:
        UserError: it draws nothing, or can not.
    """
    from gymnasium.error import DependencyNotInstalled
    from PIL import Image

    try:
        drawn: Any = environments.render()
    except DependencyNotInstalled as error:
        raise UserError(f"{environments.name} is drawn by a package that is missing: `pip install pygame`") from error
    except NotImplementedError:  # Gymnasium's own, of an environment that has no such method
        drawn = None
    except FOREIGN as error:  # an OpenGL or pygame of any version, each with errors of its own
        why = NO_SCREEN if _of_a_screen(error) else "its render failed, so nothing can be filmed"
        raise UserError(f"{environments.name}: {why}; it said: {type(error).__name__}: {error}") from error
    if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[-1] != 3:
        raise UserError(
            f"{environments.name} draws nothing: make it with render_mode='rgb_array', let its function take "
            "render_mode, or give it a method render that returns a picture"
        )
    picture = Image.fromarray(drawn.astype(np.uint8))
    height = round(width * picture.height / picture.width)
    out = io.BytesIO()
    picture.resize((width, height), Image.Resampling.BILINEAR).save(out, "JPEG", quality=92)
    return out.getvalue()
