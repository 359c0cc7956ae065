"""From what the user calls an environment to N of them."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from proximo.control.environments.backends.envpool import EnvPoolEnvironments
from proximo.control.environments.backends.shapes import shaped_otherwise, whole_copies
from proximo.control.environments.base import VectorEnvironment
from proximo.control.environments.guards import GuardedEnvironments
from proximo.control.environments.lent import Source, copies, kept, lent, name_of
from proximo.control.environments.names import (
    envpool_names,
    gymnasium_names,
    is_atari,
    is_gone,
    pettingzoo_modules,
    unknown,
)
from proximo.control.environments.problems import closing_told
from proximo.control.environments.wrappers.frame_stack import FrameStack
from proximo.errors import FOREIGN, UserError
from proximo.runs.plugins import find_own, torchs_modes_put_back

if TYPE_CHECKING:
    from proximo.control.environments.visible_leaves import ObservationKeys

BACKENDS = ("auto", "envpool", "gymnasium", "subprocess")


_SPACES = ("observation_space", "action_space")


def make_environments(
    source: Source,
    count: int,
    *,
    backend: str = "auto",
    options: Mapping[str, Any] | None = None,
    threads: int | None = None,
    timeout: float = 60.0,
    frame_stack: int = 1,
    any_count: bool = False,
    mask_key: str | None = None,
    observation_keys: Sequence[str] = (),
    action_repeat: int = 1,
    action_delay: int = 0,
    history: Mapping[str, int] | None = None,
) -> VectorEnvironment:
    """Makes `count` environments, guarded against non-finite and misshapen observations.

    Args:
        source: A task of EnvPool or an id of Gymnasium; or `module:function`, or a callable, that returns a
            gymnasium.Env (it is called `count` times), a VectorEnv of `count`, or a VectorEnvironment of ours; or one
            of these that is made already, which is left open.
        count: How many.
        backend: "envpool"; "gymnasium", in this process; "subprocess", a process each; or "auto", which is EnvPool
            where it has the task and else this process.
        options: Keyword arguments of the task, or of the function.
        threads: Threads of EnvPool; by default one per CPU.
        timeout: Seconds that a subprocess may take for one step or reset.
        frame_stack: How many observations the policy sees at once.
        any_count: Whether a function that makes all of them at once may make another number.
        mask_key: Key of a Dict observation that holds the action mask; None finds `action_mask`.
        observation_keys: Names or patterns of the parts of a Dict or Tuple observation that the policy sees, `not:NAME`
            for what it does not; () takes all but text, and refuses what looks privileged.
        action_repeat: How often each action is taken, in environments that are stepped one by one.
        action_delay: By how many steps each action arrives late.
        history: How many observations of a part of a Dict are seen at once, by its name.

    Raises:
        UserError: When the environment is unknown or cannot be made so.
    """
    if count < 1 or frame_stack < 1:
        raise UserError(f"{count} environments with {frame_stack} frames cannot be made: both must be at least 1")
    if threads is not None and threads < 1:
        raise UserError(f"{threads} threads cannot step environments: give at least 1, or none for one per CPU")
    if backend not in BACKENDS:
        raise UserError(f"there is no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    from proximo.control.environments.visible_leaves import ObservationKeys

    keys = ObservationKeys(tuple(observation_keys), mask_key)
    if action_repeat > 1:
        _require_one_by_one(source, backend, action_repeat)
    plan = (source, count, backend, dict(options or {}), threads, timeout, keys, action_repeat)
    environments = _resolve(*plan, any_count=any_count)
    if not any_count:
        _require_count(environments.name, environments.count, count, made=copies(source) is not None)
    shown: VectorEnvironment = GuardedEnvironments(environments, mask_key or "action_mask")
    if frame_stack > 1 or history:
        shown = FrameStack(shown, frame_stack if frame_stack > 1 else dict(history or {}))
    if not action_delay:
        return shown
    from proximo.control.environments.wrappers.action_timing import LateActions

    return LateActions(shown, action_delay)


def _require_one_by_one(source: Source, backend: str, repeat: int) -> None:
    """Refuse to repeat actions where the step belongs to somebody else.

    Raises:
        UserError: it does.
    """
    if copies(source) is not None:
        raise UserError(
            f"action_repeat = {repeat} is for environments that Proximo makes, and {name_of(source)} is made already: "
            "give a function that makes one, or repeat the actions in it"
        )
    named = isinstance(source, str) and ":" not in source
    if named and (backend == "envpool" or (backend == "auto" and source in envpool_names())):
        raise UserError(
            f"action_repeat = {repeat} is not for EnvPool, which steps {source} by itself: choose backend gymnasium, "
            "or its option frame_skip where it has one"
        )


def _resolve(
    source: Source,
    count: int,
    backend: str,
    options: dict[str, Any],
    threads: int | None,
    timeout: float,
    keys: ObservationKeys,
    repeat: int,
    *,
    any_count: bool,
) -> VectorEnvironment:
    if copies(source) is not None:
        return lent(source, options, backend, keys)
    if isinstance(source, str):
        # EnvPool's names have no colon, so what has one is somebody's own.
        if ":" not in source and (backend == "envpool" or (backend == "auto" and source in envpool_names())):
            return kept(EnvPoolEnvironments(source, count, options=options, threads=threads), keys)
        function, name = _function_of(source), source
        if source in (games := pettingzoo_modules() if source.startswith("pettingzoo/") else {}):
            from proximo.control.environments.backends.pettingzoo import make_pettingzoo

            function = partial(make_pettingzoo, games[source])
    else:
        function, name = source, name_of(source)
    if backend == "envpool":
        raise UserError(f"{name} is not a task of EnvPool: choose backend 'gymnasium' or 'subprocess'")
    if function is None:
        return _registered(name, count, backend, options, timeout, keys, repeat)
    return _called(function, name, count, backend, options, timeout, keys, repeat, any_count=any_count)


def _registered(
    name: str, count: int, backend: str, options: dict[str, Any], timeout: float, keys: ObservationKeys, repeat: int
) -> VectorEnvironment:
    """Environments of a Gymnasium id."""
    import gymnasium

    from proximo.control.environments.backends.gymnasium import vectorise

    known = name in gymnasium.registry and not is_gone(gymnasium.registry[name])
    if ":" not in name and not known and name not in gymnasium_names():
        raise unknown(name)
    if is_atari(name):
        from proximo.control.environments.backends.atari import make_atari, register_atari

        register_atari()
        make: Callable[[], gymnasium.Env] = partial(make_atari, name, **options)
    else:
        make = partial(gymnasium.make, name, disable_env_checker=True, **options)
    with_report = _held(_reporting_making(make, name, options), repeat)
    return vectorise([with_report] * count, name, keys, subprocess=backend == "subprocess", timeout=timeout)


def _called(
    function: Callable[..., Any],
    name: str,
    count: int,
    backend: str,
    options: dict[str, Any],
    timeout: float,
    keys: ObservationKeys,
    repeat: int,
    *,
    any_count: bool,
) -> VectorEnvironment:
    """Environments of a user's function; the type of its first result decides."""
    import gymnasium

    from proximo.control.environments.backends.gymnasium import GymnasiumEnvironments, vectorise

    make = _reporting_making(partial(function, **options), name, options)
    first = make()
    if (other := shaped_otherwise(first)) is not None:
        if backend == "subprocess":
            raise UserError(f"{name} returned a whole {type(first).__name__}, which runs itself: choose backend 'auto'")
        _require_single(first, name, repeat)
        return other(first, name, keys, make, whole_copies(first, count) if any_count else count)
    if not isinstance(first, VectorEnvironment | gymnasium.vector.VectorEnv | gymnasium.Env):
        raise _no_environment(name, first)
    _reporting_making(lambda: [getattr(first, x, None) for x in _SPACES], f"the spaces of {name}", {})()
    _require_single(first, name, repeat)
    # Copies of one environment share its state, unless each has a process of its own.
    made, make = first, _held(make if backend == "subprocess" else _each_another(make, name, [first]), repeat)
    first = _held(lambda: made, repeat)()
    if backend == "subprocess" and not isinstance(first, gymnasium.Env):
        raise UserError(f"{name} returned a whole {type(first).__name__}, which runs itself: choose backend 'auto'")
    if isinstance(first, VectorEnvironment):
        return kept(first, keys)
    if isinstance(first, gymnasium.vector.VectorEnv):
        return GymnasiumEnvironments(first, name, keys=keys)
    if backend == "subprocess":
        with closing_told(f"the first environment of {name}"):
            first.close()
        return vectorise([make] * count, name, keys, subprocess=True, timeout=timeout)
    return vectorise([lambda: first, *[make] * (count - 1)], name, keys)


def _each_another(make: Callable[[], Any], name: str, made: list[Any]) -> Callable[[], Any]:
    """What makes an environment, and is refused where that is one of those that were made before."""

    def another() -> Any:
        found = make()
        if any(found is other for other in made):
            raise UserError(
                f"{name} returned the same environment twice, whose copies would share one state: let it make a new "
                "one each time, or set environments = 1"
            )
        made.append(found)
        return found

    return another


def _require_single(made: Any, name: str, repeat: int) -> None:
    """Refuse to repeat actions in what is no single environment.

    Raises:
        UserError: it is none.
    """
    import gymnasium

    if repeat > 1 and not isinstance(made, gymnasium.Env):
        raise UserError(
            f"action_repeat = {repeat} is for environments that are stepped one by one, and {name} returned a whole "
            f"{type(made).__name__}: repeat the actions in it"
        )


def _held(make: Callable[[], Any], repeat: int) -> Callable[[], Any]:
    """What makes an environment that takes each action so often."""
    if repeat == 1:
        return make
    from proximo.control.environments.wrappers.action_timing import HeldActions

    return lambda: HeldActions(make(), repeat)


def _reporting_making(make: Callable[[], Any], name: str, options: Mapping[str, Any]) -> Callable[[], Any]:
    from gymnasium.error import DependencyNotInstalled

    def made() -> Any:
        try:
            with torchs_modes_put_back():
                return make()
        except UserError:
            raise
        except DependencyNotInstalled as error:
            raise _missing(name, str(error)) from error
        except FOREIGN as error:
            report = "".join(traceback.format_exception(error)).rstrip()
            raise UserError(
                f"{name} could not be made{f' with {dict(options)}' if options else ''}: {type(error).__name__}: "
                f"{error}\n{report}"
            ) from error

    return made


def _missing(name: str, reason: str) -> UserError:
    """Gymnasium tells in prose which of its extras a task needs; Atari's needs OpenCV too."""
    found = re.search(r"gymnasium\[([\w-]+)\]", reason)
    if found is None:
        return UserError(f"{name} needs a package that is not installed: {reason}")
    packages = "ale-py opencv-python-headless" if found[1] == "atari" else f"'gymnasium[{found[1]}]'"
    return UserError(f"{name} needs packages that are not installed: `pip install {packages}`")


def _function_of(source: str) -> Callable[..., Any] | None:
    """The function that `module:function` names; None where `source` is a plain id or Gymnasium's `module:Id-v0`."""
    if ":" not in source:
        return None
    import gymnasium

    function: Callable[..., Any] | None = find_own(
        source, "environment", registry=gymnasium.registry, with_traceback=True
    )
    return function


def _no_environment(name: str, made: Any) -> UserError:
    """What a function returned that should make an environment."""
    kinds = "a gymnasium.Env, a gymnasium.vector.VectorEnv or a VectorEnvironment"
    if made is None:
        return UserError(f"{name} returned None: it must return {kinds}, so see that it ends with `return`")
    if isinstance(made, list | tuple):
        return UserError(
            f"{name} returned a {type(made).__name__}: it must return one environment, and is called for each"
        )
    if hasattr(made, "reset") and hasattr(made, "step"):
        return UserError(
            f"{name} returned a {type(made).__name__} that is no gymnasium.Env, as those of the older gym are: wrap it "
            "with the package shimmy (shimmy.GymV21CompatibilityV0(env=...)), or let it inherit from gymnasium.Env"
        )
    return UserError(f"{name} returned a {type(made).__name__}: it must return {kinds}")


def _require_count(name: str, found: int, count: int, *, made: bool) -> None:
    if found == count:
        return
    if made:
        copies = "one environment" if found == 1 else f"{found} environments"
        raise UserError(
            f"{name} is {copies}, and {count} are asked for: set environments = {found}, or give a function that makes "
            "one, as `lambda: MyEnv()`, for more copies"
        )
    raise UserError(f"{name} made {found} environments where {count} are asked for: make the two numbers equal")
