"""Responses are encoded and decoded as what follows a prompt, whatever the tokenizer does where a text begins."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from proximo.language.data.coder import Coder
from proximo.language.data.continuation import Continuation
from proximo.language.data.dataset import load_examples, load_prompts
from proximo.language.sampling.sampler import Samples
from proximo.language.sampling.texts import to_texts

SENTENCES = 5 * [
    "The film is great fun.",
    "The film is unhappy and most likely dull.",
    "It isn't == mostly nothing, likely",
]
PROMPT = "The film is"
RESPONSES = [
    " great",
    "n't great",
    " unhappy and dull.",
    ", nothing",
    "  two spaces",
    "\nA new line",
    "==",
    " a",
    "a film",
    " ☃ snow and \U0001f3ac",
    "☃",
    " ends in a space ",
]
KINDS = ("first", "always", "prepended", "merged")


def metaspace(kind):
    """A tokenizer like Llama 2's: a space before the text's beginning (or before every part of it), unknown characters
    as bytes. `prepended` writes the space in its normalizer, as files of older `transformers` do; `merged` decodes as
    the `tokenizers` library's own Metaspace does, and knows no bytes."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    bytewise = kind != "merged"
    names = ["<unk>", "<s>", "</s>", *([f"<0x{i:02X}>" for i in range(256)] if bytewise else []), *learnt["vocab"]]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in learnt["merges"]]
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=bytewise))
    if kind == "prepended":
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        scheme = "always" if kind == "always" else "first"
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(parts) if bytewise else decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", vocabulary["<s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def bytelevel():
    """A tokenizer like GPT-2's."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["</s>"], show_progress=False
    )
    inner.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="</s>")


def answered(prompts, rows, eos):
    """Samples of these responses' tokens, each with EOS."""
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [eos] * (longest - len(row)) for row in rows])
    empty = torch.zeros(tokens.shape)
    lengths = torch.tensor([len(row) for row in rows])
    return Samples(tokens, empty, lengths, torch.ones(len(rows), dtype=torch.bool), empty, [])


def readable(tokenizer, text):
    return tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("make", [*KINDS, "bytelevel"])
def test_tokens_of_a_response_give_its_text_back_and_stand_behind_the_prompt(make):
    tokenizer = bytelevel() if make == "bytelevel" else metaspace(make)
    responses = [text for text in RESPONSES if readable(tokenizer, text)]
    assert len(responses) >= 7
    rows = [{"prompt": PROMPT, "response": text} for text in responses]
    learnt = load_examples(rows, tokenizer, 100).items
    asked = load_prompts(rows, tokenizer, 100).items
    texts = to_texts(asked, answered(asked, [e.response for e in learnt], tokenizer.eos_token_id), tokenizer)
    assert texts.responses == responses
    for example, text in zip(learnt, responses, strict=True):
        whole = tokenizer.decode(example.prompt + example.response, skip_special_tokens=True)
        assert whole == PROMPT + text, "no space is lost or doubled"


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_has_the_tokens_that_it_has_in_the_whole_text(kind):
    coder = Coder(metaspace(kind))
    for text in (" great fun.", ", mostly nothing", " isn't =="):
        whole = coder.tokenizer(PROMPT + text)["input_ids"]
        assert coder.whole(PROMPT, text, finished=False) == whole, text


def test_a_space_before_the_prompts_beginning_is_the_tokenizers_own():
    coder = Coder(metaspace("first"))
    names = coder.tokenizer.convert_ids_to_tokens(coder.prompt_ids(PROMPT))
    assert (names[0], "".join(names[1:])) == ("<s>", "▁The▁film▁is")


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_tokens_that_no_text_has_are_decoded_where_they_stand(kind):
    """A policy may begin with a space, with half a character or with nothing."""
    tokenizer = metaspace(kind)
    continuation = Continuation(tokenizer)
    great = tokenizer.convert_tokens_to_ids("▁")
    assert continuation.decode([great, great]) == "  "
    assert continuation.decode([]) == ""
    assert continuation.decode([tokenizer.eos_token_id, great]) == " "
    if kind != "merged":
        half = tokenizer.convert_tokens_to_ids("<0xE2>")
        assert continuation.decode([half, great]) == "\ufffd "


def test_elsewhere_a_response_is_encoded_alone(tiny_tokenizer):
    for tokenizer, text in ((bytelevel(), "un"), (tiny_tokenizer, "w4 w5")):
        continuation = Continuation(tokenizer)
        assert not continuation.anchors
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert continuation.encode(text) == ids
        assert continuation.decode(ids) == tokenizer.decode(ids) == text
