"""`proximo inspect` on a language run: tables, colours, two iterations, and the report's section."""

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
from words import word_tokenizer

import proximo
from proximo import language
from proximo.cli import main as cli
from proximo.errors import UserError
from proximo.language.ppo.tokens.record import read_record, recorded
from proximo.views.inspect.against import z_score
from proximo.views.inspect.pieces import Pieces
from proximo.views.inspect.terminal import level
from proximo.views.visible import visible

EVIL = "\x1b[2J<img src=x onerror=alert(1)>\u202e"


def paid(prompts, responses):
    return [float(r.split().count("w7")) for r in responses]


def brief(prompts, responses):
    return [-0.1 * len(r.split()) for r in responses]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    tiny.llama(64, layers=2).save_pretrained(folder / "model")
    word_tokenizer().save_pretrained(folder / "model")
    return language.train(
        str(folder / "model"),
        prompts=[{"prompt": f"w{i} w{i + 1}"} for i in range(10, 18)],
        rewards=[paid, brief],
        run=str(folder / "run"),
        responses=32 * 3,
        batch=32,
        response_limit=6,
        learning_rate=1e-2,
        preflight="off",
        progress="quiet",
        update={"epochs": 1, "minibatch_size": 16},
    ).path


@pytest.fixture(scope="module")
def evil(run, tmp_path_factory):
    """The same run, by a tokenizer whose words are an attack."""
    folder = tmp_path_factory.mktemp("evil") / "run"
    shutil.copytree(run, folder)
    file = folder / "policy" / "tokenizer.json"
    words = json.loads(file.read_text())
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = {w if i < 4 else f"{EVIL}{i}": i for w, i in vocabulary.items()}
    file.write_text(json.dumps(words))
    return folder


def read_all(descriptor):
    """What is written to a terminal, up to a zero byte: its buffer holds 4 kB."""
    read = b""
    while not read.endswith(b"\0"):
        read += os.read(descriptor, 1 << 16)
    return read.decode()


def printed(capsys, *arguments):
    assert cli.main(["inspect", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_while_a_run_goes_on_its_tokens_are_words_by_the_model_beside_it_that_it_began_with(run, tmp_path):
    """As the stages of `rlhf all` lie: there is no policy in the run's folder before its end."""
    shutil.copytree(run.parent / "model", tmp_path / "sft")
    going = shutil.copytree(run, tmp_path / "ppo", ignore=shutil.ignore_patterns("policy"))
    config = going / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent / "model"), str(tmp_path / "sft")))
    before, after = (proximo.inspect_run(folder) for folder in (run, going))
    assert [x.tokens for x in after.shown] == [x.tokens for x in before.shown]
    assert after.notes == ()


def test_a_pipe_gets_tables_without_colours_whose_parts_add_up(run, capsys):
    out = printed(capsys, run, 1, "--worst", 3)
    assert "\x1b" not in out
    assert len(re.findall(r"^token +log-prob +reference +KL +value +advantage$", out, re.M)) == 3
    record = read_record(recorded(run)[1])
    found = [float(x) for x in re.findall(r"^ +([+-][\d.]+)  ", out, re.M)]
    totals = [float(x) for x in re.findall(r"^ +([+-][\d.]+)  reward that it was learnt from$", out, re.M)]
    assert sum(found) == pytest.approx(2 * sum(totals), abs=1e-3)
    lowest = sorted(range(32), key=lambda i: record.score[i])[:3]
    assert totals == pytest.approx([record.total[i] for i in lowest], abs=1e-4)


def test_json_has_every_token_of_the_worst_responses(run, capsys):
    found = json.loads(printed(capsys, run, "--json", "--worst", 32, "--against", 0))
    record = read_record(recorded(run)[2])
    assert found["iteration"] == 2  # the last
    scores = [response["score"] for response in found["responses"]]
    assert scores == sorted(scores)
    assert sum(len(response["tokens"]) for response in found["responses"]) == len(record.tokens)
    for response in found["responses"]:
        assert sum(part["amount"] for part in response["reward"]) == pytest.approx(response["total"], abs=1e-6)
        for token in response["tokens"]:
            assert token["log_prob"] - token["kl"] == pytest.approx(token["reference"], abs=1e-5)
    old = read_record(recorded(run)[0])
    assert found["against"]["tokens"] == {"before": len(old.tokens), "now": len(record.tokens)}
    for shift in found["against"]["likelier"] + found["against"]["rarer"]:
        assert shift["before"] == (old.tokens == shift["id"]).sum()
        assert shift["now"] == (record.tokens == shift["id"]).sum()
        assert shift["z"] * (shift["now"] / len(record.tokens) - shift["before"] / len(old.tokens)) > 0
    assert len(found["against"]["likelier"]) == len(found["against"]["rarer"]) == 15
    asked = {tuple(prompt) for prompt in old.prompts} & {tuple(prompt) for prompt in record.prompts}
    assert len(found["against"]["same_prompts"]) == len(asked) > 0


def test_the_z_score_of_two_shares_is_the_textbooks():
    assert z_score(10, 100, 20, 100) == pytest.approx(0.1 / (0.15 * 0.85 * 0.02) ** 0.5)
    assert z_score(20, 100, 10, 100) == -z_score(10, 100, 20, 100)
    assert z_score(5, 5, 9, 9) == 0


def test_a_terminal_gets_colours_with_a_legend(run, monkeypatch):
    """Into a real pseudo-terminal: the largest advantages stand on blue, the smallest on vermillion."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    found = proximo.inspect_run(run, worst=2)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        with ThreadPoolExecutor() as pool:
            reading = pool.submit(read_all, master)
            found.print()
            terminal.write("\0")
            terminal.flush()
            out = reading.result()
    os.close(master)
    tokens = [
        (text, value)
        for response in found.shown
        for text, value in zip(response.tokens, response.columns["advantage"], strict=True)
    ]
    blue, vermillion = "48;2;0;114;178m", "48;2;213;94;0m"
    legend, *rest = out.partition("response ")[0::2]
    assert blue in legend
    assert vermillion in legend
    assert f"{found.scale:.3g}" in legend
    for colour, full in ((blue, 4), (vermillion, -4)):
        grounds = re.findall(rf"{re.escape(colour)}([^\x1b]*)\x1b", rest[0])
        assert [text.strip() for text in grounds] == [t.strip() for t, v in tokens if level(v, found.scale) == full]


def test_words_of_a_stranger_reach_neither_terminal_nor_page_as_they_are(evil, capsys, page):
    out = printed(capsys, evil, "--against", 0)
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\x1b[2J<img" in out
    assert visible(EVIL) == "\\x1b[2J<img src=x onerror=alert(1)>\\u202e"
    page.open(f"file://{proximo.report(evil, out=evil / 'r.html')}")
    page.wait("document.documentElement.dataset.drawn")
    assert page.run("document.images.length") == 0
    assert visible(EVIL) in page.run("document.querySelector('.credit').textContent")
    assert page.errors == []


def test_the_report_colours_the_last_iterations_responses_and_the_choice_changes_it(run, page):
    file = proximo.report(run)
    assert file.stat().st_size < 6_000_000
    page.open(f"file://{file}")
    page.wait("document.documentElement.dataset.drawn")
    record = read_record(recorded(run)[2])
    assert page.run("document.querySelectorAll('.credit').length") == 6
    lowest = int(record.score.argsort(kind="stable")[0])
    spans = "[...document.querySelector('.credit .tokens').querySelectorAll('span[title]')]"
    ids, grounds = record.of_responses(record.tokens)[lowest], {}
    assert page.run(f"{spans}.length") == len(ids)
    for name in ("advantage", "kl", "value"):
        page.run(
            f"(() => {{ const s = document.querySelector('#credit-by'); s.value = '{name}'; "
            "s.dispatchEvent(new Event('change')); })()"
        )
        signs = record.of_responses(getattr(record, name))[lowest]
        grounds[name] = page.run(f"{spans}.map(x => x.style.backgroundColor)")
        for ground, value in zip(grounds[name], signs, strict=True):
            assert ground == "" or ground.startswith("rgba(213" if value < 0 else "rgba(0, 114")
    assert grounds["advantage"] != grounds["value"]
    assert page.errors == []


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"iteration": 7}, "iteration 7 is not recorded .* choose from 0 to 2"),
        ({"against": -1}, "iteration -1 is not recorded"),
        ({"by": "rewards"}, "by = 'rewards' is none of"),
        ({"worst": 0}, "worst = 0"),
    ],
)
def test_what_is_not_there_is_said(run, asked, words):
    with pytest.raises(UserError, match=words):
        proximo.inspect_run(run, **asked)


def test_a_character_of_several_tokens_is_shown_once_it_is_whole():
    tokenizer = tiny.byte_tokenizer()
    ids = tokenizer.encode("aé\n€", add_special_tokens=False)
    assert len(ids) == 7
    assert Pieces(tokenizer)(ids) == ["a", "\ufffd", "é", "\n", "\ufffd", "\ufffd", "€"]
    assert Pieces(None)([3, 5]) == ["<3>", "<5>"]
