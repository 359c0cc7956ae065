"""What of the user's own code an environment consists of."""

from typing import Any

from proximo.control.environments.lent import Source, copies


def code_of(source: Source) -> Any:
    """What `identity` takes for an environment: what makes it, the classes of one that is made already, or a name.

    A name of Gymnasium's registry stands for the entry point that it was registered with.
    """
    if copies(source) is not None:
        return tuple(_classes(source))
    if not isinstance(source, str) or ":" in source:
        return source
    import gymnasium

    spec = gymnasium.registry.get(source)
    return "" if spec is None or spec.entry_point is None else spec.entry_point


def _classes(environment: Any) -> list[type]:
    """Of an environment and what it wraps."""
    found: list[type] = []
    while environment is not None and len(found) < 100:
        found.append(type(environment))
        environment = getattr(environment, "env", None)
    return found
