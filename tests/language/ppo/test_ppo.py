"""One iteration of PPO on a language model: where rewards lie, what padding may not change, what bad input says."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from language_runs import MODES, training
from tiny import llama, prompts, tokenizer
from updates import ppo_gradient

from proximo.algorithms.ppo import PPO
from proximo.core.invariants import InvariantError
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.data.batching import token_budget_batches
from proximo.language.ppo import rollout
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, PPOConfig, SharingSettings
from proximo.language.rewards.terms import FunctionReward, combine, function_from
from proximo.language.sampling.texts import Texts, text_statistics


def test_rewards_are_the_kl_per_token_and_the_score_at_the_last_one():
    log_prob, reference = torch.tensor([[-1.0, -2.0, -3.0, 0.0]]), torch.tensor([[-1.5, -1.0, -3.0, 9.0]])
    rewards = rollout.token_rewards(torch.tensor([7.0]), log_prob, reference, torch.tensor([3]), 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1, 7.0, 0.0]]))


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_advantages_chain_over_response_tokens_only(lam):
    """Rows of a padded batch have the advantages that each would have alone; padding may hold anything."""
    generator = torch.Generator().manual_seed(1)
    run = training(MODES[0], lam=lam)
    batch = run.estimate(run.collect())
    rewards = torch.randn(batch.weight.shape, generator=generator)
    values = torch.randn(batch.weight.shape, generator=generator).where(batch.weight > 0, torch.tensor(1e6))
    seen = rollout.estimate(batch.replace(value=values), rewards, PPO(), 1.0, lam)
    for row, n in enumerate((batch.weight > 0).sum(1).tolist()):
        v, r = values[row, :n].tolist(), rewards[row, :n].tolist()
        expected, following = [0.0] * n, 0.0
        for t in reversed(range(n)):
            delta = r[t] + (v[t + 1] if t + 1 < n else 0.0) - v[t]
            expected[t] = following = delta + lam * following
        torch.testing.assert_close(seen.advantages[row, :n], torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_sampler_and_trainer_agree_and_the_first_ratio_is_1(sharing):
    run = training(sharing)
    values = run.iterate()
    assert run.parity < 1e-5
    assert values["sampler_log_probs"] == 1
    assert values["ratio_deviation"] < 1e-4


def test_what_is_trained_are_the_sampled_tokens_whatever_their_text_gives_back():
    """A peer decodes responses and tokenises them again: it then trains tokens that nobody drew."""
    lossy = tokenizer()
    lossy.add_special_tokens({"additional_special_tokens": [f"w{i}" for i in range(1, 12)]})  # left out of any text
    seen = []

    def score(given, responses):
        seen.extend(responses)
        return [0.0] * len(responses)

    config = PPOConfig(batch=16, response_limit=6, update=UpdateSettings(minibatch_size=16))
    collected = PPOTraining(config, llama(), lossy, prompts([4, 5], [6]), [FunctionReward(score)]).collect()
    batch = collected.batch
    samples, starts = collected.samples, batch.inputs["prompt_lengths"].tolist()
    lengths = samples.lengths.tolist()
    assert len(" ".join(seen).split()) < sum(lengths) / 2, "the texts have lost most tokens"
    for row, (start, n) in enumerate(zip(starts, lengths, strict=True)):
        assert batch.inputs["tokens"][row, start : start + n].tolist() == samples.tokens[row, :n].tolist()
        assert batch.action[row, :n].tolist() == samples.tokens[row, :n].tolist()
        assert batch.weight[row].tolist() == [1.0] * n + [0.0] * (batch.weight.shape[1] - n)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_gap_is_told_where_it_was_measured(sharing):
    """The first iteration measures it; from then on no pass is made for it alone."""
    run = training(sharing)
    first, second = run.iterate()["sampler_gap"], run.iterate()["sampler_gap"]
    assert 0 <= first < 1e-5
    assert second is None
    rescored = training(sharing, old_log_probs="rescore")
    assert None not in [rescored.iterate()["sampler_gap"] for _ in range(2)]


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_neither_padding_nor_parts_change_scores_or_gradients(sharing):
    """One row at a time, all at once, and in between: the same log-probs, values and gradient."""
    run = training(sharing, update=UpdateSettings(epochs=1, minibatch_size=8, entropy_coefficient=0.01))
    batch = run.estimate(run.collect())
    results = []
    for budget in (1, 11, 10_000):
        run.policy.token_budget = budget
        run.optimizer.zero_grad()
        statistics = ppo_gradient(run.policy, run.config.update, split=run.policy.split)(batch)
        results.append(
            (*run.policy.scored(batch), run.optimizer.gradient.clone(), torch.stack(list(statistics.values())))
        )
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-6)
    assert float(results[0][2].abs().max()) > 0


def test_padding_holds_nothing_that_counts():
    run = training(MODES[0])
    batch = run.estimate(run.collect())
    padding = batch.weight == 0
    assert bool(padding.any())
    poisoned = batch.replace(
        advantages=batch.advantages.where(~padding, torch.tensor(math.nan)),
        log_prob=batch.log_prob.where(~padding, torch.tensor(math.inf)),
        returns=batch.returns.where(~padding, torch.tensor(math.nan)),
    )
    gradients = []
    for b in (batch, poisoned):
        run.optimizer.zero_grad()
        ppo_gradient(run.policy, run.config.update, split=run.policy.split)(b)
        gradients.append(run.optimizer.gradient.clone())
    assert torch.equal(*gradients)


def test_batches_keep_within_the_token_budget_and_lose_no_row():
    lengths = [3, 50, 7, 7, 1, 22, 9, 64, 2]
    groups = token_budget_batches(lengths, 60)
    assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 60 for g in groups)


def test_the_padded_share_is_that_of_the_passes_that_were_run():
    """Without padding where rows go alone; else what the minibatches and the reference's one pass add up to."""
    alone = training(MODES[0], token_budget=1)
    assert alone.iterate()["padded_share"] == 0
    run = training(MODES[0], token_budget=10_000)
    run.collect()  # the sampler is compared with the trainer once in a run
    passes, evaluate = [], run.policy.evaluate

    def watched(part):
        real = part.inputs["prompt_lengths"] + (part.weight > 0).sum(1) - 1
        passes.append((int(real.sum()), part.inputs["tokens"].numel()))
        return evaluate(part)

    run.policy.evaluate = watched
    share = run.iterate()["padded_share"]
    assert len(passes) == 4, "two epochs of two minibatches"
    learnt = run.ring.current.learnt
    once = learnt["inputs/prompt_lengths"] + (learnt["weight"] > 0).sum(1) - 1
    passes.append((int(once.sum()), len(once) * int(once.max())))
    real, given = (sum(column) for column in zip(*passes, strict=True))
    assert share == pytest.approx(1 - real / given)
    assert 0 < share < 1


@pytest.mark.parametrize(("floor", "expected"), [(-1.0, [5.0, -1.0, -3.0]), (None, [5.0, 2.0, -3.0])])
def test_a_response_without_end_scores_no_more_than_the_floor(floor, expected):
    run = training(MODES[0], missing_eos_floor=floor, score_clip=5.0)
    scores = run._rewarded(torch.tensor([9.0, 2.0, -3.0]), torch.tensor([True, False, False]))
    assert scores.tolist() == expected


def test_the_kl_coefficient_follows_the_measured_kl_per_response():
    run = training(MODES[0], kl=KLSettings(coefficient=0.1, target=1e-6, horizon=8), learning_rate=3e-2)
    run.iterate()
    before = run.kl.coefficient
    run.iterate()
    assert run.kl.coefficient == pytest.approx(before * 1.2)  # far over the target: e is clipped at 0.2


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_stopping_and_going_on_is_the_same_run_bit_for_bit(sharing):
    through, first, second = (training(sharing) for _ in range(3))
    for run in (through, through, first):
        run.iterate()
    second.load(*first.state())
    second.iterate()
    for name, tensor in through.state()[0].items():
        assert torch.equal(tensor, second.state()[0][name]), name
    assert through.state()[1] == second.state()[1]


def test_each_reward_is_weighted_and_logged_by_name():
    texts = Texts(["p", "p"], ["a", "bb"], {"wanted": [1, 2]}, [True, True])

    def length(prompts, responses, **columns):
        return [len(r) for r in responses]

    def fits(prompts, responses, wanted):
        return [float(len(r) == w) for r, w in zip(responses, wanted, strict=True)]

    total, each = combine([FunctionReward(length, 0.5), FunctionReward(fits, -2.0)], texts)
    assert each["length"].tolist() == [1, 2]
    assert total.tolist() == [0.5 * 1 - 2, 0.5 * 2 - 2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "reward broken gave 1 scores for 2 responses"),
        ([1.0, math.nan], "reward broken gave nan for response 1"),
        ([math.inf, 1.0], "reward broken gave inf for response 0"),
        (None, "reward broken must give one number per response"),
        (["x", 1], "reward broken must give one number per response"),
        ([1.0, 10**400], "reward broken must give one number per response"),
        ([1.0, -1e300], r"reward broken gave -1e\+300 for response 1 .*below 3.4e38 in size"),
    ],
)
def test_a_reward_function_that_misbehaves_is_named(scores, message):
    term = FunctionReward(lambda prompts, responses: scores, name="broken")
    with pytest.raises(UserError, match=message):
        term(Texts(["p", "p"], ["a", "b"], {}, [True, True]))


def test_a_reward_function_may_be_a_generator_and_is_named_where_it_fails():
    def halves(prompts, responses):
        for response in responses:
            if response == "bad":
                raise ValueError("boom\nand more")
            yield len(response) / 2

    texts = Texts(["p", "p"], ["a", "bb"], {}, [True, True])
    assert FunctionReward(halves)(texts).tolist() == [0.5, 1.0]
    with pytest.raises(UserError, match=r"reward halves failed at .*, line \d+ \(ValueError: boom and more\): correct"):
        FunctionReward(halves)(replace(texts, responses=["a", "bad"]))


def test_a_reward_function_is_looked_for_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rewards_of_my_own.py").write_text("def f(prompts, responses, **columns): return [7.0]\n")
    assert function_from("rewards_of_my_own:f")([], []) == [7.0]


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("def f(:\n", "own_a:f", r"reward own_a:f: module 'own_a' could not be imported \(SyntaxError: .*\): correct"),
        (
            "raise RuntimeError('at\\nimport')\n",
            "own_b:f",
            r"could not be imported \(RuntimeError: at import\): correct",
        ),
        ("import nowhere_at_all\n", "own_c:f", r"own_c:f: module 'own_c' could not be .*nowhere_at_all"),
        ("", "..own_d:f", r"reward ..own_d:f: module '..own_d' could not be imported \(TypeError"),
        ("", "own_e.x:f", r"reward own_e.x:f: there is no module 'own_e.x': run from the folder"),
        ("def brevity(): pass\n", "own_f:brevty", r"module 'own_f' has no 'brevty': did you mean brevity\?"),
        ("f = 3\n", "own_g:f", r"reward own_g:f is a int, not a function"),
    ],
)
def test_a_reward_that_can_not_be_imported_is_named(monkeypatch, tmp_path, text, path, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"{path.strip('.').partition(':')[0]}.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        function_from(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 50}, "top_k = 50, top_p = 1.0 must be 0 and 1"),
        ({"top_p": 0.9}, "PPO's ratio is that of the distribution"),
        ({"temperature": 0.0}, "temperature = 0.0 must be positive"),
        ({"temperature": math.inf}, "temperature = inf must be positive and finite"),
        ({"batch": 0}, "batch = 0 must be positive"),
        ({"missing_eos_floor": math.nan}, "missing_eos_floor = nan must be a finite number, or None"),
        ({"missing_eos_floor": -math.inf}, "missing_eos_floor = -inf must be a finite number, or None"),
        ({"learning_rate": "inf -> 0"}, "learning_rate = 'inf -> 0' must be finite"),
        ({"learning_rate": "1e-5 -> nan"}, "learning_rate = '1e-5 -> nan' must be finite"),
        ({"rewards": {"a:b": 1.0, "a:c": math.nan}}, "the weight of reward a:c is nan: it must be a finite number"),
        ({"rewards": {"a:b": math.inf}}, "the weight of reward a:b is inf: it must be a finite number"),
        ({"update": UpdateSettings(micro_batches=2)}, "do not apply to language models"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**changes)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (KLSettings, {"coefficient": -1.0}, "divergence is not to be paid for"),
        (KLSettings, {"coefficient": math.inf}, "kl.coefficient = inf must be at least 0, and finite"),
        (KLSettings, {"coefficient": math.nan}, "kl.coefficient = nan must be at least 0, and finite"),
        (KLSettings, {"target": -1.0}, "kl.target = -1.0 must be positive"),
        (KLSettings, {"budget": math.inf}, "kl.budget = inf must be positive and finite"),
        (SharingSettings, {"lora_alpha": math.nan}, "lora_alpha = nan must be positive and finite"),
        (KLSettings, {"target": 6.0, "coefficient": 0.0}, "kl.coefficient = 0.0 must be positive where kl.target is"),
        (SharingSettings, {"lora_rank": 0}, "lora_rank = 0"),
        (SharingSettings, {"critic_from": "reward"}, "needs sharing.critic = separate"),
    ],
)
def test_parts_of_the_settings_that_mean_nothing_are_refused(settings, changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("rows", "rewards", "changes", "message"),
    [
        ([], 1, {}, "there is no prompt"),
        ([[1]], 0, {}, "nothing scores the responses"),
        ([[1]], 2, {}, "two rewards share a name"),
        ([[1] * 60], 1, {"response_limit": 10}, "a prompt of 60 with a response of up to 10 has 70"),
        ([[1]], 1, {"batch": 6}, "minibatch_size = 4 does not divide the 6 responses"),
    ],
)
def test_what_does_not_fit_together_is_refused(rows, rewards, changes, message):
    config = PPOConfig(**{"batch": 8, "update": UpdateSettings(minibatch_size=4), **changes})
    terms = [FunctionReward(lambda prompts, responses: [0.0] * len(responses), name="r")] * rewards
    with pytest.raises(UserError, match=message):
        PPOTraining(config, llama(), tokenizer(), prompts(*rows), terms)


def test_a_reward_made_in_python_with_a_weight_that_is_no_number_is_refused():
    term = FunctionReward(lambda prompts, responses: [0.0] * len(responses), math.nan, name="r")
    with pytest.raises(UserError, match="the weight of reward r is nan: it must be a finite number"):
        PPOTraining(PPOConfig(batch=32, response_limit=4), llama(), tokenizer(), prompts([1]), [term])


def by_own_names(questions, answers, **columns):
    return [0.0] * len(answers)


@pytest.mark.parametrize(
    ("function", "column"),
    [(lambda prompts, responses, **columns: [0.0] * len(responses), "responses"), (by_own_names, "answers")],
)
def test_a_column_with_the_name_of_what_a_function_scores_is_refused(function, column):
    term = FunctionReward(function, name="r")
    said = f"a column '{column}', but reward r calls what it scores so: rename the column"
    rows = [replace(prompt, columns={column: 1, "other": 2}) for prompt in prompts([1], [2])]
    with pytest.raises(UserError, match=said):
        PPOTraining(PPOConfig(batch=32, response_limit=4), llama(), tokenizer(), rows, [term])
    with pytest.raises(UserError, match=said):
        term(Texts(["p"], ["a"], {column: [1]}, [True]))
    # Any other name is free.
    free = Texts(["p"], ["a"], {"answers" if column == "responses" else "responses": [1]}, [True])
    assert term(free).tolist() == [0.0]


def test_a_trunk_that_changed_behind_our_back_is_seen():
    """The ratio of the first minibatch is not 1 when the policy that is trained is not the one that sampled."""
    run = training(SharingSettings(mode="full"), old_log_probs="sampler")
    collect = run.collect

    def tampered():
        result = collect()
        with torch.no_grad():
            run.roles.model.get_decoder().layers[1].mlp.up_proj.weight.mul_(1.5)
        return result

    run.collect = tampered
    with pytest.raises(InvariantError, match="ratio-not-one"):
        run.iterate()


def test_bfloat16_trunk_keeps_master_weights_and_scores_as_one_function():
    """The states are rounded, the head is not: the ratio of re-scored log-probs stays near 1."""
    settings = SharingSettings(mode="full")
    run = training(settings, llama(width=64, layers=4), compute="bfloat16", old_log_probs="rescore")
    exact = training(settings, llama(width=64, layers=4))
    batch = run.estimate(run.collect())
    half, full = run.policy.scored(batch)[0], exact.policy.scored(batch)[0]
    assert not torch.equal(half, full), "bfloat16 must have been used"
    values = run.iterate()
    assert all(p.dtype == torch.float32 for p in run.roles.parameters())
    assert values["sampler_log_probs"] == 0
    assert values["ratio_deviation"] < 0.05
    assert math.isfinite(values["kl"])


def test_a_reward_model_gets_chat_messages_and_functions_get_text():
    """Its own template writes them out; the policy's rendering would be text that it was never taught on."""
    from types import SimpleNamespace

    from proximo.language.data.prompts import Prompt
    from proximo.language.rewards.terms import ModelReward

    messages, asked = [{"role": "user", "content": "w3"}], []

    def score_texts(prompts, responses, finished):
        asked.append(list(prompts))
        return torch.zeros(len(responses))

    model = SimpleNamespace(score_texts=score_texts, mean=0.0, std=1.0, context=None)
    rows = [Prompt([3], "<rendered>", {}, messages)]
    config = PPOConfig(batch=4, response_limit=3, update=UpdateSettings(minibatch_size=4))
    PPOTraining(config, llama(), tokenizer(), rows, [ModelReward(model)]).collect()
    assert asked == [[messages] * 4]


def test_a_failing_reward_can_be_rewound_as_if_nobody_had_asked():
    calls = []

    def sometimes(prompts, responses):
        calls.append(responses)
        return [math.nan if len(calls) == 2 else 0.0] * len(responses)

    run, other = training(MODES[0]), training(MODES[0])
    for each in (run, other):
        each.rewards = [FunctionReward(sometimes, name="r")]
    run.iterate()
    with pytest.raises(UserError, match="reward r gave nan"):
        run.iterate()
    run.rewind()
    calls.append(None)
    run.iterate()
    other.iterate(), other.iterate()
    assert all(torch.equal(a, b) for a, b in zip(run.state()[0].values(), other.state()[0].values(), strict=True))


def test_adaptive_kl_keeps_the_learning_rate_it_found_also_across_a_resume():
    update = UpdateSettings(epochs=2, minibatch_size=4, adaptive_kl=1e-9)
    run, again = (training(MODES[0], update=update) for _ in range(2))
    run.iterate()
    found = run.optimizer.learning_rate
    # It begins at the configured 1e-2, without the warm-up, and falls from the second of four minibatches on.
    assert found == pytest.approx(1e-2 / 1.5**3)
    again.load(*run.state())
    assert again.optimizer.learning_rate == found
    again.iterate()
    assert again.optimizer.learning_rate <= found


def test_text_statistics():
    from proximo.language.sampling.sampler import Samples

    tokens = torch.tensor([[1, 2, 1, 2], [1, 2, 1, 2], [3, 0, 0, 0]])
    empty = torch.zeros(3, 4)
    samples = Samples(tokens, empty, torch.tensor([4, 4, 2]), torch.tensor([False, False, True]), empty, [])
    values = text_statistics(samples)
    assert values["duplicates"] == pytest.approx(1 / 3)
    assert values["distinct_1"] == pytest.approx(4 / 10)
    assert values["distinct_2"] == pytest.approx(3 / 7)  # 12 21 30 of 3 + 3 + 1
