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
from proximo.scale.launched import BROKEN, LOST
from proximo.scale.mesh import Mesh

HALVES, UNEVEN = [slice(0, 4), slice(4, 8)], [slice(0, 2), slice(2, 8)]
SHARES = {case: HALVES if case == "shared critic" else UNEVEN for case in CASES}
LIMIT = 600  # seconds: each rank imports transformers and FSDP2 by itself, and others may share the machine


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("sharded")
    ending_soon(llama()).save_pretrained(home / "model")
    tokenizer().save_pretrained(home / "model")
    return home


@pytest.fixture(scope="module")
def begun_alone(home):
    weights = half(Mesh(), home, "one")
    shutil.copytree(home / "one", home / "one-again")
    return weights


@pytest.fixture(scope="module")
def both(home, begun_alone):
    return on_ranks(2, "sharded_ranks:everything", home, SHARES, limit=LIMIT)


@pytest.fixture(scope="module")
def updates(both):
    return [each["updates"] for each in both]


@pytest.fixture(scope="module")
def told(both):
    return [each["runs"] for each in both]


@pytest.mark.parametrize("case", CASES)
def test_an_update_of_spread_weights_is_that_of_one_process(updates, case):
    first, other = (each[case] for each in updates)
    alone, together = first["weights"]
    assert max(abs(x - y) for x, y in zip(alone, first["before"], strict=True)) > 1e-4
    assert together == pytest.approx(alone, abs=1e-7)
    assert other["weights"][1] == together
    one, all_ = first["metrics"]
    assert other["metrics"][1] == all_
    for name in ("policy_loss", "grad_norm", "approx_kl", "kl", "score", "entropy", "gradient_steps"):
        assert all_[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name


def test_four_ranks_make_the_update_of_one_process_with_spread_weights():
    quarters = {case: [slice(2 * i, 2 * i + 2) for i in range(4)] for case in CASES}
    every = on_ranks(4, "sharded_ranks:updates", quarters, limit=LIMIT)
    for case in CASES:
        for each in every:
            alone, together = each[case]["weights"]
            assert together == pytest.approx(alone, abs=1e-7), case
        assert sum(each[case]["held"] for each in every) == len(each[case]["before"])


@pytest.mark.parametrize("case", CASES)
def test_each_rank_holds_a_part_after_sampling_too_and_undoes_its_own(updates, case):
    first, other = (each[case] for each in updates)
    assert first["held"] + other["held"] == len(first["before"])
    assert abs(first["held"] - other["held"]) < 0.1 * len(first["before"])
    assert first["undone"] == other["undone"] == first["before"]
    assert first["given up"]
    assert other["given up"]


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


def test_one_process_goes_on_from_what_two_ranks_have_trained(told, home):
    shutil.copytree(home / "half", home / "half-again")
    alone = goes_on(Mesh(), home, "half-again")
    assert alone["loaded"] == told[0]["half"]
    assert alone["steps"] == [24, 32]


def test_two_ranks_go_on_from_what_one_process_has_trained(both, begun_alone):
    for each in both:
        assert each["one"]["loaded"] == begun_alone
        assert each["one"]["steps"] == [24, 32]
        assert each["one"]["named"] == both[0]["one"]["named"]


def test_four_ranks_go_on_from_what_one_process_has_trained(home, begun_alone):
    for each in (four := on_ranks(4, "sharded_ranks:goes_on", home, "one-again", limit=LIMIT)):
        assert each["loaded"] == begun_alone
        assert each["steps"] == [24, 32]
        assert each["named"] == four[0]["named"]


def test_a_checkpoint_that_one_rank_has_not_finished_is_never_taken(home):
    said, code = on_ranks(2, "sharded_ranks:killed_while_saving", home, "killed", limit=LIMIT)
    assert code == -signal.SIGKILL
    assert "one of 2 ranks is gone" in said
    checkpoints = home / "killed" / "checkpoints"
    assert [path.name for path in checkpoints.glob("[!.]*")] == ["step-000000000008"]
    assert list(checkpoints.glob(".*"))  # the half-written one
    assert goes_on(Mesh(), home, "killed")["steps"] == [16, 24, 32]
    assert not list(checkpoints.glob(".*"))


def test_a_damaged_part_is_passed_over(told, home):
    folder = home / "half-damaged"
    shutil.copytree(home / "half", folder)
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    part = sorted((newest / "parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is whole"):
        latest_checkpoint(folder / "checkpoints", warn=str)


def test_a_reward_that_breaks_on_one_rank_ends_the_iteration_of_all_who_can_go_on(both):
    first, other = (each["fails"] for each in both)
    assert "the reward broke" in first["said"]
    assert "(on rank 1 of 2)" in first["said"]
    assert first == other
    assert first["undone"] == first["before"]
    assert first["after"] != first["before"]


@pytest.mark.parametrize("where", ["scoring", "gathering", "learning"])
def test_memory_that_runs_out_on_one_rank_ends_all_at_once_and_that_rank_says_so(where):
    # Far below the 600 s after which ranks give each other up.
    (first, lost), (other, broken) = on_ranks(2, "sharded_ranks:out_of_memory", where, limit=LIMIT)
    for sentence in (first, other):
        assert "rank 1 of 2 failed where all compute together: OutOfMemoryError: no memory is left" in sentence
    assert (lost, broken) == (LOST, BROKEN)


@pytest.mark.parametrize("where", ["sharing out", "flying"])
def test_nor_does_one_that_runs_out_before_the_first_iteration_keep_the_other_waiting(home, where):
    (first, lost), (other, broken) = on_ranks(2, "sharded_ranks:out_of_memory_before", home, where, limit=LIMIT)
    for sentence in (first, other):
        assert "rank 1 of 2 failed where all compute together: OutOfMemoryError: no memory is left" in sentence
    assert (lost, broken) == (LOST, BROKEN)


def test_the_preflight_of_spread_weights_is_that_of_one_process_and_counts_each_ranks_part(both):
    for rank in both:
        flown = rank["flown"]
        assert flown["together"] == flown["alone"]
        assert {verdict for _, verdict in flown["together"]} >= {"pass"}
        assert not flown["together moved"]
        alone, together = flown["alone bytes"], flown["together bytes"]
        for name in ("policy, reference and critic", "gradient and moments"):
            assert together[name] == pytest.approx(alone[name] / 2, rel=0.02)
        assert together["whole weights while sampling"] > alone["whole weights while sampling"] == 0


def test_a_rank_without_the_memory_stops_all_before_anything_is_written(both, home):
    assert both[0]["refused"] == both[1]["refused"]
    assert "preflight failed, nothing was written: memory suffices" in both[0]["refused"]
    assert "(on rank 1 of 2)" in both[0]["refused"]
    assert not (home / "refused").exists()


def test_what_one_rank_can_not_read_is_said_by_all_and_a_model_is_read_in_parts_by_all_or_none(both):
    (said, weights), (other, others) = (rank["unread"] for rank in both)
    assert said == other == "the prompts are on another disk (on rank 1 of 2)"
    assert weights == others


def test_no_rank_loads_the_whole_model_whose_weights_are_spread(told):
    assert [rank["loaded"] for rank in told] == [["plain"], ["plain"]]


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
