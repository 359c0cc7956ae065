"""A policy: observations in, actions out. NumPy is all it needs.

Observations are taken as the environment gives them (or a batch of them, with a leading axis), and actions are given as
it takes them: the normaliser, the network, the mask and the bounds are inside. `contract.json` describes both.
"""

import base64
from typing import Any

import numpy as np


def initial_state(count: int | None = None) -> np.ndarray:
    """The memory when an episode starts: [size], or [count, size] for a batch."""
    size = POLICY["state"]
    return np.zeros(size if count is None else (count, size), np.float32)


def _decide(observation: Any, state: Any, mask: Any) -> tuple[Any, Any]:
    """An action, or a batch of them, and the memory afterwards."""
    outputs, allowed, state, single = _outputs(observation, state, mask)
    return _action(outputs, allowed, single), state


def logits(observation: Any, state: Any = None, mask: Any = None) -> np.ndarray:
    """Of all choices and switches, one after another, [K] or [N, K]: what `act` takes the largest of.

    A softmax over those of one choice gives its probabilities, and 1 / (1 + exp(-x)) that of a switch. Of a choice that
    the mask forbids it is the smallest number that there is.

    Args:
        observation: as `act` takes it.
        state: as `act` takes it, where there is a memory.
        mask: as `act` takes it.
    """
    outputs, allowed, _, single = _outputs(observation, state, mask)
    found, start, choice = [outputs[:, :0]], 0, 0
    for part in POLICY["actions"]:
        x = outputs[:, start : start + part["outputs"]]
        start += part["outputs"]
        if part["meaning"] == "choices":
            x = _open(x, None if allowed is None else allowed[:, choice : choice + x.shape[1]])
            choice += part["outputs"]
        found += [] if part["meaning"] == "numbers" else [x]
    joined = np.concatenate(found, 1)
    return joined[0] if single else joined


def _outputs(observation: Any, state: Any, mask: Any) -> tuple[np.ndarray, Any, Any, bool]:
    """What the head gives [N, outputs], the mask, the memory afterwards, and whether it is of one observation."""
    first = POLICY["observations"][0]
    single = np.ndim(_at(observation, first["path"])) == len(first["shape"])
    images, vector, inside = _encode(observation, single)
    allowed = inside if mask is None else _batch(mask, single).astype(bool)
    if allowed is None and POLICY["masked"]:
        raise ValueError("this policy was trained with action masks: give mask=info['action_mask']")
    choices = sum(sum(part["choices"]) for part in POLICY["actions"])
    if allowed is not None and allowed.shape != (len(_batch(_at(observation, first["path"]), single)), choices):
        raise ValueError(f"the mask must have one entry for each of the {choices} choices, and has {allowed.shape[1:]}")
    features = [_run(POLICY["images"][name], image) for name, image in images.items()]
    x = np.concatenate([*features, *([] if vector is None else [vector])], 1)
    if state is not None:
        x, state = _remember(x, _batch(state, single).astype(np.float32))
        state = state[0] if single else state
    return _run(POLICY["actor"], x), allowed, state, single


def _at(tree: Any, path: list) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _batch(array: Any, single: bool) -> np.ndarray:
    array = np.asarray(array)
    return array[None] if single else array


def _encode(observation: Any, single: bool) -> tuple[dict, Any, Any]:
    """Images float32 [N, C, H, W] by name, the normalised vector float32 [N, D], and the mask bool [N, K]."""
    images, columns, masks = {}, [], []
    for part in POLICY["observations"]:
        leaf = _batch(_at(observation, part["path"]), single)
        if leaf.shape[1:] != tuple(part["shape"]):
            raise ValueError(f"{part['name']} must have the shape {tuple(part['shape'])}, and has {leaf.shape[1:]}")
        flat = leaf.reshape(len(leaf), -1)
        if part["meaning"] == "image":
            images[part["name"]] = _channels_first(leaf, part["layout"]).astype(np.float32) / np.float32(255)
        elif part["meaning"] == "mask":
            masks.append(_without_padding(flat.astype(bool), part["choices"]))
        elif part["meaning"] == "choices":
            index = flat.astype(np.int64) - part["start"]
            columns += [index[:, i : i + 1] == np.arange(n) for i, n in enumerate(part["choices"])]
        else:
            columns.append(flat.astype(part["dtype"]))
    vector = _normalized(np.concatenate(columns, 1).astype(POLICY["vector"])) if columns else None
    return images, vector, np.concatenate(masks, 1) if masks else None


def _channels_first(image: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hwc":
        return np.moveaxis(image, -1, 1)
    return image[:, None] if layout == "hw" else image


def _without_padding(mask: np.ndarray, choices: list) -> np.ndarray:
    """A table whose shorter columns are padded, as one row of the choices that there are."""
    if not choices:
        return mask
    return mask[:, np.concatenate([np.arange(max(choices)) < count for count in choices])]


def _normalized(vector: np.ndarray) -> np.ndarray:
    if not np.isfinite(vector).all():
        raise ValueError("the observation has numbers that are not finite, which no policy can act on")
    if POLICY["clip"] is not None:
        vector = (vector - _WEIGHTS["normalizer.mean"]) / _WEIGHTS["normalizer.scale"]
        vector = np.clip(vector, -POLICY["clip"], POLICY["clip"])
    return vector.astype(np.float32)


def _run(layers: list, x: np.ndarray) -> np.ndarray:
    for kind, *given in layers:
        x = _LAYERS[kind](x, *given)
    return x


def _dense(x: np.ndarray, name: str) -> np.ndarray:
    return x @ _WEIGHTS[f"{name}.weight"].T + _WEIGHTS[f"{name}.bias"]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _windows(x: np.ndarray, size: int, stride: int, padding: int, value: float) -> np.ndarray:
    """[N, C, H, W] -> [N, C, rows, columns, size, size]."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=value)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))[:, :, ::stride, ::stride]


def _convolution(x: np.ndarray, name: str, stride: int, padding: int) -> np.ndarray:
    weight = _WEIGHTS[f"{name}.weight"]
    windows = _windows(x, weight.shape[-1], stride, padding, 0.0).transpose(0, 2, 3, 1, 4, 5)
    n, rows, columns = windows.shape[:3]
    y = windows.reshape(n * rows * columns, -1) @ weight.reshape(len(weight), -1).T + _WEIGHTS[f"{name}.bias"]
    return y.reshape(n, rows, columns, -1).transpose(0, 3, 1, 2)


def _pool(x: np.ndarray, size: int, stride: int, padding: int) -> np.ndarray:
    return _windows(x, size, stride, padding, -np.inf).max((-2, -1))


def _residual(x: np.ndarray, first: str, second: str) -> np.ndarray:
    return x + _convolution(_relu(_convolution(_relu(x), first, 1, 1)), second, 1, 1)


def _flatten(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def _remember(x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of the memory: what it gives, and the state afterwards."""
    hidden = state[:, : _WEIGHTS["memory.weight_hh"].shape[1]]
    seen = x @ _WEIGHTS["memory.weight_ih"].T + _WEIGHTS["memory.bias_ih"]
    known = hidden @ _WEIGHTS["memory.weight_hh"].T + _WEIGHTS["memory.bias_hh"]
    if POLICY["memory"] == "gru":
        (r, z, n), (r0, z0, n0) = np.split(seen, 3, 1), np.split(known, 3, 1)
        keep, new = _sigmoid(z + z0), np.tanh(n + _sigmoid(r + r0) * n0)
        hidden = (1 - keep) * new + keep * hidden
        return hidden, hidden
    into, forget, new, out = np.split(seen + known, 4, 1)
    cell = _sigmoid(forget) * state[:, hidden.shape[1] :] + _sigmoid(into) * np.tanh(new)
    hidden = _sigmoid(out) * np.tanh(cell)
    return hidden, np.concatenate([hidden, cell], 1)


def _action(outputs: np.ndarray, mask: Any, single: bool) -> Any:
    """The most probable action, in the environment's structure, shapes and types."""
    leaves, start, choice = {}, 0, 0
    for part in POLICY["actions"]:
        x = outputs[:, start : start + part["outputs"]]
        start += part["outputs"]
        if part["meaning"] == "numbers":
            x = _bounded(_mean(x) if part.get("beta") else x, part)
        elif part["meaning"] == "switches":
            x = x > 0
        else:
            allowed = None if mask is None else mask[:, choice : choice + x.shape[1]]
            x = _chosen(x, allowed, part)
            choice += part["outputs"]
        leaf = x.reshape(len(x), *part["shape"]).astype(part["dtype"])
        leaves[tuple(part["path"])] = leaf[0] if single else leaf
    return _assembled(leaves)


def _mean(x: np.ndarray) -> np.ndarray:
    """Of Betas between -1 and 1, from a network's outputs [N, 2 d]."""
    first, second = np.split(np.logaddexp(x, 0.0), 2, 1)
    return (first - second) / (first + second + 2.0)


def _bounded(x: np.ndarray, part: dict) -> np.ndarray:
    """From units in which the bounds are -1 and 1 to the environment's."""
    low = np.array([-np.inf if bound is None else bound for bound in part["low"]])
    high = np.array([np.inf if bound is None else bound for bound in part["high"]])
    if POLICY["squashed"]:
        x = np.tanh(x)
    else:
        x = np.clip(x, np.where(np.isfinite(low), -1.0, -np.inf), np.where(np.isfinite(high), 1.0, np.inf))
    if not part["unit"]:
        x = np.clip(np.array(part["centre"]) + x * np.array(part["half"]), low, high)
    return np.rint(x) if part["whole"] else x


def _chosen(x: np.ndarray, allowed: Any, part: dict) -> np.ndarray:
    """The most probable allowed choice of each column, counted from its start."""
    x = _open(x, allowed)
    ends = np.cumsum(part["choices"])[:-1]
    return np.stack([column.argmax(1) for column in np.split(x, ends, 1)], 1) + np.array(part["start"])


def _open(x: np.ndarray, allowed: Any) -> np.ndarray:
    return x if allowed is None else np.where(allowed, x, np.finfo(x.dtype).min)


def _assembled(leaves: dict) -> Any:
    """A lone array, or the dict or tuple that the environment takes."""
    if () in leaves:
        return leaves[()]
    inner: dict = {}
    for (first, *rest), leaf in leaves.items():
        inner.setdefault(first, {})[tuple(rest)] = leaf
    found = {key: _assembled(group) for key, group in inner.items()}
    return tuple(found[i] for i in range(len(found))) if 0 in found else found


_LAYERS: dict[str, Any] = {
    "dense": _dense,
    "tanh": np.tanh,
    "relu": _relu,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * _sigmoid(x),
    "convolution": _convolution,
    "pool": _pool,
    "residual": _residual,
    "flatten": _flatten,
}


def _array(shape: tuple[int, ...], dtype: str, text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


# What follows is the policy itself, filled in by `proximo export`.
POLICY: dict[str, Any] = {}
_WEIGHTS: dict[str, np.ndarray] = {}
