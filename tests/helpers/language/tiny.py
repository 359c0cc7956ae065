"""Language models small enough to enumerate, and tokenizers to go with them."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from proximo.language.data.prompts import Prompt


def llama(vocabulary=16, *, width=32, layers=3, seed=0, spread=0.3, context=64):
    """A random Llama whose distribution is far from uniform."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=spread,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def tokenizer(vocabulary=16):
    """Words w1, w2, ... and an EOS of id 0, which is also the padding."""
    words = {"</s>": 0} | {f"w{i}": i for i in range(1, vocabulary)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")


def per_word(prompts, responses):
    """A reward function: 0.1 for each word."""
    return [0.1 * len(r.split()) for r in responses]


def few_letters(prompts, responses):
    """A judge: -0.1 for each letter."""
    return [-0.1 * len(r) for r in responses]


def prompts(*rows):
    """Prompts of these token ids."""
    return [Prompt(list(row), " ".join(f"w{i}" for i in row), {}) for row in rows]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(template=CHATML, *, special=("<|im_start|>", "<|im_end|>"), bos=None):
    """Bytes and special tokens: any text goes in and comes out."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: i + 1 for i, letter in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", bos_token=bos)
    made.add_special_tokens({"additional_special_tokens": list(special)})
    if bos:
        start = [(bos, made.convert_tokens_to_ids(bos))]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=start)
    made.chat_template = template
    return made


LINES = (
    "the cat sat on the mat in 1984, and it's 12:30;",
    "a dog ran to the park... with 365 cats!",
    "naïve café, déjà vu",
)


def pair_tokenizer(size=320, *, steps=None, whole=False, bos=False, template=CHATML):
    """Byte-level BPE with pairs learnt from three lines, and three special tokens, of which the last ends a text.

    Args:
        size: of the vocabulary.
        steps: that cut a text first, as `tokenizers` writes them; those of GPT-2 if None.
        whole: whether a word that is a token is not put together of pairs.
        bos: whether each text begins with one.
        template: of chats.
    """
    inner = json.loads(Tokenizer(models.BPE(ignore_merges=whole)).to_str())
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    inner["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps} if steps else cut
    inner = Tokenizer.from_str(json.dumps(inner))
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    settings = {"special_tokens": special, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    inner.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=size, show_progress=False, **settings))
    if bos:
        start = [("<|im_start|>", 1)]
        inner.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=start)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=special[1], eos_token=special[2])
    made.pad_token = special[2]
    made.chat_template = template
    return made
