"""The sampler against a full forward pass: same log-probs, same distribution, rows that do not feel each other."""

import pytest
import torch
from tiny import llama

from proximo.errors import UserError
from proximo.language.models.decoder import Stack, split_decoder
from proximo.language.sampling.sampler import SamplingParameters, generate

PROMPTS = [[3], [5, 2, 9, 4], [7, 7], [1, 0, 6], [8, 3, 2, 2, 1], [4]]  # the fourth holds an EOS


def sample(model, prompts=PROMPTS, *, seed=0, cap=12, stack=None, temperature=1.0, **more):
    parameters = SamplingParameters(cap, (0,), temperature)
    stack = stack or Stack([model.get_decoder()])
    generator = torch.Generator().manual_seed(seed)
    return generate(stack, model.get_output_embeddings(), prompts, parameters, generator=generator, **more)


def full_log_probs(model, prompt, response, temperature=1.0):
    tokens = torch.tensor([prompt + response])
    with torch.no_grad():
        log_p = (model(input_ids=tokens, use_cache=False).logits[0] / temperature).log_softmax(-1)
    at = torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
    return log_p[at, torch.tensor(response)]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("parts", [1, 2])
def test_log_probs_are_those_of_a_full_forward_of_each_row_alone(cache, temperature, parts):
    model = llama()
    stack = Stack(split_decoder(model.get_decoder(), 1)) if parts == 2 else None
    samples = sample(model, cache=cache, temperature=temperature, stack=stack)
    assert len(set(samples.lengths.tolist())) > 2, "rows must end at different times for this to say anything"
    for row, prompt in enumerate(PROMPTS):
        n = int(samples.lengths[row])
        response = samples.tokens[row, :n].tolist()
        expected = full_log_probs(model, prompt, response, temperature)
        torch.testing.assert_close(samples.log_probs[row, :n], expected, rtol=1e-4, atol=1e-5)
        assert bool((samples.log_probs[row, n:] == 0).all())
        assert 0 not in response[:-1]
        assert bool(samples.finished[row]) == (response[-1] == 0)


@pytest.mark.parametrize("parts", [1, 2])
def test_hidden_states_and_trunk_states_are_those_of_a_full_forward(parts):
    model = llama()
    decoder = model.get_decoder()
    stack = Stack([decoder] if parts == 1 else split_decoder(decoder, 1))
    samples = sample(model, stack=stack)
    for row, prompt in enumerate(PROMPTS):
        n = int(samples.lengths[row])
        tokens = torch.tensor([prompt + samples.tokens[row, :n].tolist()])
        with torch.no_grad():
            hidden, states = stack(tokens)
        span = slice(len(prompt) - 1, len(prompt) + n - 1)
        torch.testing.assert_close(samples.hidden[row, :n], hidden[0, span], rtol=1e-4, atol=1e-4)
        if parts == 2:
            torch.testing.assert_close(samples.states[row], states[0, :-1], rtol=1e-4, atol=1e-4)


def test_rows_do_not_depend_on_their_neighbours():
    """Alone, in company, with or without dropping finished rows: the same tokens."""
    model = llama()
    together, kept = sample(model), sample(model, cache="static")
    assert together.tokens.tolist() == kept.tokens.tolist()
    # Each row's tokens are decided by its own numbers: a batch in which a row stands first gives it the first ones.
    again = sample(model, [PROMPTS[0], [2, 2, 2, 2, 2, 2, 2]])
    n = int(together.lengths[0])
    assert again.tokens[0, :n].tolist() == together.tokens[0, :n].tolist()


def test_first_tokens_follow_the_models_distribution():
    """Chi-squared over 4,000 draws: 15 degrees of freedom, 0.999 quantile 37.7."""
    model, n = llama(), 4000
    tokens = sample(model, [[3, 5]] * n, cap=1).tokens[:, 0]
    with torch.no_grad():
        p = model(input_ids=torch.tensor([[3, 5]])).logits[0, -1].softmax(-1)
    seen = torch.bincount(tokens, minlength=16).float()
    likely = p * n > 5
    statistic = ((seen - n * p) ** 2 / (n * p))[likely].sum()
    assert float(statistic) < 37.7


def test_a_response_that_ends_exactly_at_the_cap_is_finished():
    model = llama()
    free = sample(model, cap=30)
    row = int((free.finished & (free.lengths > 2)).nonzero()[0])
    cap = int(free.lengths[row])
    # Row i's first `cap` numbers are not those of another cap: draw until a row ends there.
    ends = [s for seed in range(200) if bool((s := sample(model, cap=cap, seed=seed)).finished[s.lengths == cap].any())]
    assert ends, "no response ended at the cap in 200 draws"
    s = ends[0]
    at_cap = s.finished & (s.lengths == cap)
    assert bool((s.tokens[at_cap][:, cap - 1] == 0).all())
    cut = ~s.finished
    assert bool((s.lengths[cut] == cap).all())
    assert bool((s.tokens[cut][:, cap - 1] != 0).all())


def test_temperature_zero_takes_the_likeliest_token():
    model = llama()
    tokens = sample(model, cap=1, temperature=0.0).tokens[:, 0]
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            assert int(tokens[row]) == int(model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax())


def test_an_empty_prompt_is_named():
    with pytest.raises(UserError, match="prompt 1 is empty"):
        sample(llama(), [[1], []])
