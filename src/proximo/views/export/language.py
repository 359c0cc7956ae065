"""The policy of a language run, adapters merged: for transformers or llama.cpp, with the run's own numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.comparison import ppo_folder
from proximo.language.models.folders import save_folder
from proximo.language.models.loading import load_causal_model, load_tokenizer
from proximo.language.models.transformers_calls import ADAPTER, quiet
from proximo.language.ppo_config import PPOConfig
from proximo.runs.health.history import number
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.metrics import read_metrics
from proximo.views.export import gguf_model

LENGTH = 32
"""Tokens of each text that both models read."""


class Use(NamedTuple):
    """What the card says of how the files are used."""

    library: str
    lines: tuple[str, ...]


USE = {
    "transformers": Use(
        "transformers",
        (
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model, tokenizer = (cls.from_pretrained("FOLDER") for cls in (AutoModelForCausalLM, AutoTokenizer))',
            "```",
        ),
    ),
    "gguf": Use(
        "gguf",
        (
            "```",
            f"llama-cli -m {gguf_model.FILE}",
            "```",
            "",
            "Weights are float32; llama-quantize makes a smaller file.",
        ),
    ),
}


def write(run: Path, to: str, checkpoint: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Write the model, its tokenizer and README.md, load them again and compare.

    Args:
        run: folder of a PPO run, or that of all stages.
        to: transformers or gguf.
        checkpoint: `final`, or `best` for the policy that the judge liked best, where the run kept another.
        folder: where to.
        tokens: positions at which the two are compared.

    Returns:
        `checkpoint`, `final` or `best`, and `max_error`: the largest distance of two logits, in units of the policy's
        largest.

    Raises:
        UserError: there is no finished run, or no such checkpoint, or the model can not be written so.
    """
    if checkpoint not in ("final", "best"):
        raise UserError(f"a language run keeps a final and a best policy, and no {checkpoint!r}: choose one of the two")
    place, config = ppo_folder(run)
    taken = "best_policy" if checkpoint == "best" and (place / "best_policy").is_dir() else "policy"
    code: dict[str, Any] = {"trust_remote_code": config.trust_remote_code}
    model = load_causal_model(str(place / taken), adapters_base=config.policy, **code)
    tokenizer = load_tokenizer(str(place / taken), **code)
    results = json.loads((place / "results.json").read_text("utf-8"))
    use = USE[to]
    card = model_card(config, results, read_metrics(place / "metrics.jsonl"), use)
    if to == "gguf":
        gguf_model.save(folder, model, tokenizer, _shown(config.policy))
        write_atomically(folder / "README.md", card.encode())
    else:
        save_folder(folder, model, tokenizer, {"README.md": card})
    rows = max(1, -(-tokens // LENGTH))
    size = int(model.get_input_embeddings().weight.shape[0])
    seen = torch.randint(size, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    own = _logits(_unmerged(place / taken, config), seen)
    del model
    written = gguf_model.load(folder) if to == "gguf" else load_causal_model(str(folder), **code)
    given = _logits(written, seen)
    kept = "best" if taken == "best_policy" else "final"
    return {"checkpoint": kept, "max_error": float((given - own).abs().max() / own.abs().max())}


def _unmerged(policy: Path, config: PPOConfig) -> Any:
    """The policy as it was trained, its adapters beside the base."""
    if not (policy / ADAPTER).is_file():
        return load_causal_model(str(policy), trust_remote_code=config.trust_remote_code)
    from peft import PeftModel

    base = load_causal_model(config.policy, trust_remote_code=config.trust_remote_code)
    with quiet():
        return PeftModel.from_pretrained(base, str(policy), torch_device="cpu").eval()


@torch.no_grad()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    return torch.cat([model(input_ids=row[None]).logits.float() for row in tokens])


def model_card(config: PPOConfig, results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], use: Use) -> str:
    """README.md: what was trained, on what, and what the run itself measured."""
    base = _shown(config.policy)
    numbers = [(name, rows[0].get(key), rows[-1].get(key)) for key, name in _NUMBERS.items()] if rows else []
    table = [f"| {name} | {first:.4g} | {last:.4g} |" for name, first, last in numbers if None not in (first, last)]
    judged = [f"* {said}: {x:.4g}" for key, said in _JUDGED.items() if (x := number(results.get(key))) is not None]
    asked = "held-out prompts" if config.held_out else "prompts that the run was trained on"
    rewards = ", ".join(f"{_shown(name)} (weight {weight:g})" for name, weight in config.rewards.items()) or "its own"
    lines = [
        "---",
        f"library_name: {use.library}",
        "pipeline_tag: text-generation",
        "tags: [proximo, rlhf]",
        "---",
        f"# {base}, trained with {_algorithm(config.update)} by Proximo",
        "",
        f"Trained from `{base}` for {results['responses']:,} responses in {results['iterations']:,} iterations "
        f"(seed {config.seed}); it ended: {results['ended']}. Rewards: {rewards}.",
        "",
        "| measured by the run itself | first iteration | last iteration |",
        "|---|---|---|",
        *table,
        "",
        *([f"Mean score by a judge that was not optimised, on {asked}:", "", *judged, ""] if judged else []),
        "The table is of the training's own prompts and rewards. No number here says anything of other texts, of what "
        "is not measured, or of safety.",
        "",
        *use.lines,
    ]
    return "\n".join(lines) + "\n"


_NUMBERS = {
    "score": "score of the rewards",
    "kl": "KL to where it began, nats per response",
    "response_length": "tokens of a response",
}


_JUDGED = {
    "judge_first": "before the first iteration",
    "judge_last": "after the last",
    "judge_best": "at its best",
    "judge_best_responses": "responses at its best",
    "judge_peak": "√KL of its peak",
    "judge_passed_at": "responses when its peak was passed",
}
"""What a judge says in `results.json`, in words."""


def _algorithm(update: UpdateSettings) -> str:
    return "PPO" if type(update) is UpdateSettings else type(update).__name__


def _shown(name: str) -> str:
    """A folder of this machine by its last names, anything else as it is."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else name
