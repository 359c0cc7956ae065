"""How fast and how small PPO on a language model is, beside TRL 1.12.0, all in one run and interleaved.

    pip install --no-deps --target /tmp/trl trl==1.12.0
    PYTHONPATH=/tmp/trl python benchmarks/language_speed.py --model /tmp/smollm2   # about 12 minutes on 2 idle cores

The task is the same for all: SmolLM2-135M-Instruct in float32, 32 prompts of 8 tokens, 24 sampled tokens each, a reward
model of the same size, 4 epochs of one minibatch. The work is not, and that is a part of what is compared: TRL trains a
critic of its own and applies the head to prompts too, where ours has a value head on the policy's states (but for the
line that says so); ours also sends a minibatch through the network in parts. Every measurement is a process of its own:
a warm-up update, then the timed ones. On a shared machine only ratios within one run mean anything. Results are added
to the file given by --out as they come, and what is there already is not measured again.

Matrix operations are counted as the mode needs them (2 per weight and token that it multiplies, a backward pass once
more for states and once more for trained weights; none for recomputation or attention scores), and set against the
machine's own rate on 1024 x 1024 matrices.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from control_speed import Record
from trl_baseline import LEARNING_RATE, WORK, prompts, summary

TOP_LAYERS = 4
SETTINGS = {  # tokens at once: as many as half of TRL's memory allows; with 256 the rows go through in four parts
    "full": {"token_budget": 256, "undo": False},
    "lora": {"token_budget": 1024, "undo": False},
    "top_layers": {"token_budget": 1024, "undo": False},
    "full with undo": {"token_budget": 256, "undo": True},  # the default; TRL keeps no copy of what an update moves
    "full with own critic": {"token_budget": 256, "undo": False},  # the same networks as TRL trains
}
MARKS = {"full": 2.1, "lora": 2.8, "top_layers": 5.5}  # how many times TRL's speed is the mark
MEMORY_MARK = 0.5  # of TRL's


# Workers: each runs in a process of its own and prints what it measured


def proximo_update_seconds(name: str, model: str, updates: int) -> dict:
    """Updates with the settings of that name; no stop token, no early stop: all of the work is done each time."""
    from proximo.language.compute.malloc import keep_freed_memory

    keep_freed_memory()  # as `proximo rlhf` does
    import torch
    from transformers import AutoTokenizer

    from proximo.core.settings import UpdateSettings
    from proximo.language.data.prompts import Prompt
    from proximo.language.models.loading import load_causal_model, new_sequence_classifier
    from proximo.language.ppo.training import PPOTraining
    from proximo.language.ppo_config import PPOConfig, SharingSettings
    from proximo.language.rewards.reward_model import RewardModel
    from proximo.language.rewards.terms import ModelReward
    from proximo.language.sampling.sampler import SamplingParameters

    torch.set_num_threads(WORK["threads"])
    tokenizer = AutoTokenizer.from_pretrained(model)
    policy, scorer = load_causal_model(model), new_sequence_classifier(model)
    texts = prompts(tokenizer, (updates + 1) * WORK["batch"], WORK["prompt"])
    config = PPOConfig(
        responses=len(texts),
        batch=WORK["batch"],
        response_limit=WORK["response"],
        missing_eos_floor=None,
        learning_rate=LEARNING_RATE,
        sharing=SharingSettings(
            mode=mode_of(name), top_layers=TOP_LAYERS, critic="separate" if own_critic(name) else "shared"
        ),
        update=UpdateSettings(
            epochs=WORK["epochs"], minibatch_size=WORK["batch"], value_coefficient=0.1, value_clip=0.2
        ),
        **SETTINGS[name],
        device="cpu",
    )
    asked = [Prompt(tokenizer(text)["input_ids"], text, {}) for text in texts]
    training = PPOTraining(config, policy, tokenizer, asked, [ModelReward(RewardModel(scorer, tokenizer))])
    training.parameters = SamplingParameters(WORK["response"], stop=(10**9,))  # no token has this id
    seen = []
    for _ in range(updates + 1):
        start = time.perf_counter()
        values = training.iterate()
        seconds = time.perf_counter() - start
        phases = {name.removeprefix("seconds/"): x for name, x in values.items() if name.startswith("seconds/")}
        assert values["response_length"] == WORK["response"]
        assert values["gradient_steps"] == WORK["epochs"]
        seen.append({"seconds": seconds, **phases})
    return summary(seen)


def mode_of(name: str) -> str:
    """The sharing mode of a line of the table."""
    return name.partition(" with ")[0]


def own_critic(name: str) -> bool:
    """Whether the critic shares nothing with the policy."""
    return name.endswith(" with own critic")


def matrix_rate(seconds: float = 2.0) -> dict:
    """GFLOP/s of a float32 product of two 1024 x 1024 matrices."""
    import torch

    torch.set_num_threads(WORK["threads"])
    a, b, out = (torch.randn(1024, 1024) for _ in range(3))
    times = []
    begun = time.perf_counter()
    while len(times) < 10 or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - start)
    return {"gflops": round(2 * 1024**3 / statistics.median(times[5:]) / 1e9, 1)}


# What the work is in matrix operations


def operations(name: str, model: str) -> float:
    """Floating-point operations of one update of a line of the table."""
    mode = mode_of(name)
    config = json.loads((Path(model) / "config.json").read_text())
    width, heads = config["hidden_size"], config["num_attention_heads"]
    inner = config.get("head_dim", width // heads)
    attention = 2 * width * inner * (heads + config["num_key_value_heads"])
    layer = attention + 3 * width * config["intermediate_size"]
    layers, head = config["num_hidden_layers"], width * config["vocab_size"]
    response, whole = WORK["response"], WORK["prompt"] + WORK["response"]
    read = whole - 1  # the last token predicts nothing
    trunk = layers * layer
    sampling, scoring = read * trunk + response * head, whole * trunk
    if mode == "trl":  # the head on prompts too, a critic of its own, which also reads everything once before
        before = whole * (trunk + head) + whole * trunk
        step = 3 * whole * (trunk + head) + 3 * whole * trunk
    else:
        own = trunk if mode != "top_layers" else TOP_LAYERS * layer
        before = read * own + response * head
        passes = {"full": (3, 3), "lora": (2, 2), "top_layers": (3, 2)}[mode]
        step = passes[0] * read * own + passes[1] * response * head
        if own_critic(name):
            before, step = before + read * trunk, step + 3 * read * trunk
    return 2.0 * WORK["batch"] * (sampling + scoring + before + WORK["epochs"] * step)


# Rounds and the report


def measure(record: Record, model: str, rounds: int, updates: int) -> tuple[list[float], dict[str, list[dict]]]:
    rates, seen = [], {name: [] for name in ("trl", *SETTINGS)}
    for i in range(rounds):
        rate = record.measure(f"{i}/rate", [sys.executable, __file__, "--worker", "rate"])
        rates += [rate["gflops"]] if rate else []
        for name, values in seen.items():
            peer = ["trl_baseline.py", model, "--updates", str(updates)]
            ours = [__file__, "--model", model, "--updates", str(updates), "--worker", name]
            value = record.measure(f"{i}/{name}", [sys.executable, *(peer if name == "trl" else ours)])
            values += [value] if value else []
    return rates, seen


def report(rates: list[float], seen: dict[str, list[dict]], model: str) -> None:
    rate = statistics.median(rates)
    print(f"\nfloat32 product of 1024 x 1024 matrices, {WORK['threads']} threads: {rate:.0f} GFLOP/s\n")
    middle = {
        name: (statistics.median(v["seconds_per_update"] for v in values), max(v["peak_mb"] for v in values))
        for name, values in seen.items()
        if values
    }
    peer = middle.get("trl", (float("nan"),) * 2)
    columns = "| | tokens at once | s/update | x TRL | mark | peak MB | of TRL's | mark | GFLOP/s | of the machine's "
    print(f"{columns}| phases, s |\n{'|---' * 11}|")
    for name, (seconds, memory) in middle.items():
        speed = operations(name, model) / seconds / 1e9
        phases = ", ".join(f"{k} {x:.1f}" for k, x in seen[name][-1]["phases"].items())
        marks = (f"{MARKS[name]}", f"{MEMORY_MARK:.0%}") if name in MARKS else ("", "")
        budget = SETTINGS[name]["token_budget"] if name in SETTINGS else ""
        title = f"top_layers={TOP_LAYERS}" if name == "top_layers" else {"trl": "TRL 1.12.0"}.get(name, name)
        times, share = peer[0] / seconds, memory / peer[1]
        print(
            f"| {title} | {budget} | {seconds:.2f} | {times:.2f} | {marks[0]} "
            f"| {memory:,.0f} | {share:.0%} | {marks[1]} | {speed:.0f} | {speed / rate:.0%} | {phases} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="/tmp/smollm2", help="folder of a causal language model (Llama layout)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=2, help="timed ones per process, after the warm-up")
    parser.add_argument("--out", type=Path, help="file for the results; a temporary one if not given")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(WORK["threads"]), HF_HUB_OFFLINE="1")
    if asked.worker:
        rate = asked.worker == "rate"
        print(json.dumps(matrix_rate() if rate else proximo_update_seconds(asked.worker, asked.model, asked.updates)))
        return
    with tempfile.TemporaryDirectory() as folder:
        record = Record((asked.out or Path(folder) / "results.jsonl").resolve())
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}", flush=True)
        model = str(Path(asked.model).resolve())
        report(*measure(record, model, asked.rounds, asked.updates), model)


if __name__ == "__main__":
    main()
