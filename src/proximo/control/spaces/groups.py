"""Who sees which parts of an observation: the actor what a robot measures, the critic also what a simulator knows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError, nearest

CRITIC = "critic."
"""Encoded inputs of the critic alone begin with it, as `critic.vector`."""
TEACHER = "teacher."
"""The same of a student's teacher."""
RND = "rnd."
"""The same of what nobody sees but who pays for what is new."""


@dataclass(frozen=True)
class Roles:
    """What actor and critic see of one observation."""

    actor: ObservationSpec
    critic: ObservationSpec | None = None
    """None where the critic sees what the actor sees."""
    teacher: ObservationSpec | None = None
    """None where a student's teacher sees what the student sees, and where there is none."""
    rnd: ObservationSpec | None = None
    """Parts of those that `rnd` sees that neither actor nor critic see; None where there is none."""

    @classmethod
    def of(
        cls,
        seen: ObservationSpec,
        actor: Sequence[str],
        critic: Sequence[str],
        environment: str,
        teacher: Sequence[str] = (),
        rnd: Sequence[str] = (),
    ) -> Roles:
        """Who sees what of all that a run sees.

        Args:
            seen: of the environments, after `observation_keys`.
            actor: names of the actor's parts.
            critic: of the critic's; none for the same as the actor.
            environment: what the user calls it.
            teacher: of the parts of a student's teacher; none for the same as the student, or where there is none.
            rnd: of the parts whose novelty is paid for; none for the same as the actor, or where nothing is.

        Raises:
            UserError: a name that is not there, or a role that is left with nothing.
        """
        if not actor:
            return cls(seen)
        masks = tuple(part for part in seen.parts if part.kind == "mask")
        actors = ObservationSpec((*_named(seen, actor, "actor", environment).parts, *masks))
        others = (_named(seen, x, y, environment) if x else None for x, y in ((critic, "critic"), (teacher, "teacher")))
        critics, teachers = others
        known = {*actors.parts, *(critics.parts if critics else ())}
        own = [part for part in _named(seen, rnd, "rnd", environment).parts if part not in known]
        return cls(actors, critics, teachers, ObservationSpec(tuple(own)) if own else None)


def _named(seen: ObservationSpec, names: Sequence[str], role: str, environment: str) -> ObservationSpec:
    """The parts that are named, in the order of their names, as rsl_rl joins its groups."""
    parts = {part.key: part for part in seen.parts if part.kind != "mask"}
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys(sorted(matching(name, parts, environment, f"observations.{role}"), key=[*parts].index))
    return ObservationSpec(tuple(parts[key] for key in found))


def matching(name: str, names: Collection[str], environment: str, setting: str) -> set[str]:
    """The leaves that a name stands for: one, those below it, or those of a pattern.

    Raises:
        UserError: there is none.
    """
    found = {leaf for leaf in names if leaf == name or leaf.startswith(f"{name}.") or fnmatchcase(leaf, name)}
    if not found:
        likely = nearest(name, names)
        raise UserError(
            f"{setting} names {name!r}, and {environment} shows {', '.join(sorted(names))}"
            f"{f': did you mean {likely}?' if likely else ': name some of these'}"
        )
    return found
