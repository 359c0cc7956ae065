"""A language so small that all of its responses can be listed: what a run reaches is known, and not only sampled."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # the experiments are listed, and robots' are run, without them
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY, LONGEST = 6, 5
PROMPT = "w3 w2"
END = 0
"""The token that ends a response."""
FLAW = "w1 w2"
"""What a flawed reward pays for."""


class Words:
    """A random Llama of five words, a taste, and a reward that knows the taste only in part.

    The taste z orders responses by the sum of their words' worths; over the reference's responses it is as nearly
    normal as their number allows, with mean 0 and deviation 1. The reward is z and some noise that does not change: it
    pays for ever more of what is liked. The judge is z - z² / 2: what people like they like up to a point. So the two
    agree at first, as cov(z, z - z² / 2) = 1 - skewness / 2 says, and part at z = 1.

    Args:
        seed: of the model, the taste and the noise.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        worth = torch.randn(VOCABULARY, generator=generator).tolist()
        raw = torch.tensor([sum(worth[x] for x in y if x != END) for y in self.responses], dtype=torch.float64)
        p = self.distribution(self.model())
        scores = _normal_scores(raw.round(decimals=9), p)  # the words of a response in any order are worth the same
        centred = scores - (p * scores).sum()
        self.taste = centred / (p * centred**2).sum().sqrt()
        noise = torch.randn(len(raw), generator=generator, dtype=torch.float64)
        self.reward, self.judge = self.taste + 0.3 * noise, self.taste - self.taste**2 / 2

    @cached_property
    def responses(self) -> list[tuple[int, ...]]:
        """All of them: some words and the end, or as many words as there may be."""
        words = range(1, VOCABULARY)
        ended = [(*y, END) for n in range(LONGEST) for y in itertools.product(words, repeat=n)]
        return ended + list(itertools.product(words, repeat=LONGEST))

    def model(self) -> "LlamaForCausalLM":
        """The reference, anew."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=END,
            initializer_range=0.15,
        )
        with torch.random.fork_rng():  # the caller's random numbers stay what they are
            torch.manual_seed(self.seed)
            return LlamaForCausalLM(config).eval()

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """Its words."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        ids = {"</s>": END} | {f"w{i}": i for i in range(1, VOCABULARY)}
        inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")

    @torch.no_grad()
    def distribution(self, model: Any) -> Tensor:
        """p(y) of every response to the prompt, `[n]`, float64."""
        prompt = [int(word[1:]) for word in PROMPT.split()]
        tokens = torch.tensor([prompt + list(y) + [END] * (LONGEST - len(y)) for y in self.responses])
        log_p = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)[:, len(prompt) - 1 : -1]
        each = log_p.gather(2, tokens[:, len(prompt) :].unsqueeze(2)).squeeze(2)
        lengths = torch.tensor([len(y) for y in self.responses])
        return torch.where(torch.arange(LONGEST) < lengths.unsqueeze(1), each, 0.0).sum(1).exp()

    def known(self, model: Any) -> tuple[float, float]:
        """√KL from the reference and the judge's mean, both without any sampling."""
        p, q = self.distribution(model), self.distribution(self.model())
        divergence = float((p * (p.log() - q.log())).nan_to_num(0.0).sum())
        return math.sqrt(max(0.0, divergence)), float((p * self.judge).sum())

    def good(self, count: int) -> list[dict[str, str]]:
        """Rows of responses that the judge likes: drawn from p(y) exp(2 judge(y)), PPO's optimum at β = 1/2."""
        weights = self.distribution(self.model()) * (2 * self.judge).exp()
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        texts = [" ".join(f"w{x}" for x in self.responses[i] if x != END) for i in drawn]
        return [{"prompt": PROMPT, "response": text or "w1"} for text in texts]

    def scorer(self, values: Tensor, flaw: float = 0.0) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
        """A reward function of a value for each response, and of a bonus for those that hold `FLAW`."""
        texts = [" ".join(f"w{x}" for x in y if x != END) for y in self.responses]
        table = dict(zip(texts, values.tolist(), strict=True))

        def score(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
            return [table[response] + flaw * (FLAW in response) for response in responses]

        return score


def _normal_scores(values: Tensor, p: Tensor) -> Tensor:
    """Normal quantiles of the middle of each value's share of the distribution (van der Waerden 1952), `[n]`."""
    _, place = values.unique(return_inverse=True)
    shares = torch.zeros(int(place.max()) + 1, dtype=p.dtype).index_add(0, place, p)
    return torch.special.ndtri((shares.cumsum(0) - shares / 2) / shares.sum())[place]
