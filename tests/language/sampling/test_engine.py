"""An engine in the place of our sampler: `transformers` itself, with a copy of the weights, checked after each load."""

import copy

import pytest
import torch
from language_runs import MODES, training
from tiny import llama

from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.ppo.training import PPOTraining
from proximo.language.sampling.engine import Engine, InPlace
from proximo.language.sampling.sampler import Samples, generate


class Transformers(Engine):
    """`model.generate` of `transformers`, row by row."""

    forgets = ()
    """Beginnings of the names of weights that a load leaves as they were."""
    sets_version = True
    warmer = 1.0

    def __init__(self):
        self.model = copy.deepcopy(llama(seed=99)).eval()
        self.loads = 0

    def load(self, source):
        self.loads += 1
        weights = dict(source.weights())
        assert weights.keys() == dict(self.model.named_parameters()).keys()
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if not name.startswith(self.forgets) or self.loads == 1:
                    p.copy_(weights[name])
        if self.sets_version:
            self.version = source.version

    def __call__(self, prompts, parameters, *, generator=None):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        rows = [self._row(list(prompt), parameters) for prompt in prompts]
        lengths = torch.tensor([len(tokens) for tokens, _ in rows])
        width, stop = int(lengths.max()), parameters.stop[0]
        tokens = torch.tensor([row + [stop] * (width - len(row)) for row, _ in rows])
        log_probs = torch.tensor([row + [0.0] * (width - len(row)) for _, row in rows])
        finished = torch.tensor([row[-1] in parameters.stop for row, _ in rows])
        return Samples(tokens, log_probs, lengths, finished, None, [])

    def _row(self, prompt, parameters):
        answer = self.model.generate(
            torch.tensor([prompt]),
            max_new_tokens=parameters.max_tokens,
            do_sample=True,
            temperature=parameters.temperature * self.warmer,
            top_k=0,
            top_p=1.0,
            eos_token_id=list(parameters.stop),
            pad_token_id=parameters.stop[0],
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = answer.sequences[0, len(prompt) :].tolist()
        scores = [s[0].log_softmax(-1)[t].item() for s, t in zip(answer.scores, tokens, strict=True)]
        return tokens, scores


def with_engine(sharing, engine, **changes):
    made = training(sharing, **changes)
    return PPOTraining(made.config, llama(), made.tokenizer, made.prompts.prompts, made.rewards, sampler=engine)


KINDS = [m for m in MODES if (m.mode, m.critic) in {("full", "shared"), ("lora", "shared"), ("top_layers", "separate")}]


@pytest.mark.parametrize("sharing", KINDS, ids=lambda m: m.mode)
def test_an_engine_trains_in_every_way_of_sharing_weights(sharing):
    engine = Transformers()
    trained = with_engine(sharing, engine)
    for loads in (1, 2):
        row = trained.iterate()
        assert engine.loads == loads
        assert row["sampler_log_probs"] == 1
        assert row["value_rms"] >= 0
    assert trained.parity < 1e-5
    assert row["value_rms"] > 0  # the critic was asked, though the engine keeps no states
    # The weights have moved far enough for an old copy to be seen, and the new ones are all there.
    assert engine.version < trained.optimizer.steps
    trained.sample([[3], [5, 2]], torch.Generator().manual_seed(0))
    assert engine.version == trained.optimizer.steps


@pytest.mark.parametrize("forgotten", ["", "lm_head", "model.layers.1."])
def test_a_load_that_leaves_weights_behind_is_refused(forgotten):
    engine = Transformers()
    engine.forgets = (forgotten,)
    trained = with_engine(MODES[0], engine, update=UpdateSettings(epochs=4, minibatch_size=2), learning_rate=0.05)
    trained.iterate()  # the first load takes all
    with pytest.raises(UserError, match="did not take all of the weights"):
        trained.iterate()


def test_another_temperature_is_refused_at_the_first_load():
    engine = Transformers()
    engine.warmer = 1.5
    with pytest.raises(UserError, match=r"nats off the trainer's on average \(at most 0.001\)"):
        with_engine(MODES[0], engine).iterate()


def test_a_load_that_does_not_say_which_version_it_has_is_refused():
    engine = Transformers()
    engine.sets_version = False
    with pytest.raises(UserError, match="given version 0 of the weights and says that it has version None"):
        with_engine(MODES[0], engine).iterate()


def test_a_check_draws_no_number_of_the_run():
    ours, theirs = training(MODES[0]), with_engine(MODES[0], Transformers())
    for trained in (ours, theirs):
        trained.sample([[3], [5, 2]])
    # Ours draws cap x rows numbers; the engine draws one.
    expected = torch.Generator().manual_seed(ours.config.seed * 2 + 1)
    torch.randint(2**31, (1,), generator=expected)
    assert torch.equal(theirs.noise.get_state(), expected.get_state())


@pytest.mark.parametrize("given", [generate, Transformers, object()])
def test_what_can_not_be_given_weights_is_refused_in_one_sentence(given):
    with pytest.raises(UserError, match=r"must be an object with `load`, `check` and `version`: wrap a function"):
        with_engine(KINDS[0], given)


def test_the_function_of_that_sentence_trains_once_it_is_wrapped():
    assert with_engine(KINDS[0], InPlace(generate)).iterate()["sampler_log_probs"] == 1
