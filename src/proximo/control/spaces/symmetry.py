"""A mirror symmetry of a task: what observations and actions become where left is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec, Part
from proximo.control.spaces.signed_permutation import SAME, SignedPermutation, Turn, outputs_of, require_actions, turner
from proximo.errors import FOREIGN, UserError, nearest

FLIP = "flip"
"""Of an image: its left is right."""
TRIED = 4
"""Random observations and actions that a function of the user's own is tried on."""
Inputs = Mapping[str, Tensor]


class Symmetry:
    """Images of encoded observations, of stored actions, and of what a policy's head says.

    Args:
        actions: of the task.
        observations: by role (`""` is the actor, `critic.` a critic with a view of its own), the image of its encoded
            observations, without the role in their names.
        outputs: the image of `[..., outputs]`: Box columns as they are stored, and a number for each choice and switch.
    """

    def __init__(
        self, actions: ActionSpec, observations: Mapping[str, Callable[[Inputs], dict[str, Tensor]]], outputs: Turn
    ) -> None:
        self.actions, self.outputs = actions, outputs
        self._observations = dict(observations)
        self._choices = [i for i, (kind, _) in enumerate(outputs_of(actions)) if kind == "choice"]

    def inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        """The image of encoded observations and masks, whatever their leading axes; other inputs stay."""
        found = dict(inputs)
        for role, image in self._observations.items():
            own = {name[len(role) :]: x for name, x in inputs.items() if name.startswith(role)}
            own = {name: x for name, x in own.items() if name.partition(".")[0] in ("vector", "pixels")}
            if own:
                found |= {role + name: x for name, x in image(own).items()}
        if "mask" in inputs:
            mask = inputs["mask"]
            spread = torch.zeros((*mask.shape[:-1], self.actions.outputs), device=mask.device)
            spread[..., self._choices] = mask.to(spread.dtype)
            found["mask"] = self.outputs(spread)[..., self._choices] > 0.5
        return found

    def action(self, action: Tensor) -> Tensor:
        """The image of stored actions `[..., width]`."""
        parts = self.actions.parts
        columns = []
        for part, held in zip(parts, action.split([part.width for part in parts], -1), strict=True):
            if part.kind == "choice":
                chosen = zip(held.unbind(-1), part.choices, strict=True)
                columns += [functional.one_hot(x.long(), n).to(action.dtype) for x, n in chosen]
            else:
                columns.append(held)
        image = self.outputs(torch.cat(columns, -1))
        columns = []
        for part, held in zip(parts, image.split([part.outputs for part in parts], -1), strict=True):
            if part.kind == "choice":
                likely = (x.argmax(-1, keepdim=True) for x in held.split(list(part.choices), -1))
                columns += [x.to(action.dtype) for x in likely]
            else:
                columns.append(held)
        return torch.cat(columns, -1)


def name_of(part: Part) -> str:
    """The name of a part of an observation; a lone Box or image has that of the input that it is."""
    return part.key or ("pixels" if part.kind == "pixels" else "vector")


def declared(
    seen: Mapping[str, ObservationSpec],
    actions: ActionSpec,
    tables: Mapping[str, str],
    outputs: str,
    device: torch.device,
) -> Symmetry:
    """A symmetry that is written down.

    Args:
        seen: what is observed, by role.
        actions: of the task.
        tables: by the name of a part, a signed permutation, `same`, or `flip` for an image; `vector` or `pixels` where
            the observation has no parts with names.
        outputs: a signed permutation of the actions: of Box columns, choices and switches.
        device: where the policy lives.

    Raises:
        UserError: a part is missing or not there, or a permutation does not fit or is no reflection.
    """
    known = {name_of(part) for spec in seen.values() for part in _shown(spec)}
    for name in tables:
        if name not in known:
            likely = nearest(name, known)
            hint = f"did you mean {likely}?" if likely else "name some of these"
            raise UserError(f"symmetry.observations names {name!r}, and there are {', '.join(sorted(known))}: {hint}")
    images = {role: _table(spec, tables, device) for role, spec in seen.items()}
    turn = SignedPermutation.parse(outputs, actions.outputs, "symmetry.actions")
    require_actions(turn, actions)
    return Symmetry(actions, images, turner(turn.source, turn.sign, device))


def _shown(spec: ObservationSpec) -> list[Part]:
    return [part for part in spec.parts if part.kind != "mask"]


def _table(
    spec: ObservationSpec, tables: Mapping[str, str], device: torch.device
) -> Callable[[Inputs], dict[str, Tensor]]:
    """One permutation of the whole vector, and the images that are flipped."""
    entries: list[tuple[int, float]] = []
    flipped = set()
    for part in _shown(spec):
        name = name_of(part)
        where = f"symmetry.observations.{name}"
        if name not in tables:
            raise UserError(f"symmetry.observations says nothing of {name}: add it, as {SAME} if the mirror leaves it")
        if part.kind == "pixels":
            if tables[name] not in (SAME, FLIP):
                raise UserError(f"{where} = {tables[name]!r}: an image is {FLIP} (its left is right) or {SAME}")
            flipped |= {_input(part)} if tables[name] == FLIP else set()
            continue
        size = int(torch.Size(part.frame).numel()) if part.frame else part.size  # of one frame, where some are stacked
        turn = SignedPermutation.parse(tables[name], size, where)
        if part.kind == "one_hot" and -1.0 in turn.sign:
            raise UserError(f"{where}: entry {turn.sign.index(-1.0)} has a minus, and a choice can only change places")
        for _ in range(part.size // max(1, size)):
            entries += turn.shifted(len(entries))
    vector = turner([j for j, _ in entries], [sign for _, sign in entries], device)

    def image(inputs: Inputs) -> dict[str, Tensor]:
        found = {name: x.flip(-1) if name in flipped else x for name, x in inputs.items()}
        return {**found, "vector": vector(inputs["vector"])} if "vector" in inputs else found

    return image


def _input(part: Part) -> str:
    """Under which name an image is encoded."""
    return f"pixels.{part.key}" if part.key else "pixels"


def given(
    seen: Mapping[str, ObservationSpec], actions: ActionSpec, function: Callable[..., Any], name: str
) -> Symmetry:
    """A symmetry by a function of the user's own, tried out twice on random numbers.

    Args:
        seen: what is observed, by role.
        actions: of the task.
        function: called as `mirror(observations, actions)`, one of which is None, and gives both back: observations by
            the name of their part, each `[..., *shape]`; actions `[..., outputs]` as `Symmetry` has them.
        name: of it, for messages.

    Raises:
        UserError: it fails, gives something else, or applied twice it is not the identity.
    """

    def of(spec: ObservationSpec) -> Callable[[Inputs], dict[str, Tensor]]:
        def image(inputs: Inputs) -> dict[str, Tensor]:
            by_key = spec.by_key(inputs)
            found = function({name_of(part): by_key[part.key] for part in _shown(spec)}, None)[0]
            pixels = {_input(part): found[name_of(part)] for part in _shown(spec) if part.kind == "pixels"}
            if "vector" not in inputs:
                return pixels
            lead = inputs["vector"].shape[:-1]
            rest = [part for part in _shown(spec) if part.kind != "pixels"]
            columns = [found[name_of(part)].reshape(*lead, part.size) for part in rest]
            return {**pixels, "vector": torch.cat(columns, -1)}

        return image

    symmetry = Symmetry(actions, {role: of(spec) for role, spec in seen.items()}, lambda x: function(None, x)[1])
    _require_reflection(symmetry, seen, name)
    return symmetry


@torch.no_grad()
def _require_reflection(symmetry: Symmetry, seen: Mapping[str, ObservationSpec], name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shown = {}
    for role, spec in seen.items():
        for image, shape in spec.images.items():
            shown[role + image] = torch.randint(0, 256, (TRIED, *shape), generator=generator, dtype=torch.uint8)
        if spec.vector_size:
            shown[f"{role}vector"] = torch.randn(TRIED, spec.vector_size, generator=generator)
    outputs = torch.randn(TRIED, symmetry.actions.outputs, generator=generator)
    try:
        twice = symmetry.inputs(symmetry.inputs(shown)) | {"actions": symmetry.outputs(symmetry.outputs(outputs))}
    except FOREIGN as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"symmetry {name} failed ({type(error).__name__}: {said}): it is called as mirror(observations, actions), "
            "one of them None, and gives both back in the same shapes"
        ) from error
    for what, before in (shown | {"actions": outputs}).items():
        after = twice[what]
        if after.shape != before.shape:
            raise UserError(
                f"symmetry {name} gives {what} {tuple(after.shape)} of {tuple(before.shape)}: keep the shape"
            )
        off = (after.double() - before.double()).abs().flatten(1).amax(0) > 1e-4
        if off.any():
            raise UserError(
                f"symmetry {name} is no reflection: entry {int(off.nonzero()[0])} of {what} is not itself when it is "
                "mirrored twice"
            )
