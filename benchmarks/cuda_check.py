"""All that has to run on a GPU, run there once: every stage of the language half, resume, doctor, replay.

    python benchmarks/cuda_check.py                 # on a GPU; at most 5 minutes
    python benchmarks/cuda_check.py --device cpu    # the same commands where there is none, to check the script itself

Prints a line for each check with its seconds, and what failed said; the exit code is the number of checks that failed.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers" / "language"))
PPO = "--responses 64 --batch 16 --response-limit 12 --update.minibatch-size 8 --update.epochs 2 --override-preflight"
CONTROL = "--steps 4096 --environments 8 --rollout-length 64 --update.minibatch-size 64 --episodes 4 --seed 3"


def prepare(home: Path) -> None:
    """Tiny models of random weights, and rows to train them on."""
    from tiny import llama
    from transformers import BertConfig, BertModel
    from words import word_tokenizer

    tokenizer = word_tokenizer()
    llama(64, width=64, layers=4, context=128).save_pretrained(home / "base")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=64, **size)).save_pretrained(home / "encoder")
    for name in ("base", "encoder"):
        tokenizer.save_pretrained(home / name)
    stream = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{stream.randint(4, 63)}" for _ in range(count))

    rows = {
        "sft": [{"prompt": words(3), "response": words(5)} for _ in range(256)],
        "pairs": [{"prompt": words(2), "chosen": f"w4 {words(3)}", "rejected": f"w5 {words(3)}"} for _ in range(256)],
        "prompts": [{"prompt": words(3)} for _ in range(64)],
    }
    for name, content in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


def commands(device: str) -> dict[str, list[str]]:
    """Shell-like commands by what they check; those of one check run one after the other."""
    on, half = f"--device {device}", "--compute bfloat16"
    long = "--epochs 12 --learning-rate 3e-3"  # what judges has to be better than chance
    stages = {
        "sft": f"sft --model base --data sft.jsonl --validation sft.jsonl --run r {on} {half}",
        "sft, lowest layers frozen": f"sft --model base --data sft.jsonl --run frozen --freeze 2 {on} {half}",
        "reward": f"reward --model r/sft --data pairs.jsonl --validation pairs.jsonl --run r {long} {on} {half}",
        "reward, lowest layers frozen": f"reward --model base --data pairs.jsonl --run frozen --freeze 2 {on} {half}",
        "judge": f"judge --model encoder --data pairs.jsonl --validation pairs.jsonl --run r {long} {on} {half}",
        "preflight": f"preflight --prompts prompts.jsonl --run r --response-limit 12 {on} {half}",
    }
    checks = {name: [f"rlhf {line}"] for name, line in stages.items()}
    checks["ppo, then evaluate, chat, doctor, replay"] = [
        f"rlhf ppo --prompts prompts.jsonl --held-out prompts.jsonl --run r {PPO} {on} {half}",
        "rlhf evaluate r --count 16",
        "rlhf chat r --count 2",
        "doctor r",
        "replay r",
    ]
    for mode in ("full", "lora", "top_layers"):
        for critic in ("shared", "separate"):
            sharing = f"--sharing.mode {mode} --sharing.critic {critic} --sharing.top-layers 2 --sharing.lora-rank 4"
            line = f"rlhf ppo --policy base --rewards r/reward 1.0 --prompts prompts.jsonl {sharing} {PPO} {on} {half}"
            checks[f"ppo {mode} {critic}, stopped and resumed"] = [
                f"{line} --run {mode}-{critic} --stop-at 32",
                f"{line} --run {mode}-{critic}",
            ]
    checks["ppo verify-resume"] = ["verify-resume r"]
    line = f"train CartPole-v1 {CONTROL} {on}"
    checks["control, stopped and resumed"] = [
        f"{line} --run whole --json",
        f"{line} --run halves --stop-at 2048",
        f"{line} --run halves --json",
        "evaluate whole",
        "doctor whole",
    ]
    return checks


def run(lines: list[str], home: Path) -> str:
    """The commands in turn; what the first one that fails said, or "" if none does."""
    said = []
    for line in lines:
        # An answer of 1 is a verdict (a red finding of a tiny random model), not an error.
        done = subprocess.run(
            [sys.executable, "-m", "proximo.cli.main", *line.split()],
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:
            return f"proximo {line}: {(done.stderr or done.stdout).strip()[-600:]}"
        said += [done.stdout] * line.endswith("--json")
    numbers = [json.loads(text)["last_100_training_return"] for text in said]
    return "" if len(set(numbers)) <= 1 else f"a resumed run came to {numbers[1]}, a whole one to {numbers[0]}"


def gpu_tests() -> str:
    """The tests that name CUDA; what they said if one failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "cuda or device", "tests/core", "tests/control"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout[-600:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", default="", help="part of a check's name")
    asked = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        checks = {name: (lambda lines=lines: run(lines, home)) for name, lines in commands(asked.device).items()}
        checks["tests that name CUDA"] = gpu_tests
        for name, check in checks.items():
            if asked.only not in name:
                continue
            begun = time.perf_counter()
            fault = check()
            failed += bool(fault)
            print(f"{'FAIL' if fault else 'ok':4} {time.perf_counter() - begun:6.1f} s  {name}  {fault}", flush=True)
    print(f"{failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
