"""What ranks write of a checkpoint by themselves is all of it, or gone."""

import os
import resource
import socket
import sys
import warnings

import pytest
import torch
import warm

from proximo.errors import UserError
from proximo.runs.session.ranks import written_apart
from proximo.runs.storage.checkpoint import latest_checkpoint, parts_of, save_checkpoint
from proximo.scale.mesh import Mesh

PARTS = {"weight": torch.zeros(4096)}


@pytest.fixture
def small_files():
    """No file may have more than 8,192 bytes, as on a disk that is nearly full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def save(folder, rest):
    with written_apart(Mesh(), PARTS, folder, "step-000000000008") as parts:
        save_checkpoint(folder, "step-000000000008", rest, {}, parts=parts)


def test_parts_that_can_not_be_written_leave_nothing_behind(tmp_path, small_files):
    with pytest.raises(UserError, match="writing the parts of a checkpoint"):
        save(tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_parts_whose_checkpoint_can_not_be_written_go_too(tmp_path):
    with pytest.raises(TypeError), written_apart(Mesh(), PARTS, tmp_path, "step-000000000008") as parts:
        save_checkpoint(tmp_path, "step-000000000008", {}, {"what JSON lacks": {1: 2}}, parts=parts)
    assert list(tmp_path.iterdir()) == []


def test_parts_of_a_checkpoint_that_was_written_stay(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as one process, to which torch says that it is not distributed
        save(tmp_path, {"rest": torch.ones(2)})
    assert len(list(parts_of(latest_checkpoint(tmp_path)).iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000000008"]


@pytest.mark.parametrize("begun", ["", "rows = iter(proximo.Trainer('CartPole-v1'))"], ids=["nothing", "no iteration"])
def test_a_script_that_fails_on_one_rank_before_it_trains_ends_without_meeting_the_others(begun, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as first:  # where rank 0 would be met
        first.setblocking(False)
        rank = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(first.getsockname()[1])}
        environment = {**os.environ, **rank, "PROXIMO_RANK_TIMEOUT": "1"}
        script = f"import proximo, proximo.control.trainer\n{begun}\nraise SystemError('not this one')"
        failed = warm.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert "not this one" in failed.stderr
        with pytest.raises(BlockingIOError):
            first.accept()
