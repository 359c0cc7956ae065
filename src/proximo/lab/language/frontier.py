"""The best of n responses by the reward, and what the judge says of it: what a search without training reaches."""

import math

from proximo.lab.language.runs import Task
from proximo.language.data.dataset import load_prompts
from proximo.language.meter.curve import best_of_n, divergence_of_best
from proximo.language.sampling.answers import answer
from proximo.language.sampling.sampler import SamplingParameters, stop_tokens

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def best_of(task: Task, seed: int, prompts: int) -> dict[str, list[float]]:
    """Score and judge of the best of n, and √KL from the reference, for each n of `COUNTS`.

    Args:
        task: whose reference responds, with twice as many responses to a prompt as the best is chosen from.
        seed: of the sampling.
        prompts: how many.
    """
    model, tokenizer, reward, judge = task.loaded()
    asked = load_prompts(task.prompts, tokenizer, task.prompt_limit).items[:prompts]
    parameters = SamplingParameters(task.response_limit, stop_tokens(model, tokenizer, asked), 1.0)
    scores, judged = [], []
    for i, prompt in enumerate(asked):
        texts = answer(model, tokenizer, [prompt] * (2 * COUNTS[-1]), parameters, seed=1000 * seed + i).texts
        by_reward, by_judge = reward(texts).tolist(), judge(texts).tolist()
        scores.append([best_of_n(by_reward, by_reward, n) for n in COUNTS])
        judged.append([best_of_n(by_reward, by_judge, n) for n in COUNTS])
    return {"score": _means(scores), "judge": _means(judged), "way": [math.sqrt(divergence_of_best(n)) for n in COUNTS]}


def _means(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]
