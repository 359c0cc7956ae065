"""What of the user's own code an environment consists of."""

from contextlib import suppress
from typing import Any

from proximo.control.environments.lent import Source, copies
from proximo.errors import FOREIGN
from proximo.runs.plugins import import_own
from proximo.runs.storage.code_walk import registration


def code_of(source: Source) -> Any:
    """What `identity` takes for an environment: what makes it, one that is made already, or a name.

    A name of Gymnasium's registry stands for what it was registered with, `module:Id-v0` for both.
    """
    if copies(source) is not None or not isinstance(source, str):
        return source
    import gymnasium

    place, _, name = source.rpartition(":")
    if place:
        with suppress(*FOREIGN):  # what is wrong with it is told where it is made
            import_own(place)
    spec = gymnasium.registry.get(name)
    entry = "" if spec is None else registration(spec)
    return (source, entry) if place else entry
