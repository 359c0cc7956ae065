"""How people name environments, and what the name means here."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from proximo.control.environments.backends.envpool import import_envpool
from proximo.errors import UserError, nearest

_SUITE = re.compile(r"dm_control/(\w+)[-_](\w+?)(-v\d+)?", re.IGNORECASE)
_PATH = re.compile(r"(?:\.[/\\])?(\w+(?:[/\\]\w+)*?)(\.py)?", re.IGNORECASE)  # below the current folder


class UnknownEnvironmentError(UserError):
    """No backend has an environment of that name."""


def known_name(name: str) -> str:
    """What is meant by a name: itself where it is known, or else the only one that differs in capitals, EnvPool's name
    of a task of the DeepMind suite, or a module for the path of its file. One that means nothing stays as it is.

    Args:
        name: of a task or as `module:function`.
    """
    if ":" in name:
        place, _, function = name.partition(":")
        path = _PATH.fullmatch(place)
        is_path = path is not None and (place.lower().endswith(".py") or "/" in place or "\\" in place)
        if path is None or not is_path:
            return f"{place}:{known_name(function)}" if place == "gymnasium" else name
        module = re.sub(r"[/\\]", ".", path[1])
        return f"{module}:{function}"
    if not name or name in gymnasium_names():  # EnvPool's names take more than a second to import
        return name
    names = all_names()
    if name in names:
        return name
    if found := _SUITE.fullmatch(name):
        domain, task = ("".join(word.capitalize() for word in part.split("_")) for part in found.groups()[:2])
        name = f"{domain}{task}{found[3] or '-v1'}"
        name = name if name in names else f"{domain}{task}-v1"
    alike = [known for known in names if known.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else name


def all_names() -> set[str]:
    """Of EnvPool's tasks, Gymnasium's (Atari's among them where ale-py is installed) and PettingZoo's games."""
    return envpool_names() | gymnasium_names() | {*pettingzoo_modules()}


def envpool_names() -> set[str]:
    """Of EnvPool's tasks; none where it is not installed."""
    envpool = import_envpool()
    return set() if envpool is None else set(envpool.list_all_envs())


def gymnasium_names() -> set[str]:
    """Of Gymnasium's registry, but for those that it has no more."""
    import gymnasium

    if importlib.util.find_spec("ale_py") is not None:
        from proximo.control.environments.backends.atari import register_atari

        register_atari()
    return {name for name, spec in gymnasium.registry.items() if not is_gone(spec)}


def pettingzoo_modules() -> dict[str, str]:
    """Where PettingZoo's games are, by name as `pettingzoo/tictactoe_v3`; none where it is not installed.

    MPE's have a package of their own now, `mpe2`. Nothing is imported.
    """
    found: dict[str, str] = {}
    for package in ("pettingzoo", "mpe2"):
        spec = importlib.util.find_spec(package)
        for root in map(Path, spec.submodule_search_locations or () if spec else ()):
            for file in sorted((*root.glob("*_v[0-9]*.py"), *root.glob("*/*_v[0-9]*.py"))):
                place = file.with_suffix("").relative_to(root.parent)
                found[f"pettingzoo/{file.stem}"] = ".".join(place.parts)
    return found


def list_environments(pattern: str = "") -> list[tuple[str, str]]:
    """(name, backend) of every environment whose name contains `pattern`, in any case, in alphabetical order.

    The backend is "envpool", "gymnasium", "envpool, gymnasium" or "pettingzoo". Those of the first three that need
    packages which are not installed are left out.
    """
    import gymnasium

    backends: dict[str, list[str]] = {}
    every = {"envpool": envpool_names(), "gymnasium": gymnasium_names(), "pettingzoo": {*pettingzoo_modules()}}
    for backend, names in every.items():
        for name in names:
            whole = backend != "gymnasium" or _is_whole(gymnasium.registry[name])
            if pattern.lower() in name.lower() and whole:
                backends.setdefault(name, []).append(backend)
    return [(name, ", ".join(found)) for name, found in sorted(backends.items(), key=lambda item: item[0].lower())]


def is_of_a_library(name: str) -> bool:
    """Whether a task comes with Gymnasium or EnvPool, and was registered by nobody else."""
    import gymnasium

    spec = gymnasium.registry.get(name)
    if spec is not None:
        return str(spec.entry_point).startswith("gymnasium.")
    return ":" not in name and name in envpool_names()


def is_atari(name: str) -> bool:
    """Whether a name of Gymnasium's registry is a game of the Arcade Learning Environment, old ids included."""
    import gymnasium

    if name.startswith("ALE/"):
        return True
    spec = gymnasium.registry.get(name)
    return spec is not None and str(spec.entry_point).startswith("ale_py")


def unknown(name: str) -> UserError:
    """What is said of a name that nothing has."""
    if name in envpool_names():
        return UserError(f"Gymnasium has no environment {name!r}, but EnvPool has: choose backend 'envpool'")
    if name.startswith("pettingzoo/") and not pettingzoo_modules():
        return UserError(f"{name} is a game of PettingZoo: `pip install pettingzoo pygame` (mpe2 for those of MPE)")
    if re.fullmatch(r"\w+NoFrameskip-v\d+|ALE/.*", name) and importlib.util.find_spec("ale_py") is None:
        return UserError(
            f"{name} is a game of the Arcade Learning Environment: `pip install ale-py opencv-python-headless`"
        )
    names = all_names() - {name}
    likely = _by_another_way(name, names) or nearest(name, names)
    word = (nearest(name, names, 1) or name).rsplit("-v", 1)[0].lower()
    return UnknownEnvironmentError(
        f"no environment {name!r}: {f'did you mean {likely}? ' if likely else ''}`proximo environments {word}` lists "
        "those alike; one of your own is named module:function"
    )


def _by_another_way(name: str, names: set[str]) -> str:
    """Our name of a game of PettingZoo without its package, or of a class in a file; "" if it is neither."""
    place, _, last = name.replace("\\", "/").rpartition("/")
    if f"pettingzoo/{last}" in names:
        return f"pettingzoo/{last}"
    is_module = place and all(part.isidentifier() for part in [*place.split("/"), last])
    return f"{place}:{last}" if is_module and Path(f"{place}.py").is_file() else ""


def is_gone(spec: Any) -> bool:
    """Whether Gymnasium has no such task any more: it keeps the name, with a function that raises."""
    return getattr(spec.entry_point, "__name__", "").startswith("_raise")


def _is_whole(spec: Any) -> bool:
    """Whether what an entry of the registry is made from can be imported here."""
    entry = spec.entry_point
    if not isinstance(entry, str):
        return not is_gone(spec)
    try:
        importlib.import_module(entry.partition(":")[0])
    except Exception:  # what is missing is told where such a task is asked for
        return False
    return True
