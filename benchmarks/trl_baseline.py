"""One measurement of TRL 1.12.0's PPOTrainer, the last one TRL released, as a whole process.

    pip install --no-deps --target /tmp/trl trl==1.12.0      # beside transformers 5.23.0, accelerate 1.15.0, datasets
    PYTHONPATH=/tmp/trl python benchmarks/trl_baseline.py /tmp/smollm2

Policy, reference, critic and reward model are four copies of one architecture, as TRL has it; float32, no gradient
checkpointing, no gradient accumulation, and no stop token, so that every response has all its tokens. Prints a line of
JSON: seconds per update, generation included (the first is a warm-up), where they went, and the peak memory.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from itertools import product

WORK = {"batch": 32, "prompt": 8, "response": 24, "epochs": 4, "threads": 2}  # tokens, and one minibatch per epoch
LEARNING_RATE = 3e-6
WORDS = (
    ("The", "This", "That", "Another"),
    ("quiet", "old", "funny", "dark", "strange", "young"),
    ("movie", "film", "story", "actor", "director"),
    ("made people", "left us", "kept children"),
)


def prompts(tokenizer, count: int, tokens: int) -> list[str]:
    """English beginnings that are exactly so many tokens long, for a tokenizer that adds none of its own."""
    whole = [" ".join(words) + " feel very happy about the end of a long day" for words in product(*WORDS)]
    cut = [tokenizer.decode(tokenizer(text)["input_ids"][:tokens]) for text in whole]
    fitting = [text for text in dict.fromkeys(cut) if len(tokenizer(text)["input_ids"]) == tokens]
    return (fitting * (count // len(fitting) + 1))[:count]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summary(updates: list[dict[str, float]]) -> dict:
    """Medians over the updates after the first, which is a warm-up (unless it is the only one)."""
    timed = updates[1:] or updates
    medians = {name: round(statistics.median(u[name] for u in timed), 2) for name in timed[0]}
    return {
        "seconds_per_update": medians.pop("seconds"),
        "updates": [round(u["seconds"], 2) for u in updates],
        "phases": medians,
        "peak_mb": round(peak_mb()),
    }


class Stopwatch:
    """Seconds per phase and per update, seen from outside of the trainer."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.updates: list[dict[str, float]] = []
        self.start = time.perf_counter()

    def timed(self, name: str, function):
        """The function, its time counted under a name; what trains is the rest of an update."""
        import torch

        def wrapped(*arguments, **options):
            start = time.perf_counter()
            result = function(*arguments, **options)
            if not torch.is_grad_enabled():
                self.phases[name] = self.phases.get(name, 0.0) + time.perf_counter() - start
            return result

        return wrapped

    def lap(self) -> None:
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        rest = seconds - sum(self.phases.values())
        self.updates.append({"seconds": seconds, **self.phases, "update": rest})
        self.phases = {}


def work(model: str, updates: int, batch: int, prompt: int, response: int, epochs: int, threads: int) -> dict:
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    # TRL's masks are `ids != pad`: a token that is not EOS and as good as never sampled.
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    texts = prompts(tokenizer, (updates + 1) * batch, prompt)
    reward_model, critic = (
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32) for _ in range(2)
    )
    policy, reference = (AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32) for _ in range(2))

    watch = Stopwatch()
    ppo_trainer.batch_generation = watch.timed("generate", ppo_trainer.batch_generation)
    ppo_trainer.get_reward = watch.timed("reward and value", ppo_trainer.get_reward)
    ppo_trainer.forward = watch.timed("reference", ppo_trainer.forward)

    class Laps(TrainerCallback):
        def on_train_begin(self, *arguments, **options) -> None:
            watch.start = time.perf_counter()

        def on_step_end(self, *arguments, **options) -> None:
            watch.lap()

    with tempfile.TemporaryDirectory() as folder:
        settings = PPOConfig(
            output_dir=folder,
            total_episodes=(updates + 1) * batch,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            num_mini_batches=1,
            num_ppo_epochs=epochs,
            local_rollout_forward_batch_size=batch,
            response_length=response,
            temperature=1.0,
            learning_rate=LEARNING_RATE,
            num_sample_generations=0,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = PPOTrainer(
            args=settings,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward_model,
            value_model=critic,
            train_dataset=Dataset.from_list([{"input_ids": tokenizer(text)["input_ids"]} for text in texts]),
            callbacks=[Laps()],
        )
        trainer.train()
    versions = {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__}
    return summary(watch.updates) | {"threads": torch.get_num_threads(), "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a causal language model")
    parser.add_argument("--updates", type=int, default=2, help="timed ones, after the warm-up")
    for name, value in WORK.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    print(json.dumps(work(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
