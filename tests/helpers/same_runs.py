"""Two runs compared, bit for bit."""

import torch

from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics

PLAN = {
    "progress": "quiet",
    "environments": 4,
    "rollout_length": 16,
    "steps": 64 * 9,
    "checkpoint_every": 64 * 4,
    "episodes": 2,
    "episode_limit": 100,  # what a run comes to is compared too, and most of these fall before
    "seed": 7,
    "update": {"epochs": 2, "minibatch_size": 32, "clip": "0.2 -> 0"},
    "network": {"hidden": [16]},
    "normalizers": {"observations": True, "rewards": "scale"},
}


def same_tensors(a, b):
    """But for the process's global generators, which a run does not draw from."""
    own = [key for key in a if not key.startswith("random/") or key.startswith("random/generators/")]
    assert a.keys() == b.keys()
    assert [key for key in own if not torch.equal(a[key], b[key])] == []


def same_runs(whole, other):
    rows = [read_metrics(run.path / "metrics.jsonl") for run in (whole, other)]
    steps = [row["step"] for row in rows[1]]
    assert steps == sorted(set(steps))
    for one, two in zip(*rows, strict=True):
        differing = {key for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
        # What the clock and the process say; all that is learnt is the same to the last bit.
        assert not {key for key in differing if not key.startswith(("time", "seconds", "memory"))}
    for name in ("final", "best"):
        (a, state_a), (b, state_b) = (load_checkpoint(run.path / "checkpoints" / name) for run in (whole, other))
        assert state_a == state_b
        same_tensors(a, b)
    same = ("last_100_training_return", "final_deterministic", "final_sampled", "best_checkpoint", "steps")
    assert {key: whole.results[key] for key in same} == {key: other.results[key] for key in same}
