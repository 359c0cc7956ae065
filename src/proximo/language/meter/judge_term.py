"""A judge as a term that scores texts: an encoder taught by ratings, a reward model, or a function."""

from pathlib import Path

import torch
from torch import Tensor

from proximo.errors import UserError
from proximo.language.given.rewards import Own
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.chance import BETTER, no_better_than_chance
from proximo.language.rewards.judge import Judge, whole_text
from proximo.language.rewards.loading import load_reward_term
from proximo.language.rewards.terms import FunctionReward, RewardTerm, checked, function_from
from proximo.language.sampling.texts import Texts
from proximo.language.stages import JUDGE, is_function


class JudgeTerm:
    """Asks a judge for its opinion of whole texts, prompt and response together."""

    def __init__(self, judge: Judge, name: str = "judge", weight: float = 1.0) -> None:
        self.judge, self.name, self.weight = judge, name, weight

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`, standardised as the judge was saved.

        Raises:
            UserError: a score is not a finite number.
        """
        asked = texts.sources or texts.prompts
        whole = [whole_text(prompt, response) for prompt, response in zip(asked, texts.responses, strict=True)]
        return checked(self.name, self.judge.score(whole).tolist(), texts)


def load_judge(folder: Path, device: torch.device) -> JudgeTerm:
    """The judge that `proximo rlhf judge` made.

    Raises:
        UserError: there is none, or it judges no better than chance.
    """
    if not (folder / JUDGE).is_file():
        raise UserError(
            f"{folder} is no judge (no {JUDGE}): make one with proximo.language.train_judge or `proximo rlhf judge`"
        )
    judge = Judge.load(folder, device=device)
    if weak := no_better_than_chance(judge.about.get("report", {})):
        raise UserError(f"the judge {folder} can not judge: {weak}; {BETTER}")
    return JudgeTerm(judge)


def make_judge(config: PPOConfig, device: torch.device, own: Own | None = None) -> RewardTerm:
    """What `config.judge` names: a judge, a reward model that is not optimised, or a function.

    Args:
        config: names it.
        device: where a model computes.
        own: what the name may stand for in this process.

    Raises:
        UserError: it can not be loaded, or judges no better than chance.
    """
    name = config.judge
    if own and name in own:
        return FunctionReward(own[name], name="judge")
    if is_function(name):
        return FunctionReward(function_from(name, config.modules), name="judge")
    if (Path(name) / JUDGE).is_file():
        return load_judge(Path(name), device)
    return load_reward_term(
        name,
        1.0,
        "judge",
        device=device,
        token_budget=config.token_budget,
        compute=config.compute,
        trust_remote_code=config.trust_remote_code,
        day=config.date,
    )
