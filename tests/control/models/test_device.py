"""Where the networks live: where the environments' tensors are, else where the work of one step is worth a GPU."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from proximo.control.models.device import WORK, choose_device
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError

VECTOR = ObservationSpec.of(spaces.Box(-1, 1, (3,), np.float32))
IMAGES = ObservationSpec.of(spaces.Box(0, 255, (64, 64, 3), np.uint8))


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("observations", "hidden", "beside", "environments", "expected"),
    [
        (VECTOR, (64, 64), None, 16, "cpu"),
        (VECTOR, (512, 256, 128), None, 16, "cpu"),
        (VECTOR, (512, 256, 128), None, 4096, "cuda"),  # once the CPU, whatever the number of environments
        (VECTOR, (64, 64), None, WORK // 64 - 1, "cpu"),
        (VECTOR, (64, 64), None, WORK // 64, "cuda"),
        (VECTOR, (1024,), None, 1, "cuda"),
        (VECTOR, (), None, 4096, "cpu"),
        (IMAGES, (64,), None, 1, "cuda"),
        (VECTOR, (8,), "cuda:1", 1, "cuda:1"),
        (VECTOR, (512, 256, 128), "cpu", 4096, "cpu"),
    ],
)
def test_auto_counts_environments_times_width(gpu, observations, hidden, beside, environments, expected):
    found, why = choose_device("auto", observations, hidden, beside, environments)
    assert str(found) == expected
    assert ("the environments are there" in why) == (beside is not None)
    for asked in ("cpu", "cuda"):
        assert choose_device(asked, observations, hidden, beside, environments)[0].type == asked


def test_without_a_gpu_there_is_only_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", VECTOR, (1024,), None, 4096) == (torch.device("cpu"), "torch sees no GPU")
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device("cuda", VECTOR, (64,))
