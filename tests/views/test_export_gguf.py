"""A language run's GGUF file, loaded by llama.cpp itself and by transformers."""

import gguf
import pytest
import tiny
import torch
from architectures import FAMILIES, random_model
from llama_cpp import LlamaCpp
from transformers import AutoTokenizer
from words import word_tokenizer

import proximo
from proximo.errors import UserError
from proximo.language.models.loading import load_causal_model
from proximo.views.export import gguf_model
from proximo.views.export.gguf_tokens import PRE_TOKENIZERS

TEXTS = (
    "The cat's on  the\tmat.\n\n 12345 and 3.14159; naïve café 東京 🙂\n",
    "   leading, trailing   ",
    "<|im_start|>user\nhello<|im_end|>\n",
    "I'll we've DON'T x²½ ١٢٣ ",
)


@pytest.fixture(scope="module")
def made(talk, tmp_path_factory):
    return proximo.export(talk, "gguf", tmp_path_factory.mktemp("out") / "gguf", observations=64)


@pytest.fixture(scope="module")
def policy(talk):
    return load_causal_model(str(talk.policy))


@pytest.fixture(scope="module")
def llama(made):
    return LlamaCpp(made.path / "model.gguf")


def test_transformers_reads_the_same_weights_bit_for_bit(made, policy):
    read = gguf_model.load(made.path).state_dict()
    own = policy.state_dict()
    assert read.keys() == own.keys()
    assert not [key for key in own if not torch.equal(own[key], read[key])]
    assert made.max_error <= 1e-5, "against adapters beside their base"


def test_llama_cpp_says_what_the_policy_says(llama, policy, talk):
    """Also of the tokens that would end the text, which it leaves out for this."""
    names = AutoTokenizer.from_pretrained(talk.policy).convert_ids_to_tokens(range(320))
    text = [5, 70, 300, 12, 41]
    tokens = llama.greedy(text, 12)
    with torch.no_grad():
        own = policy(input_ids=torch.tensor([text + tokens])).logits[0].log_softmax(-1)[len(text) - 1 : -1]
    assert len(tokens) == 12
    goes_on = own.clone()
    goes_on[:, [i for i, text in enumerate(names) if text in ("<|endoftext|>", "<|im_end|>")]] = -torch.inf
    assert goes_on.argmax(-1).tolist() == tokens
    for step, mine in enumerate(own.tolist()):
        theirs = llama.log_probs(text + tokens[:step], 320)
        assert len(theirs) == 320
        assert max(abs(mine[i] - x) for i, x in theirs.items()) < 1e-4


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(tmp_path, name, bos):
    steps = [step | {"trim_offsets": True} if "use_regex" in step else step for step in PRE_TOKENIZERS[name]]
    tokenizer = tiny.pair_tokenizer(316, steps=steps, whole=name == "llama-bpe", bos=bos)
    gguf_model.save(tmp_path, tiny.llama(320, layers=1), tokenizer, "tiny")
    llama = LlamaCpp(tmp_path / "model.gguf")
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert llama.tokens(text) == ids
        assert llama.ask("/detokenize", tokens=ids)["content"] == tokenizer.decode(ids)


def test_template_ends_and_sampling_are_inside(made, talk, llama):
    tokenizer = AutoTokenizer.from_pretrained(talk.policy)
    chat = [{"role": "user", "content": "the cat"}]
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert llama.ask("/apply-template", messages=chat)["prompt"] == written
    fields = gguf.GGUFReader(made.path / "model.gguf").fields
    told = {key.rsplit(".", 1)[1]: field.contents() for key, field in fields.items() if "token_id" in key}
    assert told["eos_token_id"] == tokenizer.eos_token_id
    sampling = llama.ask("/completion", prompt=[5], n_predict=1)["generation_settings"]
    wanted = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert {key: round(sampling[key], 6) for key in wanted} == wanted
    assert {file.name for file in made.path.iterdir()} == {"model.gguf", "README.md", "contract.json"}


def test_what_llama_cpp_would_compute_otherwise_is_refused(tmp_path):
    tokenizer, model = tiny.pair_tokenizer(316), tiny.llama(320, layers=1)
    with pytest.raises(UserError, match="this tokenizer is of the kind WordLevel: use --to transformers"):
        gguf_model.save(tmp_path, tiny.llama(64, layers=1), word_tokenizer(), "tiny")
    model.config.rope_parameters["rope_type"] = "linear"
    with pytest.raises(UserError, match=r"this one scales its positions \(linear\): use --to transformers"):
        gguf_model.save(tmp_path, model, tokenizer, "tiny")
    with pytest.raises(UserError, match="this one is a Qwen2ForCausalLM: use --to transformers"):
        gguf_model.save(tmp_path, random_model("Qwen2", FAMILIES["Qwen2"]), tokenizer, "tiny")
    assert not list(tmp_path.iterdir())
