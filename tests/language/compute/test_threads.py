"""How many threads a stage computes with: chosen by what is fastest, kept by the run, given back afterwards."""

import os
import re
import sys
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
import warm

from proximo.errors import UserError
from proximo.language import begun
from proximo.language.compute.threads import fastest, free_threads, using_threads
from proximo.language.config import SFTConfig
from proximo.language.ppo import verify
from proximo.language.ppo.verify import verify_language
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import FunctionReward
from proximo.language.supervised.sft import train_sft
from proximo.runs.config.toml import read_toml
from proximo.runs.session.alone import alone
from proximo.runs.session.opening import Call


def speed(threads, free):
    """Of products on so many free cores: a thread without a core of its own gets a share, and all wait for it."""
    return threads if threads <= free else free * free / threads


def race(more, fewer, free):
    return speed(fewer, free) / speed(more, free)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 8, 16, 64])
def test_all_cores_are_taken_where_nothing_else_runs(cores):
    assert fastest(cores, partial(race, free=cores)) == cores


def test_a_thread_gives_way_where_one_of_two_cores_is_taken():
    assert fastest(2, partial(race, free=1)) == 1


@pytest.mark.parametrize("cores", [2, 3, 4, 8, 16, 64])
def test_with_any_number_of_cores_taken_at_least_half_of_what_is_free_is_used(cores):
    for free in range(1, cores + 1):
        chosen = fastest(cores, partial(race, free=free))
        assert speed(chosen, free) >= max(0.5 * free, 0.95 * speed(cores, free))


def test_a_thread_that_brings_nothing_is_given_up_and_one_that_brings_something_is_not():
    assert fastest(2, lambda more, fewer: 0.96) == 1
    assert fastest(2, lambda more, fewer: 0.8) == 2, "two threads of one core still bring a quarter"


def test_two_numbers_race_on_the_machine_and_the_number_before_is_put_back(two_threads):
    """Whichever is faster here and now: the answer is one of both, and nothing stays changed."""
    assert free_threads() in (1, 2)
    assert torch.get_num_threads() == 2


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_set_stays(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    monkeypatch.setattr("proximo.language.compute.threads.fastest", lambda *asked: 1)
    assert free_threads() == 2


def test_the_number_is_put_back_even_after_an_error(two_threads):
    inside = []

    def fails():
        with using_threads(1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert inside == [1]
    assert torch.get_num_threads() == 2


def test_no_more_threads_than_cores_where_a_run_is_of_a_larger_machine():
    code = (
        "import torch; from proximo.language.compute.threads import using_threads\n"
        "with using_threads(999): print(torch.get_num_threads())"
    )
    environment = {name: x for name, x in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    told = warm.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert 1 <= int(told) <= (os.cpu_count() or 1)


def test_a_run_keeps_the_number_that_it_was_begun_with(two_threads, files, tiny_folder, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "proximo.language.supervised.sft.check_savable", lambda *_: seen.append(torch.get_num_threads())
    )
    monkeypatch.setattr(begun, "free_threads", lambda: 1)
    config = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "out"), batch=8)
    train_sft(config, call=Call(stop_at=1))
    assert "1 thread: 2 were slower just now" in capsys.readouterr().err
    monkeypatch.setattr(begun, "free_threads", lambda: 2)
    assert train_sft(config)["steps"] == 3
    assert "1 thread, which the run was begun with" in capsys.readouterr().err
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2
    assert read_toml(files / "out" / "config.toml")["threads"] == 1
    assert train_sft(config)["steps"] == 3, "a finished run is the same one"


def test_a_run_of_before_there_were_numbers_goes_on(two_threads, files, tiny_folder, monkeypatch):
    monkeypatch.setattr(begun, "free_threads", lambda: 1)
    config = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "out"), batch=8)
    train_sft(config, call=Call(stop_at=1))
    file = files / "out" / "config.toml"
    file.write_text("".join(x for x in file.read_text().splitlines(True) if not x.startswith("threads")))
    assert train_sft(config)["steps"] == 3


def test_another_number_is_another_run_unless_the_change_is_allowed(two_threads, files, tiny_folder):
    settings = {"output": str(files / "out"), "batch": 8}
    train_sft(SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), threads=1, **settings), call=Call(stop_at=1))
    other = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), threads=2, **settings)
    with pytest.raises(UserError, match="threads"):
        train_sft(other)
    assert train_sft(other, call=Call(allow_change=True))["steps"] == 3


@pytest.mark.parametrize("make", [SFTConfig, PPOConfig])
def test_a_number_that_is_none_is_refused(make):
    with pytest.raises(ValueError, match="threads = 0 must be positive"):
        make(threads=0)


def test_a_verification_trains_all_its_parts_with_one_number(two_threads, ppo_config, monkeypatch):
    asked, seen = [], set()
    for module in (verify, begun):
        monkeypatch.setattr(module, "free_threads", lambda: asked.append(1) or min(len(asked), 2))

    def length(prompts, responses):
        seen.add(torch.get_num_threads())
        return [0.1 * len(r) for r in responses]

    assert verify_language(ppo_config, 1, [FunctionReward(length)]).exact
    assert (len(asked), seen) == (1, {1})
    assert torch.get_num_threads() == 2


def test_a_refused_second_training_leaves_the_threads_of_the_first(two_threads, files, tiny_folder, monkeypatch):
    inside = []

    def second():
        with pytest.raises(UserError, match="while another thread of this process trains the first"):
            train_sft(SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "second")))
        inside.append(torch.get_num_threads())

    monkeypatch.setattr(begun, "free_threads", lambda: torch.set_num_threads(1) or 1)
    with alone("the first"):
        other = threading.Thread(target=second)
        other.start()
        other.join()
    assert inside == [2]


def test_a_run_of_a_larger_machine_says_how_many_threads_there_are_here(two_threads, files, tiny_folder, capsys):
    config = SFTConfig(str(tiny_folder), str(files / "sft.jsonl"), output=str(files / "out"), batch=8, threads=999)
    train_sft(config, call=Call(stop_at=1))
    capsys.readouterr()
    assert train_sft(replace(config, threads=None))["steps"] == 3
    assert re.search(r"\d+ threads? instead of the 999 that the run was begun with", capsys.readouterr().err)
