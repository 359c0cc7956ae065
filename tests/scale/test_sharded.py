"""PPO on language models whose weights lie in parts on several ranks: the numbers are those of one process."""

import shutil
import signal

import pytest
from language_ranks import ending_soon
from ranks import on_ranks
from sharded_ranks import CASES, goes_on, half
from tiny import llama, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from proximo.errors import UserError
from proximo.language.ppo_config import PPOConfig, ScaleSettings, SharingSettings
from proximo.runs.storage.checkpoint import latest_checkpoint
from proximo.scale.mesh import Mesh

HALVES, UNEVEN = [slice(0, 4), slice(4, 8)], [slice(0, 2), slice(2, 8)]


@pytest.fixture(scope="module")
def updates():
    return on_ranks(2, "sharded_ranks:updates", [HALVES, UNEVEN])


@pytest.mark.parametrize("shares", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_an_update_of_spread_weights_is_that_of_one_process(updates, case, shares):
    first, other = (each[shares][case] for each in updates)
    alone, together = first["weights"]
    assert max(abs(x - y) for x, y in zip(alone, first["before"], strict=True)) > 1e-4
    assert together == pytest.approx(alone, abs=1e-7)
    assert other["weights"][1] == together
    one, all_ = first["metrics"]
    assert other["metrics"][1] == all_
    for name in ("policy_loss", "grad_norm", "approx_kl", "kl", "score", "entropy", "gradient_steps"):
        assert all_[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_each_rank_holds_a_part_and_undoes_its_own(updates, case):
    first, other = (each[0][case] for each in updates)
    assert first["held"] + other["held"] == len(first["before"])
    assert abs(first["held"] - other["held"]) < 0.1 * len(first["before"])
    assert first["undone"] == other["undone"] == first["before"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("sharded")
    ending_soon(llama()).save_pretrained(home / "model")
    tokenizer().save_pretrained(home / "model")
    return home


@pytest.fixture(scope="module")
def told(home):
    return on_ranks(2, "sharded_ranks:runs", home)


def test_a_run_of_spread_weights_is_the_run_where_each_rank_has_them_all(told):
    first, other = told
    assert first["whole"] == other["whole"]
    spread, plain = first["whole"], first["plain"]
    assert [row["step"] for row in spread["rows"]] == [8, 16, 24, 32]
    for one, two in zip(spread["rows"], plain["rows"], strict=True):
        assert one.keys() == two.keys()
        for name in ("score", "kl", "response_length", "grad_norm", "value_loss"):
            assert one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-5), name
    assert spread["weights"] == pytest.approx(plain["weights"], abs=1e-5)


def test_what_is_left_at_the_end_is_whole_and_what_was_trained(told, home):
    first = told[0]
    model = AutoModelForCausalLM.from_pretrained(home / "whole" / "policy")
    for name, p in model.named_parameters():
        assert p.tolist() == first["named"][f"weight/model.{name}"]
    critic = AutoModelForTokenClassification.from_pretrained(home / "whole" / "critic")
    for name, p in critic.base_model.named_parameters():
        assert p.tolist() == first["named"][f"weight/critic.{name}"]
    assert not list((home / "whole").rglob("*.distcp"))
    assert not list((home / "whole").rglob("*.pkl"))


def test_two_ranks_resume_to_the_same_bits(told):
    for each in told:
        assert each["resumed"] == told[0]["whole"]["weights"]


def test_another_number_of_ranks_goes_on_from_the_same_weights_and_moments(told, home):
    shutil.copytree(home / "half", home / "half-again")
    alone = goes_on(Mesh(), home, "half")  # 2 -> 1
    four = on_ranks(4, "sharded_ranks:goes_on", home, "half-again")  # 2 -> 4
    for each in (alone, *four):
        assert each["loaded"] == told[0]["half"]
        assert each["steps"] == [24, 32]
    assert all(each["named"] == four[0]["named"] for each in four)
    begun = half(Mesh(), home, "one")
    for each in on_ranks(2, "sharded_ranks:goes_on", home, "one"):  # 1 -> 2
        assert each["loaded"] == begun
        assert each["steps"] == [24, 32]


def test_a_checkpoint_that_one_rank_has_not_finished_is_never_taken(told, home):
    said, code = on_ranks(2, "sharded_ranks:killed_while_saving", home, "killed")
    assert code == -signal.SIGKILL
    assert "one of 2 ranks is gone" in said
    checkpoints = home / "killed" / "checkpoints"
    assert [path.name for path in checkpoints.glob("[!.]*")] == ["step-000000000008"]
    assert list(checkpoints.glob(".*"))  # the half-written one
    for each in on_ranks(2, "sharded_ranks:goes_on", home, "killed"):
        assert each["steps"] == [16, 24, 32]
        assert each["named"] == told[0]["named"]
    assert not list(checkpoints.glob(".*"))


def test_a_damaged_part_is_passed_over(told, home):
    folder = home / "half-damaged"
    shutil.copytree(home / "half-again", folder)
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    part = sorted((newest / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is whole"):
        latest_checkpoint(folder / "checkpoints", warn=str)


def test_what_spread_weights_do_not_do_is_refused_in_one_sentence(told):
    assert "scale.shard = full spreads it" in told[0]["asked"]
    for settings, answer in (
        ({"sharing": SharingSettings(mode="lora")}, "needs sharing.mode = full: with lora"),
        ({"sharing": SharingSettings(mode="top_layers")}, "needs sharing.mode = full: with top_layers"),
        ({"judge": "runs/x/judge"}, "nobody judge on the way"),
    ):
        with pytest.raises(ValueError, match=answer):
            PPOConfig(scale=ScaleSettings("full"), **settings)
    with pytest.raises(ValueError, match=r"scale.offload = true needs scale.shard = full"):
        ScaleSettings(offload=True)
