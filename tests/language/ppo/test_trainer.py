"""PPO from Python: what is given trains as its files do, resumes, is refused where it is another, and is watched."""

import json
import random
from functools import partial

import numpy as np
import own_modules
import pandas
import pytest
import tiny
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import proximo
from proximo import language
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint

PROMPTS = [{"prompt": f"w{i} w{i + 1}", "wanted": i} for i in range(4, 9)]
SMALL = {"responses": 40, "batch": 8, "response_limit": 4, "learning_rate": 1e-2, "checkpoint_every": 16, "threads": 1}
SMALL |= {"kl": {"coefficient": 0.1}, "update": {"epochs": 2, "minibatch_size": 4}, "progress": "quiet"}
SMALL |= {"preflight": "off"}


def plain(run):
    clock = ("time", "seconds", "tokens_per_second", "memory")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in proximo.metrics(run)]


def same(one, other):
    assert plain(one) == plain(other)
    (a, _), (b, _) = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (one, other))
    trained = [name for name in a if name.startswith(("trained/", "optimizer/"))]
    assert trained
    assert all(torch.equal(a[name], b[name]) for name in trained)


def train(model, folder, prompts=PROMPTS, rewards=tiny.per_word, **settings):
    return language.train(model, prompts=prompts, rewards=rewards, run=folder, **{**SMALL, **settings})


def test_rows_and_a_model_in_memory_train_as_their_files_do(tmp_path, tiny_folder, tiny_model, tiny_tokenizer):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    before = {name: x.clone() for name, x in tiny_model.state_dict().items()}
    whole = train(tiny_folder, tmp_path / "file", file)
    assert whole.folder == tmp_path / "file"
    assert whole.results["responses"] == 40
    for name, rows in (("list", PROMPTS), ("dataset", Dataset.from_list(PROMPTS))):
        run = train(tiny_model, tmp_path / name, rows, tokenizer=tiny_tokenizer)
        same(whole.path, run.path)
    assert all(torch.equal(x, before[name]) for name, x in tiny_model.state_dict().items()), "it stays as it was"
    assert sorted(x.name.partition("-")[0] for x in (tmp_path / "given").iterdir()) == ["model", "prompts"]
    again = train(tiny_model, tmp_path / "list", tokenizer=tiny_tokenizer)
    assert again.finished_before
    assert again.results == run.results


def test_an_algorithm_of_ones_own_is_reported_replayed_and_resumed(tmp_path, tiny_folder):
    """A price on large values: reported for each iteration, in the same run stopped and resumed."""
    update = {**SMALL["update"], "anchor": 0.5}
    whole = train(tiny_folder, tmp_path / "whole", algorithm=own_modules.Anchored, update=update)
    plan = {"algorithm": own_modules.Anchored, "update": update}
    train(tiny_folder, tmp_path / "half", stop_at=16, **plan)
    same(whole.path, train(tiny_folder, tmp_path / "half", **plan).path)
    rows = proximo.metrics(whole.path)
    assert all(row["anchor"] >= 0 for row in rows)
    assert 'algorithm = "own_modules:Anchored"' in (whole.path / "config.toml").read_text()
    assert proximo.replay(whole.path, change="anchor=0").exact
    with pytest.raises(proximo.UserError, match=r"update\.algorithm is .own_modules:Anchored. there"):
        train(tiny_folder, tmp_path / "half", algorithm=own_modules.Steeper, update=update)


def test_the_seed_decides_a_run_whose_reward_draws_from_global_streams(tmp_path, tiny_folder):
    def lucky(prompts, responses):
        return [random.random() + np.random.rand() + float(torch.rand(())) for _ in responses]

    random.seed(1)
    first = train(tiny_folder, tmp_path / "first", rewards=lucky, seed=3)
    drawn = random.random()
    same(first.path, train(tiny_folder, tmp_path / "again", rewards=lucky, seed=3).path)
    assert plain(train(tiny_folder, tmp_path / "other", rewards=lucky, seed=4).path) != plain(first.path)
    random.seed(1)
    assert random.random() == drawn, "the caller's stream is the caller's"


def test_texts_are_prompts(tmp_path, tiny_folder):
    texts = [row["prompt"] for row in PROMPTS]
    one = train(tiny_folder, tmp_path / "rows", [{"prompt": text} for text in texts], responses=8)
    same(one.path, train(tiny_folder, tmp_path / "texts", texts, responses=8).path)


def test_a_stopped_run_goes_on_with_what_is_given_again_and_with_nothing_else(tmp_path, tiny_model, tiny_tokenizer):
    def call(folder, prompts=PROMPTS, model=tiny_model, rewards=lambda prompts, responses: map(len, responses), **more):
        return train(model, tmp_path / folder, prompts, rewards, tokenizer=tiny_tokenizer, **more)

    whole = call("whole")
    assert call("run", stop_at=16).stopped == "stop-at"
    others = {
        r"other prompts: .*prompts-\w+\.jsonl there, and the 4 rows": {"prompts": PROMPTS[:-1]},
        r"another model: .*model-\w+ there, and the LlamaForCausalLM": {"model": tiny.llama(64, layers=2, seed=5)},
        r"another reward .*lambda>: its code, or": {"rewards": lambda prompts, responses: [1.0] * 8},
    }
    others[r"learning_rate is 0.01 there and 0.02 here"] = {"learning_rate": 0.02}
    for folder in ("run", "whole"):  # half-done, and finished
        for sentence, change in others.items():
            with pytest.raises(proximo.UserError, match=sentence):
                call(folder, **change)
    moved = call("changed", stop_at=16), call("changed", prompts=PROMPTS[:-1], allow_change=True)
    assert [run.results["responses"] for run in moved] == [16, 40]
    assert call("run").results == whole.results
    same(whole.path, tmp_path / "run")
    fresh = call("run", prompts=PROMPTS[:-1], fresh=True)
    assert not fresh.finished_before


def brief(prompts, responses, scale=1.0, **columns):
    return [-0.1 * scale * len(r.split()) for r in responses]


def test_rewards_are_functions_and_folders_with_weights(tmp_path, tiny_folder):
    model = language.train_reward(
        tiny_folder,
        pairs=[{"prompt": "w5", "chosen": f"w{i} w9", "rejected": f"w{i}"} for i in range(6, 14)],
        run=tmp_path / "reward",
        progress="quiet",
        batch=4,
        standardise_on=PROMPTS * 4,
        response_limit=4,
    )
    rewards = {brief: 0.25, str(model.path): 1.0, (lambda prompts, responses: [2.0] * 8): 0.5}
    run = train(tiny_folder, tmp_path / "run", rewards=rewards, responses=8)
    (row,) = proximo.metrics(run.path)
    each = [row[f"reward/{name}"] for name in ("brief", "reward", "<lambda>")]
    assert row["score"] == pytest.approx(0.25 * each[0] + each[1] + 0.5 * each[2], abs=1e-5)
    assert each[2] == 2.0
    with pytest.raises(proximo.UserError, match=r"brief is 0\.25 there and 0\.75 here"):
        train(tiny_folder, tmp_path / "run", rewards={**rewards, brief: 0.75}, responses=8)


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, prompts, responses):
        return [self.scale * len(r) for r in responses]


def test_objects_are_known_by_what_they_hold_and_not_by_their_class(tmp_path, tiny_folder):
    first = train(tiny_folder, tmp_path / "run", rewards=Scaled(0.1), responses=8)
    assert "reward/<Scaled>" in proximo.metrics(first.path)[0]
    assert train(tiny_folder, tmp_path / "run", rewards=Scaled(0.1), responses=8).finished_before
    for other in (Scaled(0.2), partial(brief, scale=2.0)):
        with pytest.raises(proximo.UserError, match=r"its code, or what it holds,|rewards\..*Scaled> is 1\.0 there"):
            train(tiny_folder, tmp_path / "run", rewards=other, responses=8)


class Counting(proximo.Callback):
    """Counts iterations over a stop, and notes what it is told."""

    def __init__(self):
        self.count, self.told = 0, []

    def start(self, trainer):
        self.told.append("start")

    def iteration(self, trainer, metrics):
        assert metrics["step"] == trainer.step
        self.count += 1
        metrics["mine/count"] = self.count

    def checkpoint(self, trainer, path):
        self.told.append(load_checkpoint(path)[1]["callbacks"])

    def finish(self, trainer, results):
        assert results["responses"] == trainer.step
        self.told.append("finish")

    def state(self):
        return {"count": self.count}

    def load(self, state):
        self.count = state["count"]


def test_a_callback_with_a_state_goes_on_where_the_run_resumes(tmp_path, tiny_folder):
    whole, first, second = Counting(), Counting(), Counting()
    one = train(tiny_folder, tmp_path / "whole", callbacks=[whole])
    assert train(tiny_folder, tmp_path / "run", callbacks=[first], stop_at=24).stopped == "stop-at"
    assert first.told[0] == "start"
    assert first.told[-1] == {"0 Counting": {"count": 3}}
    other = train(tiny_folder, tmp_path / "run", callbacks=[second])
    same(one.path, other.path)
    assert [row["mine/count"] for row in proximo.metrics(other.path)] == [1, 2, 3, 4, 5]
    assert second.told[-1] == whole.told[-1] == "finish"
    kept = [load_checkpoint(latest_checkpoint(run.path / "checkpoints"))[1]["callbacks"] for run in (one, other)]
    assert kept[0] == kept[1] == {"0 Counting": {"count": 5}}


def test_a_function_adds_numbers_and_ends_the_run(tmp_path, tiny_folder, capsys):
    def watch(trainer, metrics):
        metrics["mine/double"] = 2 * metrics["step"]
        return metrics["step"] < 16

    run = train(tiny_folder, tmp_path / "run", callbacks=[watch], progress="plain")
    assert run.stopped is None
    assert run.results["responses"] == 16
    assert "watch" in run.results["ended"]
    assert [row["mine/double"] for row in proximo.metrics(run.path)] == [16, 32]
    assert "mine/double 32" in capsys.readouterr().err
    assert b"mine/double" in next((run.path / "tensorboard").iterdir()).read_bytes()
    assert (run.policy / "config.json").exists()
    assert train(tiny_folder, tmp_path / "run", callbacks=[watch]).finished_before


def test_an_error_in_a_callback_reaches_the_user_and_loses_nothing(tmp_path, tiny_folder):
    def broken(trainer, metrics):
        if trainer.step == 24:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(tiny_folder, tmp_path / "run", callbacks=[broken])
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name.endswith("24")


def test_a_loop_of_ones_own_asks_the_policy_and_is_left_and_taken_up_again(tmp_path, tiny_folder):
    def looped(folder):
        return language.Trainer(tiny_folder, prompts=PROMPTS, rewards=tiny.per_word, run=tmp_path / folder, **SMALL)

    whole, trainer = looped("whole").to_the_end(), looped("run")
    with pytest.raises(proximo.UserError, match="no policy before the first iteration"):
        trainer.policy  # noqa: B018
    for metrics in trainer:
        said = trainer.policy.respond(["w4 w5", "w6 w7"], seed=3)
        assert said == trainer.policy.respond(["w4 w5", "w6 w7"], seed=3)
        assert len(said) == 2
        if metrics["step"] == 24:
            break
    assert trainer.run is None
    assert [row["step"] for row in trainer] == [32, 40]
    same(whole.path, trainer.run.path)
    stopping = looped("stopped")
    for _ in stopping:
        stopping.stop()
    assert stopping.run.stopped == "trainer.stop()"


def test_a_fresh_run_that_is_left_and_taken_up_again_goes_on(tmp_path, tiny_folder):
    train(tiny_folder, tmp_path / "run")
    trainer = language.Trainer(
        tiny_folder, prompts=PROMPTS, rewards=tiny.per_word, run=tmp_path / "run", fresh=True, **SMALL
    )
    steps = [next(row["step"] for row in trainer)]
    steps += [row["step"] for row in trainer]
    assert steps == [8, 16, 24, 32, 40]
    assert list(trainer) == []
    assert trainer.run.finished_before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"learning_rat": 1e-3}, "unknown key 'learning_rat' in the arguments of proximo.language.train: did you mean"),
        ({"coefficient": 1.0}, r"did you mean 'kl\.coefficient'"),
        ({"kl": {"coeficient": 1.0}}, r"did you mean 'kl\.coefficient'"),
        ({"policy": "x"}, "policy is no setting in .* it is the first argument"),
        ({"batch": 0}, "batch = 0 must be positive"),
        ({"rewards": []}, "PPO needs a reward"),
        ({"rewards": [3.0]}, "a reward is a function, a folder or module:function, and not a float"),
        ({"prompts": []}, "the list given as prompts holds no rows"),
        ({"prompts": [{"prompt": ""}]}, "the list given as prompts, row 1: 1 row without a 'prompt'"),
        ({"prompts": [3]}, "row 1 of prompts is a int: give dictionaries with prompt"),
        ({"prompts": [{"prompt": "w4", "image": b"x"}]}, "row 1 of prompts has a bytes in 'image', which can not be"),
        ({"prompts": iter(PROMPTS)}, "prompts can not be a list_iterator: give a list of dictionaries"),
        ({"tokenizer": "x"}, "tokenizer= belongs to a model that is given as an object"),
        ({"callbacks": [Counting]}, "callback Counting is a class"),
        ({"prompts": {"w4 w5", "w6"}}, "prompts can not be a set, which has no order: give a list"),
        ({"run": 5}, "run = 5 must be the path of a folder"),
        ({"rewards": [tiny.llama()]}, "a reward can not be a LlamaForCausalLM object: give the folder of a reward mod"),
        ({"rewards": {"mine": brief}}, r"weight of reward 'mine' is a function: .* as rewards=\{f: 1.0\}"),
        ({"rewards": [(brief, 0.5)]}, r"give weights as rewards=\{f: 0.5\}"),
        ({"seed": tiny.llama()}, "^seed = a LlamaForCausalLM in the arguments of proximo.language.train must be"),
        ({"preflight": "Stop"}, "^preflight = 'Stop' must be 'stop'$"),
        ({"preflight": True}, "^preflight = True must be one of stop, warn, off$"),
        ({"progress": "silent"}, "^progress = 'silent' must be one of auto, live, plain, quiet$"),
        ({"stop_at": "8"}, "^stop_at = '8' must be a whole number, at least 0$"),
        ({"stop_at": -1}, "^stop_at = -1 must be a whole number, at least 0$"),
        ({"fresh": "no"}, "^fresh = 'no' must be True or False$"),
    ],
)
def test_what_can_not_be_used_is_one_sentence_and_writes_nothing(change, sentence, tmp_path, tiny_folder):
    given = {"prompts": PROMPTS, "rewards": brief, "run": tmp_path / "run", **SMALL, **change}
    with pytest.raises(proximo.UserError, match=sentence):
        language.train(tiny_folder, **given)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "given").exists()


def test_a_table_is_its_rows(tmp_path, tiny_folder):
    one = train(tiny_folder, tmp_path / "rows", responses=8)
    table = pandas.DataFrame(PROMPTS)
    for name, rows in (("pandas", table), ("arrow", Dataset.from_list(PROMPTS).data.table)):
        run = train(tiny_folder, tmp_path / name, rows, held_out=table, responses=8)
        same(one.path, run.path)
    assert [path.name.partition("-")[0] for path in sorted((tmp_path / "given").iterdir())] == ["held_out", "prompts"]


def test_one_text_is_one_prompt(tmp_path, tiny_folder):
    trainer = language.Trainer(tiny_folder, prompts=PROMPTS, rewards=tiny.per_word, run=tmp_path / "run", **SMALL)
    next(iter(trainer))
    assert trainer.policy.respond("w4 w5") == trainer.policy.respond(["w4 w5"])[0]


def test_a_model_that_is_changed_before_it_is_stored_is_refused(tmp_path, tiny_model, tiny_tokenizer):
    given = {"prompts": PROMPTS, "rewards": tiny.per_word, "tokenizer": tiny_tokenizer, "run": tmp_path / "new" / "run"}
    trainer = language.Trainer(tiny_model, **given, **SMALL)
    with torch.no_grad():
        tiny_model.lm_head.weight.zero_()
    with pytest.raises(proximo.UserError, match="the LlamaForCausalLM or its tokenizer was changed since it was given"):
        next(iter(trainer))
    assert not (tmp_path / "new").exists()
    run = language.train(tiny_model, **given, **SMALL | {"responses": 8})
    (stored,) = (tmp_path / "new" / "given").glob("model-*")
    assert not AutoModelForCausalLM.from_pretrained(stored).lm_head.weight.any()
    assert sorted(x.name[:6] for x in stored.parent.iterdir()) == ["model-", "prompt"], "nothing beside it"
    assert run.results["responses"] == 8


class Flat(LlamaForCausalLM):
    def forward(self, *given, **named):
        made = super().forward(*given, **named)
        made.logits = made.logits * 0
        return made


class OwnLinear(torch.nn.Linear):
    """Other code under the same weights."""


def _replaced(model):
    model.forward = lambda *given, **named: None


def _with_own_part(model):
    own = OwnLinear(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    own.load_state_dict(model.lm_head.state_dict())
    model.lm_head = own


def _hooked(model):
    model.lm_head.register_forward_hook(lambda part, given, made: made * 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_replaced, "the forward of LlamaForCausalLM was replaced"),
        (_with_own_part, "lm_head is a OwnLinear"),
        (_hooked, "lm_head has a hook"),
    ],
)
def test_a_model_that_computes_by_code_of_ones_own_is_refused(tmp_path, tiny_model, tiny_tokenizer, change, sentence):
    with pytest.raises(proximo.UserError, match="the class Flat is not of transformers, so that its folder would load"):
        train(Flat(tiny_model.config), tmp_path / "run", tokenizer=tiny_tokenizer)
    change(tiny_model)
    with pytest.raises(
        proximo.UserError, match=rf"by code of your own \({sentence}\), which its folder would not hold"
    ):
        train(tiny_model, tmp_path / "run", tokenizer=tiny_tokenizer)
    assert not (tmp_path / "given").exists()


def test_a_tokenizer_of_a_folder_goes_with_a_model_and_a_run_stands_for_its_policy(tmp_path, tiny_model, tiny_folder):
    first = train(tiny_model, tmp_path / "one", tokenizer=tiny_folder, responses=8)
    second = train(first, tmp_path / "two", rewards={tiny.per_word: np.float32(0.5)}, responses=8)
    text = (second.path / "config.toml").read_text()
    assert f'policy = "{first.policy}"' in text
    assert '"tiny:per_word" = 0.5' in text
    file = tmp_path / "own.toml"
    file.write_text("[ppo]\nresponses = 8\n")
    settings = {name: value for name, value in SMALL.items() if name != "responses"}
    run = language.train(
        tiny_folder, prompts=PROMPTS, rewards=tiny.per_word, run=tmp_path / "three", preset=file, **settings
    )
    assert run.results["responses"] == 8


def test_a_model_needs_its_tokenizer(tmp_path, tiny_model):
    with pytest.raises(proximo.UserError, match="the LlamaForCausalLM that is given needs its tokenizer"):
        train(tiny_model, tmp_path / "run")
    with pytest.raises(proximo.UserError, match="a model is a folder, a name or a model of transformers, and not a"):
        train(3, tmp_path / "run")
    with pytest.raises(proximo.UserError, match="a model of transformers, and not a Linear"):
        train(torch.nn.Linear(2, 2), tmp_path / "run", tokenizer="x")


def test_a_run_that_fails_before_it_begins_leaves_nothing_behind(tmp_path, tiny_model, tiny_tokenizer):
    def broken(prompts, responses):
        raise ValueError("mine")

    with pytest.raises(proximo.UserError, match=r"reward broken failed .*mine"):
        train(tiny_model, tmp_path / "new" / "run", rewards=broken, tokenizer=tiny_tokenizer, preflight="stop")
    assert not (tmp_path / "new").exists()
