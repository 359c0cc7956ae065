"""What PPO on movie reviews reaches, measured by a judge that training never saw.

    python benchmarks/language_results.py all --run runs/movies --seeds 0 1 2    # about 75 minutes on 2 idle cores
    python benchmarks/language_results.py evaluate BEFORE AFTER --judge runs/movies/judge

The judge is another architecture (all-MiniLM-L6-v2), taught by the other half of each text's raters. It reads the
answers to 256 prompts of held-out texts, sampled at temperature 1 with the same random numbers before and after. The
rise is in standard deviations of its scores before; KL(after, before) is on the answers after, nats per response.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from proximo.language.configuration import RewardConfig
from proximo.language.data import load_prompts
from proximo.language.evaluation import answer, divergence, load_policy_model
from proximo.language.judge import Judge, train_judge
from proximo.language.models import load_tokenizer
from proximo.language.movies import movie_folder
from proximo.language.sampler import SamplingParameters

PROMPTS, CAP, SEED = 256, 32, 7


def evaluate(before: Path, after: Path, judge_folder: Path) -> dict:
    tokenizer = load_tokenizer(str(before))
    prompts = load_prompts(movie_folder() / "prompts_test.jsonl", tokenizer, 16, rows_limit=PROMPTS + 32).items[
        :PROMPTS
    ]
    parameters = SamplingParameters(CAP, (tokenizer.eos_token_id,))
    judge = Judge.load(judge_folder)
    models = {"before": load_policy_model(before), "after": load_policy_model(after)}
    answers = {name: answer(model, tokenizer, prompts, parameters, seed=SEED) for name, model in models.items()}
    scores = {name: torch.as_tensor(judge.score(texts(a))) for name, a in answers.items()}
    gain, spread = scores["after"] - scores["before"], float(scores["before"].std())
    return {
        "rise_sd": float(gain.mean()) / spread,
        "rise_se": float(gain.std()) / len(gain) ** 0.5 / spread,
        "better_share": float((gain > 0).float().mean()),
        **divergence(models["after"], models["before"], prompts, answers["after"]),
        **{f"{k}_{name}": v for name, a in answers.items() for k, v in a.statistics.items()},
        "judge_before": float(scores["before"].mean()),
        "judge_after": float(scores["after"].mean()),
        "examples": [{name: texts(a)[i] for name, a in answers.items()} for i in range(5)],
    }


def texts(answers) -> list[str]:
    """Whole texts as the judge was taught to read them."""
    judged = answers.judged
    return [p + r for p, r in zip(judged.prompts, judged.responses, strict=True)]


def make_judge(folder: Path, policy: Path) -> dict:
    """Fine-tune MiniLM on the pairs of rater half B."""
    data = movie_folder()
    config = RewardConfig(
        model="builtin:minilm",
        data=str(data / "judge_train.jsonl"),
        validation=str(data / "judge_test.jsonl"),
        standardise_on=str(data / "sft_validation.jsonl"),
        output=str(folder),
        token_limit=128,
        minutes=3.5,
        batch=256,
        learning_rate=1e-4,
        head_learning_rate=3e-3,
        compute="bfloat16",
    )
    report = train_judge(replace(config))
    return {name: value for name, value in report.items() if isinstance(value, int | float)}


def run_all(run: Path, seeds: list[int], out: Path) -> None:
    """All stages; a stage that is done is not done again."""
    stage(run, "sft")
    stage(run, "reward")
    judge = run / "judge"
    if not (judge / "proximo_judge.json").exists():
        record(out, {"stage": "judge"} | make_judge(judge, run / "sft"))
    for seed in seeds:
        folder = run / f"seed-{seed}"
        stage(folder, "ppo", "--policy", run / "sft", "--rewards", run / "reward", "1", "--seed", seed)
        record(out, {"seed": seed} | evaluate(run / "sft", folder / "ppo" / "policy", judge))


def stage(run: Path, name: str, *options) -> None:
    command = ["rlhf", name, "--preset", "movie-sentiment", "--run", str(run), *map(str, options)]
    subprocess.run([sys.executable, "-m", "proximo.cli", *command], check=True)


def record(out: Path, row: dict) -> None:
    with open(out, "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps({k: v for k, v in row.items() if k != "examples"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    everything = verbs.add_parser("all")
    everything.add_argument("--run", type=Path, required=True)
    everything.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one = verbs.add_parser("evaluate")
    one.add_argument("before", type=Path)
    one.add_argument("after", type=Path)
    one.add_argument("--judge", type=Path, required=True)
    asked = parser.parse_args()
    if asked.verb == "all":
        run_all(asked.run, asked.seeds, asked.run / "results-language.jsonl")
    else:
        print(json.dumps(evaluate(asked.before, asked.after, asked.judge), indent=1))


if __name__ == "__main__":
    main()
