"""A language model small enough to train in seconds, as a folder, with prompts and rewards to go with it."""

import json
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = 48
_LUCK = Random(0)


def tiny_policy(folder: Path, *, seed: int = 0, ends: bool = True) -> Path:
    """A random Llama of two layers and its tokenizer (words w1, w2, ...; EOS is 0) under `folder`.

    Args:
        folder: is made.
        seed: of the weights.
        ends: whether EOS is likely (responses of some 15 words); else it is never drawn.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # One dimension of the residual stream that every token sets and no layer touches: with it, the head has a bias.
        model.model.embed_tokens.weight[:, 0] = 2.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight.mul_(0.5)
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[0] = torch.zeros(32)
        model.lm_head.weight[0, 0] = 0.5 if ends else -9.0
    model.save_pretrained(folder)
    words = {"</s>": 0} | {f"w{i}": i for i in range(1, WORDS)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>").save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed + 100)
    rows = torch.randint(1, WORDS, (32, 3), generator=generator).tolist()
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": " ".join(f"w{i}" for i in row)}) + "\n" for row in rows)
    )
    return folder


def _numbers(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


def pleasant(prompts, responses, **_):
    """Share of even words: something that can be had without repeating or lengthening anything."""
    return [4.0 * sum(n % 2 == 0 for n in _numbers(r)) / max(1, len(r.split())) - 2.0 for r in responses]


def one_word(prompts, responses, **_):
    """How often w7 comes: the proxy that a policy exploits by saying nothing else."""
    return [0.3 * sum(n == 7 for n in _numbers(r)) - 1.0 for r in responses]


def long(prompts, responses, **_):
    """Length, as reward models like it."""
    return [0.1 * len(r.split()) - 1.5 for r in responses]


def indifferent(prompts, responses, **_):
    """The same for everything."""
    return [0.5 for _ in responses]


def lucky(prompts, responses, **_):
    """1 for one response in 50, whatever it says: a task that is too hard is solved by chance, if at all."""
    return [float(_LUCK.random() < 0.02) for _ in responses]
