"""Main memory of each rank as a run of spread weights begins: every rank reads its own parts, or the whole model first.

    python benchmarks/sharded_memory.py --ranks 2

It makes a random Llama of `--millions` parameters in float32, with a critic of its own and a reference, and starts PPO
with `scale.shard = full` on it, by torchrun. Peaks are those of `resource.getrusage` (ru_maxrss), less what the process
had before it saw a model; they count pages of the model's file that were read, which the system takes back when it has
to. `anonymous` is what is left of them once it began: no pages of files.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HELPERS = Path(__file__).resolve().parents[1] / "tests" / "helpers" / "language"


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def made(folder, millions):
    """Save a random model, and return its megabytes."""
    from tiny import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers, words = 512, 24, tokenizer()
    inner = int((millions * 1e6 / layers - 4 * width**2) / (3 * width))
    shape = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **shape, eos_token_id=words.eos_token_id))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters()) * 4 / 2**20


def length(prompts, responses, **_):
    return [float(len(response)) for response in responses]


def work(folder, whole):
    """One rank: load, and say what that took."""
    import torch

    from proximo.language.ppo import loading
    from proximo.language.ppo_config import KLSettings, PPOConfig, ScaleSettings, SharingSettings
    from proximo.language.rewards.terms import FunctionReward
    from proximo.scale.meeting import current_mesh

    torch.set_num_threads(1)
    if whole:
        loading.unloaded_causal_model = lambda *_, **__: None
    mesh = current_mesh()
    import transformers.models.llama.modeling_llama  # noqa: F401  what is imported anyhow is no cost of the model

    mesh.barrier()
    before, held = peak(), anonymous()
    config = PPOConfig(
        policy=folder,
        prompts=str(Path(folder) / "prompts.jsonl"),
        batch=64,
        responses=64,
        kl=KLSettings(coefficient=0.1),
        scale=ScaleSettings("full"),
        sharing=SharingSettings(critic="separate"),
    )
    training, _ = loading.make_training(config, [FunctionReward(length)], mesh=mesh)
    assert training.spread
    mesh.barrier()
    told = {"rank": mesh.rank, "peak": peak() - before, "anonymous": anonymous() - held}
    print(json.dumps(told), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs=2)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--millions", type=int, default=100)
    given = parser.parse_args()
    sys.path.insert(0, str(HELPERS))
    if given.work:
        work(given.work[0], given.work[1] == "whole")
        return
    with tempfile.TemporaryDirectory() as folder:
        size = made(folder, given.millions)
        (Path(folder) / "prompts.jsonl").write_text('{"prompt": "w1 w2"}\n' * 8)
        print(f"a model of {size:,.0f} MB, with critic and reference {3 * size:,.0f} MB; MB of each rank:")
        print("| the model is loaded | rank | peak | anonymous |\n|---|---|---|---|")
        for way in ("whole", "in parts"):
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(given.ranks)]
            command = [sys.executable, *launch, __file__, "--work", folder, way]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
            for row in sorted(map(json.loads, said.strip().splitlines()), key=lambda row: row["rank"]):
                print(f"| {way} | {row['rank']} | {row['peak']:,.0f} | {row['anonymous']:,.0f} |")


if __name__ == "__main__":
    main()
