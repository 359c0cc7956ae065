"""Texts of words w4 .. w63, and a tokenizer that knows them."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def word_tokenizer(*, eos=True, pad="</s>", template=None):
    """Words w1 .. w60 and two roles; EOS is also the padding unless `pad` says otherwise."""
    words = {"</s>": 0, "<unk>": 1, "user": 2, "assistant": 3} | {f"w{i}": i for i in range(4, 64)}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"eos_token": "</s>", "pad_token": pad} if eos else {}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **ends)
    made.chat_template = template
    return made


WORDS = [f"w{i}" for i in range(4, 64)]


def words(stream, n):
    return " ".join(stream.choice(WORDS) for _ in range(n))
