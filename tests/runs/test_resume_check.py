"""What `verify-resume` compares of two runs, beside what the worlds' own tests say."""

import pytest
import torch

from proximo.runs.resume_check import compare
from proximo.runs.storage.checkpoint import begin_parts, save_checkpoint
from proximo.scale.mesh import Mesh
from proximo.scale.parts import write_parts


def left(folder, weights):
    """A run's folder whose weights lie in parts, as with scale.shard = full."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 8, "score": 1.0}\n')
    place = begin_parts(folder / "checkpoints", "step-000000000008")
    write_parts({"weight/head": weights, "exp_avg/head": torch.zeros(2, 3)}, place, Mesh())
    save_checkpoint(folder / "checkpoints", "step-000000000008", {"noise": torch.ones(3)}, {"done": 8}, parts=place)
    return folder


def test_weights_that_lie_in_parts_are_compared_too(tmp_path):
    weights = torch.arange(6.0).view(2, 3)
    one, same = left(tmp_path / "one", weights), left(tmp_path / "same", weights.clone())
    assert compare("done again", one, same).exact
    found = compare("done again", one, left(tmp_path / "other", weights + torch.tensor([0.0, 0.0, 0.5])))
    assert not found.exact
    assert found.tensors == ("parts/0/weight/head",)
    assert found.largest == pytest.approx(0.1)
    assert "weight/head differ in the checkpoint" in found.line
