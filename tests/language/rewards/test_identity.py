"""A language run is not answered with the results of one that had other rewards."""

from dataclasses import replace

import pytest
import torch

from proximo.language.ppo.run import run_ppo
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.terms import FunctionReward, ModelReward


def model_reward(folder, seed):
    model = RewardModel.from_language_model(str(folder), seed=seed)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
    return ModelReward(model)


class Slotted:
    """A term of the user's own that keeps its number in a slot."""

    __slots__ = ("value",)
    name, weight = "mine", 1.0

    def __init__(self, value):
        self.value = value

    def __call__(self, texts):
        return torch.full((len(texts.responses),), self.value)


def with_helper(body):
    space = {"__name__": "__main__"}
    exec(f"def helper(r): return {body}\ndef f(prompts, responses): return [helper(r) for r in responses]", space)
    return space


@pytest.mark.parametrize("kind", ["a model", "a term with slots", "a function whose helper was defined again"])
def test_other_rewards_are_another_run_and_the_same_ones_are_found_again(kind, ppo_config, tiny_folder, tmp_path):
    space = with_helper("1.0")
    function = FunctionReward(space["f"])

    def helped(body):
        exec(f"def helper(r): return {body}", space)
        return function

    make = {
        "a model": lambda i: model_reward(tiny_folder, i),
        "a term with slots": lambda i: Slotted(float(i)),
        "a function whose helper was defined again": lambda i: helped(float(i)),
    }[kind]
    config = replace(ppo_config, responses=ppo_config.batch, run=str(tmp_path / "run"))
    first, second, again = (run_ppo(config, mode="quiet", rewards=[make(i)], preflight="off") for i in (1, 5, 1))
    assert first.path != second.path
    assert again.path == first.path
