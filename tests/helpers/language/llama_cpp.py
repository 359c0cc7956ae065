"""llama.cpp itself, by the wheel `xllamacpp`, asked as any program asks its server."""

import json
from urllib.request import Request, urlopen

import xllamacpp


class LlamaCpp:
    """A model file, loaded.

    Args:
        file: GGUF.
    """

    def __init__(self, file):
        settings = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx = 64
        settings.n_parallel = 1
        settings.warmup = False
        settings.verbosity = -1
        settings.cpuparams.n_threads = 1
        settings.port = 0
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # half precision otherwise
        self.server = xllamacpp.Server(settings)

    def ask(self, path, **content):
        """The answer of `path` to a JSON object."""
        request = Request(self.server.listening_address + path, json.dumps(content).encode())
        request.add_header("Content-Type", "application/json")
        with urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text):
        """Ids of a text, special tokens read as such."""
        return self.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def greedy(self, tokens, count):
        """Ids of the likeliest continuation."""
        settings = {"temperature": 0, "ignore_eos": True, "return_tokens": True}
        return self.ask("/completion", prompt=tokens, n_predict=count, **settings)["tokens"]

    def log_probs(self, tokens, size):
        """`{id: log-prob}` of what follows.

        Args:
            tokens: ids.
            size: of the vocabulary.
        """
        # The server says nothing of a token that ends within a letter: have it take another, after its log-probs.
        taken = {"logit_bias": [["a", 1000.0]], "n_probs": size, "cache_prompt": False}
        (step,) = self.ask("/completion", prompt=tokens, n_predict=1, **taken)["completion_probabilities"]
        return {x["id"]: x["logprob"] for x in step["top_logprobs"]}
