"""The text of an exported policy in C, line by line."""

from collections.abc import Iterator

import numpy as np

from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces import actions
from proximo.views.export.interface import Interface, Port
from proximo.views.export.targets import c_runtime
from proximo.views.export.targets.plan import Plan


def source(policy: ControlPolicy, interface: Interface, plan: Plan) -> str:
    """The content of policy.c."""
    parts = [_constants(policy, interface, plan), _functions(plan), _act(policy, interface, plan)]
    return c_runtime.HEAD + "".join(text for part in parts for text in part)


def call(interface: Interface) -> str:
    """How it is called."""
    given = [f"const {observed(interface)} *observation"]
    given += ["const unsigned char *mask"] if interface.mask else []
    given += ["const float *state"] if interface.state else []
    given += [f"{acted(interface)} *action"] + (["float *logits"] if interface.logits else [])
    given += ["float *next_state"] if interface.state else []
    return f"int policy_act({', '.join(given)})"


def observed(interface: Interface) -> str:
    """The type of an observation."""
    return "double" if interface.exact else "float"


def acted(interface: Interface) -> str:
    """The type of an action: float, unless it has no room for a bound, which rounding would then step over."""
    bounds = [
        x for port in interface.actions if port.meaning == "numbers" for x in (*(port.low or ()), *(port.high or ()))
    ]
    return "float" if all(float(np.float32(x)) == x for x in bounds) else "double"


def sizes(interface: Interface) -> dict[str, int]:
    """How many numbers each array has."""
    found = {"OBSERVATION": sum(port.size for port in interface.observations)}
    found |= {port.name.upper(): port.size for port in (interface.mask, interface.state, interface.logits) if port}
    return {**found, "ACTION": sum(port.size for port in interface.actions)}


def _constants(policy: ControlPolicy, interface: Interface, plan: Plan) -> Iterator[str]:
    for name, array in plan.weights.items():
        yield _array(name, array, "float")
    if policy.normalizer is not None:
        moments, kind = policy.normalizer.moments, observed(interface)
        yield _array("normalizer.mean", moments.mean.numpy(), kind)
        yield _array("normalizer.scale", moments.scale().numpy(), kind)
    if plan.memory != "none":
        yield f"\nenum {{ FEATURES = {plan.weights['memory.weight_ih'].shape[1]}, "
        yield f"HIDDEN = {plan.weights['memory.weight_hh'].shape[1]} }};\n"


def _array(name: str, array: np.ndarray, kind: str) -> str:
    numbers = [_number(x, kind) for x in array.reshape(-1)]
    rows = ",\n".join("  " + ", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8))
    return f"static const {kind} {_name(name)}[{len(numbers)}] = {{\n{rows}}};\n"


def _name(name: str) -> str:
    return name.replace(".", "_")


def _number(x: float, kind: str = "double") -> str:
    """With all its digits; always a floating-point literal."""
    text = f"{float(x):.9g}" if kind == "float" else f"{float(x):.17g}"
    return (text if set(text) & set(".en") else f"{text}.0") + ("f" if kind == "float" else "")


def _functions(plan: Plan) -> Iterator[str]:
    kinds = {layer[0] for layer in plan.actor}
    yield c_runtime.DENSE
    if plan.memory != "none" or "silu" in kinds:
        yield c_runtime.SIGMOID
    yield from (text for name, text in c_runtime.ACTIVATIONS.items() if name in kinds)
    if plan.memory != "none":
        yield c_runtime.MEMORIES[plan.memory]


def _act(policy: ControlPolicy, interface: Interface, plan: Plan) -> Iterator[str]:
    """The helpers that the action needs, and `policy_act`."""
    parts = policy.actions.parts
    if policy.normalizer is not None or any(part.kind == "box" for part in parts):
        yield c_runtime.CLIP
    if policy.actions.beta:
        yield c_runtime.BETA
    if policy.actions.mask_size:
        yield c_runtime.CHOOSE
    width = max([1, *(len(plan.weights[f"{layer[1]}.bias"]) for layer in plan.actor if layer[0] == "dense")])
    yield f"\n{call(interface)} {{\n"
    lines = [*_encoded(policy, interface), *_network(plan, width), *_decided(policy, interface)]
    yield from (f"  {line}\n" for line in lines)
    yield "  return 0;\n}\n"


def _encoded(policy: ControlPolicy, interface: Interface) -> Iterator[str]:
    """`seen`: the normalised vector; `allowed`: the mask."""
    size, kind = policy.observations.vector_size, observed(interface)
    yield f"{kind} raw[{size}];"
    yield f"float seen[{size}];"
    if any(port.meaning == "mask" for port in interface.observations):
        yield f"unsigned char allowed[{policy.actions.mask_size}];"
    yield "memset(raw, 0, sizeof raw);"
    start = entry = column = 0
    for part, port in zip(policy.observations.parts, interface.observations, strict=True):
        if port.meaning == "mask":
            for index in _entries(port):
                yield f"allowed[{entry}] = observation[{start + index}] != 0;"
                entry += 1
        elif port.meaning == "choices":
            for i, (count, first) in enumerate(zip(port.choices, port.start, strict=True)):
                yield f"for (int i = 0; i < {count}; i++) raw[{column} + i] = observation[{start + i}] == i + {first};"
                column += count
        else:
            yield f"for (int i = 0; i < {part.size}; i++) raw[{column} + i] = observation[{start} + i];"
            column += part.size
        start += port.size
    yield f"for (int i = 0; i < {size}; i++) {{"
    yield "  if (!isfinite(raw[i])) return 1;"
    if policy.normalizer is None:
        yield "  seen[i] = (float)raw[i];"
    else:
        bound = _number(policy.normalizer.clip)
        yield f"  seen[i] = (float)clip((raw[i] - normalizer_mean[i]) / normalizer_scale[i], -{bound}, {bound});"
    yield "}"


def _entries(port: Port) -> list[int]:
    """Where the mask's entries are in a table whose shorter columns may be padded."""
    longest = max(port.choices, default=0)
    padded = [row * longest + i for row, count in enumerate(port.choices) for i in range(count)]
    return padded or list(range(port.size))


def _network(plan: Plan, width: int) -> Iterator[str]:
    """`x`: what the head gives."""
    source = "seen"
    if plan.memory != "none":
        yield f"float after[{'2 * ' if plan.memory == 'lstm' else ''}HIDDEN];"
        yield "remember(seen, state, after);"
        yield "memcpy(next_state, after, sizeof after);"
        source = "after"
    dense = [layer for layer in plan.actor if layer[0] == "dense"]
    yield f"float first[{width}]{f', second[{width}]' if len(dense) > 1 else ''};"
    names, count = ["first", "second"], 0
    for kind, *given in plan.actor:
        if kind == "dense":
            count, inputs = plan.weights[f"{given[0]}.weight"].shape
            name, target = _name(given[0]), names[0]
            yield f"dense({name}_weight, {name}_bias, {inputs}, {count}, {source}, {target});"
            source, names = target, names[::-1]
        else:
            yield f"apply_{kind}({count}, {source});"
    yield f"const float *x = {source};"


def _decided(policy: ControlPolicy, interface: Interface) -> Iterator[str]:
    start = column = choice = logit = 0
    inside = any(port.meaning == "mask" for port in interface.observations)
    for part in policy.actions.parts:
        if part.kind == "box":
            for i in range(part.width):
                x = f"x[{start + i}]"
                x = f"beta_mean({x}, x[{start + part.width + i}])" if part.beta else x
                value = _bounded(part, i, x, squashed=policy.actions.squashed)
                yield f"action[{column + i}] = ({acted(interface)}){value};"
        elif part.kind == "binary":
            yield f"for (int i = 0; i < {part.width}; i++) action[{column} + i] = x[{start} + i] > 0.0f;"
            yield f"for (int i = 0; logits && i < {part.width}; i++) logits[{logit} + i] = x[{start} + i];"
            logit += part.width
        else:
            offset = start
            for i, (count, first) in enumerate(zip(part.choices, part.start, strict=True)):
                allowed = f"allowed + {choice}" if inside else f"mask ? mask + {choice} : 0" if interface.mask else "0"
                yield f"action[{column + i}] = (float)({first} + choose(x + {offset}, {allowed}, {count}));"
                yield f"if (logits) open_logits(x + {offset}, {allowed}, {count}, logits + {logit});"
                offset, choice, logit = offset + count, choice + count, logit + count
        start, column = start + part.outputs, column + part.width


def _bounded(part: actions.Part, i: int, x: str, *, squashed: bool) -> str:
    """From units in which the bounds are -1 and 1 to the environment's."""
    text = f"tanhf({x})" if squashed else _clipped(x, part.stored_bounds, i)
    if not part.unit:
        centre, half = (_number(values[i]) for values in part.middle)
        text = _clipped(f"{centre} + {half} * {text}", part.bounds, i)
    return f"rint({text})" if part.whole else text


def _clipped(text: str, bounds: tuple[np.ndarray, np.ndarray], i: int) -> str:
    low, high = (
        _number(b[i]) if np.isfinite(b[i]) else f"{sign}HUGE_VAL" for b, sign in zip(bounds, "- ", strict=True)
    )
    return f"clip({text}, {low}, {high.strip()})"
