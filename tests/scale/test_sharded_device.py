"""Where spread weights compute: on each rank's own device, whatever the model was loaded on."""

import pytest
import torch
from language_runs import letters
from tiny import llama, prompts, tokenizer

from proximo.errors import UserError
from proximo.language.compute import precision
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig, ScaleSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.language.roles.sharing import FullRoles
from proximo.scale.mesh import Mesh


class OnGPUs(Mesh):
    """One of two ranks, of a machine with GPUs that this one need not have; nothing is sent."""

    device = torch.device("cuda", 0)

    def __init__(self):
        super().__init__()
        self.size = 2


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    monkeypatch.setattr(FullRoles, "spread_over", lambda roles, mesh, *, offload, weights=None: None)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: device.type == "cuda")


def made(mesh, **settings):
    config = PPOConfig(
        batch=64, responses=64, response_limit=4, compute="auto", scale=ScaleSettings("full"), **settings
    )
    return PPOTraining(config, llama(), tokenizer(), prompts([3], [4, 5]), [FunctionReward(letters)], mesh=mesh)


def test_precision_and_cache_follow_the_device_that_parts_go_to_and_not_the_one_that_a_model_is_loaded_on():
    spread, alone = made(OnGPUs()), made(Mesh())
    assert (spread.config.compute, spread.policy.cache) == ("bfloat16", "static")
    assert (alone.config.compute, alone.policy.cache) == ("float32", "dynamic")


def test_a_device_that_parts_do_not_go_to_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"device = cpu, but with scale.shard = full each of 2 ranks computes on cuda"):
        made(OnGPUs(), device="cpu")
    assert made(OnGPUs(), device="cuda").config.compute == "bfloat16"
